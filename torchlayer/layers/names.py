"""Finding layers and parameters by name, and what became of the functions around TensorLayer's global names.

Nothing is global here: what once looked through the whole graph takes a network. What was about the global lists alone,
``clear_layers_name``, ``set_name_reuse``, ``initialize_global_variables`` and the dictionary ``set_keep``, raises and
says what to write instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

import numpy as np
from torch import Tensor

from ..network import Network, Node

T = TypeVar("T")


def get_variables_with_name(
    name: str, train_only: bool = True, printable: bool = False, network: Network | None = None
) -> list[Tensor]:
    """The parameters of a network whose name contains ``name``.

    Names are those of ``state_dict()``, ``relu1.W``; TensorFlow's ``relu1/W:0`` finds the same.

    Args:
        train_only: ``False`` also finds buffers, such as moving means, and parameters that are frozen.
        printable: print one line for each.
        network: where to look.

    Raises:
        TypeError: there is no network.

    >>> import torchlayer as tl
    >>> net = tl.layers.DenseLayer(tl.layers.InputLayer((None, 4)), n_units=3, name="relu1")
    >>> found = tl.layers.get_variables_with_name("relu1", printable=True, network=net)
      [*] geting variables with relu1
      got   0: relu1.W           (4, 3)
      got   1: relu1.b           (3,)
    """
    net = _network(network, "get_variables_with_name('relu1', network=net)")
    print(f"  [*] geting variables with {name}")
    wanted = name.removesuffix(":0")
    found = [
        (own, tensor)
        for own, tensor in _variables(net, train_only)
        if wanted in own or wanted in own.replace(".", "/")  # relu1/W, as TensorFlow writes it
    ]
    if printable:
        for i, (own, tensor) in enumerate(found):
            print(f"  got {i:3}: {own:15}   {tuple(tensor.shape)}")
    return [tensor for _, tensor in found]


def get_layers_with_name(network: Network | None = None, name: str = "", printable: bool = False) -> list[Network]:
    """The layers of a network whose name contains ``name``, each as the network that ends there.

    Such a handle is as if it had been kept while stacking: it shares every layer, and computes the layer's output.
    ``join(*get_layers_with_name(net, "conv"))`` computes all of them in one run.

    Args:
        printable: print one line for each.

    Raises:
        TypeError: there is no network.

    >>> import torchlayer as tl
    >>> x = tl.layers.InputLayer((None, 4))
    >>> net = tl.layers.DenseLayer(x, n_units=3, name="relu1")
    >>> net = tl.layers.DenseLayer(net, n_units=2, name="output_layer")
    >>> (relu1,) = tl.layers.get_layers_with_name(net, "relu", printable=True)
      [*] geting layers with relu
      got   0: relu1             (None, 3)
    >>> relu1.outputs.shape, relu1.relu1 is net.relu1
    ((None, 3), True)
    """
    net = _network(network, "get_layers_with_name(net, 'relu1')")
    print(f"  [*] geting layers with {name}")
    found = [_ending_at(net, node) for node in net._nodes if node.module is not None and name in node.name]
    if printable:
        for i, handle in enumerate(found):
            print(f"  got {i:3}: {handle._outputs[0]:15}   {handle.outputs.shape}")
    return found


def print_all_variables(network: Network | None = None, train_only: bool = False) -> None:
    """Print one line a parameter or buffer of a network: its shape and name.

    Args:
        train_only: leave out buffers, and parameters that are frozen.

    Raises:
        TypeError: there is no network.

    >>> import torchlayer as tl
    >>> net = tl.layers.DenseLayer(tl.layers.InputLayer((None, 4)), n_units=3, name="relu1")
    >>> tl.layers.print_all_variables(net)
      [*] printing global variables
      var   0: (4, 3)            relu1.W
      var   1: (3,)              relu1.b
    """
    net = _network(network, "print_all_variables(net)")
    print(f"  [*] printing {'trainable' if train_only else 'global'} variables")
    for i, (name, tensor) in enumerate(_variables(net, train_only)):
        print(f"  var {i:3}: {tuple(tensor.shape)!s:15}   {name}")


def flatten_reshape(variable: Tensor, name: str = "") -> Tensor:
    """All axes but the first in one, in (H, W, C) order: what :class:`FlattenLayer` does, for a tensor.

    Shape:
        ``(N, ...) -> (N, D)``.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has no axes.

    >>> import torch
    >>> flatten_reshape(torch.zeros(2, 7, 7, 64)).shape
    torch.Size([2, 3136])
    """
    if not isinstance(variable, Tensor):
        raise TypeError(
            f"flatten_reshape takes a tensor, got {type(variable).__name__}; a network takes FlattenLayer(net)"
        )
    if variable.dim() == 0:
        raise ValueError("flatten_reshape needs a tensor (N, ...), got a scalar")
    return variable.reshape(variable.shape[0], math.prod(variable.shape[1:]))


def list_remove_repeat(items: Iterable[T]) -> list[T]:
    """The items in their order, without those that came before.

    Tensors and arrays repeat if they are one object, since ``==`` compares their elements; all else if it is equal.

    >>> list_remove_repeat([2, 3, 4, 2, 3])
    [2, 3, 4]
    """
    kept: list[T] = []
    for item in items:
        if not any(_same(item, other) for other in kept):
            kept.append(item)
    return kept


def clear_layers_name() -> NoReturn:
    """Removed: there is no list of names to clear.

    Raises:
        NotImplementedError: always; says what to do instead.
    """
    _gone(
        "clear_layers_name", "names are unique within one network only, so there is nothing to clear", "delete the line"
    )


def set_name_reuse(enable: bool | None = True) -> NoReturn:
    """Removed: a layer that is stacked twice shares its weights.

    Raises:
        NotImplementedError: always; says what to do instead.
    """
    _gone(
        "set_name_reuse",
        "names are unique within one network only, and to share weights is to stack one layer twice",
        "tower = tl.layers.DenseLayer(n_units=64, name='tower')",
        "net1, net2 = tl.layers.stack(x1, tower, name='tower1'), tl.layers.stack(x2, tower, name='tower2')",
    )


def initialize_global_variables(sess: Any = None) -> NoReturn:
    """Removed: parameters have their first values as soon as they have a size.

    Raises:
        NotImplementedError: always; says what to do instead.
    """
    _gone(
        "initialize_global_variables",
        "parameters are initialised when a layer is stacked, or first called",
        "delete the line, or build the network again to draw new values",
    )


class _SetKeep:
    def __getitem__(self, name: str) -> NoReturn:
        _gone(
            "set_keep",
            "noise is on after net.train() and off after net.eval(), and no keep probability is fed",
            f"net.train(); net.{name}.eval()  # for feed_dict[set_keep[{name!r}]] = 1",
        )


set_keep = _SetKeep()  # the original's dictionary from a layer's name to its placeholder


def _gone(what: str, reason: str, *instead: str) -> NoReturn:
    raise NotImplementedError("\n    ".join([f"there is no {what}: {reason}. Instead:", *instead]))


def _network(network: Any, call: str) -> Network:
    if not isinstance(network, Network):
        given = "none was given" if network is None else f"got {type(network).__name__}"
        raise TypeError(f"nothing is global: this function looks through a network, but {given}; write {call}")
    return network


def _variables(net: Network, train_only: bool) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in net._named_params() if tensor.requires_grad or not train_only]


def _ending_at(net: Network, last: Node) -> Network:
    """The network that stops at a layer's node: without the nodes that it does not need."""
    assert last.module is not None
    needed = {last.name}
    for node in reversed(net._nodes):
        if node.name in needed:
            needed.update(node.inputs)
    nodes = [node for node in net._nodes if node.name in needed]
    modules = {node.module: net.get_submodule(node.module) for node in nodes if node.module is not None}
    handle = getattr(modules[last.module], "handle", Network)  # a decoder's has methods of its own
    return handle(nodes, modules, [last.name])


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    return not isinstance(a, Tensor | np.ndarray) and not isinstance(b, Tensor | np.ndarray) and a == b
