"""The recorded network: what stacking layers builds, and what runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

Shape = tuple[int | None, ...]
State = dict[str, Any]
T = TypeVar("T")


class Spec(NamedTuple):
    """A tensor known only by its shape (``None`` = any length) and its dtype."""

    shape: Shape
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True, eq=False)  # two nodes may look alike and still be two nodes
class Node:
    """One recorded call, ``name = module(*inputs)``. An input has no module."""

    name: str
    module: str | None
    inputs: tuple[str, ...]
    spec: Spec


class Network(nn.Module):
    """A graph of layers that is itself a module: call it on tensors and it runs.

    Networks are never edited. Stacking a layer returns a longer network that
    shares every earlier layer, so a handle kept along the way stays a working
    network that ends there.

    >>> import torch, torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 4), name="x")
    >>> net = tl.layers.DenseLayer(net, n_units=3, act=torch.relu, name="hidden")
    >>> net.outputs.shape, net.count_params()
    ((None, 3), 15)
    >>> net(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, nodes: Iterable[Node], modules: Mapping[str, nn.Module], outputs: Sequence[str]):
        super().__init__()
        self._nodes: tuple[Node, ...] = tuple(nodes)
        self._outputs: tuple[str, ...] = tuple(outputs)
        self._inputs = tuple(node for node in self._nodes if node.module is None)
        self._last_reader = {i: node.name for node in self._nodes for i in node.inputs}
        self._chain = _as_chain(self._nodes, self._outputs)
        self._modules.update(modules)  # stack() has already checked the names

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # a layer, by its name

    # Running -----------------------------------------------------------------

    def forward(self, *inputs: Tensor) -> Any:
        if self._chain is None or len(inputs) != 1:
            return self._pick(self._run(inputs, _call))
        (x,) = inputs
        _check_input(self._inputs[0], x)
        for name in self._chain:
            x = self._modules[name](x)  # type: ignore[misc]
        return x

    def step(self, *inputs: Tensor, state: State | None = None) -> tuple[Any, State]:
        """Run once from ``state`` and return ``(output, new_state)``.

        ``state`` maps each recurrent layer's name to what it remembers; a
        missing layer, or ``state=None``, starts from zero.
        """
        old: State = state or {}
        new: State = {}

        def call(node: Node, layer: Any, args: list[Tensor]) -> Any:
            if not hasattr(layer, "step"):
                return layer(*args)
            y, new[node.name] = layer.step(*args, state=old.get(node.name))
            return y

        return self._pick(self._run(inputs, call)), new

    def activations(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run and keep every value, by layer name."""
        return self._run(inputs, _call, keep=True)

    def _run(self, inputs: Sequence[Tensor], call: Callable[..., Any], keep: bool = False) -> dict[str, Any]:
        if len(inputs) != len(self._inputs):
            names = [node.name for node in self._inputs]
            raise TypeError(f"this network takes {len(names)} input(s) {names}, got {len(inputs)}")
        values: dict[str, Any] = {}
        for node, x in zip(self._inputs, inputs):
            _check_input(node, x)
            values[node.name] = x
        for node in self._nodes:
            if node.module is None:
                continue
            layer = self._modules[node.module]
            values[node.name] = call(node, layer, [values[i] for i in node.inputs])
            if not keep:
                for i in node.inputs:
                    if self._last_reader[i] == node.name and i not in self._outputs:
                        values.pop(i, None)
        return values

    def _pick(self, values: Mapping[str, Any]) -> Any:
        out = tuple(values[name] for name in self._outputs)
        return out[0] if len(out) == 1 else out

    # What TensorLayer users ask a network ---------------------------------------

    @property
    def outputs(self) -> Spec:
        """Shape and dtype of the output, as ``net.outputs.shape`` was in TensorLayer."""
        specs = [node.spec for node in self._nodes if node.name in self._outputs]
        if len(specs) != 1:
            raise ValueError(
                f"this network has {len(specs)} outputs {list(self._outputs)}; use the handle of one of them"
            )
        return specs[0]

    @outputs.setter
    def outputs(self, value: Any) -> None:
        raise AttributeError("net.outputs is read-only; to change a network's output stack a LambdaLayer(net, fn)")

    @property
    def all_layers(self) -> list[nn.Module]:
        """The layers in stacking order, one entry a call, so that a shared layer appears once for each."""
        return [self.get_submodule(node.module) for node in self._nodes if node.module is not None]

    @property
    def all_params(self) -> list[Tensor]:
        """Every layer's parameters, then its buffers, in stacking order, as ``save_npz`` writes them."""
        return [tensor for _, tensor in self._named_params()]

    @property
    def all_drop(self) -> dict[str, float]:
        """The keep probability of every layer that drops something, by layer name."""
        return {name: getattr(layer, "keep") for name, layer in self.named_children() if hasattr(layer, "keep")}  # noqa: B009

    def count_params(self) -> int:
        """The number of scalars in ``all_params`` (moving statistics count, as in TensorLayer)."""
        return sum(tensor.numel() for tensor in self.all_params)

    def print_layers(self) -> None:
        """Print one line a layer: its name, output shape, dtype and settings."""
        calls = [node for node in self._nodes if node.module is not None]
        for i, (node, layer) in enumerate(zip(calls, self.all_layers)):
            dtype = str(node.spec.dtype).removeprefix("torch.")
            made = f"{type(layer).__name__}({layer.extra_repr()})"
            print(f"  layer {i:3}: {node.name:20} {_shown(node.spec.shape):20} {dtype:10} {made}")

    def print_params(self, details: bool = True) -> None:
        """Print one line a parameter or buffer (with its statistics), then their number."""
        print_tensors(self._named_params(), details)

    def _named_params(self) -> list[tuple[str, Tensor]]:
        owners = dict.fromkeys(node.module for node in self._nodes if node.module is not None)  # a shared layer once
        return [
            (f"{owner}.{name}", tensor)
            for owner in owners
            for layer in [self.get_submodule(owner)]
            for saved in [layer.state_dict()]
            for name, tensor in (*layer.named_parameters(), *layer.named_buffers())
            if name in saved  # not what is derived from a setting
        ]


def print_tensors(named: Sequence[tuple[str, Tensor]], details: bool = True) -> None:
    """Print one line a tensor (with its statistics), then the number of scalars, in TensorLayer's words."""
    for i, (name, tensor) in enumerate(named):
        shape = str(tuple(tensor.shape))
        if details:
            values = tensor.detach().double().flatten()
            mean, median, std = values.mean(), _median(values), values.std(correction=0)
            print(f"  param {i:3}: {shape:15} (mean: {mean:9.6f}, median: {median:9.6f}, std: {std:9.6f})   {name}")
        else:
            print(f"  param {i:3}: {shape:15}    {name}")
    print(f"  num of params: {sum(tensor.numel() for _, tensor in named)}")


def _median(values: Tensor) -> Tensor:
    """The middle value, or the mean of the two middle ones (``torch.median`` takes the lower)."""
    ordered = values.sort().values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _as_chain(nodes: Sequence[Node], outputs: Sequence[str]) -> tuple[str, ...] | None:
    """The modules in order if each reads just what the one before it made: then nothing needs to be kept by name."""
    readers = nodes[1:]
    straight = all(node.module is not None and node.inputs == (prev.name,) for prev, node in zip(nodes, readers))
    if not straight or not nodes or nodes[0].module is not None or outputs != (nodes[-1].name,):
        return None
    return tuple(node.module for node in readers if node.module is not None)


def _call(node: Node, layer: nn.Module, args: list[Tensor]) -> Any:
    return layer(*args)


def _check_input(node: Node, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"input '{node.name}' takes a tensor, got {type(x).__name__}; wrap it in torch.as_tensor(...)")
    shape, dtype = node.spec
    if len(x.shape) != len(shape) or any(n is not None and n != m for n, m in zip(shape, x.shape)):
        raise ValueError(f"input '{node.name}' is declared as {shape}, got {tuple(x.shape)}")
    if x.is_floating_point() != dtype.is_floating_point:
        raise TypeError(f"input '{node.name}' is declared as {dtype}, got {x.dtype}; convert with x.to({dtype})")


def _shown(shape: Shape) -> str:
    return str(tuple("?" if n is None else n for n in shape)).replace("'", "")


def stack(inputs: Network | Sequence[Network], module: nn.Module, name: str | None = None) -> Network:
    """Record ``module`` on top of one network, or across several, and return the longer network.

    Any ``nn.Module`` can be stacked. A module stacked twice shares its weights.

    Args:
        inputs: the network to stack on, or a list of them for a module that takes several tensors.
        module: what to call. A :class:`torchlayer.layers.Layer` is sized here.
        name: the name of this call; needed when the module was stacked before.

    Raises:
        TypeError: ``inputs`` is not a network or a list of networks.
        ValueError: the name is taken, or the module cannot take these shapes.
    """
    nets: Any = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    if not nets or not all(isinstance(net, Network) for net in nets):
        given = ", ".join(
            f"{type(n).__name__} of shape {tuple(n.shape)}" if isinstance(n, Tensor) else repr(n) for n in nets
        )
        raise TypeError(
            f"{type(module).__name__} stacks on a network or a list of networks, got [{given}]; "
            "begin with InputLayer(shape), or make the layer alone and call it on tensors"
        )
    nodes, modules = _union(nets)
    own_name: str | None = getattr(module, "name", None)
    held_as = next((key for key, held in modules.items() if held is module), None)
    owner: str = held_as or own_name or name or _fresh_name(module, nodes)
    name = name or (owner if own_name or owner not in nodes else _fresh_name(module, nodes))
    if "." in owner or (hasattr(nets[0], owner) and owner not in modules):
        raise ValueError(f"'{owner}' cannot name a layer: it holds a '.' or is already an attribute of Network")
    if name in nodes or modules.setdefault(owner, module) is not module:
        raise ValueError(f"layer '{name}' already exists in this network, please choose another name")
    specs = [net.outputs for net in nets]
    try:
        if build := getattr(module, "ensure_built", None):
            build(*(spec.shape for spec in specs))
        spec = probe(module, *specs)
    except Exception as error:
        shapes = ", ".join(str(spec.shape) for spec in specs)
        raise ValueError(f"layer '{name}' ({type(module).__name__}) cannot take {shapes}: {error}") from error
    nodes[name] = Node(name, owner, tuple(net._outputs[0] for net in nets), spec)
    return getattr(module, "handle", Network)(nodes.values(), modules, [name])


def join(*nets: Network) -> Network:
    """One network with several outputs: an actor and a critic on one trunk."""
    nodes, modules = _union(nets)
    return Network(nodes.values(), modules, [name for net in nets for name in net._outputs])


def detach(state: Any) -> Any:
    """The same state without its history: truncated back-propagation, said out loud.

    Takes any nesting of tensors, tuples, lists and dicts, as :meth:`torchlayer.Network.step` returns it.
    """
    return map_state(torch.Tensor.detach, state)


def map_state(fn: Callable[[Tensor], Any], state: Any) -> Any:
    """``fn`` of every tensor in a nesting of tuples, lists and dicts; what is something else stays as it is."""
    if isinstance(state, Tensor):
        return fn(state)
    if isinstance(state, dict):
        return type(state)((key, map_state(fn, value)) for key, value in state.items())
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(map_state(fn, value) for value in state))
    if isinstance(state, list | tuple):
        return type(state)(map_state(fn, value) for value in state)
    return state


def probe(module: nn.Module, *specs: Spec, sizes: tuple[int, int] = (64, 128)) -> Spec:
    """Find a module's output spec by running it on meta tensors: no data, no memory, no random numbers.

    It runs twice, with two guesses for each unknown axis; an output axis whose
    length changed is unknown too.
    """
    if any(is_lazy(p) for p in module.parameters()):
        raise ValueError("it has parameters of unknown size; call it once on real data before stacking it")
    held = {k: torch.empty_like(v, device="meta") for k, v in (*module.named_parameters(), *module.named_buffers())}

    def run(size: int) -> Tensor:
        args = [torch.empty([size if n is None else n for n in s.shape], dtype=s.dtype, device="meta") for s in specs]
        with torch.no_grad():
            y = functional_call(module, held, tuple(args))
        if not isinstance(y, Tensor):
            raise TypeError(f"it returns a {type(y).__name__}, not a tensor; wrap it so that it returns one tensor")
        return y

    a, b = map(run, sizes)
    return Spec(tuple(m if m == n else None for m, n in zip(a.shape, b.shape)), a.dtype)


def _union(nets: Sequence[Network]) -> tuple[dict[str, Node], dict[str, nn.Module]]:
    nodes: dict[str, Node] = {}
    modules: dict[str, nn.Module] = {}
    for net in nets:
        _add(nodes, ((node.name, node) for node in net._nodes))
        _add(modules, net.named_children())
    return nodes, modules


def _add(found: dict[str, T], items: Iterable[tuple[str, T]]) -> None:
    for name, item in items:
        if found.setdefault(name, item) is not item:
            raise ValueError(f"two different layers are both named '{name}', please rename one")


def _fresh_name(module: nn.Module, taken: Mapping[str, Any]) -> str:
    stem, i = type(module).__name__.removesuffix("Layer").lower(), 1
    while f"{stem}{i}" in taken:
        i += 1
    return f"{stem}{i}"
