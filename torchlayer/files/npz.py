"""Parameters in a ``.npz`` file, named, in TensorLayer's layout.

The file keeps the original's layout, so that weights can travel both ways: a dense ``W`` is ``(n_in, n_units)``, a
convolution's is ``(h, w, in, out)``. Where a layer holds a parameter otherwise (convolutions hold torch's
``(out, in, h, w)``), its class says so in one attribute, and only this file reads it::

    class Conv2dLayer(Layer):
        npz_axes: ClassVar = {"W": (2, 3, 1, 0)}  # file = W.permute(2, 3, 1, 0)

A recurrent cell, for which the original's files hold one matrix for input and state together, has ``n_arrays`` and
``from_original`` instead, for reading them.

An entry ``__torchlayer__`` holds JSON that says which arrays there are, which were permuted and which have a dtype that
NumPy lacks; the others are plain arrays that ``numpy.load`` reads. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, SupportsIndex, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .arrays import existing_file, read_arrays, with_suffix, write_arrays
from .compare import differences
from .errors import FileFormatError

Axes = tuple[int, ...]

_MARK = "__torchlayer__"
_FORMAT = "torchlayer-1"
_AS_INTEGERS = {1: np.uint8, 2: np.uint16, 4: np.uint32}  # how a dtype that NumPy lacks is stored


class LoadedParams(list[np.ndarray]):
    """The arrays of a file in their order: a list that still knows their names and what was permuted on saving."""

    def __init__(self, arrays: Iterable[np.ndarray], names: Sequence[str], axes: Sequence[Axes | None]) -> None:
        super().__init__(arrays)
        self.names = list(names)
        self.axes = list(axes)

    @overload
    def __getitem__(self, index: SupportsIndex) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> LoadedParams: ...
    def __getitem__(self, index):
        if isinstance(index, slice):  # assign_params(params[:3], network)
            return LoadedParams(super().__getitem__(index), self.names[index], self.axes[index])
        return super().__getitem__(index)


def save_npz(
    save_list: nn.Module | Mapping[str, Any] | Iterable[Any] | None = None, name: str | os.PathLike[str] = "model.npz"
) -> None:
    """Save a network's parameters and buffers, or a list or dict of tensors, atomically.

    A network is saved under the names of its ``state_dict``, layer by layer, parameters before buffers, in the
    original's layout. A list has neither names nor layers: its tensors are stored as they lie, as ``param_0000`` and so
    on. Prefer the network.

    Args:
        save_list: what to save.
        name: the file; ``.npz`` is added if missing.

    Raises:
        ValueError: there is nothing to save, or a layer has no size yet.

    >>> import tempfile
    >>> folder, net = tempfile.TemporaryDirectory(), nn.Linear(3, 2)
    >>> save_npz(net, folder.name + "/model.npz")
    [*] ...model.npz saved
    >>> [a.shape for a in load_npz(folder.name, "model.npz")]
    [(2, 3), (2,)]
    >>> folder.cleanup()
    """
    entries = _entries(save_list)
    arrays: dict[str, np.ndarray] = {}
    manifest: dict[str, Any] = {"format": _FORMAT, "named": isinstance(save_list, (nn.Module, Mapping)), "arrays": []}
    for entry in entries:
        array, dtype = _to_numpy(entry)
        arrays[entry.name] = array
        manifest["arrays"].append({"name": entry.name, "dtype": dtype, "axes": entry.axes})
    if _MARK in arrays:
        raise ValueError(f"no parameter may be called '{_MARK}': the file describes itself under that name")
    path = with_suffix(name, ".npz")
    write_arrays(path, {**arrays, _MARK: np.array(json.dumps(manifest))})
    print(f"[*] {path} saved")


def load_npz(path: str | os.PathLike[str] = "", name: str | os.PathLike[str] = "model.npz") -> LoadedParams:
    """Load what `save_npz` wrote, or any ``.npz`` of plain arrays, as a list in the order of the file.

    The arrays lie as they do in the file; `assign_params` turns them. A dtype that NumPy lacks (bfloat16) comes back as
    float32, which holds it exactly.

    Args:
        path: folder of the file.
        name: the file; ``.npz`` may be left out.

    Raises:
        FileFormatError: damaged, not an archive of arrays, or a pickled file of TensorLayer 1.x.
        FileNotFoundError: there is no such file.
    """
    stored = _read(existing_file(os.path.join(path, name), ".npz"))
    return LoadedParams([a.values() for a in stored.arrays], [a.name for a in stored.arrays], stored.axes())


def load_npz_dict(
    path: str | os.PathLike[str] = "", name: str | os.PathLike[str] = "model.npz"
) -> dict[str, np.ndarray]:
    """Load the same as `load_npz`, by name."""
    params = load_npz(path, name)
    return dict(zip(params.names, params))


def assign_params(params: Sequence[Any] | Mapping[str, Any], network: nn.Module, strict: bool = True) -> None:
    """Put arrays into a network, by position as the original does, or by name if a dict is given.

    Everything is checked before anything is changed. Arrays are taken to lie as in the file, so that a convolution's
    ``W`` is ``(h, w, in, out)``; the result of `load_npz` knows better where tensors were saved as they lay.

    Args:
        params: arrays or tensors, in the order of ``network.all_params``.
        network: any module.
        strict: ``False`` lets a list be shorter than the network's ("the first three layers"), or a dict miss names and
            have others; a warning says what was left out.

    Raises:
        ValueError: count, names, shapes or kinds of number do not fit.

    >>> net = nn.Linear(2, 1)
    >>> assign_params([np.array([[1.0, 2.0]]), np.array([3.0])], net)
    >>> net(torch.ones(1, 2)).item()
    6.0
    """
    if isinstance(params, Mapping):
        given = [_Stored(name, _as_array(value), None, _BY_LAYER) for name, value in params.items()]
        _assign(given, network, strict, by_name=True)
    else:
        axes = params.axes if isinstance(params, LoadedParams) else [_BY_LAYER] * len(params)
        given = [_Stored(f"param {i}", _as_array(v), None, a) for i, (v, a) in enumerate(zip(params, axes))]
        _assign(given, network, strict, by_name=False)


def load_and_assign_npz(name: str | os.PathLike[str], network: nn.Module, strict: bool = True) -> nn.Module:
    """Load a file into a network and return the network.

    A file that was saved from a network is matched by name; any other by position. The original returned ``False`` for
    a missing file; here that raises.

    Args:
        name: the file; ``.npz`` may be left out.
        network: any module.
        strict: ``False`` permits missing and unexpected names, with a warning. Shapes must agree in any case.

    Raises:
        FileFormatError: the file is damaged.
        FileNotFoundError: there is no such file.
        ValueError: it holds the parameters of another network; the text lists what differs.
    """
    path = existing_file(name, ".npz")
    stored = _read(path)
    try:
        _assign(stored.arrays, network, strict, by_name=stored.named)
    except ValueError as e:
        raise ValueError(f"'{path}': {e}") from None
    print(f"[*] Load {path} SUCCESS!")
    return network


_BY_LAYER: Axes = (-1,)  # the file does not say how the array lies, so the layer's npz_axes decides


@dataclass(frozen=True)
class _Entry:
    """One tensor to save or fill. ``axes`` turns it into the file's layout, ``None`` leaves it as it lies."""

    name: str
    tensor: Tensor
    axes: Axes | None


@dataclass(frozen=True)
class _Stored:
    """One array of a file; ``dtype`` is set where the bits are those of a dtype that NumPy lacks."""

    name: str
    array: np.ndarray
    dtype: torch.dtype | None
    axes: Axes | None

    def tensor(self) -> Tensor:
        array = self.array.astype(self.array.dtype.newbyteorder("="), copy=False)
        flags = array.flags  # torch warns of read-only memory and refuses reversed axes
        tensor = torch.from_numpy(array if flags.writeable and flags.forc else array.copy())
        return tensor if self.dtype is None else tensor.view(self.dtype)

    def numbers(self) -> Tensor:
        try:
            return self.tensor()
        except (TypeError, ValueError) as e:
            raise ValueError(f"'{self.name}' is an array of {self.array.dtype}, not of numbers ({e})") from None

    def values(self) -> np.ndarray:
        return self.array if self.dtype is None else self.tensor().float().numpy()


@dataclass(frozen=True)
class _File:
    arrays: list[_Stored]
    named: bool

    def axes(self) -> list[Axes | None]:
        return [a.axes for a in self.arrays]


def _entries(source: Any) -> list[_Entry]:
    if isinstance(source, nn.Module):
        entries = _of_network(source)
    elif isinstance(source, Mapping):
        entries = [_Entry(name, torch.as_tensor(value), None) for name, value in source.items()]
    elif isinstance(source, Iterable) and not isinstance(source, (str, bytes, Tensor, np.ndarray)):
        entries = [_Entry(f"param_{i:04}", torch.as_tensor(value), None) for i, value in enumerate(source)]
    else:
        raise TypeError(f"save_npz takes a network or a list of tensors, got {type(source).__name__}")
    if not entries:
        raise ValueError("there is nothing to save: the network or list has no parameters")
    return entries


def _of_network(network: nn.Module) -> list[_Entry]:
    """Every parameter and buffer under the name its state_dict has, in the order of ``all_params`` where there is one.

    A tensor that two layers share counts once; buffers that are no state (``persistent=False``) do not count.
    """
    names: dict[int, str] = {}
    tensors: dict[int, Tensor] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"'{name}' is a {type(value).__name__}; a .npz holds tensors only, use torchlayer.checkpoint"
            )
        if is_lazy(value):
            raise ValueError(f"'{name}' has no size yet: call the network once, or stack it on an InputLayer")
        names.setdefault(id(value), name)
        tensors[id(value)] = value
    order = dict.fromkeys(id(t) for t in getattr(network, "all_params", ()) if id(t) in names)
    order.update(dict.fromkeys(names))
    return [_Entry(names[i], tensors[i], _axes_of(network, names[i], tensors[i])) for i in order]


def _axes_of(network: nn.Module, name: str, tensor: Tensor) -> Axes | None:
    """The permutation that the innermost layer owning ``name`` declares for it."""
    parts = name.split(".")
    for i in reversed(range(len(parts))):
        owner = network.get_submodule(".".join(parts[:i]))
        declared: Mapping[str, Sequence[int]] = getattr(owner, "npz_axes", {})
        axes = declared.get(".".join(parts[i:]))
        if axes is not None:
            if sorted(axes) != list(range(tensor.ndim)):
                kind = type(owner).__name__
                raise ValueError(
                    f"{kind}.npz_axes {tuple(axes)} is no permutation of the {tensor.ndim} axes of '{name}'"
                )
            return tuple(axes)
    return None


def _to_numpy(entry: _Entry) -> tuple[np.ndarray, str | None]:
    try:
        tensor = entry.tensor.detach().cpu()
        tensor = tensor if entry.axes is None else tensor.permute(entry.axes)
        try:
            return tensor.numpy(), None
        except TypeError:  # bfloat16, float8 …
            bits = tensor.contiguous().view(getattr(torch, np.dtype(_AS_INTEGERS[tensor.element_size()]).name))
            return bits.numpy(), str(tensor.dtype).removeprefix("torch.")
    except (TypeError, KeyError, RuntimeError) as e:
        raise ValueError(f"'{entry.name}' ({entry.tensor.dtype}, {entry.tensor.layout}) has no array form: {e}") from e


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)


def _read(path: str) -> _File:
    arrays = read_arrays(path)
    mark = arrays.pop(_MARK, None)
    if mark is None:
        if list(arrays) == ["params"]:  # TensorLayer 1.x, all shapes alike: stacked, and still a list by position
            stacked = arrays["params"]
            arrays = {f"param_{i:04}": a for i, a in enumerate(stacked)} if stacked.ndim else arrays
        return _File([_Stored(name, a, None, _BY_LAYER) for name, a in arrays.items()], named=False)
    try:
        manifest = json.loads(str(mark))
        if manifest["format"] != _FORMAT:
            raise FileFormatError(path, f"its format is {manifest['format']!r}, this version reads '{_FORMAT}'")
        listed = {a["name"]: a for a in manifest["arrays"]}
        if list(listed) != list(arrays):
            raise FileFormatError(path, "the arrays in it are not those it lists")
        return _File([_described(arrays[name], **a) for name, a in listed.items()], named=bool(manifest["named"]))
    except FileFormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        raise FileFormatError(path, f"its entry '{_MARK}' makes no sense ({e!r})") from e


def _described(array: np.ndarray, name: str, dtype: str | None, axes: Sequence[int] | None) -> _Stored:
    kind = None if dtype is None else getattr(torch, dtype)
    if kind is not None and (not isinstance(kind, torch.dtype) or array.dtype != _AS_INTEGERS.get(kind.itemsize)):
        raise ValueError(f"dtype {dtype!r} for an array of {array.dtype}")
    if axes is not None and sorted(axes) != list(range(array.ndim)):
        raise ValueError(f"axes {axes!r} for an array of {array.ndim} axes")
    return _Stored(name, array, kind, None if axes is None else tuple(axes))


def _assign(given: list[_Stored], network: nn.Module, strict: bool, by_name: bool) -> None:
    needed = _of_network(network)
    if by_name:
        by_names = {a.name: a for a in given}
        pairs = [(by_names[e.name], e) for e in needed if e.name in by_names]
    else:
        given = _split(given, needed, network)
        pairs = list(zip(given, needed))
    values = {e.name: a.numbers() for a, e in pairs}
    views = {e.name: _as_file_lies(e, a.axes) for a, e in pairs}  # of the network's own memory
    described = {name: _describe(value) for name, value in values.items()}
    if by_name:
        described.update({a.name: "" for a in given if a.name not in values})
    needed_as = {e.name: _describe(views.get(e.name, e.tensor)) for e in needed}
    faults = differences(described, needed_as)
    left_out = [line for line in faults if not line.startswith("mismatched")]
    fatal = faults if strict else [line for line in faults if line.startswith("mismatched")]
    if fatal or (not by_name and len(given) > len(needed)):
        raise ValueError(f"{len(given)} arrays do not fit this network, which has {len(needed)}. " + ". ".join(faults))
    if left_out:
        warnings.warn(
            f"{len(pairs)} of the network's {len(needed)} arrays were assigned. " + ". ".join(left_out), stacklevel=3
        )
    with torch.no_grad():
        for name, view in views.items():
            view.copy_(values[name])


def _split(given: list[_Stored], needed: list[_Entry], network: nn.Module) -> list[_Stored]:
    """The arrays one for each parameter, where the original keeps one for several, in a recurrent cell."""
    rest, result = list(given), []
    for path, group in groupby(needed, key=lambda entry: entry.name.rpartition(".")[0]):
        entries, owner = list(group), network.get_submodule(path)
        from_original = getattr(owner, "from_original", None)
        n = getattr(owner, "n_arrays", len(entries))
        as_here = [a.array.shape for a in rest[: len(entries)]] == [e.tensor.shape for e in entries]
        if from_original is None or as_here or len(rest) < n:
            n = len(entries)
            result += rest[:n]
        else:
            parts = from_original([a.array for a in rest[:n]])
            result += [_Stored(e.name, parts[e.name.rpartition(".")[2]], None, None) for e in entries]
        rest = rest[n:]
    return result + rest


def _as_file_lies(entry: _Entry, axes: Axes | None) -> Tensor:
    """A view of the network's tensor, turned as the file's array is."""
    axes = entry.axes if axes == _BY_LAYER else axes
    tensor = entry.tensor.detach()
    return tensor if axes is None or len(axes) != tensor.ndim else tensor.permute(axes)


def _describe(tensor: Tensor) -> str:
    """Kind and shape. Widths may differ (float64 into float32), kinds not: an integer in a weight is an accident."""
    kind = "complex" if tensor.is_complex() else "float" if tensor.is_floating_point() else "integer"
    return f"{kind} {tuple(tensor.shape)}"
