"""Reads the arrays out of a pickled ``.npz`` in a process of its own: ``_pickle_reader.py OLD NEW``.

A pickle is a program for a stack machine, and unpickling runs it. This machine knows the opcodes by which NumPy writes
arrays of numbers and lists of them, and nothing else. Names that a pickle looks up (``numpy.ndarray`` and a few more)
are only compared with; none is imported and none is called. A constant is bytes of the file, so what an array holds is
never more than was read. Whatever else could grow is counted: opcodes, and bytes of all arrays together.

It imports neither torch nor this package, so that it starts at once and needs little memory.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
import zipfile
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np

MAX_ENTRIES = 10_000
MAX_OPCODES = 500_000  # an array takes about sixty
MAX_RATIO = 4  # of what is unpacked to what is packed; weights pack hardly at all
SMALL = 1 << 20

_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[A-Za-z]\d*)', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n"
)
_NUMBERS = re.compile(r"([<>|=]?)([biufc])(\d{1,2})|([<>|=]?)O(8|4)?")
_RECONSTRUCT = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
_NDARRAY, _DTYPE, _ENCODE = ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")
_NO_BYTES = ("__builtin__", "bytes")  # how Python 3 writes b"" for Python 2
_NAMES = {*_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE, _NO_BYTES}


class Refused(Exception):
    """Not what it should be; the text says why."""


class _Name(NamedTuple):
    module: str
    name: str


class _Kind:
    """A dtype under construction."""

    def __init__(self, code: str):
        match = _NUMBERS.fullmatch(code)
        if match is None:
            raise Refused(f"it holds an array of {code!r}, not of numbers")
        given = match[1] or match[4] or ""
        self.code, self.order = code[len(given) :], given or "="

    def dtype(self) -> np.dtype:
        try:
            return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise Refused(f"it holds an array of {self.code!r}, which NumPy does not have") from None


class _Array:
    """An array under construction: ``value`` is an ndarray, or a list where it is of objects."""

    value: Any = None


class _Machine:
    """One pickle's run. `load` returns what it leaves on the stack."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        for _ in range(MAX_OPCODES):
            code = self._take(1)
            if code == b".":
                if len(self._stack) != 1 or self._at != len(self._data):
                    raise Refused("its pickle does not end where it should")
                return self._stack[0]
            action = _ACTIONS.get(code)
            if action is None:
                raise Refused(f"its pickle does what no array needs (opcode {code!r} at byte {self._at - 1})")
            action(self)
        raise Refused(f"its pickle has more than {MAX_OPCODES} steps")

    # What opcodes are made of

    def _take(self, n: int) -> bytes:
        if n > len(self._data) - self._at:
            raise Refused("its pickle is cut off")
        self._at += n
        return self._data[self._at - n : self._at]

    def _number(self, n_bytes: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(n_bytes), "little", signed=signed)

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 256)
        if end < 0:
            raise Refused("its pickle has a name without an end")
        return self._take(end + 1 - self._at)[:-1].decode("ascii", "replace")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or (self._marks and len(self._stack) <= self._marks[-1]):
            raise Refused("its pickle takes more than it has put there")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise Refused("its pickle takes more than it has put there")
        at = self._marks.pop()
        items = self._stack[at:]
        del self._stack[at:]
        return items

    # Opcodes

    def _proto(self) -> None:
        if self._number(1) > 4:
            raise Refused("its pickle is of a protocol that NumPy never used")

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _text(self, n_bytes: int) -> None:
        self._push(self._take(self._number(n_bytes)).decode("utf-8", "surrogatepass"))

    def _bytes(self, n_bytes: int) -> None:
        self._push(self._take(self._number(n_bytes)))

    def _tuple(self, n: int) -> None:
        items = [self._pop() for _ in range(n)]
        self._push(tuple(reversed(items)))

    def _look_up(self, module: Any, name: Any) -> None:
        if (module, name) not in _NAMES:
            raise Refused(f"it names {module}.{name}, which is no part of an array; it may be an attack")
        self._push(_Name(module, name))

    def _stack_global(self) -> None:
        name = self._pop()
        self._look_up(self._pop(), name)

    def _put(self, index: int) -> None:
        if not self._stack:
            raise Refused("its pickle takes more than it has put there")
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise Refused("its pickle takes what it has not kept")
        self._push(self._memo[index])

    def _append(self, items: list[Any]) -> None:
        target = self._pop()
        if type(target) is not list:
            raise Refused("its pickle appends to what is no list")
        target.extend(items)
        self._push(target)

    def _reduce(self) -> None:
        args = self._pop()
        called = self._pop()
        if not isinstance(called, _Name) or type(args) is not tuple:
            raise Refused("its pickle calls what is no part of an array")
        if called in _RECONSTRUCT and args[:1] == (_NDARRAY,):
            self._push(_Array())
        elif called == _DTYPE and args and isinstance(args[0], str | bytes):
            code = args[0].decode("ascii", "replace") if isinstance(args[0], bytes) else args[0]
            self._push(_Kind(code))
        elif called == _ENCODE and len(args) == 2 and isinstance(args[0], str) and args[1] in ("latin1", b"latin1"):
            try:
                self._push(args[0].encode("latin-1"))
            except UnicodeEncodeError:
                raise Refused("its bytes are none") from None
        elif called == _NO_BYTES and not args:
            self._push(b"")
        else:
            raise Refused(f"its pickle calls {called.module}.{called.name} as no array does")

    def _build(self) -> None:
        state = self._pop()
        target = self._pop()
        if isinstance(target, _Kind) and type(state) is tuple and len(state) >= 2:
            order = state[1].decode("ascii", "replace") if isinstance(state[1], bytes) else state[1]
            if order not in ("<", ">", "|", "=") or any(x is not None for x in state[2:5]):
                raise Refused("it holds an array of records, not of numbers")
            target.order = order
        elif isinstance(target, _Array) and type(state) is tuple and len(state) == 5:
            target.value = _array(*state[1:])
        else:
            raise Refused("its pickle describes what is no array")
        self._push(target)


_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _Machine._proto,
    b"\x95": lambda m: m._take(8),
    b"(": _Machine._mark,
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"K": lambda m: m._push(m._number(1)),
    b"M": lambda m: m._push(m._number(2)),
    b"J": lambda m: m._push(m._number(4, signed=True)),
    b"\x8a": lambda m: m._push(m._number(m._number(1), signed=True)),
    b"X": lambda m: m._text(4),
    b"\x8c": lambda m: m._text(1),
    b"\x8d": lambda m: m._text(8),
    b"B": lambda m: m._bytes(4),
    b"C": lambda m: m._bytes(1),
    b"\x8e": lambda m: m._bytes(8),
    b"T": lambda m: m._bytes(4),  # Python 2's strings
    b"U": lambda m: m._bytes(1),
    b")": lambda m: m._push(()),
    b"t": lambda m: m._push(tuple(m._pop_to_mark())),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"]": lambda m: m._push([]),
    b"a": lambda m: m._append([m._pop()]),
    b"e": lambda m: m._append(m._pop_to_mark()),
    b"q": lambda m: m._put(m._number(1)),
    b"r": lambda m: m._put(m._number(4)),
    b"\x94": lambda m: m._put(len(m._memo)),
    b"h": lambda m: m._get(m._number(1)),
    b"j": lambda m: m._get(m._number(4)),
    b"c": lambda m: m._look_up(m._line(), m._line()),
    b"\x93": _Machine._stack_global,
    b"R": _Machine._reduce,
    b"b": _Machine._build,
}


def _array(shape: Any, kind: Any, fortran: Any, data: Any) -> Any:
    """What the state of a pickled ndarray says it is."""
    lengths = shape if type(shape) is tuple else ()
    if type(shape) is not tuple or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in lengths):
        raise Refused("it holds an array without a shape")
    if not isinstance(kind, _Kind):
        raise Refused("it holds an array without a dtype")
    dtype, count = kind.dtype(), math.prod(shape)
    if dtype.hasobject:
        if type(data) is not list or len(data) != count:
            raise Refused(f"it holds an array of shape {shape} whose items are not there")
        return data
    if not isinstance(data, bytes) or len(data) != count * dtype.itemsize:
        raise Refused(f"it holds an array of shape {shape} and {dtype} whose bytes are not as many")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def arrays_of(entry: bytes) -> list[np.ndarray]:
    """The arrays in one ``.npy`` of a pickled array of arrays; or the one that a plain ``.npy`` is.

    Raises:
        Refused: it is anything else.
    """
    if entry[:6] != b"\x93NUMPY" or entry[6:8] not in (b"\1\0", b"\2\0"):
        raise Refused("it has no array header")
    width = 2 if entry[6] == 1 else 4
    length = int.from_bytes(entry[8 : 8 + width], "little")
    start = 8 + width + length
    match = _HEADER.fullmatch(entry[8 + width : start]) if length <= 10_000 else None
    if match is None or start > len(entry):
        raise Refused("it has no valid array header")
    shape = tuple(int(n) for n in match[3].decode().replace(" ", "").split(",") if n and len(n) < 20)
    kind = _Kind(match[1].decode())
    if not kind.dtype().hasobject:
        return [_array(shape, kind, match[2] == b"True", entry[start:])]
    loaded = _Machine(entry[start:]).load()
    value = loaded.value if isinstance(loaded, _Array) else loaded
    found: list[np.ndarray] = []
    for item in value if type(value) is list else [value]:
        array = item.value if isinstance(item, _Array) else item
        if not isinstance(array, np.ndarray):
            raise Refused(f"item {len(found)} is a {type(array).__name__}, not an array of numbers")
        found.append(array)
    return found


def read(f: IO[bytes]) -> list[np.ndarray]:
    """All arrays of an open ``.npz``, in the order of the file.

    Raises:
        Refused: it is no such file, is damaged, holds anything else, or too much.
    """
    budget = max(MAX_RATIO * f.seek(0, os.SEEK_END), SMALL)
    found: list[np.ndarray] = []
    n_bytes = 0
    try:
        with zipfile.ZipFile(f) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES or sum(info.file_size for info in entries) > budget:
                raise Refused(f"it would unpack to more than {budget} bytes, or {MAX_ENTRIES} entries")
            for info in entries:
                with archive.open(info) as member:
                    entry = member.read(info.file_size + 1)
                if len(entry) != info.file_size:
                    raise Refused(f"entry '{info.filename}' is not as long as it says")
                arrays = arrays_of(entry)
                found += arrays
                n_bytes += sum(a.nbytes for a in arrays)
                if n_bytes > budget or len(found) > MAX_OPCODES:
                    raise Refused(f"its arrays are more than {budget} bytes")  # the same ones, named again and again
    except (Refused, MemoryError):
        raise
    except Exception as e:  # zipfile raises a dozen kinds on damaged bytes
        raise Refused(f"damaged, or not a zip of arrays ({e})") from e
    return found


def _confine(n_bytes: int) -> None:
    """From here on: no other file, no process, no network; and memory, time and output that suit the file's size."""
    forbidden = ("subprocess", "os.", "socket", "ctypes", "import", "exec", "compile", "pickle", "shutil", "open")

    def watch(event: str, arguments: Any) -> None:
        if event.startswith(forbidden):
            os.write(2, f"reading it asked for {event}, so it was stopped\n".encode())
            os._exit(3)

    try:
        import resource
    except ImportError:  # not a POSIX system: the parent's clock and the counts above are all
        resource = None
    if resource is not None:
        with open("/proc/self/statm") if os.path.exists("/proc/self/statm") else io.StringIO("0") as f:
            now = int(f.read().split()[0]) * resource.getpagesize() or 4 << 30
        budget = (MAX_RATIO + 2) * n_bytes + (128 << 20)
        for limit, value in ((resource.RLIMIT_AS, now + budget), (resource.RLIMIT_CPU, 30 + n_bytes // 10**6)):
            resource.setrlimit(limit, (value, value))
        resource.setrlimit(resource.RLIMIT_FSIZE, (budget, budget))
    sys.addaudithook(watch)


def main(old: str, new: str) -> int:
    with open(old, "rb") as source, open(new, "w+b") as target:
        b"\xff".decode("cp437")  # a member's name may need it, and nothing is imported later
        _confine(os.fstat(source.fileno()).st_size)
        try:
            arrays = read(source)
            with zipfile.ZipFile(target, "w") as archive:
                for i, array in enumerate(arrays):
                    with archive.open(f"param_{i:04}.npy", "w", force_zip64=True) as f:
                        np.lib.format.write_array(f, array, allow_pickle=False)  # type: ignore[arg-type]
        except Refused as e:
            print(e, file=sys.stderr)
            return 1
        except MemoryError:
            print("reading it took more memory than a file of its size may", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
