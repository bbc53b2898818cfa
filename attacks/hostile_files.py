"""Give every reader files that were made to do harm, and watch what the system is asked for.

    python attacks/hostile_files.py

Each must raise FileFormatError, in 10 seconds and 300 MB; a hook on Python's audit events must see no process, no
connection, no import, no name that a pickle looks up; and the file that the attacks try to make must not exist.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz import in_npz, npy, sealed, value_npy, zipped

import torchlayer as tl
from torchlayer.files import FileFormatError
from torchlayer.files.idx import read_idx

OWNED = Path(tempfile.gettempdir(), "torchlayer_owned")
MAX_SECONDS, MAX_BYTES = 10.0, 300e6


class Evil:
    """Unpickling it makes a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, (str(OWNED),)


def object_npy() -> bytes:
    f = io.BytesIO()
    np.save(f, np.array([Evil()], dtype=object), allow_pickle=True)
    return f.getvalue()


def torch_pickle() -> bytes:
    f = io.BytesIO()
    torch.save({"extra": Evil()}, f)
    return f.getvalue()


def long_header(claims: int) -> bytes:
    return b"\x93NUMPY\2\0" + struct.pack("<I", claims) + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n"


def lying_npz() -> bytes:
    data = bytearray(zipped(("a.npy", npy(np.zeros(4)))))
    at = data.index(b"PK\1\2")
    data[at + 20 : at + 28] = struct.pack("<2I", 0xFFFFFFF0, 0xFFFFFFF0)
    return bytes(data)


def bomb() -> bytes:
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(np.zeros(50_000_000, np.uint8)))
    return f.getvalue()


def shape_of_everything() -> bytes:
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }".ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head


def deep(n: int) -> bytes:
    return b'["list",[' * n + b"]]" * n


def vectors(p: Path) -> Any:
    return tl.files.load_word2vec_format(p)


def vocabulary(p: Path) -> Any:
    return tl.nlp.Vocabulary(p)


def npz(p: Path) -> Any:
    return tl.files.load_npz(name=p)


def value(p: Path) -> Any:
    return tl.files.load_npy_to_any(name=p)


def convert(p: Path) -> Any:
    return tl.files.convert_npz(p, p.with_name("new.npz"))


def corpus() -> Iterator[tuple[str, Callable[[Path], Any], Callable[[], bytes], str]]:
    """Name, reader, file, and what the error must say."""
    yield "pickle in an .npy", value, object_npy, "bare .npy"
    yield "pickle in an .npz", npz, lambda: zipped(("a.npy", object_npy())), "holds pickled objects"
    yield "pickle, converted", convert, lambda: zipped(("a.npy", object_npy())), "mkdir"
    yield "a bare pickle as .npz", npz, lambda: pickle.dumps(Evil()), "not a zip"
    yield "a bare pickle as checkpoint", tl.checkpoint.load, lambda: pickle.dumps(Evil()), "not a checkpoint"
    yield "pickle from torch.save", tl.checkpoint.load, torch_pickle, "not a checkpoint"
    yield "pickle from torch.save, sealed", tl.checkpoint.load, lambda: sealed(torch_pickle()), "not what torchlayer"
    yield "pickle as IDX", lambda p: read_idx(p, 3), lambda: pickle.dumps(Evil()), "starts with"
    yield "sealed: announces 2^63 bytes", tl.checkpoint.load, lambda: huge_seal(), "announces"
    yield "npy header of 4 GB", npz, lambda: in_npz("a.npy")(long_header(0xFFFFFFFF)), "no valid array header"
    yield "npy header of 9,999,999 bytes", npz, lambda: in_npz("a.npy")(long_header(9_999_999)), "no valid array header"
    yield "npy header that is code", npz, lambda: in_npz("a.npy")(code_header()), "no valid array header"
    yield "npy of 2^64 numbers", npz, lambda: in_npz("a.npy")(shape_of_everything()), "not as long as its shape"
    yield "npz: size of 4 GB", npz, lying_npz, "claim more bytes|impossible size|damaged"
    yield "npz: bomb of a thousand times its size", npz, lambda: bomb()[:-1], "damaged|impossible"
    yield "npz: one name twice", npz, lambda: zipped_twice(), "same name"
    yield "npz: path in a name", npz, lambda: zipped(("../../a.npz", b"x")), "is not an array"
    yield "JSON 100,000 deep", value, lambda: value_npy(deep(100_000)), "makes no sense"
    yield "JSON with a number of a million digits", value, lambda: value_npy(b"9" * 1_000_000), "makes no sense"
    yield "JSON that names an array it lacks", value, lambda: value_npy(b'["array",9]'), "makes no sense"
    yield "JSON whose dtype is code", value, lambda: value_npy(b'["scalar",["<f4,(","AAAAAA=="]]'), "makes no sense"
    yield "IDX of 2^96 bytes", lambda p: read_idx(p, 3), lambda: b"\0\0\x08\3" + b"\xff" * 12, "more than the file"
    yield "vectors: 10^17 words", vectors, lambda: b"100000000000000000 300\nthe 1 2\n", "which takes"
    yield "vectors: 10^9 words, binary", vectors, lambda: b"1000000000 300\nthe \0\0\0\0", "which takes"
    yield "vectors: a word of 10^7 bytes", vectors, lambda: b"2 1\n" + b"w" * 10**7 + b" 1\nb 2\n", "longer|line end"
    yield "vectors: NaN", vectors, lambda: b"1 2\nthe nan 1\n", "NaN or infinite"
    yield "vectors: invalid UTF-8", vectors, lambda: b"1 1\n\xff\xfe 1\n", "UTF-8"
    yield "vocabulary: NUL", vocabulary, lambda: b"<S>\n</S>\na\0b\n", "NUL"
    yield "vocabulary: UTF-16", vocabulary, lambda: "<S>\n</S>\n".encode("utf-16"), "UTF-16"
    yield "vocabulary: invalid UTF-8", vocabulary, lambda: b"<S>\n</S>\n\xc3\x28\n", "not utf-8"
    yield "vocabulary: a word twice", vocabulary, lambda: b"<S>\n</S>\n<S>\n", "repeats the word"
    yield "vocabulary: an empty line", vocabulary, lambda: b"<S>\n\n</S>\n", "is empty"
    yield "text: CRLF", lambda p: tl.files.load_matt_mahoney_text8_dataset(p), lambda: b"a b\r\nc\n", "carriage return"
    yield "text: a line of 10^7 bytes", lambda p: [*tl.files.text.read_lines(p)], lambda: b"x" * 10**7, "line end"


def huge_seal() -> bytes:
    digest = hashlib.sha256(b"").digest()
    return struct.pack(">16sIIQ32s", b"\x89torchlayer-ck\r\n", 1, 0, 2**63, digest) + b"x"


def code_header() -> bytes:
    head = f"__import__('os').mkdir({str(OWNED)!r})\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head


def zipped_twice() -> bytes:
    data = zipped(("aa.npy", npy(np.zeros(1))), ("ab.npy", npy(np.zeros(1))))
    return data.replace(b"ab.npy", b"aa.npy")


_asked: set[str] = set()
_FOREIGN = ("os.system", "os.exec", "os.spawn", "os.fork", "socket.connect", "urllib", "ctypes", "exec", "webbrowser")
_HARMLESS = {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2"}  # what torch's safe loader may look up


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_FOREIGN):
        _asked.add(event)
    elif event == "pickle.find_class" and ".".join(map(str, arguments)) not in _HARMLESS:
        _asked.add(f"{event} {arguments}")
    elif event == "subprocess.Popen" and "_pickle_reader" not in str(arguments):
        _asked.add(event)


def main() -> int:
    n = n_bad = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        for _, read, make, _ in corpus():  # once for what is imported at first use, which is no attack
            Path(folder, "input").write_bytes(make())
            with contextlib.suppress(FileFormatError), contextlib.redirect_stdout(io.StringIO()):
                read(Path(folder, "input"))
        sys.addaudithook(_watch)
        for name, read, make, text in corpus():
            path = Path(folder, "input")
            path.write_bytes(make())
            _asked.clear()
            started = time.process_time()
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    read(path)
                said = "! it was read"
            except FileFormatError as e:
                said = str(e).partition("cannot be read: ")[2]
            except BaseException as e:
                said = f"! {type(e).__name__}: {e}"
            seconds = time.process_time() - started
            bad = not re.search(text, said) or bool(_asked) or OWNED.exists() or seconds > MAX_SECONDS
            n, n_bad = n + 1, n_bad + bad
            print(f"{'WRONG ' if bad else ''}{name}: {said[:100]} {json.dumps(sorted(_asked)) if _asked else ''}")
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    n_bad += used > MAX_BYTES
    print(f"{n} hostile files, {n_bad} not refused as they should be, at most {used / 1e6:.0f} MB")
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
