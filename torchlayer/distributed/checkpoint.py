"""Checkpoints of several processes: one file, as one process would have written it, that any number can go on from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import checkpoint
from ..checkpoint import Generators, Stateful
from ..files.generators import global_states
from ._divided import is_divided, like, rows_to_first, to_first
from ._ranks import Group, Ranks, ranks_of
from .modules import _ClassParallelLoss

_RANDOM = "random of the other ranks"


def save(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    optimizer: Stateful | None = None,
    generators: Generators | None = None,
    position: Any = None,
    extra: Any = None,
    keep: int = 1,
    group: Group = None,
    **others: Stateful,
) -> None:
    """:func:`torchlayer.checkpoint.save` of what is divided among the ranks; all of them call it.

    The first rank gathers in its host's memory what is divided (the tables of class-parallel losses and their
    optimisers' state, what ``fully_shard`` has divided), takes its own of what every rank has, and writes one file,
    whole or not at all. It is the file that one process would have written, so :func:`restore` may bring it to any
    number of ranks, and :func:`torchlayer.checkpoint.restore` to a single one. The others wait until it is written.

    Raises:
        OSError: the first rank could not write the file; raised on every rank.
        RuntimeError: the ranks hold different things.
        TypeError, ValueError: as for one process; an optimiser trains parameters of none of the modules.
    """
    ranks = ranks_of(group)
    if ranks.count == 1:
        rest = {"generators": generators, "position": position, "extra": extra, "keep": keep, **others}
        checkpoint.save(path, model=model, optimizer=optimizer, **rest)
        return
    parts = checkpoint._parts(model, optimizer, others)
    tables = _tables(parts)
    state = checkpoint.gather(model, optimizer, generators, position, extra, others)
    _check_alike(state, parts, ranks)
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            state[name] = {key: _gathered(value, None, ranks) for key, value in state[name].items()}
        elif checkpoint._is_optimizer(part):
            state[name] = _gathered_optimizer(part, state[name], tables, ranks)
            for key, p in _parameters(part):
                state["about"]["optimizers"][name][key] = str(_whole_shape(p, tables))
    random: list[Any] = [None] * ranks.count
    dist.all_gather_object(random, global_states(), group=ranks.group)
    state["about"][_RANDOM] = random[1:]
    failure: list[Any] = [None]
    if ranks.rank == 0:
        try:
            checkpoint.write(path, state, keep)
        except Exception as error:
            failure = [error]
    first = 0 if ranks.group is None else dist.get_global_rank(ranks.group, 0)
    text = [failure[0] and f"{type(failure[0]).__name__}: {failure[0]}"]
    dist.broadcast_object_list(text, first, group=ranks.group)
    if failure[0] is not None:
        raise failure[0]
    if text[0] is not None:
        raise OSError(f"the first rank could not write {os.fspath(path)!r}: {text[0]}")


def restore(
    state: Mapping[str, Any],
    *,
    model: nn.Module | None = None,
    optimizer: Stateful | None = None,
    generators: Generators | None = None,
    group: Group = None,
    **others: Stateful,
) -> Any:
    """:func:`torchlayer.checkpoint.restore` on every rank, whatever the number of ranks that saved.

    Every rank reads the file with :func:`torchlayer.checkpoint.load` and takes what is its own. The generators of
    Python, NumPy and torch go on where this rank's were, if there were as many ranks; otherwise torch's start anew on
    all but the first rank, from the first's seed and the rank. Returns the position that was saved.

    Raises:
        ValueError: as for one process.
    """
    ranks = ranks_of(group)
    parts = checkpoint._parts(model, optimizer, others)
    tables = _tables(parts)
    state = dict(state)
    about = state["about"] = {**state["about"]}
    optimizers = about["optimizers"] = {name: dict(value) for name, value in about["optimizers"].items()}
    random_of_others = about.pop(_RANDOM, [])
    for name, part in parts.items():
        if ranks.count == 1 or name not in state:
            continue
        if isinstance(part, nn.Module):
            live = part.state_dict()
            state[name] = {
                key: like(value, live[key]) if is_divided(live.get(key)) and live[key].shape == value.shape else value
                for key, value in state[name].items()
            }
        elif checkpoint._is_optimizer(part):
            for key, p in _parameters(part):
                if optimizers.get(name, {}).get(key) == str(_whole_shape(p, tables)):
                    optimizers[name][key] = str(tuple(p.shape))
            state[name] = _own_optimizer(part, state[name], tables)
    as_many = len(random_of_others) + 1 == ranks.count
    if ranks.rank > 0 and as_many:
        state["random"] = random_of_others[ranks.rank - 1]
    position = checkpoint.restore(state, model=model, optimizer=optimizer, generators=generators, **others)
    if ranks.rank > 0 and not as_many:
        torch.manual_seed(torch.initial_seed() + ranks.rank)
    return position


_Tables = dict[int, _ClassParallelLoss]  # by the id of a parameter, the module that holds its rows


def _tables(parts: Mapping[str, Any]) -> _Tables:
    """Of all modules. An optimiser's parameter that is in none of them might be a part of something divided."""
    modules = [module for part in parts.values() if isinstance(part, nn.Module) for module in part.modules()]
    held = {id(p) for module in modules for p in module.parameters(recurse=False)}
    for name, part in parts.items():
        strange = [key for key, p in _parameters(part) if id(p) not in held] if checkpoint._is_optimizer(part) else []
        if strange:
            raise ValueError(
                f"{name} trains {len(strange)} parameters of no module that goes with it (the first is {strange[0]}); "
                "pass their modules, too, as in save(path, model=net, loss=loss, optimizer=optimizer)"
            )
    return {id(p): m for m in modules if isinstance(m, _ClassParallelLoss) for p in m.parameters(recurse=False)}


def _parameters(optimizer: Any) -> list[tuple[str, Tensor]]:
    """As `checkpoint` names them."""
    groups = optimizer.param_groups
    return [(f"group {i} param {j}", p) for i, group in enumerate(groups) for j, p in enumerate(group["params"])]


def _whole_shape(p: Tensor, tables: _Tables) -> tuple[int, ...]:
    return (tables[id(p)].n_classes, *p.shape[1:]) if id(p) in tables else tuple(p.shape)


def _gathered(value: Any, table: _ClassParallelLoss | None, ranks: Ranks) -> Any:
    """A value as one process would hold it, on the first rank."""
    if is_divided(value):
        return to_first(value, ranks)
    if table is not None and _has_rows(value, len(table.classes)):
        return rows_to_first(value, table.n_classes, ranks_of(table.group))
    return value


def _gathered_optimizer(optimizer: Any, state: Mapping[str, Any], tables: _Tables, ranks: Ranks) -> dict[str, Any]:
    ps = [p for _, p in _parameters(optimizer)]
    gathered = {
        index: {key: _gathered(value, tables.get(id(ps[index])), ranks) for key, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": gathered}


def _own_optimizer(optimizer: Any, state: Mapping[str, Any], tables: _Tables) -> dict[str, Any]:
    ps = [p for _, p in _parameters(optimizer)]

    def own(p: Tensor, value: Any) -> Any:
        table = tables.get(id(p))
        if table is not None and _has_rows(value, table.n_classes):
            return value[table.classes.start : table.classes.stop]
        if is_divided(p) and isinstance(value, Tensor) and value.shape == p.shape:
            return like(value, p)
        return value

    known = {index: values for index, values in state["state"].items() if index < len(ps)}
    rest = {index: values for index, values in state["state"].items() if index not in known}
    mine = {index: {key: own(ps[index], value) for key, value in values.items()} for index, values in known.items()}
    return {**state, "state": {**mine, **rest}}


def _has_rows(value: Any, n: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == n


def _check_alike(state: Mapping[str, Any], parts: Mapping[str, Any], ranks: Ranks) -> None:
    """Every rank is about to gather the same things in the same order, or waits for ever."""
    names = []
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            names += [f"{name}.{key}" for key, value in state[name].items() if is_divided(value)]
        elif checkpoint._is_optimizer(part):
            names += [f"{name}.{index}.{key}" for index, values in state[name]["state"].items() for key in values]
    found: list[Any] = [None] * ranks.count
    dist.all_gather_object(found, names, group=ranks.group)
    for rank, theirs in enumerate(found):
        if theirs != found[0]:
            differ = sorted(set(theirs) ^ set(found[0]))
            raise RuntimeError(f"ranks 0 and {rank} hold different things, so they cannot be saved: {differ}")
