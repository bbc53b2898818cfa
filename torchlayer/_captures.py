"""What all CUDA graphs need of torch: its generators where they belong, and nothing left of a recording that fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def capturing(
    graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream, generators: Sequence[torch.Generator] = (), **how: Any
) -> Iterator[None]:
    """Record into ``graph``, on ``stream``, what the block queues, instead of running it.

    A replay draws from ``generators``, and torch's own, from where they then are. If the block raises, the stream is
    the one before again, and the generators are as they were, both of which torch would leave inside the capture.

    Args:
        how: what else :class:`torch.cuda.graph` takes.
    """
    here = torch.cuda.current_stream(stream.device)
    for generator in generators:
        graph.register_generator_state(generator)
    torchs = torch.cuda.default_generators[stream.device.index or 0]
    draws = [(generator, generator.clone_state()) for generator in (torchs, *generators)]
    try:
        with torch.cuda.graph(graph, stream=stream, **how):
            yield
    except Exception:
        torch.cuda.set_stream(here)
        for generator, state in draws:
            generator.graphsafe_set_state(state)
        raise
    here.wait_stream(stream)  # there torch has reset the generators' offsets, which a replay sets here
