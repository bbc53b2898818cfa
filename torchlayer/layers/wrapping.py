"""Layers around functions and modules that know nothing of torchlayer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .base import Layer, shown


class LambdaLayer(Layer):
    """``fn(x, **fn_args)``, any function of a tensor.

    Args:
        fn: a function, or a module, whose parameters then belong to the network.
        fn_args: keyword arguments for it.

    >>> import torch, torchlayer as tl
    >>> x = tl.layers.InputLayer((None, 4))
    >>> tl.layers.LambdaLayer(x, fn=lambda x, k: x.repeat_interleave(k, 1), fn_args={"k": 2}).outputs.shape
    (None, 8)
    """

    def __init__(
        self,
        layer: None = None,
        fn: Callable[..., Tensor] | None = None,
        fn_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if not callable(fn):
            raise TypeError(f"LambdaLayer takes a function, LambdaLayer(net, fn=torch.sin), got fn={fn!r}")
        self.fn = fn
        self.fn_args = dict(fn_args or {})

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x, **self.fn_args)

    def extra_repr(self) -> str:
        return f"fn={shown(self.fn)}"


class TorchLayer(Layer):
    """Any ``nn.Module`` as a layer; ``channels_first=True`` is the bridge to modules that want (N, C, H, W).

    Args:
        module: called with the input. Its parameters and buffers are the layer's.
        channels_first: give it (N, C, ...) and turn its result back; a view, nothing is copied.
        args: keyword arguments for each call.

    Shape:
        whatever the module makes of it; with ``channels_first`` ``(N, ..., C) -> (N, ..., C')``, and results of less
        than three axes pass as they are.

    >>> import torch, torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 32, 32, 3))
    >>> net = tl.layers.TorchLayer(net, torch.nn.Conv2d(3, 8, 3), channels_first=True, name="conv")
    >>> net.outputs.shape, list(net.state_dict())
    ((None, 30, 30, 8), ['conv.module.weight', 'conv.module.bias'])
    """

    def __init__(
        self,
        layer: None = None,
        module: nn.Module | None = None,
        channels_first: bool = False,
        args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if not isinstance(module, nn.Module):
            raise TypeError(f"TorchLayer takes an nn.Module (a plain function goes in a LambdaLayer), got {module!r}")
        self.module = module
        self.channels_first = channels_first
        self.args = dict(args or {})

    def forward(self, *xs: Tensor) -> Tensor:
        if not self.channels_first:
            return self.module(*xs, **self.args)
        y = self.module(*(x.movedim(-1, 1) for x in xs), **self.args)
        return y.movedim(1, -1) if isinstance(y, Tensor) and y.dim() > 2 else y
