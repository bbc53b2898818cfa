"""The one error that a file's content can cause."""

from __future__ import annotations

import os


class FileFormatError(ValueError):
    """A file does not hold what its name promises: damaged, cut off, or something else altogether.

    Every reader of this package raises this and nothing else for bad content, so one ``except`` is enough.

    Args:
        path: the file.
        reason: what is wrong with it.
        offset: byte position of the fault, where one is known.

    >>> print(FileFormatError("a.npz", "the archive is cut off", offset=12))
    'a.npz' cannot be read: the archive is cut off (at byte 12)
    """

    def __init__(self, path: str | os.PathLike[str], reason: str, offset: int | None = None) -> None:
        super().__init__(path, reason, offset)  # all three in args: an exception must survive pickle
        self.path = os.fspath(path)
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        place = "" if self.offset is None else f" (at byte {self.offset})"
        return f"'{self.path}' cannot be read: {self.reason}{place}"
