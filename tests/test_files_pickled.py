"""Pickled files of TensorLayer 1.x, real ones and hostile ones, none of which is ever unpickled."""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchlayer import __main__
from torchlayer.files import FileFormatError, convert_npz, load_npz
from torchlayer.files._pickle_reader import MAX_OPCODES, Refused, arrays_of, read

ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([1, -2], ">i4"),
    np.zeros((2, 0), np.float16),
    np.array(7, np.int64),
    np.array([True, False]),
    np.array([1 + 2j], np.complex64),
]


def ragged(items: Any) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def entry(body: bytes, descr: str = "|O", shape: str = "(2,)") -> bytes:
    """A ``.npy`` whose array is pickled as ``body``."""
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head + body


def write(path: Path, npy: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("params.npy", npy)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_array_comes_back_whatever_the_protocol(protocol):
    found = arrays_of(entry(pickle.dumps(ragged(ARRAYS), protocol)))
    for a, b in zip(ARRAYS, found, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_python_2s_pickle_is_read():
    """As Python 2.7 with NumPy 1.11 wrote an array of two arrays; put together by its opcodes."""
    dtype = b"cnumpy\ndtype\nU\x02%sK\x00K\x01\x87R(K\x03U\x01%sNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK%ctb"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    f4 = dtype % (b"f4", b"<", 0)
    arrays = b"".join(
        start + b"(K\x01K\x02\x85" + f4 + b"\x89U\x08" + np.float32([i, 2]).tobytes() + b"tb" for i in (5, 6)
    )
    body = b"\x80\x02" + start + b"(K\x01K\x02\x85" + dtype % (b"O8", b"|", 63) + b"\x89](" + arrays + b"etb."
    np.testing.assert_array_equal(arrays_of(entry(body)), np.float32([[5, 2], [6, 2]]))


def test_the_command_converts_and_the_result_loads(tmp_path, capsys):
    np.savez(tmp_path / "old.npz", params=ragged(ARRAYS))
    assert __main__.main(["convert", str(tmp_path / "old.npz"), str(tmp_path / "new.npz")]) == 0
    assert "param   0: (3, 4)               float32" in capsys.readouterr().out
    for a, b in zip(ARRAYS, load_npz(tmp_path, "new.npz"), strict=True):
        np.testing.assert_array_equal(a, b)


class Evil:
    """What an attacker writes: unpickling it makes a folder."""

    def __init__(self, call: Any, *arguments: Any):
        self.state = call, arguments

    def __reduce__(self) -> Any:
        return self.state


def amplified() -> bytes:
    """Half a megabyte of zeros, named 100,000 times: 50 GB if each were written."""
    body = io.BytesIO()
    array = pickle.dumps(np.zeros(1 << 17, np.float32), 2)[:-1]  # without its end
    body.write(array[:2] + b"](" + array[2:] + b"q\xfa" + b"h\xfa" * 100_000 + b"e.")
    return entry(body.getvalue())


HOSTILE = [
    ("runs a command", lambda: pickle.dumps(Evil(os.mkdir, "owned")), "names (posix|nt).mkdir.*it may be an attack"),
    ("evaluates", lambda: pickle.dumps(Evil(eval, "1")), "names builtins.eval"),
    ("hides in a list", lambda: pickle.dumps([np.zeros(2), Evil(os.system, "true")]), "names (posix|nt).system"),
    ("builds a class", lambda: pickle.dumps(Evil(dict), 2), "names (builtins|__builtin__).dict"),
    ("an instance", lambda: b"\x80\x02cnumpy\nndarray\n)\x81.", r"does what no array needs \(opcode b'\\x81'"),
    ("calls ndarray", lambda: b"\x80\x02cnumpy\nndarray\n)R.", "calls numpy.ndarray as no array does"),
    ("calls a constant", lambda: b"\x80\x02K\1)R.", "calls what is no part of an array"),
    ("a persistent id", lambda: b"\x80\x02K\1Q.", "opcode b'Q'"),
    ("an extension", lambda: b"\x80\x02\x82\1.", "opcode"),
    ("a buffer of gigabytes", lambda: b"\x80\x04\x8e" + b"\xff" * 7 + b"\0x.", "is cut off"),
    ("a long of gigabytes", lambda: b"\x80\x02\x8b\xff\xff\xff\x7f.", "opcode"),
    ("endless", lambda: b"\x80\x02" + b"N" * (MAX_OPCODES + 1), f"more than {MAX_OPCODES} steps"),
    ("nothing on the stack", lambda: b"\x80\x02a.", "takes more than it has put there"),
    ("nothing kept", lambda: b"\x80\x02h\1.", "takes what it has not kept"),
    ("cut off", lambda: pickle.dumps(ragged(ARRAYS))[:-40], "is cut off|does not end"),
    ("goes on", lambda: pickle.dumps(ragged(ARRAYS)) + b"N.", "does not end where it should"),
    ("not arrays", lambda: pickle.dumps(ragged(["a", 1])), "item 0 is a str, not an array of numbers"),
    ("a dict", lambda: pickle.dumps({"a": 1}), "opcode b'}'"),
    ("texts", lambda: pickle.dumps(ragged([np.array(["a"]), 1])), "holds an array of 'U1', not of numbers"),
    ("records", lambda: pickle.dumps(ragged([np.zeros(1, "f4,i4"), 1])), "not of numbers|of records"),
]


@pytest.mark.parametrize(("body", "text"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_hostile_pickle_is_refused_and_nothing_runs(body, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match=text):
        arrays_of(entry(body()))
    assert os.listdir(tmp_path) == []


def lying(**changes: Any) -> bytes:
    """An array whose description was changed."""
    good = pickle.dumps(ragged([np.arange(4, dtype=np.float32), np.zeros(1, np.float32)]), 2)
    for old, new in changes["bytes"]:
        assert good.count(old), old
        good = good.replace(old, new)
    return entry(good)


LIES = [
    ("longer than its bytes", lambda: lying(bytes=[(b"K\x04\x85", b"K\x05\x85")]), "whose bytes are not as many"),
    ("a negative length", lambda: lying(bytes=[(b"K\x04\x85", b"J\xff\xff\xff\xff\x85")]), "without a shape"),
    ("an unknown dtype", lambda: lying(bytes=[(b"f4", b"f5")]), "'f5', which NumPy does not have"),
    ("no header", lambda: b"hello", "no array header"),
    ("a long header", lambda: b"\x93NUMPY\2\0\xff\xff\xff\xff", "no valid array header"),
    ("a header that is code", lambda: entry(b"", "|O", "__import__('os')"), "no valid array header"),
]


@pytest.mark.parametrize(("npy", "text"), [row[1:] for row in LIES], ids=[row[0] for row in LIES])
def test_description_that_lies_is_refused(npy, text):
    with pytest.raises(Refused, match=text):
        arrays_of(npy())


def test_one_array_named_a_hundred_thousand_times_is_not_written_as_often(tmp_path):
    with open(write(tmp_path / "a.npz", amplified()), "rb") as f, pytest.raises(Refused, match="its arrays are more"):
        read(f)


def test_refusal_crosses_the_process_and_leaves_nothing(tmp_path):
    old = write(tmp_path / "old.npz", entry(pickle.dumps(Evil(os.mkdir, str(tmp_path / "owned")))))
    with pytest.raises(FileFormatError, match=r"old\.npz' cannot be read: it names (posix|nt)\.mkdir"):
        convert_npz(old, tmp_path / "new.npz")
    assert os.listdir(tmp_path) == ["old.npz"]


def test_missing_file_and_bad_zip_are_told_by_the_command(tmp_path, capsys):
    (tmp_path / "bad.npz").write_bytes(b"PK\3\4 no zip")
    for name, text in (("nowhere.npz", "there is no file"), ("bad.npz", "damaged, or not a zip of arrays")):
        assert __main__.main(["convert", str(tmp_path / name), str(tmp_path / "new.npz")]) == 1
        assert text in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
def test_what_would_break_out_of_the_reader_is_stopped(tmp_path):
    """Were there a hole in the machine: its process can neither open, nor import, nor start, nor allocate."""
    import subprocess

    from torchlayer.files.pickled import _READER

    holes = {
        "open('/etc/hostname')": "asked for open",
        "import wave": "asked for import",
        "import os; os.system('true')": "asked for os.system",
        "bytearray(1 << 30)": "MemoryError",
    }
    for hole, text in holes.items():
        code = f"import sys, runpy; m = runpy.run_path({str(_READER)!r}); m['_confine'](1000)\n{hole}\nprint('escaped')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode != 0
        assert text in done.stderr
        assert "escaped" not in done.stdout
