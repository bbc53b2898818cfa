"""Pictures in axes of the caller's, the map by UMAP, and whole drawings beside stored ones.

The stored ones are made anew, after they were looked at, by ``python tests/test_visualize_axes.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from torchlayer import visualize
from torchlayer.visualize import embedding

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from PIL import Image

STORED = Path(__file__).parent / "reference" / "pictures"
POINTS = np.array([[0, 0], [0.3, 0.02], [1, 1], [1.05, 1.02], [-1, 0.5], [0.2, -1], [0.22, -1.02], [2, -0.5]], float)
WORDS = ["the", "a", "king", "queen", "café", "one", "two", "Budapest"]


def random(*shape):
    return np.random.RandomState(0).randn(*shape)


# --- whole drawings ---


def history(last=0.31):
    return {
        "epoch": [1, 2, 3, 4, 5],
        "train_loss": [2.0, 1.1, 0.6, 0.4, last],
        "val_loss": [1.9, 1.2, 0.9, 0.8, 0.85],
        "val_acc": [0.3, 0.6, 0.7, 0.74, 0.73],
    }


def confusion(name, cats=40):
    matrix = [[cats, 9, 1, 0], [11, 35, 4, 0], [2, 3, 44, 1], [0, 0, 0, 50]]
    visualize.confusion(matrix, ["cat", "dog", "automobile", "frog"], name=name)


def attention(name):
    weights = np.eye(4, 5) * 0.6 + np.eye(4, 5, 1) * 0.3 + 0.02
    visualize.attention(weights, ["der", "Hund", "läuft", "nach", "Hause"], ["the", "dog", "runs", "home"], name=name)


def words(name):
    table = np.zeros((8, 3)) + np.arange(8)[:, None]
    visualize.tsne_embedding(table, WORDS, saveable=True, name=name)


DRAWINGS = {
    "curves": lambda name: visualize.curves(history(), name=name),
    "curves_log": lambda name: visualize.curves(history(), log=True, name=name),
    "confusion": confusion,
    "attention": attention,
    "words": words,
}


def small(path):
    """A picture of at most 500 pixels a side, where a hair's breadth of another font engine does not show."""
    with Image.open(path) as image:
        large = image.convert("RGB")
        part = -(-max(large.size) // 500)
        return large.resize((large.width // part, large.height // part), Image.Resampling.BOX)


def difference(first, second):
    """Which share of the second picture's ink is elsewhere or another; infinite if sizes differ by over two pixels."""
    if max(abs(a - b) for a, b in zip(first.size, second.size)) > 2:
        return float("inf")
    width, height = (min(a, b) for a, b in zip(first.size, second.size))
    a, b = (np.asarray(p.crop((0, 0, width, height)), float) for p in (first, second))
    return float(np.abs(a - b).sum() / (255 - b).sum())


@pytest.fixture
def still(monkeypatch):
    """t-SNE, whose map another processor may turn, with one map."""
    monkeypatch.setattr(embedding, "_tsne", lambda table, *_: POINTS[: len(table)])


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawing_looks_as_it_was_stored(name, tmp_path, still):
    DRAWINGS[name](tmp_path / "a.png")
    with Image.open(STORED / f"{name}.png") as stored:
        assert difference(small(tmp_path / "a.png"), stored.convert("RGB")) < 0.05


def test_another_drawing_is_told_from_the_stored_one(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_tsne", lambda table, *_: POINTS[[1, 0, 2, 3, 5, 4, 6, 7]])  # two words swapped
    confusion(tmp_path / "a.png", cats=4)
    visualize.curves(history(last=1.9), name=tmp_path / "b.png")
    words(tmp_path / "c.png")
    for drawn, name in (("a", "confusion"), ("b", "curves"), ("c", "words")):
        with Image.open(STORED / f"{name}.png") as stored:
            assert difference(small(tmp_path / f"{drawn}.png"), stored.convert("RGB")) > 0.1


# --- axes of the caller's ---

IN_AXES = {
    "W": lambda ax: visualize.W(random(16, 5), shape=(4, 4), ax=ax),
    "CNN2d": lambda ax: visualize.CNN2d(random(3, 3, 3, 5), ax=ax),
    "images2d": lambda ax: visualize.images2d(np.ones((4, 8, 8, 3)), ax=ax),
    "frame": lambda ax: visualize.frame(np.eye(8), name="identity.png", ax=ax),
    "frame with a map": lambda ax: visualize.frame(np.eye(8), cmap="viridis", ax=ax),
    "curves": lambda ax: visualize.curves({"train_loss": [3, 2, 1], "val_loss": [3, 2, 2]}, ax=ax),
    "confusion": lambda ax: visualize.confusion([[3, 1], [0, 4]], ["a", "b"], ax=ax),
    "large confusion": lambda ax: visualize.confusion(np.eye(30), ax=ax),
    "attention": lambda ax: visualize.attention([[0.9, 0.1]], ["a", "b"], ["c"], ax=ax),
    "tsne_embedding": lambda ax: visualize.tsne_embedding(random(8, 3), WORDS, saveable=True, ax=ax),
}


@pytest.mark.parametrize("canvas", [FigureCanvasAgg, FigureCanvasPdf], ids=["png", "pdf"])
@pytest.mark.parametrize("name", IN_AXES)
def test_picture_goes_into_given_axes_and_nowhere_else(name, canvas, tmp_path, monkeypatch, still):
    monkeypatch.chdir(tmp_path)
    figure = Figure(figsize=(6, 3), dpi=50)
    canvas(figure)
    mine, other = figure.subplots(1, 2)
    where, size = mine.get_position().bounds, tuple(figure.get_size_inches())
    assert IN_AXES[name](mine) is figure
    assert mine.has_data()
    assert not other.has_data()
    assert tuple(figure.get_size_inches()) == size
    assert name == "large confusion" or (len(figure.axes), mine.get_position(original=True).bounds) == (2, where)
    assert list(tmp_path.iterdir()) == []
    figure.savefig(tmp_path / "a.png")  # draws all of it


def test_sheet_in_axes_is_the_sheet_of_the_file(tmp_path):
    alone = visualize.W(random(16, 5), shape=(4, 4), saveable=False)
    ax = Figure().add_subplot()
    visualize.W(random(16, 5), shape=(4, 4), ax=ax)
    assert isinstance(alone, Figure)
    np.testing.assert_array_equal(ax.images[0].get_array(), alone.axes[0].images[0].get_array())
    assert ax.images[0].norm.vmin == -ax.images[0].norm.vmax


def test_title_and_names_are_in_the_axes():
    left, right = Figure().subplots(1, 2)
    visualize.frame(np.eye(8), name="identity.png", ax=left)
    visualize.confusion([[3, 1], [0, 4]], ["cat", "dog"], ax=right)
    assert left.get_title() == "identity"
    assert [label.get_text() for label in right.get_xticklabels()] == ["cat", "dog"]
    assert [text.get_text() for text in right.texts] == ["3", "1", "4"]


def test_curves_take_as_many_axes_as_they_have_panels():
    figure = Figure()
    axes = figure.subplots(2, 1)
    assert visualize.curves(history(), ax=axes) is figure
    assert [ax.get_ylabel() for ax in axes] == ["Loss", "Accuracy"]
    with pytest.raises(ValueError, match=r"history has 2 panels \(loss, acc\), and ax is 1 axes; give as many"):
        visualize.curves(history(), ax=axes[0])


@pytest.mark.parametrize("name", IN_AXES)
def test_what_is_no_axes_is_named(name, still):
    with pytest.raises(
        TypeError, match=r"ax must be a matplotlib Axes, as figure.add_subplot\(\) makes them, got <?Fig"
    ):
        IN_AXES[name](Figure())


def test_subfigures_belong_to_the_whole():
    figure = Figure()
    ax = figure.subfigures(1, 2)[1].subplots()
    assert visualize.frame(np.eye(3), ax=ax) is figure


# --- UMAP ---


def test_umap_is_asked_with_the_settings_and_drawn(monkeypatch):
    asked = []

    class UMAP:
        def __init__(self, **settings):
            asked.append(settings)

        def fit_transform(self, table):
            return POINTS[: len(table)]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    figure = visualize.umap_embedding(random(8, 3), WORDS, plot_only=6, min_dist=0.3, random_state=5)
    assert isinstance(figure, Figure)
    assert [text.get_text() for text in figure.axes[0].texts] == WORDS[:6]
    settings = {"n_neighbors": 5, "min_dist": 0.3, "random_state": 5, "init": "random", "n_jobs": 1}
    assert asked == [settings]


def test_umap_says_what_it_cannot_draw(monkeypatch):
    with pytest.raises(ValueError, match="UMAP needs at least four different rows, got 3 rows"):
        visualize.umap_embedding(random(3, 3), WORDS)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="needs umap-learn, which is not installed; pip install umap-learn"):
        visualize.umap_embedding(random(8, 3), WORDS)


def test_umap_keeps_clusters_apart():
    pytest.importorskip("umap", reason="pip install umap-learn")
    table = np.repeat(20 * random(3, 8), 12, axis=0) + np.random.RandomState(1).randn(36, 8)
    figure = visualize.umap_embedding(table, ["w"] * 36, random_state=3)
    assert isinstance(figure, Figure)
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    away = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(36)
    assert (away.argmin(axis=1) // 12 == np.arange(36) // 12).all()


if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    setattr(embedding, "_tsne", lambda table, *_: POINTS[: len(table)])  # noqa: B010
    for drawing, draw in DRAWINGS.items():
        draw(STORED / "large.png")
        small(STORED / "large.png").save(STORED / f"{drawing}.png", optimize=True)
        (STORED / "large.png").unlink()
