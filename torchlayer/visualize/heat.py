"""Tables read by their colours."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._figure import DPI, as_array, figure_of, finish, new_figure, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

FONT_SIZE = 9  # points
MAX_CLASSES_WITH_NUMBERS = 25


def confusion(
    matrix: Any,
    labels: Sequence[Any] | None = None,
    *,
    saveable: bool = True,
    name: str | os.PathLike[str] = "confusion",
    ax: Axes | None = None,
) -> Path | Figure:
    """Draw a confusion matrix: the numbers are counts, the colours shares of the row, the title is the accuracy.

    Colour grows with the square root of the share, so that one error in a hundred still shows beside a full diagonal.

    Args:
        matrix: as from ``utils.evaluation``: the true class is the row, the predicted one the column.
        labels: the names of the classes, by default their numbers.
    Shape:
        matrix ``(K, K)``.
    Raises:
        ValueError: not square, negative, or not one label a class.

    >>> confusion([[9, 1], [2, 8]], ["cat", "dog"], saveable=False).axes[0].get_title()
    'Accuracy 85.0 %'
    """
    counts = as_array(matrix, "matrix").astype(np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any():
        raise ValueError(
            f"matrix must be square with counts >= 0, got shape {counts.shape} and a least value of {counts.min():g}"
        )
    n_classes = len(counts)
    names = _names(labels, n_classes, "labels", "classes")
    total = counts.sum(axis=1, keepdims=True)
    shares = counts / np.where(total > 0, total, 1)

    has_numbers = n_classes <= MAX_CLASSES_WITH_NUMBERS
    widest = max(0.8, 1.5 / n_classes)  # one class still makes a matrix as wide as its title
    cell = max(0.14, min(widest, max(0.42, 2.4 / n_classes), 10 / n_classes))
    cell = cell if ax is None else _cell_of(ax, counts)
    figure, axes = _heat_map(counts, cell, names, names, edge=0.32, right=0.15 if has_numbers else 1.0, ax=ax)
    image = _paint(axes, np.sqrt(shares), "Blues", 1)
    if has_numbers:
        texts = [[f"{n:.0f}" if n == int(n) else f"{n:.3g}" for n in row] for row in counts]
        widest = max(len(text) for row in texts for text in row)
        fontsize = min(8.0, 72 * 0.9 * cell / (0.65 * widest))  # a digit is 0.65 of its height wide
        for row, column in np.argwhere(counts > 0):  # empty cells stay empty
            axes.text(
                column, row, texts[row][column], fontsize=fontsize, ha="center", va="center",
                color="white" if shares[row, column] > 0.35 else "black",
            )  # fmt: skip
    else:
        _bar(figure, axes, image, own=ax is None)
    axes.set_xlabel("Predicted", fontsize=10)
    axes.set_ylabel("True", fontsize=10)
    if counts.sum() > 0:
        axes.set_title(f"Accuracy {100 * np.trace(counts) / counts.sum():.1f} %", fontsize=11)
    return finish(figure, saveable, name, ax)


def attention(
    weights: Any,
    source: Sequence[Any] | None = None,
    target: Sequence[Any] | None = None,
    *,
    saveable: bool = True,
    name: str | os.PathLike[str] = "attention",
    ax: Axes | None = None,
) -> Path | Figure:
    """Draw which source words each target word looked at: a row a target word, the darker the more.

    Shape:
        weights ``(T_target, T_source)``.
    Raises:
        ValueError: not a matrix, negative, or not one word a row and column.
    Reference:
        Bahdanau et al. 2015, arXiv:1409.0473, figure 3.

    >>> figure = attention([[0.9, 0.1], [0.2, 0.8]], ["ein", "Hund"], ["a", "dog"], saveable=False)
    """
    table = as_array(weights, "weights").astype(np.float64)
    if table.ndim != 2 or (table < 0).any():
        raise ValueError(
            f"weights must be a matrix (T_target, T_source) of weights >= 0, got shape {table.shape} "
            f"and a least value of {table.min():g}; take one head of one pair, after the softmax"
        )
    rows, columns = table.shape
    left = _names(target, rows, "target", "rows")
    top = _names(source, columns, "source", "columns")
    cell = 0.26 if ax is None else _cell_of(ax, table)
    figure, axes = _heat_map(table, cell, left, top, edge=0.1, right=0.1, on_top=True, ax=ax)
    _paint(axes, table, "Greys", table.max())
    return finish(figure, saveable, name, ax)


def _names(names: Sequence[Any] | None, n: int, what: str, of: str) -> list[str]:
    if names is None:
        return []
    if len(names) != n:
        raise ValueError(f"{what} has {len(names)} names for {n} {of}; give one each")
    return [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in names]


def _heat_map(
    table: np.ndarray,
    cell: float,
    rows: list[str],
    columns: list[str],
    edge: float,
    right: float,
    on_top: bool = False,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Cells of ``cell`` inches, and around them the room for the names, plus ``edge`` and ``right`` inches.

    Given axes stay as large as they are.
    """
    figure = new_figure(1, 1) if ax is None else figure_of(ax)

    def inches(names: list[str]) -> np.ndarray:
        return np.array([text_width(word, FONT_SIZE, DPI) for word in names]) / DPI

    n_rows, n_columns = table.shape
    every, angle = 1, 0
    if not columns:  # numbers: as many as fit beside each other
        columns = [str(k) for k in range(n_columns)]
        every = math.ceil(1.3 * inches(columns).max() / cell)
    elif inches(columns).max() > 0.9 * cell:
        angle = 45 if cell > 0.2 else 90
    every_row = 1 if rows else every
    rows = rows or [str(k) for k in range(n_rows)]

    if ax is None:
        # Slanted names lean past the first column, or on top past the last.
        slope = math.radians(angle)
        away = np.arange(n_columns) * cell
        lean = (inches(columns) * math.cos(slope) - (away[::-1] if on_top else away)).max() if angle else 0.0
        across = inches(columns).max() * math.sin(slope) + FONT_SIZE / 72 + 0.1
        left = edge + max(inches(rows).max() + 0.1, 0.0 if on_top else lean)
        right = right + (max(lean, 0.0) if on_top else 0.0)
        bottom, top = (edge, edge + across) if on_top else (edge + across, edge)
        width, height = left + n_columns * cell + right, bottom + n_rows * cell + top
        figure.set_size_inches(width, height)
        axes = figure.add_axes((left / width, bottom / height, n_columns * cell / width, n_rows * cell / height))
    else:
        axes = ax
    axes.set(xlim=(-0.5, n_columns - 0.5), ylim=(n_rows - 0.5, -0.5))
    if on_top:
        axes.xaxis.tick_top()
    axes.set_yticks(range(0, n_rows, every_row), rows[::every_row], fontsize=FONT_SIZE, parse_math=False)
    aligned = ("left" if on_top else "right") if angle else "center"
    axes.set_xticks(
        range(0, n_columns, every), columns[::every], fontsize=FONT_SIZE, parse_math=False, rotation=angle,
        rotation_mode="anchor", ha=aligned, va="center" if angle == 90 else "bottom" if on_top else "top",
    )  # fmt: skip
    axes.hlines(np.arange(1, n_rows) - 0.5, -0.5, n_columns - 0.5, color="white", linewidth=1 if cell > 0.2 else 0.3)
    axes.vlines(np.arange(1, n_columns) - 0.5, -0.5, n_rows - 0.5, color="white", linewidth=1 if cell > 0.2 else 0.3)
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.7")
    axes.spines[:].set_linewidth(0.6)
    return figure, axes


def _cell_of(ax: Axes, table: np.ndarray) -> float:
    """Inches of a cell's shorter side, where the table fills given axes."""
    width, height = figure_of(ax).get_size_inches()
    box = ax.get_position()
    return float(min(box.width * width / table.shape[1], box.height * height / table.shape[0]))


def _paint(axes: Axes, table: np.ndarray, cmap: str, top: float) -> AxesImage:
    return axes.imshow(table, cmap=cmap, vmin=0, vmax=top, interpolation="none", aspect="auto", origin="upper")


def _bar(figure: Figure, axes: Axes, image: AxesImage, own: bool) -> None:
    """A key to the colours in the right margin, or where axes that are not our ``own`` give way to it."""
    if own:
        box, inch = axes.get_position(), 1 / figure.get_figwidth()
        bar_axes = figure.add_axes((box.x1 + 0.15 * inch, box.y0, 0.15 * inch, box.height))
        bar = figure.colorbar(image, cax=bar_axes)
    else:
        bar = figure.colorbar(image, ax=axes)
        bar_axes = bar.ax
    levels = np.array([0, 0.01, 0.1, 0.25, 0.5, 1])
    bar.set_ticks(np.sqrt(levels).tolist(), labels=[f"{100 * level:g} %" for level in levels])
    bar_axes.set_ylabel("Share of the true class", fontsize=FONT_SIZE)
    bar_axes.tick_params(labelsize=8, length=2)
    bar_axes.spines[:].set_color("0.7")
    bar_axes.spines[:].set_linewidth(0.6)
