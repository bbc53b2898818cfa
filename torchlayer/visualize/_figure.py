"""What every picture needs: numbers out of tensors, a figure of its own, a file written whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..files.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".png", ".svg", ".jpg", ".jpeg")
DPI = 256  # a power of two: pixels / DPI * DPI is exact, so a mosaic's pixels are the file's pixels

# Of Okabe and Ito's palette, told apart with every common kind of colour blindness.
BLACK, BLUE, GREEN, VERMILION = "#000000", "#0072B2", "#009E73", "#D55E00"


def new_figure(width: float, height: float, dpi: int = DPI, **options: Any) -> Figure:
    """A figure of ``width`` by ``height`` inches on a canvas of its own: pyplot, and so global state, stays out."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib, which is not installed; pip install torchlayer[vis]") from None
    figure = Figure(figsize=(width, height), dpi=dpi, **options)
    FigureCanvasAgg(figure)
    return figure


def figure_of(ax: Axes) -> Figure:
    """The figure of axes that a caller has made, to draw in.

    Raises:
        TypeError: ``ax`` is something else.
    """
    figure = getattr(ax, "figure", None)
    if figure is None or not hasattr(ax, "imshow"):
        raise TypeError(f"ax must be a matplotlib Axes, as figure.add_subplot() makes them, got {ax!r:.80}")
    return figure.figure if hasattr(figure, "figure") else figure  # of a subfigure the whole


def finish(figure: Figure, saveable: bool, name: str | os.PathLike[str], ax: object = None) -> Path | Figure:
    """Save ``figure`` under ``name`` and return the path; or return it, which is what drawing in given axes does."""
    return save(figure, name) if saveable and ax is None else figure


def text_width(word: str, size: float, dpi: float) -> float:
    """Pixels that a word takes, whatever the figure's canvas is."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    return RendererAgg(1, 1, dpi).get_text_width_height_descent(word, FontProperties(size=size), ismath=False)[0]


def save(figure: Figure, name: str | os.PathLike[str]) -> Path:
    """Write ``figure`` to ``name``, ``.pdf`` unless a known suffix says otherwise; readers see all of it or nothing."""
    path = Path(name)
    if path.suffix.lower() not in FORMATS:
        path = path.with_name(path.name + ".pdf")  # not with_suffix: 'run1.5' keeps its '.5'
    kind = path.suffix.lower().lstrip(".")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The date is left out, so that equal pictures are equal files.
    dates: dict[str, dict[str, Any]] = {
        "pdf": {"metadata": {"CreationDate": None}},
        "svg": {"metadata": {"Date": None}},
    }
    with atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=figure.dpi, **dates.get(kind, {}))
    return path


def as_array(values: Any, what: str) -> np.ndarray:
    """``values`` as a NumPy array of real numbers.

    Raises:
        TypeError: not numbers.
        ValueError: nothing in it, or NaN or infinity among it.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # NumPy has no bfloat16 and no float8
        values = (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} must hold real numbers, got {array.dtype}")
    if array.size == 0:
        raise ValueError(f"{what} is empty, its shape is {array.shape}; there is nothing to draw")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        n_bad = int((~np.isfinite(array)).sum())
        raise ValueError(
            f"{what} holds {n_bad} values of {array.size} that are NaN or infinite and have no colour; "
            "find where they came from, or draw numpy.nan_to_num of it"
        )
    return array
