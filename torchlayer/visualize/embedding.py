"""Words, or anything with a name, as points in the plane."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._figure import BLUE, as_array, finish, new_figure

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
    table = as_array(embeddings, "embeddings").astype(np.float64)
    if table.ndim != 2:
        raise ValueError(f"embeddings must be a matrix (V, D), got shape {table.shape}")
    n = min(len(table), plot_only)
    if n < 2 or not np.ptp(table[:n], axis=0).any():
        raise ValueError(f"t-SNE needs at least two different rows, got {n} rows with nothing between them")
    labels = [_word(reverse_dictionary, i) for i in range(n)]
    points = _tsne(table[:n], perplexity, max_iter, random_state)

    side = max(5.0, min(0.8 * math.sqrt(n), 18.0))  # inches; the original's 18 at its 500 words
    figure = new_figure(side, side, dpi=100)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    axes.scatter(points[:, 0], points[:, 1], s=9, color=BLUE, linewidths=0)
    axes.margins(0.05)
    axes.set_axis_off()  # t-SNE's units mean nothing
    for point, label, (right, up) in zip(points, labels, _places(axes, points, labels)):
        axes.annotate(
            label, point, xytext=(RIGHT * right, UP * up), textcoords="offset points",
            ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up],
            fontsize=FONT_SIZE, parse_math=False,
        )  # fmt: skip
    return finish(figure, saveable, name)


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


def _places(axes: Axes, points: np.ndarray, labels: list[str]) -> list[tuple[int, int]]:
    """For each label in turn, the place around its point that covers the least of other points and labels."""
    from matplotlib.font_manager import FontProperties

    figure = axes.figure
    renderer = figure.canvas.get_renderer()  # pyright: ignore
    pixel = figure.dpi / 72
    font = FontProperties(size=FONT_SIZE)
    height = 1.1 * FONT_SIZE * pixel
    axes.autoscale_view()  # transData learns of new points only here
    centres = axes.transData.transform(points)
    boxes = np.concatenate([centres - 2 * pixel, centres + 2 * pixel], axis=1)  # (n, 4): left, bottom, right, top
    places = []
    for i, label in enumerate(labels):
        width = renderer.get_text_width_height_descent(label, font, ismath=False)[0]
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
