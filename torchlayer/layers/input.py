"""The empty network: what every stack begins with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..network import Network, Node, Spec


def InputLayer(  # it reads as a layer and is one: the empty network
    inputs: Sequence[int | None] | Tensor,
    dtype: torch.dtype = torch.float32,
    name: str = "input_layer",
) -> Network:
    """The network that returns its input: give it the shape of a batch and stack on it.

    Args:
        inputs: the shape with ``None`` for a length that varies, ``(None, 784)``; or an example tensor, whose first
            axis is taken as the batch.
        dtype: what the network will be fed; an example tensor brings its own.
        name: the input's name. Two inputs of one network need two names.

    Raises:
        TypeError: ``inputs`` is neither a shape nor a tensor.
        ValueError: a length is negative, or 0 behind the batch.

    >>> import torchlayer as tl
    >>> tl.layers.InputLayer((None, 28, 28, 1)).outputs.shape
    (None, 28, 28, 1)
    """
    if isinstance(inputs, Tensor):
        spec = Spec((None, *inputs.shape[1:]), inputs.dtype)
    elif isinstance(inputs, Sequence) and all(n is None or isinstance(n, int) for n in inputs):
        spec = Spec(tuple(inputs), dtype)
    else:
        raise TypeError(f"InputLayer '{name}' takes a shape such as (None, 784), or a tensor, got {inputs!r}")
    if any(n is not None and n < 0 for n in spec.shape):
        raise ValueError(f"InputLayer '{name}' got the shape {spec.shape}; write None for a length that varies")
    if 0 in spec.shape[1:]:
        raise ValueError(
            f"InputLayer '{name}' takes lengths of at least 1, got {spec.shape}; None is a length that varies"
        )
    if not isinstance(spec.dtype, torch.dtype):
        raise TypeError(f"InputLayer '{name}' takes a torch.dtype, got dtype={dtype!r}")
    if "." in name or not name:
        raise ValueError(f"'{name}' cannot name an input: it is empty or holds a '.'")
    return Network([Node(name, None, (), spec)], {}, [name])
