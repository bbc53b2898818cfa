"""Where the files of a data set may lie, and the one place they are put."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .download import offline


def places(dataset: str, path: str | os.PathLike[str] | None) -> list[Path]:
    """Folders to look in, best first: ``path``, ``$TORCHLAYER_DATA/<dataset>``, ``$TORCHLAYER_DATA``, the cache."""
    root = os.environ.get("TORCHLAYER_DATA")
    given = [Path(root).expanduser() / dataset, Path(root).expanduser()] if root else []
    first = [] if path is None else [Path(path).expanduser()]
    last = []
    with contextlib.suppress(FileNotFoundError):
        last = [cache_folder() / dataset]
    return list(dict.fromkeys([*first, *given, *last]))


def home_folder(dataset: str, path: str | os.PathLike[str] | None) -> Path:
    """The folder that new files go to: ``path``, or else the data set's part of the cache.

    Raises:
        FileNotFoundError: there is neither.
    """
    return Path(path).expanduser() if path is not None else cache_folder() / dataset


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/torchlayer/data``, by default under ``~/.cache``.

    Raises:
        FileNotFoundError: there is no home, as for a container's user without a name.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchlayer" / "data"
    except RuntimeError:
        raise FileNotFoundError(
            "there is no home folder to keep data sets in; pass path=, or set HOME or XDG_CACHE_HOME"
        ) from None


def find_folder(dataset: str, names: tuple[str, ...], path: str | os.PathLike[str] | None) -> Path:
    """The first folder that has every file, or the one to download into.

    Raises:
        FileNotFoundError: none has, and the network is forbidden.
    """
    candidates = places(dataset, path)
    for place in candidates:
        if all(find_file(place, name) for name in names):
            return place
    if offline():
        raise FileNotFoundError(
            f"no folder has all files of '{dataset}' ({', '.join(names)}), and TORCHLAYER_OFFLINE is set, so nothing "
            f"was downloaded. Looked in {', '.join(repr(str(p)) for p in candidates)}. Put the files into one of "
            f"these, pass path=, set TORCHLAYER_DATA to the folder that holds '{dataset}', or unset TORCHLAYER_OFFLINE"
        )
    return home_folder(dataset, path)


def find_file(folder: Path, name: str) -> Path | None:
    """The file, packed or unpacked by its owner."""
    plain = name.removesuffix(".gz").removesuffix(".zip")
    return next((p for p in (folder / name, folder / plain, folder / (plain + ".gz")) if p.is_file()), None)
