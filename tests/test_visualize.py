"""Pictures, read back pixel by pixel and compared with what an independent drawing would hold."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from torchlayer.visualize import CNN2d, W, attention, confusion, curves, frame, images2d, tsne_embedding
from torchlayer.visualize.mosaic import OUTLINE

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
from matplotlib.figure import Figure
from PIL import Image


def random(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape)


def drawn(draw: Callable[..., object], *args, **options) -> Any:
    """The figure."""
    return draw(*args, saveable=False, **options)


def saved(draw: Callable[..., object], *args, **options) -> Any:
    """The path."""
    return draw(*args, saveable=True, **options)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def spans(is_gap):
    """Where runs of False start and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], is_gap, [True]]).astype(int)))
    return list(zip(edges[::2], edges[1::2]))


def grid_of(path, shape):
    """The tiles of a sheet, found by its white gaps, one value a weight: ``(rows, columns, h, w, 3)``."""
    sheet = pixels(path)
    white = (sheet == 255).all(axis=2)
    rows, columns = spans(white.all(axis=1)), spans(white.all(axis=0))
    grid = np.empty((len(rows), len(columns), *shape, 3), int)
    for r, (top, bottom) in enumerate(rows):
        for c, (left, right) in enumerate(columns):
            tile = sheet[top:bottom, left:right]
            if (tile == 255).all():  # the last row has a place left
                grid[r, c] = 255
                continue
            while (tile[0] == OUTLINE).all():
                tile = tile[1:-1, 1:-1]
            scale = tile.shape[0] // shape[0]
            assert tile.shape == (scale * shape[0], scale * shape[1], 3)
            blocks = tile.reshape(shape[0], scale, shape[1], scale, 3)
            assert (blocks == blocks[:, :1, :, :1]).all()  # crisp: a weight is one colour
            grid[r, c] = blocks[:, 0, :, 0]
    return grid


# --- W ---


@pytest.mark.parametrize(
    ("n_units", "rows", "columns"),
    [(1, 1, 1), (3, 1, 3), (10, 3, 4), (25, 5, 5), (196, 14, 14), (800, 28, 29)],  # what the original drew
)
def test_weight_sheet_holds_every_column_in_its_place(tmp_path, n_units, rows, columns):
    weight = random(4 * 5, n_units)
    weight[:, 0] *= 1000  # the norm goes

    grid = grid_of(saved(W, weight, shape=(4, 5), name=tmp_path / "w.png"), (4, 5))

    assert grid.shape[:2] == (rows, columns)
    unit = [weight[:, k] / np.sqrt((weight[:, k] ** 2).sum()) for k in range(n_units)]
    limit = np.percentile([np.abs(u).max() for u in unit], 90)
    for k, u in enumerate(unit):
        expected = 255 * np.clip(0.5 + u.reshape(4, 5) / (2 * limit), 0, 1)
        assert np.abs(grid[k // columns, k % columns] - expected[..., None]).max() < 2, f"column {k}"
    assert (grid.reshape(rows * columns, -1)[n_units:] == 255).all()


def test_dead_unit_is_a_plain_grey_tile(tmp_path):
    weight = random(16, 9)
    weight[:, 4] = 0
    grid = grid_of(saved(W, weight, shape=(4, 4), name=tmp_path / "w.png"), (4, 4))
    assert set(grid[1, 1].ravel().tolist()) <= {127, 128}
    assert all(np.ptp(grid[i, j]) > 50 for i in range(3) for j in range(3) if (i, j) != (1, 1))


def test_all_units_dead_is_drawn_too(tmp_path):
    grid = grid_of(saved(W, np.zeros((4, 2)), shape=(2, 2), name=tmp_path / "w.png"), (2, 2))
    assert set(grid.ravel().tolist()) <= {127, 128}


def test_weight_colours_are_symmetric_about_zero(tmp_path):
    weight = random(16, 1)
    grid = grid_of(saved(W, np.hstack([weight, -weight]), shape=(4, 4), name=tmp_path / "w.png"), (4, 4))
    assert np.abs(grid[0, 0] + grid[0, 1] - 255).max() <= 1


@pytest.mark.parametrize(
    "same",
    [
        lambda w: torch.tensor(w),
        lambda w: torch.tensor(w, requires_grad=True),
        lambda w: torch.tensor(w).to(torch.bfloat16),
        lambda w: torch.tensor(w).half().t().contiguous().t(),
        lambda w: w.astype(int),
        lambda w: w.tolist(),
    ],
    ids=["tensor", "requires_grad", "bfloat16", "strided half", "integers", "list"],
)
def test_any_kind_of_numbers_gives_the_same_picture(same):
    weight = np.round(10 * random(16, 6))
    first, again = (
        drawn(W, w, shape=(4, 4)).axes[0].images[0].get_array().compressed() for w in (weight, same(weight))
    )
    assert np.array_equal(first, again)


def test_columns_of_a_sheet_can_be_chosen(tmp_path):
    grid = grid_of(saved(W, random(4, 6), shape=(2, 2), n_columns=6, name=tmp_path / "w.png"), (2, 2))
    assert grid.shape[:2] == (1, 6)


def test_eight_hundred_units_take_less_than_a_second(tmp_path):
    weight = random(784, 800)

    def seconds():
        start = time.process_time()
        saved(W, weight, name=tmp_path / "w.png")
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 1


# --- CNN2d and images2d ---


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (10, 4, 3), (32, 7, 5)])
def test_kernel_sheet_holds_every_kernel_stretched(tmp_path, channels, n, rows, columns):
    kernels = 7 * random(2, 3, channels, n)
    grid = grid_of(saved(CNN2d, kernels, name=tmp_path / "k.png"), (2, 3))
    assert grid.shape[:2] == (rows, columns)
    for k in range(n):
        one = kernels[..., k]
        expected = 255 * (one - one.min()) / (one.max() - one.min())
        assert np.abs(grid[k // columns, k % columns] - expected).max() <= 1


def test_torch_kernels_look_like_the_originals(tmp_path):
    weight = torch.nn.Conv2d(3, 8, (2, 5)).weight
    ours = saved(CNN2d, weight, channels_first=True, name=tmp_path / "torch.png")
    theirs = saved(CNN2d, weight.permute(2, 3, 1, 0), name=tmp_path / "original.png")
    assert ours.read_bytes() == theirs.read_bytes()


def test_constant_kernel_is_grey(tmp_path):
    kernels = random(2, 2, 1, 4)
    kernels[..., 2] = 5
    grid = grid_of(saved(CNN2d, kernels, name=tmp_path / "k.png"), (2, 2))
    assert set(grid[1, 0].ravel().tolist()) <= {127, 128}


BYTES = np.random.RandomState(0).randint(0, 250, (6, 4, 5, 3)).astype(np.uint8)
MASK = np.array([[0, 1], [1, 0]]).reshape(1, 2, 2, 1).repeat(4, axis=0)


@pytest.mark.parametrize(
    ("images", "options", "expected"),
    [
        (BYTES, {}, BYTES),
        (BYTES.astype(np.int64), {}, BYTES),
        (BYTES / 255, {}, BYTES),
        (BYTES.astype(np.float32), {"dtype": np.uint8}, BYTES),
        (torch.tensor(BYTES.transpose(0, 3, 1, 2).copy()), {"channels_first": True}, BYTES),
        (BYTES[..., :1], {}, BYTES[..., :1].repeat(3, axis=3)),
        (2 * BYTES.astype(float) - 50, {"dtype": np.uint8}, np.clip(2 * BYTES.astype(float) - 50, 0, 255)),
    ],
    ids=["bytes", "integers", "floats 0..1", "floats 0..255", "NCHW", "grey", "clipped"],
)
def test_image_sheet_holds_the_pixels(tmp_path, images, options, expected):
    grid = grid_of(saved(images2d, images, n_columns=3, name=tmp_path / "i.png", **options), (4, 5))
    assert np.abs(grid.reshape(-1, 4, 5, 3) - expected).max() <= (0 if np.asarray(images).dtype == np.uint8 else 1)


@pytest.mark.parametrize(("mask", "levels"), [(MASK, {0, 255}), (MASK.astype(bool), {0, 255}), (0 * MASK, {0})])
def test_zeros_and_ones_are_black_and_white(mask, levels):
    sheet = drawn(images2d, mask).axes[0].images[0].get_array()
    assert set(sheet.ravel().tolist()) == levels | {255, OUTLINE}  # the gaps are white


def test_standardised_images_are_stretched_together(tmp_path):
    images = random(4, 16, 16, 1)
    images[3] = 0.5 * images[3] - 0.1
    grid = grid_of(saved(images2d, images, name=tmp_path / "i.png"), (16, 16))[..., 0].reshape(4, 16, 16)
    low, high = np.percentile(images, [0.5, 99.5])
    expected = 255 * np.clip((images[..., 0] - low) / (high - low), 0, 1)
    inner = (expected > 0) & (expected < 255)
    assert np.abs(grid - expected)[inner].max() <= 1
    assert np.ptp(grid[3]) < np.ptp(grid[0])


def test_constant_images_out_of_range_are_grey():
    assert (drawn(images2d, np.full((4, 2, 2, 3), 7.0)).axes[0].images[0].get_array() >= 127).all()


# --- frame ---


@pytest.mark.parametrize("c", [None, 1, 3, 4])
def test_frame_is_the_image_under_its_name(tmp_path, c):
    image = BYTES[0, :, :, :1].repeat(4, axis=2)
    image[..., 3] = 255
    image = image[..., 0] if c is None else image[..., :c]

    path = saved(frame, image, name=tmp_path / "a $photo$ of_x.png")

    sheet = pixels(path)
    height = 4 * sheet.shape[1] // 5
    blocks = sheet[-height:].reshape(4, height // 4, 5, sheet.shape[1] // 5, 3)
    assert (blocks == BYTES[0, :, :, 0].reshape(4, 1, 5, 1, 1)).all()
    assert (sheet[:-height] < 128).any()  # the title, in black
    assert drawn(frame, image, name="a $photo$ of_x.png").axes[0].get_title() == "a $photo$ of_x"


def test_frame_stretches_a_map_to_its_own_range(tmp_path):
    sheet = pixels(saved(frame, np.array([[3.0, 4.0]]), cmap="gray", name=tmp_path / "f.png"))
    assert sheet[-1, 0].tolist() == [0, 0, 0]
    assert sheet[-1, -1].tolist() == [255, 255, 255]


def test_frame_takes_torch_images(tmp_path):
    torchs = saved(
        frame, torch.tensor(BYTES[0].transpose(2, 0, 1).copy()), channels_first=True, name=tmp_path / "a" / "f.png"
    )
    assert torchs.read_bytes() == saved(frame, BYTES[0], name=tmp_path / "b" / "f.png").read_bytes()


# --- files and figures ---


@pytest.mark.parametrize(
    ("name", "file", "starts"),
    [
        ("mnist", "mnist.pdf", b"%PDF"),
        ("run1.5", "run1.5.pdf", b"%PDF"),
        ("new/folder/w.pdf", "new/folder/w.pdf", b"%PDF"),
        ("w.png", "w.png", b"\x89PNG"),
        ("w.PNG", "w.PNG", b"\x89PNG"),
        ("w.svg", "w.svg", b"<?xml"),
        ("w.jpg", "w.jpg", b"\xff\xd8"),
    ],
)
def test_suffix_picks_the_format(tmp_path, monkeypatch, name, file, starts):
    monkeypatch.chdir(tmp_path)
    path = saved(W, random(4, 2), shape=(2, 2), name=name)
    assert path.as_posix() == file
    assert path.read_bytes().startswith(starts)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_pdf_holds_the_sheet_pixel_by_pixel(tmp_path):
    weight = random(16, 6)
    pdf = saved(W, weight, shape=(4, 4), name=tmp_path / "w")
    height, width = pixels(saved(W, weight, shape=(4, 4), name=tmp_path / "w.png")).shape[:2]
    sizes = [set(re.findall(rb"/%s (\d+)" % key, pdf.read_bytes())) for key in (b"Height", b"Width")]
    assert sizes == [{b"%d" % height}, {b"%d" % width}]


def test_equal_pictures_are_equal_files(tmp_path):
    files = [saved(curves, {"loss": [2, 1]}, name=tmp_path / name).read_bytes() for name in ("a.pdf", "b.pdf")]
    assert files[0] == files[1]
    assert b"CreationDate" not in files[0]


def test_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = saved(W, random(4, 2), shape=(2, 2), name=tmp_path / "w.png")
    before = path.read_bytes()

    def half(self, file, **_):
        file.write(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        saved(W, random(4, 3), shape=(2, 2), name=path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.png"]


DRAWINGS = {
    "W": lambda **k: W(random(16, 5), shape=(4, 4), **k),
    "CNN2d": lambda **k: CNN2d(random(3, 3, 3, 5), **k),
    "images2d": lambda **k: images2d(BYTES, **k),
    "frame": lambda **k: frame(BYTES[0], **k),
    "curves": lambda **k: curves({"train_loss": [3, 2, 1], "val_loss": [3, 2, 2]}, **k),
    "confusion": lambda **k: confusion([[3, 1], [0, 4]], ["a", "b"], **k),
    "attention": lambda **k: attention([[0.9, 0.1]], ["a", "b"], ["c"], **k),
    "tsne_embedding": lambda **k: tsne_embedding(random(5, 3), list("abcde"), max_iter=250, random_state=0, **k),
}


def test_every_picture_is_a_path_or_a_figure_and_leaks_nothing(tmp_path, monkeypatch):
    born, alive, init = [], weakref.WeakSet(), Figure.__init__

    def count(figure, *args, **options):
        born.append(1)
        alive.add(figure)
        init(figure, *args, **options)

    monkeypatch.setattr(Figure, "__init__", count)
    for name, draw in DRAWINGS.items():
        assert saved(draw, name=tmp_path / f"{name}.png") == tmp_path / f"{name}.png"
        assert isinstance(drawn(draw), Figure)
    gc.collect()
    assert len(born) == 2 * len(DRAWINGS)
    assert len(alive) == 0


def test_pictures_can_be_drawn_in_threads(tmp_path):
    alone = [saved(draw, name=tmp_path / "alone" / f"{name}.png") for name, draw in DRAWINGS.items()]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(saved, draw, name=tmp_path / f"{name}.png") for name, draw in DRAWINGS.items()]
    assert [job.result().read_bytes() for job in jobs] == [path.read_bytes() for path in alone]


def test_no_display_no_pyplot_and_nothing_imported_early(tmp_path):
    code = """
import sys, torchlayer.visualize as v
assert not {"matplotlib", "sklearn", "PIL"} & set(sys.modules), "imported before the first picture"
v.W([[1.0, 2.0]] * 4, shape=(2, 2)); v.curves({"loss": [2, 1]}); v.tsne_embedding([[1., 2.], [3., 4.], [5., 9.]], "abc")
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {"MPLBACKEND": "TkAgg", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert sorted(os.listdir(tmp_path)) == ["curves.pdf", "mnist.pdf"]


@pytest.mark.parametrize(
    ("module", "draw", "text"),
    [
        ("matplotlib.figure", "W", "pictures need matplotlib, which is not installed; pip install torchlayer"),
        (
            "sklearn.manifold",
            "tsne_embedding",
            "tsne_embedding needs scikit-learn, which is not installed; pip install",
        ),
    ],
)
def test_missing_package_is_named_with_its_cure(monkeypatch, module, draw, text):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=text):
        drawn(DRAWINGS[draw])


# --- tsne_embedding ---


def words_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_embedding_labels_are_decoded_and_rows_capped():
    words = {0: b"caf\xc3\xa9", 1: "$a$ and $b$", 2: 3, 3: "", 4: "e", 5: "left out"}
    figure = drawn(tsne_embedding, random(6, 4), words, plot_only=5, max_iter=250)
    assert words_of(figure) == ["café", "$a$ and $b$", "3", "", "e"]
    assert len(figure.axes[0].collections[0].get_offsets()) == 5


@pytest.mark.parametrize("shape", [(2, 5), (3, 5), (4, 1), (29, 3), (31, 2)])
def test_few_rows_or_columns_are_drawn(shape):
    words = [str(i) for i in range(shape[0])]
    assert words_of(drawn(tsne_embedding, torch.tensor(random(*shape)), words, max_iter=250)) == words


def test_embedding_map_keeps_neighbours_together_and_repeats_with_a_seed():
    centres = 20 * random(3, 8, seed=1)
    table = np.repeat(centres, 12, axis=0) + random(36, 8)
    first, again = (
        drawn(tsne_embedding, table, ["w"] * 36, max_iter=500, random_state=3).axes[0].collections[0].get_offsets()
        for _ in range(2)
    )
    assert np.array_equal(first, again)
    away = np.linalg.norm(first[:, None] - first[None], axis=2) + 1e9 * np.eye(36)
    assert (away.argmin(axis=1) // 12 == np.arange(36) // 12).all()


def test_labels_of_near_points_do_not_cover_each_other():
    table = np.concatenate([random(4, 3), 50 + random(4, 3)])
    table[1] = table[0] + 1e-9  # on one spot
    figure = drawn(tsne_embedding, table, ["neighbour"] * 8, max_iter=250, random_state=0)
    boxes = [text.get_window_extent(figure.canvas.get_renderer()) for text in figure.axes[0].texts]
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(8) for j in range(i))


# --- curves ---

HISTORY = {
    "epoch": [1, 5, 10],
    "seconds": [2.0, 2.1, 2.0],
    "train_loss": [2.0, 1.0, 0.5],
    "val_loss": [2.0, 1.1, 1.3],
    "train_acc": [0.2, 0.7, 0.9],
    "val_acc": [0.2, 0.8, None],
}


def lines_of(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_losses_and_accuracies_have_a_panel_each_with_their_best_value_ringed():
    loss, accuracy = drawn(curves, HISTORY).axes
    assert lines_of(loss) == {
        "training": [[1, 2], [5, 1], [10, 0.5]],
        "validation": [[1, 2], [5, 1.1], [10, 1.3]],
        "best 1.1, epoch 5": [[5, 1.1]],
    }
    assert lines_of(accuracy) == {
        "training": [[1, 0.2], [5, 0.7], [10, 0.9]],
        "validation": [[1, 0.2], [5, 0.8]],
        "best 0.8, epoch 5": [[5, 0.8]],
    }
    assert (loss.get_xlabel(), loss.get_ylabel(), accuracy.get_ylabel()) == ("Epoch", "Loss", "Accuracy")
    told = [text.get_text() for text in loss.get_legend().get_texts()]
    assert told == ["training", "validation", "best 1.1, epoch 5"]


@pytest.mark.parametrize(
    ("history", "panels"),
    [
        ({"loss": [2, 1]}, {"Loss": ["best 1, epoch 2"]}),
        ({"loss": [2, 1], "val_loss": [2, 3]}, {"Loss": ["loss", "validation", "best 2, epoch 1"]}),
        ({"step": [10, 20], "loss/train": [2, 1]}, {"Loss": ["training", "best 1, step 20"]}),
        ({"Episodes": [1, 2], "return": [5, 9]}, {"Return": ["best 9, episode 2"]}),
        ({"test_perplexity": torch.tensor([90.0, 80.0])}, {"Perplexity": ["test", "best 80, epoch 2"]}),
        ({"lr": [0.1, 0.01], "top5": [0.5, 0.4]}, {"Learning rate": [], "Top5": ["best 0.5, epoch 1"]}),
        ({"a_loss": [1.0], "b_loss": [2.0]}, {"A loss": ["best 1, epoch 1"], "B loss": ["best 2, epoch 1"]}),
        ({"loss": [1, float("inf"), float("nan")], "acc": [None] * 3}, {"Loss": ["best 1, epoch 1"]}),
    ],
)
def test_histories_of_many_spellings(history, panels):
    figure = drawn(curves, history)
    found = {}
    for axes in figure.axes:
        legend = axes.get_legend()
        found[axes.get_ylabel()] = [text.get_text() for text in legend.get_texts()] if legend else []
    assert found == panels


def test_log_scale_is_for_losses():
    loss, accuracy = drawn(curves, HISTORY, log=True).axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")


def test_legend_hides_no_curve(tmp_path):
    figure = drawn(curves, {"train_loss": 1 / np.arange(1, 50), "val_loss": 1.1 / np.arange(1, 50)})
    figure.draw_without_rendering()
    axes = figure.axes[0]
    box = axes.get_legend().get_window_extent()
    for line in axes.lines:
        assert not any(box.contains(*point) for point in axes.transData.transform(line.get_xydata()))


# --- confusion and attention ---


def test_confusion_shows_counts_shares_and_accuracy():
    axes = drawn(confusion, [[90, 10], [0, 50]], ["cat", b"dog"]).axes[0]
    assert axes.get_title() == "Accuracy 93.3 %"
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "90", (1, 0): "10", (1, 1): "50"}
    assert np.allclose(axes.images[0].get_array(), np.sqrt([[0.9, 0.1], [0, 1]]))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted", "True")


@pytest.mark.parametrize("n", [1, 2, 10, 60])
def test_confusion_of_any_size_fits_its_figure(n):
    figure = drawn(confusion, np.eye(n, dtype=int) * 123456, [f"class {k}" for k in range(n)])
    figure.draw_without_rendering()
    page = figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= page.x0
        assert box.y0 >= page.y0
        assert box.x1 <= page.x1 + 1
        assert box.y1 <= page.y1 + 1
    assert bool(figure.axes[0].texts) == (n <= 25)  # then numbers, else a key to the colours
    assert len(figure.axes) == (1 if n <= 25 else 2)


def test_numbers_fit_their_cells():
    figure = drawn(confusion, np.full((9, 9), 1234567))
    boxes = [text.get_window_extent(figure.canvas.get_renderer()) for text in figure.axes[0].texts]
    rows = [sorted((b for b in boxes if abs(b.y0 - y) < 1), key=lambda b: b.x0) for y in {round(b.y0) for b in boxes}]
    assert all(a.x1 < b.x0 for row in rows for a, b in pairwise(row))


def test_class_never_seen_is_an_empty_row():
    axes = drawn(confusion, [[0, 0], [1, 1]]).axes[0]
    assert axes.get_title() == "Accuracy 50.0 %"
    assert axes.images[0].get_array()[0].tolist() == [0, 0]
    assert drawn(confusion, np.zeros((2, 2))).axes[0].get_title() == ""


def test_attention_names_its_rows_and_columns():
    figure = drawn(attention, torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.1, 0.9]]), ["ein", "großer", "Hund"], None)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert np.allclose(axes.images[0].get_array(), [[0.7, 0.2, 0.1], [0.0, 0.1, 0.9]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ein", "großer", "Hund"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]
    box = axes.get_tightbbox()
    assert box.x1 <= figure.bbox.x1 + 1
    assert box.y1 <= figure.bbox.y1 + 1


# --- wrong inputs ---


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: W(random(784)), ValueError, r"W must be a matrix \(n_in, n_units\), got shape \(784,\)"),
        (
            lambda: W(random(700, 3)),
            ValueError,
            r"each column of W has 700 values, which do not fill shape \(28, 28\); give shape=\(h, w\)",
        ),
        (lambda: W(random(10, 784)), ValueError, r"shape \(28, 28\); W is transposed: pass W.T"),
        (lambda: W(random(12, 3), shape=(2, 2, 3)), ValueError, r"do not fill shape \(2, 2, 3\)"),
        (lambda: W(np.zeros((784, 0))), ValueError, r"W is empty, its shape is \(784, 0\)"),
        (lambda: W(random(4, 3), shape=(2, 2), n_columns=0), ValueError, "n_columns must be at least 1, got 0"),
        (lambda: W(np.full((4, 3), np.nan), shape=(2, 2)), ValueError, "W holds 12 values of 12 that are NaN or inf"),
        (lambda: W("weights"), TypeError, "W must hold real numbers, got <U7"),
        (lambda: W(torch.ones(2, 2, dtype=torch.cfloat)), TypeError, "W must hold real numbers, got complex64"),
        (lambda: CNN2d(random(3, 3, 8)), ValueError, r"CNN must be kernels \(h, w, c, n\), got shape \(3, 3, 8\)"),
        (
            lambda: CNN2d(random(5, 5, 64, 32)),
            ValueError,
            r"kernels of 1 or 3 channels, got 64 \(shape \(5, 5, 64, 32\)\); draw one input channel at a time: "
            r"CNN\[:, :, :1\]$",
        ),
        (lambda: CNN2d(random(64, 3, 5, 5)), ValueError, r"torch's layout \(n, c, h, w\) needs channels_first=True"),
        (lambda: CNN2d(random(32, 64, 5, 5), channels_first=True), ValueError, r"got 64 .*: CNN\[:, :1\]$"),
        (
            lambda: images2d(random(28, 28)),
            ValueError,
            r"batch \(n, h, w, c\), got shape \(28, 28\); draw one image with",
        ),
        (
            lambda: images2d(random(4, 3, 32, 32)),
            ValueError,
            r"got 32 in shape .*; .* \(n, c, h, w\) needs channels_first",
        ),
        (lambda: images2d(random(4, 32, 32, 3), channels_first=True), ValueError, "the flag channels_first is wrong"),
        (lambda: frame(random(3, 8, 8)), ValueError, r"\(3, 8, 8\); \(c, h, w\) needs channels_first=True"),
        (lambda: frame(random(8)), ValueError, r"I must be one image \(h, w\) or \(h, w, c\) with c 1, 3 or 4"),
        (
            lambda: tsne_embedding(random(5), "abcde"),
            ValueError,
            r"embeddings must be a matrix \(V, D\), got shape \(5,\)",
        ),
        (lambda: tsne_embedding(random(5, 2), "abcd"), ValueError, r"no word for row 4 \(it has 4\); add it, or lower"),
        (lambda: tsne_embedding(random(5, 2), {0: "a"}), ValueError, "no word for row 1"),
        (lambda: tsne_embedding(random(5, 2), "abcde", plot_only=1), ValueError, "at least two different rows, got 1"),
        (lambda: tsne_embedding(np.ones((5, 2)), "abcde"), ValueError, "at least two different rows, got 5 rows"),
        (lambda: curves({}), ValueError, r"no column with a number to draw, got the columns \[\]"),
        (lambda: curves({"epoch": [1], "loss": [None]}), ValueError, r"no column with a number .* \['epoch', 'loss'\]"),
        (
            lambda: curves({"loss": [1, 2], "acc": [1]}),
            ValueError,
            "columns of different lengths, {'loss': 2, 'acc': 1}; give None where nothing was measured",
        ),
        (lambda: curves({"loss": "ab"}), TypeError, "history 'loss' must be a sequence of numbers, got 'ab'"),
        (lambda: drawn(curves, {"loss": 3.0}), TypeError, "history 'loss' must be a sequence of numbers, got 3.0"),
        (
            lambda: curves({"val_loss": [1], "valid_loss": [2]}),
            ValueError,
            "'val_loss' and 'valid_loss', both the validation loss; rename one",
        ),
        (lambda: curves({"loss": [1, 0]}, log=True), ValueError, "'loss' has a least value of 0, which a logarithmic"),
        (lambda: confusion([[1, 2]]), ValueError, r"matrix must be square with counts >= 0, got shape \(1, 2\)"),
        (lambda: confusion([[1, -2], [0, 1]]), ValueError, r"least value of -2"),
        (lambda: confusion(np.eye(3), ["a", "b"]), ValueError, "labels has 2 names for 3 classes; give one each"),
        (lambda: attention(random(2, 3, 4)), ValueError, r"weights must be a matrix .*; take one head of one pair"),
        (
            lambda: attention([[-1.0, 2.0]]),
            ValueError,
            "least value of -1; take one head of one pair, after the softmax",
        ),
        (lambda: attention(np.eye(2), ["a"]), ValueError, "source has 1 names for 2 columns"),
    ],
)
def test_wrong_input_is_named_with_its_cure(tmp_path, monkeypatch, call, error, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=text):
        call()
    assert os.listdir(tmp_path) == []
