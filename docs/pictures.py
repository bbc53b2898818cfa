"""Draw the pictures of the layers' pages: ``python docs/pictures.py`` writes ``docs/_static/*.svg``.

Nothing is drawn from memory. Each picture probes the layers it is about: it asks which inputs an output depends on, or
where a ramp is read. A light and a dark one are made of each, and the same layers make the same bytes.
"""

from __future__ import annotations

import pathlib
import random
import re
from collections.abc import Callable
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import BoxStyle, PathPatch
from matplotlib.path import Path
from matplotlib.transforms import Affine2D
from torch import Tensor, nn

import torchlayer as tl


class Theme(NamedTuple):
    ink: str
    muted: str
    cell: str
    edge: str
    window: str
    zero: str


THEMES = {
    "light": Theme("#1f2430", "#7a8291", "#dde5f4", "#8fa2c8", "#3d6fd1", "#e07b2c"),
    "dark": Theme("#e4e7ed", "#8d95a5", "#2a3853", "#5d739f", "#6f9bf2", "#f0954a"),
}
STYLE: Any = {
    "svg.hashsalt": "torchlayer",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
}


# What is drawn -----------------------------------------------------------------


def windows(layer: Callable[[Tensor], Tensor], n: int, kernel: int) -> list[range]:
    """The cells that each output of a 1-D convolution reads, of a row of ``n``.

    Those below 0 and from ``n`` on are the zeros of the padding. The filter must be 1, 2, 3 ...: then the weight of a
    cell says where in the window it lies.
    """
    x = torch.zeros(1, n, 1)
    weights = torch.autograd.functional.jacobian(layer, x).reshape(-1, n).round().long()  # (outputs, n)
    starts = []
    for row in weights:
        cell = int(row.argmax())
        starts.append(cell - int(row[cell]) + 1)
    return [range(start, start + kernel) for start in starts]


def same_or_valid(kernel: int, stride: int, padding: str) -> nn.Module:
    counting = torch.arange(1.0, kernel + 1).view(1, 1, kernel)
    return tl.layers.Conv1dLayer(shape=[kernel, 1, 1], strides=stride, padding=padding, W_init=counting)


def torch_padded(kernel: int, stride: int) -> nn.Module:
    """torch's usual ``padding=kernel // 2``, which is alike on both sides."""
    conv = nn.Conv1d(1, 1, kernel, stride, padding=kernel // 2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.arange(1.0, kernel + 1).view(1, 1, kernel))
    return tl.layers.TorchLayer(module=conv, channels_first=True)


def source_positions(n: int, factor: int, **convention: Any) -> list[float]:
    """Where along a row of ``n`` pixels each pixel of the enlarged row is read: a ramp's values are its positions."""
    ramp = torch.arange(float(n)).view(1, 1, n, 1)
    return tl.layers.UpSampling2dLayer(size=(1, factor), **convention)(ramp).flatten().tolist()


def shared_with(layer: nn.Module, shape: tuple[int, ...], cell: tuple[int, ...]) -> Tensor:
    """Of an input of that shape, which values take part in one output value, as a tensor of booleans."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    layer(x)[cell].backward()
    assert x.grad is not None
    return x.grad.abs() > 1e-7


# The pictures --------------------------------------------------------------------


def same(theme: Theme) -> Figure:
    """SAME, VALID and torch's padding: the windows over one row, for odd and even filters and strides."""
    cases = [(3, 1, 6), (2, 1, 6), (3, 2, 7), (3, 2, 6), (2, 2, 5)]  # filter, stride, cells
    columns = {"SAME": 5.0, "VALID": 15.7, "torch, padding=k//2": 26.9}  # where each begins
    heights = [2.1 + STEP * -(-n // stride) for _, stride, n in cases]
    figure, axes = _canvas(37.2, sum(heights) + 1.6)
    for title, left in columns.items():
        _title(axes, left - 0.45, 0.9, title, theme)
    y = 2.7
    for (kernel, stride, n), height in zip(cases, heights):
        axes.text(0.1, y, f"filter {kernel}\nstride {stride}", va="center", color=theme.ink, linespacing=1.4)
        for padding, left in columns.items():
            known = padding in ("SAME", "VALID")
            layer = same_or_valid(kernel, stride, padding) if known else torch_padded(kernel, stride)
            _draw_windows(axes, windows(layer, n, kernel), n, left, y, theme)
        y += height
    return figure


STEP = 0.6  # from one window down to the next


def _draw_windows(axes: Axes, reads: list[range], n: int, left: float, y: float, theme: Theme) -> None:
    zeros = [cell for cell in range(reads[0].start, reads[-1].stop) if not 0 <= cell < n]
    read = sorted({cell for window in reads for cell in window}.difference(zeros))
    unread = [cell for cell in range(n) if cell not in read]
    _squares(axes, [(left + cell, y) for cell in read], 0.84, theme.cell, theme.edge)
    _squares(axes, [(left + cell, y) for cell in unread], 0.84, "none", theme.edge, ":")
    _squares(axes, [(left + cell, y) for cell in zeros], 0.84, "none", theme.zero, "--")
    for cell in zeros:
        axes.text(left + cell, y, "0", ha="center", va="center_baseline", color=theme.zero)
    parts = [(left + cell, y + 0.88 + STEP * i, cell in zeros) for i, window in enumerate(reads) for cell in window]
    for of_zero, color in ((False, theme.window), (True, theme.zero)):
        _bars(axes, [(x, top) for x, top, zero in parts if zero == of_zero], (0.92, 0.32), color)
    end = max(n, reads[-1].stop)
    axes.text(left + end - 0.2, y, rf"{n} $\to$ {len(reads)}", va="center", color=theme.ink, fontsize=9)


def resampling(theme: Theme) -> Figure:
    """Where a row of four pixels is read to make eight, under the three conventions."""
    conventions: list[tuple[str, dict[str, bool]]] = [
        ("as TensorFlow 1", {}),
        ("align_corners=True", {"align_corners": True}),
        ("half_pixel_centers=True", {"half_pixel_centers": True}),
    ]
    n, factor = 4, 2
    figure, axes = _canvas(14.0, 3.35)
    for (title, convention), left in zip(conventions, (0.55, 5.25, 9.95)):
        _title(axes, left - 0.48, 0.25, title, theme)
        for pixel in range(n):
            _bars(axes, [(left + pixel, 0.9)], (0.96, 0.6), _mix(theme.cell, theme.window, pixel / (n - 1)))
            axes.text(left + pixel, 0.87, f"{pixel}", ha="center", va="center_baseline", color=theme.ink)
        for i, position in enumerate(source_positions(n, factor, **convention)):
            centre = left + (i + 0.5) / factor - 0.5
            _bars(axes, [(centre, 2.55)], (0.46, 0.5), _mix(theme.cell, theme.window, position / (n - 1)))
            axes.plot([left + position, centre], [1.27, 2.25], color=theme.zero, linewidth=1.0)
            axes.plot(left + position, 1.27, "o", color=theme.zero, markersize=4, markeredgewidth=0)
            text = f"{position:.2f}".rstrip("0").rstrip(".")
            axes.text(centre, 3.02, text, ha="center", va="center", color=theme.ink, fontsize=7)
    return figure


def normalisation(theme: Theme) -> Figure:
    """Which values take part in the normalisation of one of them, for each kind."""
    shape, cell = (3, 4, 1, 6), (0, 1, 0, 2)  # examples, pixels, 1, channels
    kinds: list[tuple[str, nn.Module]] = [
        ("batch", tl.layers.BatchNormLayer()),
        ("instance", tl.layers.InstanceNormLayer()),
        ("group, groups=2", tl.layers.GroupNormLayer(groups=2)),
        ("layer", tl.layers.LayerNormLayer()),
        ("layer, begin_norm_axis=-1", tl.layers.LayerNormLayer(begin_norm_axis=-1)),
        ("local response, radius 1", tl.layers.LocalResponseNormLayer(depth_radius=1)),
    ]
    figure, axes = _canvas(70.8, 18.0)
    for i, (title, layer) in enumerate(kinds):
        left, top = 1.8 + 24.0 * (i % 3), 3.4 + 10.0 * (i // 3)
        _title(axes, left, top - 2.3, title, theme)
        shared = shared_with(layer, shape, cell)
        squares: dict[str, list[tuple[float, float]]] = {theme.cell: [], theme.window: [], theme.zero: []}
        for example, pixel, _, channel in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
            own = (example, pixel, 0, channel) == cell
            color = theme.zero if own else theme.window if shared[example, pixel, 0, channel] else theme.cell
            squares[color].append((left + channel + 7.1 * example + 0.5, top + pixel + 0.5))
        for color, centres in squares.items():
            _squares(axes, centres, 0.86, color, "none")
        small: dict[str, Any] = {"color": theme.muted, "fontsize": 6.5, "va": "center", "ha": "center"}
        if i == 0:
            axes.text(left - 0.8, top + 2, "pixels", rotation=90, **small)
            for example in range(shape[0]):
                axes.text(left + 3 + 7.1 * example, top - 0.65, f"example {example + 1}", **small)
            axes.text(left + 3, top + 4.7, "channels", **small)
    return figure


def batches(theme: Theme) -> Figure:
    """Eight pairs of number words as a bucket pads them, and eight as they come when batches are cut by length."""
    train, _, _ = tl.files.load_number_words_dataset(400, 10, 10)
    pairs = [
        ([4] * len(tl.files.split_number_words(english)), [4] * len(tl.files.split_number_words(french)) + [2])
        for english, french in train
    ]
    model = tl.layers.EmbeddingAttentionSeq2seqWrapper(9, 9, [(10, 15)], 4, 1, 5.0, 8, 0.5, 0.99, num_samples=0)
    fitting = [[(s, t) for s, t in pairs if len(s) < 10 and len(t) < 15]]
    encoder, decoder, _ = model.get_batch(fitting, 0, rng=random.Random(1))
    bucket = torch.tensor(np.array(encoder)).T, torch.tensor(np.array([*decoder[1:], 0 * decoder[0]])).T
    cut = tl.nlp.TokenBatches(pairs, n_tokens=8 * 16)
    by_length = next((s, t) for s, _, t in cut.epoch(rng=0) if len(s) == 8 and not s.all())
    figure, axes = _canvas(58.0, 12.0)
    for (source, target), left, title in ((bucket, 0.8, "bucket (10, 15)"), (by_length, 34.0, "by length")):
        words = {False: [], True: []}
        for name, side, start in (("source", source, left), ("target", target, left + source.shape[1] + 1.2)):
            middle = start + (side.shape[1] - 1) / 2
            axes.text(middle, 11.3, name, color=theme.muted, fontsize=7, va="center", ha="center")
            for row, column in torch.cartesian_prod(torch.arange(len(side)), torch.arange(side.shape[1])).tolist():
                words[bool(side[row, column])].append((start + column, 2.9 + row))
        _squares(axes, words[True], 0.84, theme.cell, theme.edge)
        _squares(axes, words[False], 0.84, "none", theme.zero, "--")
        share = 100 * len(words[False]) / (len(words[True]) + len(words[False]))
        _title(axes, left - 0.4, 0.9, f"{title}: {share:.0f} % padding", theme)
    return figure


# How it is drawn -------------------------------------------------------------------


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure as wide as a page's text, and axes with ``y`` downwards in which a unit is as long either way."""
    figure = Figure(figsize=(INCHES, INCHES * height / width))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return figure, axes


INCHES = 7.4


def _title(axes: Axes, x: float, y: float, text: str, theme: Theme) -> None:
    axes.text(x, y, text, va="center", color=theme.ink, fontsize=10, fontweight="bold")


def _squares(
    axes: Axes, centres: list[tuple[float, float]], size: float, fill: str, edge: str, line: str = "-"
) -> None:
    """Rounded squares of one look. As markers they are one shape in the file, used many times."""
    if not centres:
        return
    rounded: Any = BoxStyle("round", pad=0, rounding_size=0.14)
    points = size * INCHES * 72 / axes.get_xlim()[1]
    look: dict[str, Any] = {"facecolor": fill, "edgecolor": edge, "linestyle": line, "linewidth": 0.9}
    axes.scatter(*zip(*centres), s=points**2, marker=rounded(-0.5, -0.5, 1, 1, 1), clip_on=False, **look)


def _bars(axes: Axes, centres: list[tuple[float, float]], size: tuple[float, float], color: Any) -> None:
    """Rectangles of one colour, as one path."""
    if centres:
        (width, height), unit = size, Path.unit_rectangle()
        places = [Affine2D().translate(-0.5, -0.5).scale(width, height).translate(x, y) for x, y in centres]
        shapes = [unit.transformed(place) for place in places]
        axes.add_patch(PathPatch(Path.make_compound_path(*shapes), facecolor=color, linewidth=0, clip_on=False))


def _mix(low: str, high: str, share: float) -> tuple[float, ...]:
    pairs = zip(to_rgb(low), to_rgb(high))
    return tuple(a + share * (b - a) for a, b in pairs)


PICTURES: dict[str, Callable[[Theme], Figure]] = {
    "same": same,
    "resampling": resampling,
    "normalisation": normalisation,
    "batches": batches,
}


def write_all(folder: pathlib.Path) -> list[pathlib.Path]:
    """Write every picture in every theme; returns the files."""
    files = []
    for name, draw in PICTURES.items():
        for theme, colors in THEMES.items():
            with rc_context(STYLE):
                file = folder / f"{name}_{theme}.svg"
                text = StringIO()
                draw(colors).savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
                file.write_text(_shorter(text.getvalue()), encoding="utf-8")
            files.append(file)
    return files


def _shorter(svg: str) -> str:
    """The same picture with two decimals and no indentation: smaller, and alike on machines that round differently."""
    svg = re.sub(r"\n\s+", "\n", svg)
    return re.sub(r"scale\([^)]*\)|\d+\.\d{3,}", lambda m: m[0] if m[0][0] == "s" else f"{float(m[0]):.2f}", svg)


if __name__ == "__main__":
    out = pathlib.Path(__file__).resolve().parent / "_static"
    out.mkdir(exist_ok=True)
    for path in write_all(out):
        print(path)
