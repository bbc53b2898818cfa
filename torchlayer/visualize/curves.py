"""How a training went."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._figure import BLACK, BLUE, GREEN, VERMILION, figure_of, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

X_AXES = ("epoch", "step", "iteration", "update", "episode")
NOT_CURVES = ("seconds", "time")
SPLITS = {
    "train": "training", "training": "training",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test",
}  # fmt: skip
COLOURS = {"training": BLUE, "validation": VERMILION, "test": GREEN, "": BLACK}
# The best value is looked for where a model is chosen, so on the first of these that a panel has.
JUDGES = ("validation", "test", "", "training")
LOWER_IS_BETTER = ("loss", "cost", "err", "perplexity", "ppl", "mse", "mae", "mape", "rmse", "nll", "bpc", "bpd")
HIGHER_IS_BETTER = (
    "acc", "top", "f1", "precision", "recall", "auc", "iou", "dice", "map", "bleu", "psnr", "ssim",
    "reward", "return", "score",
)  # fmt: skip
SPELLED_OUT = {"acc": "accuracy", "ppl": "perplexity", "lr": "learning rate"}


class Series(NamedTuple):
    key: str
    quantity: str  # "loss" of "val_loss"
    split: str  # "validation" of "val_loss", "" where the key names none
    values: np.ndarray


def curves(
    history: Mapping[str, Iterable[Any]],
    *,
    saveable: bool = True,
    name: str | os.PathLike[str] = "curves",
    log: bool = False,
    ax: Axes | Sequence[Axes] | None = None,
) -> Path | Figure:
    """Draw a training's history: one panel a quantity (losses, accuracies, …), one line a data set.

    ``train_loss`` and ``val_loss`` share the panel "loss", ``val_acc`` gets the panel "accuracy". Where less or more is
    known to be better, the best value is ringed, on the validation line if there is one, and told in the legend.

    Args:
        history: equally long columns of numbers, as ``utils.fit`` returns. ``epoch`` (or ``step``, ``iteration``,
            ``update``, ``episode``) is the horizontal axis, 1, 2, … without it; ``seconds`` is not drawn. None and NaN
            mean "not measured" and are passed over.
        log: losses on a logarithmic scale.
        ax: draw here, and return this figure: axes for one panel, or a sequence of them, one a panel.
    Raises:
        ValueError: no column to draw, columns of different lengths, two columns for one line, ``log`` with a loss that
            is not positive, or another number of axes than of panels.

    >>> figure = curves({"train_loss": [2.3, 0.9, 0.4], "val_loss": [2.2, 1.0, 0.8], "val_acc": [0.2, 0.7, 0.8]},
    ...                 saveable=False)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['Loss', 'Accuracy']
    """
    x_name, x, panels = _panels(history)
    if ax is not None:
        given = list(np.ravel(np.asarray(ax, dtype=object)))
        if len(given) != len(panels):
            raise ValueError(
                f"history has {len(panels)} panels ({', '.join(panels)}), and ax is {len(given)} axes; give as many"
            )
        figures = [figure_of(axes) for axes in given]
        for axes, (quantity, series) in zip(given, panels.items()):
            if log and _direction(quantity) < 0:
                _make_logarithmic(axes, series)
            _draw(axes, x, series, x_name, SPELLED_OUT.get(quantity, quantity))
        return figures[0]
    columns = len(panels) if len(panels) <= 3 else math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(4.2 * columns, 3.2 * rows, layout="constrained")
    for i, (quantity, series) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        if log and _direction(quantity) < 0:
            _make_logarithmic(axes, series)
        _draw(axes, x, series, x_name, SPELLED_OUT.get(quantity, quantity))
    return finish(figure, saveable, name)


def _panels(history: Mapping[str, Iterable[Any]]) -> tuple[str, np.ndarray, dict[str, list[Series]]]:
    columns = {key: _numbers(key, values) for key, values in history.items()}
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"history has columns of different lengths, {lengths}; give None where nothing was measured")
    x_keys = [key for key in columns if key.lower().removesuffix("s") in X_AXES]
    panels: dict[str, list[Series]] = {}
    for key, values in columns.items():
        if key in x_keys or key.lower() in NOT_CURVES or not np.isfinite(values).any():
            continue
        split, quantity = _split(key)
        panel = panels.setdefault(quantity, [])
        if any(other.split == split for other in panel):
            twin = next(other.key for other in panel if other.split == split)
            raise ValueError(f"history has {twin!r} and {key!r}, both the {split} {quantity}; rename one of them")
        panel.append(Series(key, quantity, split, values))
    if not panels:
        raise ValueError(f"history has no column with a number to draw, got the columns {list(columns)}")
    x_name = x_keys[0] if x_keys else "epoch"
    x = columns[x_name] if x_keys else np.arange(1, 1 + next(iter(lengths.values())))
    return x_name, x, panels


def _numbers(key: str, values: Iterable[Any]) -> np.ndarray:
    try:
        column = np.array([np.nan if value is None else float(value) for value in values])
    except (TypeError, ValueError):
        raise TypeError(f"history {key!r} must be a sequence of numbers, got {values!r:.80}") from None
    return np.where(np.isfinite(column), column, np.nan)


def _split(key: str) -> tuple[str, str]:
    """``("validation", "loss")`` of ``val_loss``, ``loss/val``, ``Valid Loss`` …"""
    words = re.split(r"[_/. -]+", key.lower())
    for place in (0, -1):
        if len(words) > 1 and words[place] in SPLITS:
            split = SPLITS[words.pop(place)]
            return split, " ".join(words)
    return "", " ".join(words)


def _direction(quantity: str) -> int:
    """-1 where less is better, +1 where more is, 0 where nobody said."""
    words = quantity.split()
    if any(word.startswith(LOWER_IS_BETTER) for word in words):
        return -1
    return 1 if any(word.startswith(HIGHER_IS_BETTER) for word in words) else 0


def _make_logarithmic(axes: Axes, panel: list[Series]) -> None:
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    for series in panel:
        if (series.values <= 0).any():
            raise ValueError(
                f"history {series.key!r} has a least value of {np.nanmin(series.values):g}, "
                "which a logarithmic scale cannot show; use log=False"
            )
    span = max(np.nanmax(s.values) for s in panel) / min(np.nanmin(s.values) for s in panel)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 1000 else (1,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # 0.1 reads easier than 10 to the -1
    axes.yaxis.set_minor_formatter("")


def _draw(axes: Axes, x: np.ndarray, panel: list[Series], x_name: str, quantity: str) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator

    for series in panel:
        measured = np.isfinite(series.values)
        label = series.split or (quantity if len(panel) > 1 else "")
        axes.plot(
            x[measured], series.values[measured], color=COLOURS[series.split], linewidth=1.6,
            marker="o" if measured.sum() <= 15 else "", markersize=3, label=label,
        )  # fmt: skip
    _mark_best(axes, x, panel, x_name)
    axes.set_xlabel(x_name.capitalize(), fontsize=10)
    axes.set_ylabel(quantity[:1].upper() + quantity[1:], fontsize=10)
    axes.xaxis.set_major_locator(FixedLocator(x.tolist()) if len(x) <= 6 else MaxNLocator(nbins=6, integer=True))
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9, frameon=False)


def _mark_best(axes: Axes, x: np.ndarray, panel: list[Series], x_name: str) -> None:
    """Ring the best point and name it in the legend, which finds itself a free corner; text at the point would not."""
    direction = _direction(panel[0].quantity)
    if not direction:
        return
    series = min(panel, key=lambda line: JUDGES.index(line.split))
    at = int(np.nanargmax(direction * series.values))
    axes.plot(
        x[at], series.values[at], "o", markersize=8, markerfacecolor="none", color=COLOURS[series.split],
        label=f"best {series.values[at]:.4g}, {x_name.lower().removesuffix('s')} {x[at]:g}",
    )  # fmt: skip
