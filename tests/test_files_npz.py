"""Parameters through .npz files: names, layout, completeness, damage."""

from __future__ import annotations

import errno
import io
import json
import random
import zipfile
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchlayer import __main__, files
from torchlayer.files import FileFormatError
from torchlayer.files.arrays import read_arrays


class Conv(nn.Module):
    """A convolution as torch holds it, with the declaration that save_npz reads."""

    npz_axes: ClassVar = {"W": (2, 3, 1, 0)}

    def __init__(self, n_in=3, n_out=4, size=(5, 2)):
        super().__init__()
        self.W = nn.Parameter(torch.randn(n_out, n_in, *size))
        self.b = nn.Parameter(torch.randn(n_out))


class Net(nn.Module):
    """Registered last layer first: the order of the file must be that of ``all_params`` all the same."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 2)
        self.bn = nn.BatchNorm1d(4)
        self.conv = Conv()
        self.register_buffer("scratch", torch.zeros(1), persistent=False)
        with torch.no_grad():
            self.bn.running_mean.normal_()  # type: ignore[union-attr]
            self.bn.num_batches_tracked += 7  # type: ignore[operator]

    @property
    def all_params(self) -> list[Tensor]:
        return [t for layer in (self.conv, self.bn, self.out) for t in (*layer.parameters(), *layer.buffers())]


NAMES = [
    "conv.W",
    "conv.b",
    "bn.weight",
    "bn.bias",
    "bn.running_mean",
    "bn.running_var",
    "bn.num_batches_tracked",
    "out.weight",
    "out.bias",
]


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def path(tmp_path, net):
    files.save_npz(net, tmp_path / "model.npz")
    return tmp_path / "model.npz"


def test_every_parameter_and_buffer_comes_back(path, net):
    other = Net()
    assert not same(net, other)
    assert files.load_and_assign_npz(path, other) is other
    assert same(net, other)


def test_plain_numpy_reads_names_order_and_the_originals_layout(path, net):
    with np.load(path) as file:
        assert [name for name in file.files if name != "__torchlayer__"] == NAMES
        np.testing.assert_array_equal(file["conv.W"], net.conv.W.detach().numpy().transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(file["out.weight"], net.out.weight.detach().numpy())
        assert json.loads(str(file["__torchlayer__"]))["format"] == "torchlayer-1"


def test_loaded_list_is_in_order_and_knows_its_names(path, net):
    params = files.load_npz(str(path.parent), "model.npz")
    assert params.names == NAMES
    assert [a.shape for a in params[:3]] == [(5, 2, 3, 4), (4,), (4,)]
    np.testing.assert_array_equal(files.load_npz_dict(name=path)["out.bias"], net.out.bias.detach().numpy())


def test_module_without_all_params_is_saved_in_state_dict_order(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    files.save_npz(net, tmp_path / "a.npz")
    assert files.load_npz(name=tmp_path / "a.npz").names == list(net.state_dict())


def test_shared_tensor_is_stored_once(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    files.save_npz(net, tmp_path / "a.npz")
    assert files.load_npz(name=tmp_path / "a.npz").names == ["0.weight", "0.bias", "1.bias"]
    files.load_and_assign_npz(tmp_path / "a.npz", net)


def test_axes_of_a_nested_layer_may_be_declared_by_the_outer_one(tmp_path):
    class Outer(nn.Module):
        npz_axes: ClassVar = {"inner.weight": (1, 0)}

        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3)

    net, other = Outer(), Outer()
    files.save_npz(net, tmp_path / "a.npz")
    assert files.load_npz_dict(name=tmp_path / "a.npz")["inner.weight"].shape == (2, 3)
    files.load_and_assign_npz(tmp_path / "a.npz", other)
    assert same(net, other)


def test_equal_networks_make_equal_files(tmp_path, net, path):
    files.save_npz(net, tmp_path / "again.npz")
    assert path.read_bytes() == (tmp_path / "again.npz").read_bytes()


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_keeps_its_bits(tmp_path, dtype):
    class Holder(nn.Module):
        def __init__(self, bits):
            super().__init__()
            self.register_buffer("a", bits.view(dtype))

    width = dtype.itemsize
    bits = torch.arange(4 * width, dtype=torch.uint8) % 2 if dtype == torch.bool else torch.randint(120, (4 * width,))
    net, other = (Holder(b.to(torch.uint8)) for b in (bits, torch.zeros(4 * width)))
    files.save_npz(net, tmp_path / "a.npz")
    files.load_and_assign_npz(tmp_path / "a.npz", other)
    assert torch.equal(net.a.view(torch.uint8), other.a.view(torch.uint8))  # type: ignore[operator]
    (array,) = files.load_npz(name=tmp_path / "a.npz")
    expected = net.a.float() if dtype in (torch.bfloat16, torch.float8_e4m3fn) else net.a  # type: ignore[operator]
    np.testing.assert_array_equal(array, expected.numpy())  # type: ignore[union-attr]


def test_widths_may_differ_and_kinds_may_not(tmp_path):
    net = nn.Linear(2, 1)
    files.save_npz(net.double(), tmp_path / "a.npz")
    single = files.load_and_assign_npz(tmp_path / "a.npz", nn.Linear(2, 1))
    assert torch.equal(single.weight, net.weight.float())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weight is integer \(1, 2\), needed float \(1, 2\)"):
        files.assign_params([np.ones((1, 2), int), np.ones(1)], net)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_odd_shapes_survive(tmp_path, shape):
    files.save_npz([torch.zeros(shape), torch.zeros(4, 6).t(), np.zeros(shape)], tmp_path / "a.npz")
    assert [a.shape for a in files.load_npz(name=tmp_path / "a.npz")] == [shape, (6, 4), shape]


def test_suffix_is_added_on_saving_and_found_on_loading(tmp_path, net):
    files.save_npz(net, str(tmp_path / "model.v2"))
    assert (tmp_path / "model.v2.npz").exists()
    files.load_and_assign_npz(tmp_path / "model.v2", net)


def test_messages_are_the_originals(tmp_path, net, capsys):
    files.save_npz(net, tmp_path / "m.npz")
    files.load_and_assign_npz(tmp_path / "m.npz", net)
    assert capsys.readouterr().out == f"[*] {tmp_path}/m.npz saved\n[*] Load {tmp_path}/m.npz SUCCESS!\n"


NOTHING = [
    (None, TypeError, "takes a network or a list of tensors, got NoneType"),
    ([], ValueError, "nothing to save"),
    (nn.ReLU(), ValueError, "nothing to save"),
    (torch.ones(2), TypeError, "got Tensor"),
    ("model", TypeError, "got str"),
    (nn.LazyLinear(2), ValueError, "'weight' has no size yet: call the network once"),
    ({"__torchlayer__": torch.ones(1)}, ValueError, "no parameter may be called"),
    ([torch.eye(2).to_sparse()], ValueError, "has no array form"),
]


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(("thing", "error", "text"), NOTHING)
def test_what_cannot_be_saved_is_refused_and_the_old_file_stays(tmp_path, thing, error, text):
    (tmp_path / "a.npz").write_bytes(b"old")
    with pytest.raises(error, match=text):
        files.save_npz(thing, tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_bytes() == b"old"


def test_wrong_declaration_of_axes_is_named(tmp_path):
    net = Conv()
    net.npz_axes = {"W": (2, 3, 1)}  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"Conv\.npz_axes \(2, 3, 1\) is no permutation of the 4 axes of 'W'"):
        files.save_npz(net, tmp_path / "a.npz")


# Assigning by position


def arrays_of(net):
    return [t.detach().numpy().copy() for t in net.all_params]


def as_in_file(net):
    arrays = arrays_of(net)
    return [arrays[0].transpose(2, 3, 1, 0), *arrays[1:]]


def test_plain_list_is_read_in_the_originals_layout(net):
    other = Net()
    files.assign_params(as_in_file(net), other)
    assert same(net, other)


def test_list_of_tensors_saved_as_they_lie_goes_back_as_they_lay(tmp_path, net):
    """With a cubic kernel the shapes alone could not tell the layouts apart."""
    net.conv, other = Conv(3, 3, (3, 3)), Net()
    other.conv = Conv(3, 3, (3, 3))
    files.save_npz(net.all_params, tmp_path / "a.npz")
    assert files.load_npz(name=tmp_path / "a.npz").names[:2] == ["param_0000", "param_0001"]
    files.assign_params(files.load_npz(name=tmp_path / "a.npz"), other)
    assert torch.equal(net.conv.W, other.conv.W)
    files.load_and_assign_npz(tmp_path / "a.npz", other)
    assert torch.equal(net.conv.W, other.conv.W)


def test_first_layers_alone_can_be_assigned_with_a_warning(path, net):
    other = Net()
    before = other.out.weight.clone()
    with pytest.warns(UserWarning, match="2 of the network's 9 arrays were assigned. missing: bn.weight, "):
        files.assign_params(files.load_npz(name=path)[:2], other, strict=False)
    assert torch.equal(other.conv.W, net.conv.W)
    assert torch.equal(other.out.weight, before)


BAD_LISTS = [
    ("too few", lambda a: a[:3], True, "3 arrays do not fit this network, which has 9. missing: bn.bias"),
    ("too many", lambda a: [*a, a[0]], True, "10 arrays do not fit this network, which has 9"),
    ("too many, not strict", lambda a: [*a, a[0]], False, "10 arrays do not fit"),
    (
        "torch's layout",
        lambda a: [a[0].transpose(3, 2, 0, 1), *a[1:]],
        True,
        r"conv\.W is float \(4, 3, 5, 2\), needed float \(5, 2, 3, 4\)",
    ),
    ("wrong shape, not strict", lambda a: [a[0], a[1][:2]], False, r"conv\.b is float \(2,\), needed float \(4,\)"),
    ("wrong rank", lambda a: [a[0][0], *a[1:]], True, r"conv\.W is float \(2, 3, 4\), needed float \(5, 2, 3, 4\)"),
    ("text", lambda a: [np.array(["a"]), *a[1:]], True, "'param 0' is an array of <U1, not of numbers"),
    ("objects", lambda a: [np.array([{}]), *a[1:]], True, "'param 0' is an array of object"),
]


@pytest.mark.parametrize(("change", "strict", "text"), [r[1:] for r in BAD_LISTS], ids=[r[0] for r in BAD_LISTS])
def test_list_that_does_not_fit_changes_nothing(net, change, strict, text):
    other = Net()
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ValueError, match=text):
        files.assign_params(change(as_in_file(net)), other, strict)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


def test_read_only_reversed_and_big_endian_arrays_are_taken():
    net = nn.Linear(2, 1)
    frozen = np.array([[2.0, 1.0]])[:, ::-1]
    frozen.flags.writeable = False
    files.assign_params([frozen, np.array([3.0], ">f4")], net)
    assert torch.equal(net.weight, torch.tensor([[1.0, 2.0]]))
    assert net.bias.item() == 3


def test_dict_is_assigned_by_name_and_bfloat16_tensors_are_taken():
    net = nn.Linear(2, 1)
    files.assign_params({"bias": torch.tensor([4.0], dtype=torch.bfloat16), "weight": torch.ones(1, 2)}, net)
    assert net.bias.item() == 4


# Assigning by name


def renamed(net):
    layers = dict(net.named_children())
    return nn.ModuleDict({"head" if name == "out" else name: layer for name, layer in layers.items()})


def test_file_of_another_network_lists_what_differs_and_changes_nothing(path):
    other = renamed(Net())
    other["conv"] = Conv(n_out=6)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ValueError) as error:
        files.load_and_assign_npz(path, other)
    for part in (
        str(path),
        "missing: head.weight, head.bias",
        "unexpected: out.weight, out.bias",
        "conv.W is float (5, 2, 3, 4), needed float (5, 2, 3, 6)",
    ):
        assert part in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


def test_other_names_are_permitted_on_request_with_a_warning(path, net):
    other = renamed(Net())
    with pytest.warns(
        UserWarning, match=r"7 of the network's 9.*missing: head.weight, head.bias. unexpected: out.weight"
    ):
        files.load_and_assign_npz(path, other, strict=False)
    assert torch.equal(other.state_dict()["conv.W"], net.conv.W)


# Files of others, and bad files


def test_unmarked_file_is_assigned_by_position(tmp_path, net):
    np.savez(tmp_path / "a.npz", *as_in_file(net))
    np.savez_compressed(tmp_path / "b.npz", *as_in_file(net))
    for name in "ab":
        other = files.load_and_assign_npz(tmp_path / f"{name}.npz", Net())
        assert same(net, other)


def test_stacked_file_of_the_original_is_a_list_by_position(tmp_path):
    np.savez(tmp_path / "a.npz", params=np.arange(12.0).reshape(3, 2, 2))
    params = files.load_npz(name=tmp_path / "a.npz")
    np.testing.assert_array_equal(params, np.arange(12.0).reshape(3, 2, 2))
    assert len(params) == 3


def test_pickled_file_of_the_original_is_refused_with_a_cure_that_works(tmp_path, monkeypatch, net):
    monkeypatch.chdir(tmp_path)
    ragged = np.empty(9, object)
    ragged[:] = as_in_file(net)
    np.savez("old.npz", params=ragged)
    with pytest.raises(FileFormatError, match=r"TensorLayer 1\.x.*runs whatever code") as error:
        files.load_npz(name="old.npz")
    command = str(error.value).split("runs none of it: python -m torchlayer ")[1]
    assert __main__.main(command.split()) == 0
    assert same(net, files.load_and_assign_npz("new.npz", Net()))


@pytest.mark.parametrize("load", [files.load_npz, files.load_npz_dict])
def test_missing_file_names_the_folder(tmp_path, monkeypatch, load):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no file 'nowhere.npz' .looked in '{tmp_path}'"):
        load(name="nowhere.npz")
    with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.npz'"):
        files.load_and_assign_npz("nowhere.npz", nn.Linear(1, 1))


def npy(array=None, header=None, body=b""):
    f = io.BytesIO()
    if array is not None:
        np.save(f, array)
    else:
        f.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body)  # type: ignore[arg-type]
    return f.getvalue()


def archive(*entries, method=zipfile.ZIP_STORED):
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w", method) as z:
        for name, data in entries:
            z.writestr(name, data)
    return f.getvalue()


def marked(manifest, *entries):
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    return archive(*entries, ("__torchlayer__.npy", npy(np.array(text))))


def manifest(**changes):
    entry = {"name": "a", "dtype": None, "axes": None, **changes}
    return {"format": "torchlayer-1", "named": True, "arrays": [entry]}


A = ("a.npy", npy(np.ones(2, np.float32)))
HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': %s}\n"
BAD_FILES = [
    ("empty", b"", "not a zip"),
    ("text", b"hello" * 100, "not a zip"),
    ("bare array", npy(np.ones(3)), "not a zip"),
    ("no array inside", archive(("a.txt", b"x")), "'a.txt' is not an array"),
    ("garbage inside", archive(("a.npy", b"x" * 100)), "no valid array header"),
    ("empty entry", archive(("a.npy", b"")), "no valid array header"),
    ("shape too big", archive(("a.npy", npy(header=HEADER % b"(1000000000000,)", body=b"1234"))), "not as long"),
    ("shape too small", archive(("a.npy", npy(header=HEADER % b"(1,)", body=b"12345678"))), "not as long"),
    ("negative shape", archive(("a.npy", npy(header=HEADER % b"(-1, -1)", body=b"1234"))), "not as long"),
    ("overflowing shape", archive(("a.npy", npy(header=HEADER % b"(4294967296, 4294967296)"))), "not as long"),
    ("code in the header", archive(("a.npy", npy(header=b"__import__('os').abort()\n"))), "no valid array header"),
    ("deep header", archive(("a.npy", npy(header=b"(" * 9000 + b"\n"))), "no valid array header"),
    ("long header", archive(("a.npy", npy(header=b" " * 60_000 + b"\n"))), "no valid array header"),
    ("twice the same", None, "same name"),
    ("packed oddly", archive(A, method=zipfile.ZIP_BZIP2), "packed in a way NumPy never uses"),
    (
        "other format",
        marked({**manifest(), "format": "torchlayer-9"}, A),
        "format is 'torchlayer-9', this version reads",
    ),
    ("array missing", marked(manifest()), "not those it lists"),
    ("array unlisted", marked(manifest(), A, ("b.npy", A[1])), "not those it lists"),
    ("mark no JSON", marked("{", A), "makes no sense"),
    ("mark a list", marked([], A), "makes no sense"),
    ("mark too deep", marked("[" * 100_000, A), "makes no sense"),
    ("mark without names", marked({"format": "torchlayer-1"}, A), "makes no sense"),
    ("mark of numbers", archive(("__torchlayer__.npy", npy(np.ones(3)))), "makes no sense"),
    ("axes out of range", marked(manifest(axes=[1]), A), "makes no sense"),
    ("axes no list", marked(manifest(axes=3), A), "makes no sense"),
    ("dtype no dtype", marked(manifest(dtype="load"), A), "makes no sense"),
    ("dtype unknown", marked(manifest(dtype="float3"), A), "makes no sense"),
    ("dtype of other width", marked(manifest(dtype="bfloat16"), A), "makes no sense"),
    ("more than asked", marked(manifest(evil=1), A), "makes no sense"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("data", "text"), [row[1:] for row in BAD_FILES], ids=[row[0] for row in BAD_FILES])
def test_bad_file_is_refused_with_the_reason(tmp_path, data, text):
    path = tmp_path / "bad.npz"
    path.write_bytes(archive(A, A) if data is None else data)
    with pytest.raises(FileFormatError, match=f"bad.npz' cannot be read: .*{text}"):
        files.load_npz(name=path)


def test_entry_that_claims_to_lie_before_the_file_is_refused(tmp_path):
    data = bytearray(archive(("a.npy", npy(np.ones(100)))))
    at = data.index(b"PK\x05\x06") + 16  # where the directory begins; Python takes the difference off every entry
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "little") + 50).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(FileFormatError, match=r"entry 'a.npy' claims to lie before the file's beginning$"):
        files.load_npz(name=tmp_path / "a.npz")


def test_entry_that_claims_gigabytes_is_refused_before_memory_is_taken(tmp_path):
    data = bytearray(archive(("a.npy", npy(np.ones(100))), method=zipfile.ZIP_DEFLATED))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (1 << 31).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(FileFormatError, match="claims an impossible size"):
        files.load_npz(name=tmp_path / "a.npz")


def test_entry_shorter_than_everything_about_it_says_is_not_filled_up_with_zeros(tmp_path):
    entry = npy(header=HEADER % b"(4,)", body=b"12345678")  # its shape wants 16 bytes, its checksum is of these 8
    data = bytearray(archive(("a.npy", entry), method=zipfile.ZIP_DEFLATED))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (len(entry) + 8).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(FileFormatError, match=r"bytes, .* were announced"):
        files.load_npz(name=tmp_path / "a.npz")


def test_error_survives_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(FileFormatError("a", "bad", 3)))
    assert (str(error), error.path, error.offset) == ("'a' cannot be read: bad (at byte 3)", "a", 3)


@pytest.mark.filterwarnings("ignore")  # a flip can make zipfile warn of what it then refuses
def test_flipped_bits_are_never_read_silently(tmp_path, path):
    good, arrays, rng = path.read_bytes(), read_arrays(path), random.Random(0)
    bad, refused = tmp_path / "bad.npz", 0
    for _ in range(500):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        bad.write_bytes(data)
        try:
            found = read_arrays(bad)
        except FileFormatError:
            refused += 1
        else:  # a time stamp, say
            assert list(found) == list(arrays)
            for name, array in found.items():
                assert array.dtype == arrays[name].dtype
                np.testing.assert_array_equal(array, arrays[name], name)
    assert refused > 250


def test_truncated_files_are_refused(tmp_path, path):
    good = path.read_bytes()
    for n_bytes in random.Random(1).sample(range(len(good)), 100):
        (tmp_path / "bad.npz").write_bytes(good[:n_bytes])
        with pytest.raises(FileFormatError):
            files.load_npz(name=tmp_path / "bad.npz")


def test_a_failing_disk_is_no_damage(path, monkeypatch):
    def fails(f):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(zipfile, "ZipFile", fails)
    with pytest.raises(OSError, match="Input/output error"):
        files.load_npz(name=path)
