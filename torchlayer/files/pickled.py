"""The pickled ``.npz`` of TensorLayer 1.x made into plain ones, without executing what is in them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from .arrays import existing_file, read_arrays, write_arrays
from .errors import FileFormatError

_READER = Path(__file__).with_name("_pickle_reader.py")
_START = (  # not by `python _pickle_reader.py`: that puts this folder, where there is a text.py, before all others
    "import sys, runpy; path, *sys.path = sys.argv.pop(1).split('\\n'); runpy.run_path(path, run_name='__main__')"
)


def convert_npz(
    old: str | os.PathLike[str], new: str | os.PathLike[str], *, timeout_seconds: float = 300.0
) -> list[np.ndarray]:
    """Read a pickled ``.npz`` of TensorLayer 1.x, write its arrays as a plain one, and return them.

    ``python -m torchlayer convert old.npz new.npz`` does it from a shell. The pickle inside is not unpickled: a reader
    of its own knows the few opcodes with which NumPy describes arrays, builds nothing else, and calls nothing that the
    file names. It runs in a process of its own whose memory, time and output are bounded by the size of the file. So a
    file from anywhere may be given.

    Args:
        old: what ``numpy.savez(path, params=list_of_arrays)`` wrote, or any ``.npz``.
        new: where ``load_npz`` and ``load_and_assign_npz`` will find the arrays, by position.

    Raises:
        FileFormatError: damaged, or it holds anything but arrays of numbers; the text says what.
        FileNotFoundError: there is no such file.
    """
    source = existing_file(old, ".npz")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "plain.npz")
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-c", _START, "\n".join([str(_READER), *sys.path]), source, str(plain)]
        try:
            done = subprocess.run(command, capture_output=True, env=environment, timeout=timeout_seconds, check=False)
        except subprocess.TimeoutExpired:
            raise FileFormatError(source, f"reading it took more than {timeout_seconds:g} seconds") from None
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"status {done.returncode}"]
            raise FileFormatError(source, said[-1][:500])
        arrays = read_arrays(plain)
    write_arrays(new, arrays)
    return [*arrays.values()]
