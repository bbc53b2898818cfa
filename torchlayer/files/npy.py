"""Plain Python values in a file: what ``save_any_to_npy`` did with pickle, done without.

The original stored any object as a pickle inside an ``.npy``, which runs the file's code when it is read and which
NumPy refuses since 1.16.3. Here the file is a zip of arrays (`numpy.load` opens it), one of which is JSON that says how
the value is put together. Types come back as they went in: integer keys stay integers, tuples tuples, bytes bytes.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import existing_file, read_arrays, with_suffix, write_arrays
from .errors import FileFormatError

_MARK = "__torchlayer_value__"
_LONG = 1000  # lists of integers beyond this go in as one array: the ids of a corpus are 17 million


def save_any_to_npy(save_dict: Any, name: str | os.PathLike[str] = "file.npy") -> None:
    """Save a value built of dicts, lists, tuples, strings, bytes, numbers, ``None`` and NumPy arrays, atomically.

    ``.npy`` is added to the name if missing, as NumPy does.

    Raises:
        TypeError: the value holds something else, and the text says where.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> save_any_to_npy({"reverse_dictionary": {0: "UNK", 1: "the"}, "ids": np.arange(3)}, folder.name + "/file.npy")
    >>> load_npy_to_any(folder.name, "file.npy")
    {'reverse_dictionary': {0: 'UNK', 1: 'the'}, 'ids': array([0, 1, 2])}
    >>> folder.cleanup()
    """
    arrays: list[np.ndarray] = []
    tree = _encode(save_dict, arrays, "the value")
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    named = {f"array_{i}": a for i, a in enumerate(arrays)}
    write_arrays(with_suffix(name, ".npy"), {_MARK: np.frombuffer(text, np.uint8), **named})


def load_npy_to_any(path: str | os.PathLike[str] = "", name: str | os.PathLike[str] = "file.npy") -> Any:
    """Load what `save_any_to_npy` wrote.

    Raises:
        FileFormatError: damaged, or a pickle of TensorLayer 1.x; the text says how to convert one you trust.
        FileNotFoundError: there is no such file.
    """
    file = existing_file(os.path.join(path, name), ".npy")
    with open(file, "rb") as f:
        if f.read(6) == b"\x93NUMPY":
            raise FileFormatError(
                file,
                "a bare .npy, as TensorLayer 1.x wrote it by pickle, and unpickling runs whatever code the file "
                "brings. Plain arrays open with numpy.load. If you trust it, convert it once: "
                f'save_any_to_npy(numpy.load("{os.path.basename(file)}", allow_pickle=True).item(), "new.npy")',
            )
    arrays = read_arrays(file)
    if _MARK not in arrays:
        raise FileFormatError(file, f"it has no entry '{_MARK}': save_any_to_npy did not write it")
    try:
        return _decode(json.loads(arrays[_MARK].tobytes()), arrays)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as e:
        raise FileFormatError(file, f"its entry '{_MARK}' makes no sense ({e!r})") from e


def _encode(value: Any, arrays: list[np.ndarray], where: str) -> Any:
    """JSON for ``value``; a list ``[kind, content]`` for all that JSON cannot tell apart."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is bytes:
        return ["bytes", base64.b64encode(value).decode()]
    if kind is dict:
        items = [
            [_encode(k, arrays, f"a key of {where}"), _encode(v, arrays, f"{where}[{k!r}]")] for k, v in value.items()
        ]
        return ["dict", items]
    if kind is list and len(value) > _LONG and set(map(type, value)) == {int} and _fits_int64(value):
        return ["ints", _append(arrays, np.array(value, np.int64))]
    if kind in (list, tuple):
        return [kind.__name__, [_encode(v, arrays, f"{where}[{i}]") for i, v in enumerate(value)]]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return ["array", _append(arrays, np.asarray(value))]
    if isinstance(value, np.generic) and not value.dtype.hasobject:
        return ["scalar", [value.dtype.str, base64.b64encode(value.tobytes()).decode()]]
    raise TypeError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}; only dicts, lists, tuples, strings, bytes, numbers, "
        "None and NumPy arrays can be saved (a tensor goes in as tensor.numpy())"
    )


def _decode(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(node, list):
        if isinstance(node, dict):
            raise ValueError("an unmarked dict")
        return node
    kind, content = node
    decoders: dict[str, Callable[[Any], Any]] = {
        "bytes": lambda c: base64.b64decode(c, validate=True),
        "dict": lambda c: {_decode(k, arrays): _decode(v, arrays) for k, v in c},
        "ints": lambda c: arrays[f"array_{c}"].tolist(),
        "list": lambda c: [_decode(v, arrays) for v in c],
        "tuple": lambda c: tuple(_decode(v, arrays) for v in c),
        "array": lambda c: arrays[f"array_{c}"],
        "scalar": lambda c: np.frombuffer(base64.b64decode(c[1], validate=True), _dtype(c[0]))[0],
    }
    return decoders[kind](content)


def _dtype(text: str) -> np.dtype:
    """Of a scalar. NumPy itself would parse the text as Python."""
    if not re.fullmatch(r"[<>|=][biufcmMSUV]\d{1,9}(\[\d{0,9}[A-Za-z]{1,2}\])?", text):
        raise ValueError(f"dtype {text!r}")
    return np.dtype(text)


def _append(arrays: list[np.ndarray], array: np.ndarray) -> int:
    arrays.append(array)
    return len(arrays) - 1


def _fits_int64(values: list[int]) -> bool:
    return min(values) >= -(2**63) and max(values) < 2**63
