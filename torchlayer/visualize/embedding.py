"""Words, or anything with a name, as points in the plane."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._figure import BLUE, as_array, figure_of, finish, new_figure, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT_SIZE = 10  # points
RIGHT, UP = 4, 2  # points from a point's centre to its label
# Where a label may stand around its point, the best first: direction (right, up).
PLACES = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))


def tsne_embedding(
    embeddings: Any,
    reverse_dictionary: Mapping[int, str | bytes] | Sequence[Any],
    plot_only: int = 500,
    second: float = 5,
    saveable: bool = False,
    name: str | os.PathLike[str] = "tsne",
    fig_idx: int = 9862,
    *,
    perplexity: float = 30,
    max_iter: int = 5000,
    random_state: int | np.random.RandomState | None = None,
    ax: Axes | None = None,
) -> Path | Figure:
    """Draw the first ``plot_only`` rows of an embedding as a labelled map, near where they are near (t-SNE).

    Args:
        reverse_dictionary: the word of each row, a str, or UTF-8 bytes.
        plot_only: at most this many rows; the most frequent words, if rows are sorted by frequency.
        perplexity: how many neighbours a point minds; lowered to a third of the rows where that is less.
        random_state: a seed, for the same map again.
    Shape:
        embeddings ``(V, D)``.
    Raises:
        ValueError: not a matrix, fewer than two rows, all rows equal, NaN, or a row without a word.
        ImportError: scikit-learn is not installed.
    Reference:
        van der Maaten and Hinton 2008, https://jmlr.org/papers/v9/vandermaaten08a.html

    >>> import numpy as np
    >>> vectors = np.random.RandomState(0).randn(8, 5)
    >>> figure = tsne_embedding(vectors, list("abcdefgh"), max_iter=250, random_state=0)
    >>> len(figure.axes[0].texts)
    8
    """
    table, labels = _rows(embeddings, reverse_dictionary, plot_only, "t-SNE")
    return finish(_map(_tsne(table, perplexity, max_iter, random_state), labels, ax), saveable, name, ax)


def umap_embedding(
    embeddings: Any,
    reverse_dictionary: Mapping[int, str | bytes] | Sequence[Any],
    plot_only: int = 500,
    saveable: bool = False,
    name: str | os.PathLike[str] = "umap",
    *,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
    ax: Axes | None = None,
) -> Path | Figure:
    """Draw the same map as :func:`tsne_embedding` by UMAP, which keeps more of what is far apart.

    Args:
        reverse_dictionary, plot_only, random_state: as for :func:`tsne_embedding`.
        n_neighbors: how many neighbours a point minds; lowered to what there are.
        min_dist: how near two points may come.
    Shape:
        embeddings ``(V, D)``.
    Raises:
        ValueError: as :func:`tsne_embedding`, or fewer than four rows.
        ImportError: umap-learn is not installed.
    Reference:
        McInnes, Healy and Melville 2018, arXiv:1802.03426.
    """
    table, labels = _rows(embeddings, reverse_dictionary, plot_only, "UMAP", least=4)
    return finish(_map(_umap(table, n_neighbors, min_dist, random_state), labels, ax), saveable, name, ax)


def _rows(
    embeddings: Any, reverse_dictionary: Any, plot_only: int, method: str, least: int = 2
) -> tuple[np.ndarray, list[str]]:
    """The rows to draw and their words."""
    table = as_array(embeddings, "embeddings").astype(np.float64)
    if table.ndim != 2:
        raise ValueError(f"embeddings must be a matrix (V, D), got shape {table.shape}")
    n = min(len(table), plot_only)
    if n < least or not np.ptp(table[:n], axis=0).any():
        number = {2: "two", 4: "four"}[least]
        raise ValueError(f"{method} needs at least {number} different rows, got {n} rows with nothing between them")
    return table[:n], [_word(reverse_dictionary, i) for i in range(n)]


def _map(points: np.ndarray, labels: list[str], ax: Axes | None) -> Figure:
    if ax is None:
        side = max(5.0, min(0.8 * math.sqrt(len(points)), 18.0))  # inches; the original's 18 at its 500 words
        figure = new_figure(side, side, dpi=100)
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    else:
        figure, axes = figure_of(ax), ax
    axes.scatter(points[:, 0], points[:, 1], s=9, color=BLUE, linewidths=0)
    axes.margins(0.05)
    axes.set_axis_off()  # the units mean nothing
    for point, label, (right, up) in zip(points, labels, _places(axes, points, labels)):
        axes.annotate(
            label, point, xytext=(RIGHT * right, UP * up), textcoords="offset points",
            ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up],
            fontsize=FONT_SIZE, parse_math=False,
        )  # fmt: skip
    return figure


def _word(reverse_dictionary: Any, row: int) -> str:
    try:
        word = reverse_dictionary[row]
    except (KeyError, IndexError):
        raise ValueError(
            f"reverse_dictionary has no word for row {row} (it has {len(reverse_dictionary)}); "
            "add it, or lower plot_only"
        ) from None
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)


def _tsne(table: np.ndarray, perplexity: float, max_iter: int, random_state: Any) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise ImportError(
            "tsne_embedding needs scikit-learn, which is not installed; pip install torchlayer[vis]"
        ) from None
    model = TSNE(
        perplexity=min(perplexity, (len(table) - 1) / 3),
        init="pca" if min(table.shape) >= 2 else "random",
        random_state=random_state,
    )
    # scikit-learn 1.5 renamed it.
    model.set_params(**{"max_iter" if "max_iter" in model.get_params() else "n_iter": max_iter})
    return model.fit_transform(table)


def _umap(table: np.ndarray, n_neighbors: int, min_dist: float, random_state: Any) -> np.ndarray:
    try:
        from umap import UMAP
    except ImportError:
        raise ImportError("umap_embedding needs umap-learn, which is not installed; pip install umap-learn") from None
    model = UMAP(
        n_neighbors=min(n_neighbors, len(table) - 1),
        min_dist=min_dist,
        random_state=random_state,
        init="spectral" if len(table) > 12 else "random",  # as many rows as its eigenvectors need
        n_jobs=1 if random_state is not None else -1,  # what it would choose itself, with a warning
    )
    return np.asarray(model.fit_transform(table))


def _places(axes: Axes, points: np.ndarray, labels: list[str]) -> list[tuple[int, int]]:
    """For each label in turn, the place around its point that covers the least of other points and labels."""
    dpi = figure_of(axes).dpi
    pixel = dpi / 72
    height = 1.1 * FONT_SIZE * pixel
    axes.autoscale_view()  # transData learns of new points only here
    centres = axes.transData.transform(points)
    boxes = np.concatenate([centres - 2 * pixel, centres + 2 * pixel], axis=1)  # (n, 4): left, bottom, right, top
    places = []
    for i, label in enumerate(labels):
        width = text_width(label, FONT_SIZE, dpi)
        others = np.delete(boxes, i, axis=0)
        candidates = [_box(centres[i], place, width, height, pixel) for place in PLACES]
        costs = [_overlap(box, others) for box in candidates]
        best = int(np.argmin(costs))  # the first of equals
        places.append(PLACES[best])
        boxes = np.concatenate([boxes, candidates[best][None]])
    return places


def _box(centre: np.ndarray, place: tuple[int, int], width: float, height: float, pixel: float) -> np.ndarray:
    size = np.array([width, height])
    middle = centre + np.array(place) * (np.array([RIGHT, UP]) * pixel + size / 2)
    return np.concatenate([middle - size / 2, middle + size / 2])


def _overlap(box: np.ndarray, others: np.ndarray) -> float:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.prod(np.clip(sides, 0, None), axis=1).sum())
