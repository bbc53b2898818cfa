"""The states of random generators as plain values, and back."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

Generator = torch.Generator | np.random.Generator | random.Random
Generators = Mapping[str, Generator]


def global_states() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's global generators, on the CPU and every CUDA device; draws nothing."""
    kind, key, *rest = np.random.get_state()
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # asking would start CUDA
    return {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(key).tolist(), *rest],  # torch.load(weights_only=True) refuses arrays
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if used else [],
    }


def set_global_states(states: Mapping[str, Any]) -> None:
    """Put back what `global_states` gave. Warns if there are fewer CUDA devices than there were."""
    random.setstate(states["python"])
    kind, key, *rest = states["numpy"]
    np.random.set_state((kind, np.array(key, np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    n_saved, n_here = len(states["cuda"]), torch.cuda.device_count()
    for i in range(min(n_saved, n_here)):
        torch.cuda.set_rng_state(states["cuda"][i], i)
    if n_saved > n_here:
        warnings.warn(
            f"the random states of {n_saved} CUDA device(s) were saved and this process sees {n_here}: what was random "
            "there goes on with other numbers",
            stacklevel=3,
        )


def generator_states(generators: Generators) -> dict[str, Any]:
    """State and kind of each of several generators, by name."""
    return {name: generator_state(name, generator) for name, generator in generators.items()}


def generator_state(name: str, generator: Generator) -> dict[str, Any]:
    """State of one generator, and its kind.

    >>> generator_state("shuffle", np.random.default_rng(0))["kind"]
    'PCG64'
    """
    if isinstance(generator, torch.Generator):
        return {"kind": "torch", "device": generator.device.type, "state": generator.get_state()}
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return {"kind": type(bits).__name__, "state": _as_lists(bits.state)}
    if isinstance(generator, random.Random):
        return {"kind": "python", "state": generator.getstate()}
    kind = type(generator).__name__
    raise TypeError(f"generator '{name}' is a {kind}; give a torch.Generator, numpy.random.Generator or random.Random")


def set_generator_state(name: str, generator: Generator, saved: Mapping[str, Any]) -> None:
    """Put back what `generator_state` gave for a generator of the same kind. Warns if it was on another device."""
    if isinstance(generator, torch.Generator):
        if saved["device"] == generator.device.type:
            generator.set_state(saved["state"])
        else:
            warnings.warn(
                f"generator '{name}' was saved on {saved['device']} and is now on {generator.device.type}, where that "
                "state means nothing: it goes on with its own numbers",
                stacklevel=3,
            )
    elif isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        bits.state = _as_arrays(saved["state"], bits.state)
    else:
        generator.setstate(saved["state"])


def _as_lists(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {key: _as_lists(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


def _as_arrays(state: Any, like: Any) -> Any:
    """Undo `_as_lists`: a list becomes an array where ``like`` has one."""
    if isinstance(like, Mapping):
        return {key: _as_arrays(value, like[key]) for key, value in state.items()}
    return np.array(state, like.dtype) if isinstance(like, np.ndarray) else state
