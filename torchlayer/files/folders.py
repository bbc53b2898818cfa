"""Listing and making folders."""

from __future__ import annotations

import os
import re


def load_file_list(
    path: str | os.PathLike[str] | None = None, regx: str = r"\.npz", printable: bool = True
) -> list[str]:
    """Names (not paths) in a folder that ``regx`` matches anywhere, ``w1pre_9`` before ``w1pre_10``.

    Args:
        path: the folder; the current one if ``None``.
        regx: regular expression for `re.search`.
        printable: print the list and its length, as the original does.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> for name in ("w10.npz", "w9.npz", "notes.txt"):
    ...     open(os.path.join(folder.name, name), "w").close()
    >>> load_file_list(folder.name, printable=False)
    ['w9.npz', 'w10.npz']
    >>> folder.cleanup()
    """
    names = sorted((name for name in os.listdir(path or ".") if re.search(regx, name)), key=natural_key)
    if printable:
        print(f"Match file list = {names}")
        print(f"Number of files = {len(names)}")
    return names


def load_folder_list(path: str | os.PathLike[str] = "") -> list[str]:
    """Paths of the folders in ``path`` (``""``: the current folder), in natural order."""
    names = sorted(os.listdir(path or "."), key=natural_key)
    return [full for full in (os.path.join(path, name) for name in names) if os.path.isdir(full)]


def exists_or_mkdir(path: str | os.PathLike[str], verbose: bool = True) -> bool:
    """Return ``True`` if the folder exists, otherwise make it, with its parents, and return ``False``.

    Raises:
        FileExistsError: ``path`` is a file.
    """
    existed = os.path.isdir(path)
    if verbose:
        print(f"[!] {os.fspath(path)} exists ..." if existed else f"[*] creates {os.fspath(path)} ...")
    os.makedirs(path, exist_ok=True)  # another process may have been quicker
    return existed


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that compares runs of digits by value.

    >>> sorted(["w10", "w9", "w1b"], key=natural_key)
    ['w1b', 'w9', 'w10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(part[0] not in "0123456789", int(part) if part[0] in "0123456789" else 0, part) for part in parts]
