"""Training that survives anything: checkpoints that are written whole, checked before use, and resumed bit for bit.

::

    # `orders` is numpy.random.default_rng(0), which shuffles the batches
    start = 0
    if checkpoint.exists("run.ckpt"):
        state = checkpoint.load("run.ckpt")
        start = checkpoint.restore(state, model=net, optimizer=optimizer, generators={"orders": orders})
    for epoch in range(start, n_epoch):
        train_one_epoch(...)
        checkpoint.save("run.ckpt", model=net, optimizer=optimizer, generators={"orders": orders}, position=epoch + 1)

:class:`torchlayer.Resumable` does this for a loop, and in the middle of an epoch too. The file carries its own SHA-256,
so damage is noticed before anything is used, and reading it runs no code of the file.
"""

from __future__ import annotations

import copy
import os
import platform
import re
import shutil
import warnings
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ._version import __version__
from .files.atomic import atomic_write, sweep, temporary_name
from .files.compare import differences
from .files.errors import FileFormatError
from .files.generators import (
    Generators,
    generator_states,
    global_states,
    set_generator_state,
    set_global_states,
)
from .files.sealed import read_sealed, write_sealed

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)
_UNSIZED = "not sized yet"  # takes whatever size it is given
_RESERVED = ("about", "random", "generators", "position", "extra")


class Stateful(Protocol):
    """Anything that can be saved: schedulers, scalers, averaged weights, data loaders."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...


def save(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    optimizer: Stateful | None = None,
    generators: Generators | None = None,
    position: Any = None,
    extra: Any = None,
    keep: int = 1,
    **others: Stateful,
) -> None:
    """Write everything a run needs to go on, such that ``path`` is a good checkpoint at every moment.

    The state of Python's, NumPy's and torch's global generators, on the CPU and on every CUDA device, is always saved.
    Save between steps: gradients are not part of a checkpoint.

    Args:
        path: the file.
        model: a network, or any module.
        optimizer: its optimiser.
        generators: by name, the generators that the run carries itself: ``torch.Generator``, ``numpy.random.Generator``
            or ``random.Random``.
        position: where in the data the run is; plain values and tensors.
        extra: anything else worth keeping; plain values and tensors.
        keep: how many checkpoints stay: ``path`` and, older and older, ``path.1``, ``path.2``, …
        others: whatever else has a ``state_dict``, by name: ``scheduler=scheduler, scaler=scaler, critic=net2``.

    Raises:
        TypeError: something in it is neither a tensor nor a plain value; the text says what and where.
        ValueError: a layer has no size yet, or a name is taken.
        OSError: the disk is full, or fails; what was there before stays.
    """
    write(path, gather(model, optimizer, generators, position, extra, others), keep)


def gather(
    model: nn.Module | None,
    optimizer: Stateful | None,
    generators: Generators | None,
    position: Any,
    extra: Any,
    others: Mapping[str, Stateful],
) -> dict[str, Any]:
    """What `save` writes, as a dict; tensors are the run's own and not copies."""
    parts = _parts(model, optimizer, others)
    return {
        "about": {
            "libraries": {"torchlayer": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
            "python": platform.python_version(),
            "optimizers": {name: _describe_optimizer(part) for name, part in parts.items() if _is_optimizer(part)},
        },
        "random": global_states(),
        "generators": generator_states(generators or {}),
        "position": position,
        "extra": extra,
        **{name: part.state_dict() for name, part in parts.items()},
    }


def write(path: str | os.PathLike[str], state: Mapping[str, Any], keep: int = 1) -> None:
    """Write what `gather` gave, as `save` does."""
    if keep < 1:
        raise ValueError(f"keep counts the checkpoints that stay, so it is 1 or more, got {keep}")
    payload = {key: _plain(value, key) for key, value in state.items()}
    with atomic_write(path) as f:
        write_sealed(f, payload)
        if keep > 1:
            f.flush()
            os.fsync(f.fileno())  # a disk that is full must say so before an older file gives up its place
            _rotate(Path(os.path.realpath(path)), keep)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint into a dict, tensors on the CPU; nothing is changed until `restore` is called.

    Keys are the names that `save` was given (``"model"``, ``"optimizer"``, …), whose values are state dicts, and
    ``"position"``, ``"extra"``, ``"generators"``, ``"random"`` and ``"about"``. To use a trained network alone::

        net.load_state_dict(checkpoint.load(path)["model"])

    If the file is bad and `save` kept older ones, the newest good one is read instead, with a warning.

    Raises:
        FileFormatError: damaged, cut off, or not a checkpoint; the text says which.
        FileNotFoundError: there is no such file.
        MemoryError: there is not the memory for it; no older one is tried.
    """
    target = Path(os.path.realpath(path))
    sweep(target)
    try:
        return read_sealed(target)
    except (FileFormatError, FileNotFoundError) as e:
        for older in _older(target):
            with suppress(FileFormatError):
                state = read_sealed(older)
                warnings.warn(f"{e}; going on from the older '{older}'", stacklevel=2)
                return state
        raise


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is something for `load`: the file, or an older one that `save` kept."""
    target = Path(os.path.realpath(path))
    return target.exists() or bool(_older(target))


def restore(
    state: Mapping[str, Any],
    *,
    model: nn.Module | None = None,
    optimizer: Stateful | None = None,
    generators: Generators | None = None,
    **others: Stateful,
) -> Any:
    """Put everything in a loaded checkpoint back where `save` took it from, and return its ``position``.

    It takes the objects that `save` was given, under the same names. All of them are compared with the checkpoint
    before one is changed. Tensors go to the device where the new objects live. An optimiser's ``capturable`` follows
    its parameters: a run that was captured on a GPU goes on on a CPU, and the other way round.

    Raises:
        ValueError: the checkpoint is of something else; the text lists what is missing, unexpected or mismatched, and
            nothing was changed.
    """
    parts = _parts(model, optimizer, others)
    carried = dict(generators or {})
    faults = differences(dict.fromkeys(_names(state), ""), dict.fromkeys(parts, ""))
    for name, part in parts.items():
        if name in state:
            faults += [f"{name} {line}" for line in _faults(name, part, state)]
    kinds = {name: live["kind"] for name, live in generator_states(carried).items()}
    saved_kinds = {name: saved["kind"] for name, saved in state["generators"].items()}
    faults += [f"generators {line}" for line in differences(saved_kinds, kinds)]
    if faults:
        raise ValueError("this checkpoint does not fit, and nothing was changed. " + ". ".join(faults))

    loose = [name for name, part in parts.items() if not isinstance(part, nn.Module) and not _is_optimizer(part)]
    _load_loose({name: parts[name] for name in loose}, state)  # first: nobody could look whether these fit
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            part.load_state_dict(state[name])
    for name, part in parts.items():
        if _is_optimizer(part):
            _load_optimizer(part, state[name])
    for name, g in carried.items():
        set_generator_state(name, g, state["generators"][name])
    set_global_states(state["random"])
    return state["position"]


def _parts(model: Any, optimizer: Any, others: Mapping[str, Any]) -> dict[str, Any]:
    parts = {"model": model, "optimizer": optimizer, **others}
    parts = {name: part for name, part in parts.items() if part is not None}
    for name, part in parts.items():
        if name in _RESERVED:
            raise ValueError(f"'{name}' is a name that a checkpoint uses itself, please choose another")
        if not callable(getattr(part, "state_dict", None)) or not callable(getattr(part, "load_state_dict", None)):
            raise TypeError(f"{name} is a {type(part).__name__}, which has no state_dict; give plain values as extra=")
    return {name: _bare(part) if isinstance(part, nn.Module) else part for name, part in parts.items()}


def _names(state: Mapping[str, Any]) -> list[str]:
    return [key for key in state if key not in _RESERVED]


def _bare(module: nn.Module) -> nn.Module:
    """The module inside torch.compile's or DistributedDataParallel's wrapper, whose names have no prefix."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _is_optimizer(part: Any) -> bool:
    return isinstance(part, torch.optim.Optimizer)


def _faults(name: str, part: Any, state: Mapping[str, Any]) -> list[str]:
    if isinstance(part, nn.Module):
        saved = {key: _describe(value) for key, value in state[name].items()}
        live = {key: _describe(value) for key, value in part.state_dict().items()}
    elif _is_optimizer(part):
        saved = state["about"]["optimizers"].get(name, {"type": "no optimiser"})
        live = _describe_optimizer(part)
    else:
        return []
    return differences(saved, {k: saved.get(k, v) if v == _UNSIZED else v for k, v in live.items()})


def _describe_optimizer(optimizer: Any) -> dict[str, str]:
    """What an optimiser's state dict does not say, and without which nobody sees that it is another network's."""
    groups = optimizer.param_groups
    params = {f"group {i} param {j}": p for i, group in enumerate(groups) for j, p in enumerate(group["params"])}
    return {
        "type": type(optimizer).__name__,
        "groups": str(len(groups)),
        **{name: _UNSIZED if is_lazy(p) else str(tuple(p.shape)) for name, p in params.items()},
    }


def _describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    if is_lazy(value):
        return _UNSIZED
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _load_loose(parts: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Load parts whose state cannot be compared beforehand, or none of them."""
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    for name, part in parts.items():
        try:
            part.load_state_dict(copy.deepcopy(state[name]))  # many keep the very lists they are given
        except Exception as e:
            for changed, old in before.items():
                parts[changed].load_state_dict(old)
            raise ValueError(f"this checkpoint does not fit, and nothing was changed. {name}: {e!r}") from e


def _load_optimizer(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Load, and keep the dicts of the groups: a captured step has the learning rate of these."""
    groups = optimizer.param_groups
    optimizer.load_state_dict(_adapted(saved, optimizer))
    for group, loaded in zip(groups, optimizer.param_groups):
        group.clear()
        group.update(loaded)
    optimizer.param_groups = groups


def _adapted(saved: Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
    """An optimiser's state as this optimiser, on this device, can use it."""
    adapted = _copied(dict(saved))  # torch keeps tensors that need no cast, and would step on ours
    for group, live in zip(adapted["param_groups"], optimizer.param_groups):
        device = live["params"][0].device if live["params"] else torch.device("cpu")
        if "capturable" in group:  # torch asserts that nothing on a CPU is; on a GPU it moves `step` along
            group["capturable"] = bool(group["capturable"] or live.get("capturable")) and device.type != "cpu"
        for key, value in group.items():  # a captured step reads its learning rate from a tensor
            if isinstance(live.get(key), Tensor):
                group[key] = torch.as_tensor(value).to(live[key])
            elif isinstance(value, Tensor):
                group[key] = value.to(device)
    return adapted


def _copied(value: Any) -> Any:
    """As `copy.deepcopy`, which knows no tensors that are divided among processes."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    if type(value) is dict:
        return {key: _copied(v) for key, v in value.items()}
    return copy.deepcopy(value)


def _rotate(path: Path, keep: int) -> None:
    """Move the older files up by one. ``path`` itself is only linked, so that it never misses."""
    names = [path, *(path.with_name(f"{path.name}.{i}") for i in range(1, keep))]
    for i in reversed(range(1, keep - 1)):
        if names[i].exists():
            os.replace(names[i], names[i + 1])
    if path.exists():
        link = temporary_name(path)
        try:
            try:
                os.link(path, link)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, link)
            os.replace(link, names[1])
        finally:  # renaming one name of a file to another of its names does nothing at all
            with suppress(OSError):
                os.unlink(link)


def _older(path: Path) -> list[Path]:
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)")
    names = os.listdir(path.parent) if path.parent.is_dir() else []
    found = sorted((int(m[1]), name) for name in names if (m := pattern.fullmatch(name)))
    return [path.with_name(name) for _, name in found]


def _plain(value: Any, where: str) -> Any:
    """``value`` with NumPy's numbers as Python's, so that the safe loader takes it.

    Anything else is refused here, while it can still be mended, and not on the day when it is needed.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, Tensor):
        if is_lazy(value):
            raise ValueError(f"{where} has no size yet: call the network once, or stack it on an InputLayer")
        if hasattr(value, "full_tensor"):  # a DTensor, of which a file would hold this process's part alone
            raise TypeError(f"{where} is divided among processes; let all of them call tl.distributed.save")
        return value
    if isinstance(value, np.generic):
        return _plain(value.item(), where)
    if kind in (list, tuple, set):
        return kind(_plain(v, f"{where}[{i}]") for i, v in enumerate(value))
    if kind in (dict, OrderedDict, Counter):
        plain = kind({_plain(k, f"a key of {where}"): _plain(v, f"{where}[{k!r}]") for k, v in value.items()})
        if kind is OrderedDict:
            plain.__dict__.update(value.__dict__)  # a module keeps its layers' versions there, as _metadata
        return plain
    raise TypeError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}; a checkpoint holds tensors, numbers, strings, bytes, and "
        "lists, tuples, sets and dicts of them (an array goes in as torch.from_numpy(array))"
    )
