"""Plain values to a file and back, types included, without pickle."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from torchlayer import files
from torchlayer.files import FileFormatError

VALUES = [
    None,
    True,
    0,
    -(2**200),
    0.1,
    float("inf"),
    "ünïcode \ud83d\ude00 \0",
    b"\0\xff",
    [],
    (),
    {},
    [1, 2.5, "a", None, [True]],
    (1, (2, [3])),
    {1: "a", "1": b"b", (1, 2): [], None: {}, b"k": 1.5},
    ["dict", []],  # looks like our own marking
    ["array", 0],
    {
        "data": list(range(5000)),
        "dictionary": {"UNK": 0},
        "reverse_dictionary": {0: "UNK"},
        "count": [["UNK", -1], ("a", 3)],
    },
    [2**63] * 2000,
    [True] * 2000,
    [*range(1000), True],
    np.float32(0.1),
    np.int64(-5),
    np.str_("text"),
    np.bool_(True),
]


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(map(repr, a)) == list(map(repr, b)) and all(same(x, y) for x, y in zip(a.values(), b.values()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("value", VALUES, ids=lambda v: repr(v)[:30])
def test_value_comes_back_equal_and_of_its_type(tmp_path, value):
    files.save_any_to_npy(value, tmp_path / "a.npy")
    assert same(files.load_npy_to_any(tmp_path, "a.npy"), value)


def test_not_a_number_and_arrays_come_back(tmp_path):
    array = np.arange(6, dtype=">i2").reshape(2, 3).T
    files.save_any_to_npy({"nan": math.nan, "a": [array, np.array("x")]}, tmp_path / "a.npy")
    value = files.load_npy_to_any(tmp_path, "a.npy")
    assert math.isnan(value["nan"])
    assert value["a"][0].dtype == array.dtype
    np.testing.assert_array_equal(value["a"][0], array)
    assert value["a"][1] == "x"


def test_suffix_is_added_on_saving_and_found_on_loading(tmp_path):
    files.save_any_to_npy({"a": 1}, str(tmp_path / "state"))
    assert [p.name for p in tmp_path.iterdir()] == ["state.npy"]
    assert files.load_npy_to_any(str(tmp_path), "state") == {"a": 1}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, {2}]}, r"the value\['a'\]\[1\] is a builtins.set"),
        ({"f": print}, r"the value\['f'\] is a builtins.builtin_function"),
        ({frozenset(): 1}, "a key of the value is a builtins.frozenset"),
        (np.array([{}]), "the value is a numpy.ndarray"),
        (random.Random(), "the value is a random.Random"),
    ],
)
def test_what_cannot_be_saved_is_named_with_its_place_and_the_old_file_stays(tmp_path, value, text):
    (tmp_path / "a.npy").write_bytes(b"old")
    with pytest.raises(TypeError, match=text):
        files.save_any_to_npy(value, tmp_path / "a.npy")
    assert (tmp_path / "a.npy").read_bytes() == b"old"


def test_pickle_of_the_original_is_refused_with_a_cure_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = {"dictionary": {"UNK": 0}}
    np.save("old.npy", np.array(value, dtype=object), allow_pickle=True)
    with pytest.raises(FileFormatError, match=r"TensorLayer 1\.x.*runs whatever code") as error:
        files.load_npy_to_any(name="old.npy")
    cure = str(error.value).split("convert it once: ")[1]
    exec(cure, {"numpy": np, "save_any_to_npy": files.save_any_to_npy})
    assert files.load_npy_to_any(name="new.npy") == value


def write_tree(path, text):
    np.savez(path, __torchlayer_value__=np.frombuffer(text.encode(), np.uint8))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "[]",
        '["list"]',
        '["nonsense",1]',
        '["array",0]',
        '["ints",0]',
        '["bytes","#"]',
        '["bytes",5]',
        '["dict",[[["list",[]],1]]]',
        '["dict",5]',
        '["scalar",["|O8",""]]',
        '["scalar",["<f4","AA=="]]',
        '["scalar",["<f4,(","AAAAAA=="]]',  # which NumPy would parse as Python, with a SyntaxError
        '[["a"],1]',
        '["list",[' * 20_000 + "]]" * 20_000,
    ],
    ids=lambda t: t[:20],
)
def test_tree_that_makes_no_sense_is_refused(tmp_path, text):
    write_tree(tmp_path / "a.npz", text)
    with pytest.raises(FileFormatError, match="makes no sense"):
        files.load_npy_to_any(tmp_path, "a.npz")


def test_archive_of_somebody_else_and_missing_file_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(2))
    with pytest.raises(FileFormatError, match="save_any_to_npy did not write it"):
        files.load_npy_to_any(tmp_path, "a.npz")
    with pytest.raises(FileNotFoundError, match=r"no file '.*nowhere\.npy'"):
        files.load_npy_to_any(tmp_path, "nowhere.npy")


@pytest.mark.filterwarnings("ignore")  # a flip can make zipfile warn of what it then refuses
def test_flipped_bits_are_never_read_silently(tmp_path):
    value = {"a": [1, 2.5, "text"], 7: np.arange(5)}
    files.save_any_to_npy(value, tmp_path / "a.npy")
    good, rng, refused = (tmp_path / "a.npy").read_bytes(), random.Random(0), 0
    for _ in range(300):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (tmp_path / "a.npy").write_bytes(data)
        try:
            assert repr(files.load_npy_to_any(tmp_path, "a.npy")) == repr(value)
        except FileFormatError:
            refused += 1
    assert refused > 150
