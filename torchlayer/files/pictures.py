"""Pictures of saved weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .folders import load_file_list
from .npz import load_npz


def npz_to_W_pdf(
    path: str | os.PathLike[str] | None = None, regx: str = r"w1pre_[0-9]+\.(npz)", *, shape: Sequence[int] = (28, 28)
) -> list[Path]:
    """Draw the first array of each file that ``regx`` matches, as `visualize.W` does, into a ``.pdf`` beside the file.

    Made for the ``w1pre_<epoch>.npz`` that `ReconLayer.pretrain` leaves. Returns the pictures' paths.

    Args:
        path: the folder; the current one if ``None``.
        regx: regular expression for `re.search`.
        shape: rows and columns of one tile.

    Raises:
        FileFormatError: a file is damaged or a pickle.
        ValueError: its first array is no matrix whose columns fill ``shape``.
    """
    from ..visualize import W  # loads matplotlib

    pictures = []
    for name in load_file_list(path, regx):
        file = Path(path or ".", name)
        params = load_npz(name=file)
        if not params:
            raise ValueError(f"'{file}' has no array to draw")
        try:
            picture = W(params[0], shape=shape, name=file.with_suffix(".pdf"))
        except (TypeError, ValueError) as e:
            raise type(e)(f"'{file}': {e}") from None
        pictures.append(Path(str(picture)))
        print(f"{name} --> {file.stem}.pdf")
    return pictures
