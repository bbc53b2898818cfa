"""The base class of every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter, is_lazy

from ..network import Network, Shape, stack

if TYPE_CHECKING:
    from typing_extensions import Self

Activation = Callable[[Tensor], Tensor]
Initializer = Callable[..., Any]


class Layer(nn.Module):
    """``Layer(net, ...)`` is a network one layer longer; ``Layer(...)`` is the layer itself.

    To write a layer, write ``__init__`` and ``forward``. If a parameter's size
    depends on the input, declare it an ``nn.UninitializedParameter`` and size it
    in ``build``.

    >>> import torch, torchlayer as tl
    >>> class ScaleLayer(tl.layers.Layer):
    ...     def __init__(self, layer=None, factor=2.0, name=None):
    ...         super().__init__(name=name)
    ...         self.factor = factor
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> ScaleLayer(factor=3.0)(torch.ones(2))
    tensor([3., 3.])
    >>> ScaleLayer(tl.layers.InputLayer((None, 5))).outputs.shape
    (None, 5)
    """

    @overload
    def __new__(cls, layer: Network | list[Network], *args: Any, **kwargs: Any) -> Network: ...  # type: ignore[misc]
    @overload
    def __new__(cls, layer: None = None, *args: Any, **kwargs: Any) -> Self: ...
    def __new__(cls, layer=None, *args, **kwargs):
        if layer is None:
            return super().__new__(cls)
        return stack(layer, cls(None, *args, **kwargs))

    def __init__(self, layer: None = None, name: str | None = None):
        super().__init__()
        self.name = name
        self._first_call: Any = self.register_forward_pre_hook(_build_on_first_call)
        self._sized_by_loading = False

    def build(self, *shapes: Shape) -> None:
        """Size and initialise what depends on the input shapes. Called once, unless the sizes were loaded before."""

    def ensure_built(self, *shapes: Shape) -> Self:
        """Call :meth:`build` unless the layer has its sizes already (built before, or loaded)."""
        if self._first_call is not None:
            refuse_empty(shapes)
            if any(map(is_lazy, self.parameters())) or not self._sized_by_loading:
                with torch.no_grad():
                    self.build(*shapes)
            self._first_call.remove()
            self._first_call = None
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args):
        lazy = (name for name, p in self.named_parameters() if is_lazy(p))
        self._sized_by_loading |= any(prefix + name in state_dict for name in lazy)
        size_as_loaded(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _build_on_first_call(layer: Layer, inputs: tuple[Tensor, ...]) -> None:
    layer.ensure_built(*(tuple(x.shape) for x in inputs if x is not None))


def size_as_loaded(module: nn.Module, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Give a module's own parameters the sizes of what is about to be loaded into them."""
    for name, p in module._parameters.items():
        if isinstance(p, UninitializedParameter) and prefix + name in state_dict:
            p.materialize(state_dict[prefix + name].shape)


def fill(
    parameter: nn.Parameter | UninitializedParameter,
    shape: tuple[int, ...],
    init: Any,
    init_args: Mapping[str, Any] | None = None,
) -> None:
    """Give a parameter its size and its first values: a recipe to call, or the values themselves.

    Args:
        parameter: sized here if it is an ``UninitializedParameter``.
        init: an in-place ``tensor -> tensor`` function (all of ``torch.nn.init`` qualifies), or a number, array or
            tensor to copy.
        init_args: keyword arguments for the function.
    """
    if isinstance(parameter, UninitializedParameter):
        parameter.materialize(shape)
    with torch.no_grad():
        if callable(init):
            init(parameter, **(init_args or {}))
            return
        values = torch.as_tensor(init, dtype=parameter.dtype, device=parameter.device)
        if values.dim() and values.shape != parameter.shape:
            raise ValueError(f"initial values of shape {tuple(values.shape)} do not fit a parameter of shape {shape}")
        parameter.copy_(values)


def refuse_integers(x: Tensor, what: str) -> None:
    """Raise ``TypeError`` unless ``x`` is of a floating dtype."""
    if not x.is_floating_point():
        raise TypeError(f"{what} takes floating-point numbers, got {x.dtype}; convert with x.float()")


def refuse_empty(shapes: Sequence[Shape]) -> None:
    """Raise ``ValueError`` if an axis behind the batch has length 0."""
    for shape in shapes:
        for axis, length in enumerate(shape[1:], start=1):
            if length == 0:
                raise ValueError(
                    f"axis {axis} of {shape} has length 0, so there is nothing to compute with; "
                    "every axis but the batch needs a length of at least 1"
                )


def has_bias(b_init: Any) -> bool:
    """``None``, ``False`` and ``0`` mean no bias, as in TensorLayer; zeros come from ``constant(0.0)``."""
    return b_init is not None and b_init is not False and not (isinstance(b_init, int | float) and b_init == 0)


def exporting() -> bool:
    """``torch.compiler.is_exporting()``, which torch 2.11 takes to be true in whatever it compiles."""
    return torch.compiler._is_exporting_flag


def shown(fn: Any) -> str:
    """The name of a function or module, for printing."""
    return getattr(fn, "__name__", None) or type(fn).__name__
