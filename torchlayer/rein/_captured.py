"""A policy as one launch: on a GPU its fifty small kernels cost the host more than the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._captures import capturing

Act = Callable[[Tensor], Mapping[str, Tensor]]


class CapturedAct:
    """``act`` as a CUDA graph: one for each shape of observations, recorded when that is first seen.

    A replay reads parameters and buffers where they were, so training them in place is seen. The graph draws from
    ``generators`` as the function itself would, the calls before the recording left out.
    """

    def __init__(self, act: Act, generators: Sequence[torch.Generator]):
        self.act, self.generators = act, tuple(generators)
        self._recordings: dict[Any, tuple[torch.cuda.CUDAGraph, Tensor, dict[str, Tensor]]] = {}

    def __call__(self, observations: Tensor) -> Mapping[str, Tensor]:
        key = (observations.shape, observations.dtype, observations.device)
        if key not in self._recordings:
            self._recordings[key] = self._record(observations)
        graph, held, found = self._recordings[key]
        held.copy_(observations)
        graph.replay()
        return {name: value.clone() for name, value in found.items()}  # the next replay writes over its own

    def _record(self, observations: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, dict[str, Tensor]]:
        held, graph = observations.clone(memory_format=torch.contiguous_format), torch.cuda.CUDAGraph()
        here, stream = torch.cuda.current_stream(held.device), torch.cuda.Stream(held.device)
        draws = [(generator, generator.get_state()) for generator in self.generators]
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries allocate and choose kernels in their first calls
                found = self.act(held)
        here.wait_stream(stream)
        torch.cuda.synchronize(held.device)
        try:
            # other groups' threads copy and allocate meanwhile
            with capturing(graph, stream, self.generators, capture_error_mode="thread_local"):
                found = dict(self.act(held))
        except Exception as error:
            why = str(error).strip().splitlines()[0]
            raise RuntimeError(
                f"act cannot be captured: {why}; it must not wait for the device, and draw from the rollout's "
                "generators= or torch's own; capture=False runs it as it is"
            ) from error
        for generator, state in draws:
            generator.set_state(state)
        return graph, held, found
