"""A recurrent network that carries its state from call to call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from .network import Network, map_state


class Carry(nn.Module):
    """``carry(x)`` begins where the last call ended: truncated back-propagation as a loop over calls.

    The state lives in buffers, is detached, and is written in place. So :class:`torchlayer.TrainStep` can capture a
    step that carries, checkpoints hold where training stood, and nothing has to be passed around. Several carries may
    share a network: one that trains, one that measures, each with a state and a batch size of its own.

    Args:
        network: a network with recurrent layers; ``carry.network`` is it.

    Raises:
        ValueError: the network remembers nothing, or the batch has another size than before.

    >>> import torch, torchlayer as tl
    >>> net = tl.layers.InputLayer((None, None, 3))
    >>> net = tl.layers.RNNLayer(net, cell_fn=tl.layers.BasicLSTMCell, n_hidden=4, name="lstm")
    >>> carry, x = tl.Carry(net), torch.randn(2, 6, 3)
    >>> windows = torch.cat([carry(x[:, :4]), carry(x[:, 4:])], 1)
    >>> torch.allclose(windows, net(x), atol=1e-6)
    True
    >>> carry.reset()  # an epoch begins
    """

    def __init__(self, network: Network):
        super().__init__()
        self.network = network
        self._nest: Any = None  # the state on the meta device: names, kinds and shapes

    def forward(self, *inputs: Tensor) -> Any:
        self.begin(*inputs)
        held = self._buffers
        if held["state_0"].shape[0] != inputs[0].shape[0]:  # type: ignore[union-attr]
            raise ValueError(
                f"this Carry holds the state of {held['state_0'].shape[0]} sequences, got a batch of "  # type: ignore[union-attr]
                f"{inputs[0].shape[0]}; make another Carry of the same network for it"
            )
        each = iter(held.values())
        lent = not torch.is_grad_enabled() and not torch.compiler.is_compiling()  # else backward reads the clones
        begin = map_state(lambda _: next(each) if lent else next(each).clone(), self._nest)  # type: ignore[union-attr]
        y, state = self.network.step(*inputs, state=begin)
        new: list[Tensor] = []
        map_state(new.append, state)
        if lent:  # what the network hands on as it was must not change below
            mine = {_storage(tensor) for tensor in held.values()}  # type: ignore[arg-type]
            y, new = tree_map_only(Tensor, lambda t: t.clone() if _storage(t) in mine else t, (y, new))
        with torch.no_grad():
            torch._foreach_copy_(list(held.values()), new)  # type: ignore[arg-type]
        return y

    def reset(self) -> None:
        """Back to zero: the next call begins a sequence."""
        for state in self._buffers.values():
            state.zero_()  # type: ignore[union-attr]

    def begin(self, *inputs: Tensor) -> None:
        """Learn from a batch what a state looks like, without computing or drawing anything; the state is zero.

        The first call does it. Do it before, so that a checkpoint can be loaded that holds a state.
        """
        if self._nest is not None:
            return
        on_meta = {key: torch.empty_like(value, device="meta") for key, value in self._tensors()}
        with torch.no_grad():
            nest = functional_call(_Step(self.network), on_meta, tuple(x.to("meta") for x in inputs))
        leaves: list[Tensor] = []
        map_state(leaves.append, nest)
        if not leaves:
            raise ValueError("this network has no recurrent layer, so there is nothing to carry; call it as it is")
        if not self._buffers:  # else a state was loaded
            device = next((value.device for _, value in self._tensors()), inputs[0].device)
            for i, leaf in enumerate(leaves):
                self.register_buffer(f"state_{i}", torch.zeros_like(leaf, device=device))
        self._nest = nest

    def _tensors(self) -> Any:
        named = (*self.network.named_parameters(), *self.network.named_buffers())
        return ((f"network.{key}", value) for key, value in named)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        held = (key for key in state_dict if key.startswith(f"{prefix}state_"))
        for key in sorted(held, key=lambda key: int(key.rpartition("_")[2])):
            if (name := key.removeprefix(prefix)) not in self._buffers:
                self.register_buffer(name, torch.zeros_like(state_dict[key], device=self._device()))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _device(self) -> torch.device:
        return next((value.device for _, value in self._tensors()), torch.device("cpu"))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Step(nn.Module):
    """The state that a network's step returns."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Any:
        return self.network.step(*inputs)[1]
