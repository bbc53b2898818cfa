"""A whole training step as one call: captured once as a CUDA graph and replayed, or run eagerly on a CPU.

A step of a small network is some thirty kernels of a few microseconds each; launching them from Python takes several
times as long as running them. A CUDA graph is launched once for all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ._captures import capturing
from ._optimizer import LearningRate, captured_update, settle, what_a_replay_would_miss
from ._waits import reporting_waits
from .kernels import bad_ids

_MOST_RECORDINGS = 32  # each keeps its batch and its gradients on the device


class TrainStep:
    """``step(x, y)``: forward, backward and update; returns the loss, without waiting for it.

    On CUDA the first calls with a batch shape run eagerly (three steps, or two sweeps): they train, and meanwhile
    cuBLAS, cuDNN and autograd set themselves up. The next call is captured, and from then on a step is one launch.
    Dropout draws afresh at every replay, and learning-rate schedules are obeyed.
    On a CPU the same call runs eagerly.

    The capture is renewed by itself when a shape, ``train()``/``eval()`` of any layer, or a hyper-parameter of the
    optimiser changes. What else Python decides is frozen in: after changing a layer's ``keep`` or freezing a
    parameter, call :meth:`forget`. Optimisers that count their steps in Python are not captured; neither are more than
    32 different shapes, modes and settings.

    Args:
        network: called with the inputs; a module, or a method of one, such as ``model.loss``.
        optimizer: any torch optimiser, with all its parameter groups. Unless you chose otherwise it is switched to its
            fused implementation; captured Adam and AdamW run in :func:`torchlayer.kernels.adam_`, on the same state.
        cost: ``cost(outputs, *targets)``, one number; ``None`` if the network returns its own cost.
        clip_norm: clip the norm of the whole gradient to this.
        autocast: run the forward pass under ``torch.autocast`` in this dtype, ``torch.bfloat16``.
        capture: ``None`` captures where it can and warns where it cannot, ``True`` raises then, ``False`` never does.

    Raises:
        ValueError: the cost is not a single number; ``autocast`` is float16.
        IndexError: an earlier step on CUDA met a label or an id that names nothing; see
            :func:`torchlayer.kernels.check_ids`.

    >>> import torch, torchlayer as tl
    >>> net = tl.layers.DenseLayer(tl.layers.InputLayer((None, 2)), n_units=1)
    >>> step = tl.TrainStep(net, torch.optim.SGD(net.parameters(), lr=0.1), tl.cost.mean_squared_error)
    >>> x, y = torch.eye(2), torch.tensor([[1.0], [2.0]])
    >>> losses = [float(step(x, y)) for _ in range(100)]
    >>> losses[-1] < 1e-3 < losses[0]
    True
    """

    def __init__(
        self,
        network: Callable[..., Any],
        optimizer: Optimizer,
        cost: Callable[..., Tensor] | None = None,
        *,
        clip_norm: float | None = None,
        autocast: torch.dtype | None = None,
        capture: bool | None = None,
    ):
        if autocast is torch.float16:
            raise ValueError("float16 gradients need loss scaling, which a TrainStep does not do; use torch.bfloat16")
        self.network, self.optimizer, self.cost = network, optimizer, cost
        self.clip_norm, self.autocast = clip_norm, autocast
        self._params = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self._params[0].device
        owner = getattr(network, "__self__", network)  # of a method such as `model.loss`
        modules = list(owner.modules()) if isinstance(owner, nn.Module) else []
        self._modules = modules
        # layers that this optimiser does not train get no gradient: cheaper, and theirs is left as it was
        trained = set(self._params)
        held = [p for module in modules for p in module.parameters(recurse=False) if p.requires_grad]
        self._backward_args: Any = {} if modules and trained.issuperset(held) else {"inputs": self._params}
        self._must_capture = capture is True
        self._can_capture = self.device.type == "cuda" and capture is not False
        if self._can_capture and capture is None and (why := what_a_replay_would_miss(optimizer)):
            self._give_up(why)
        settle(optimizer, will_be_captured=self._can_capture)
        self._capturing = False
        self._recordings: dict[Any, _Recording] = {}
        self._warm: dict[Any, int] = {}
        if self._can_capture:
            self._stream = torch.cuda.Stream(self.device)
            self._pool = torch.cuda.graph_pool_handle()
            self._lr = [LearningRate(group, self.device) for group in optimizer.param_groups]
            self._captured_update = captured_update(optimizer, self._lr)

    def __call__(self, inputs: Tensor | tuple[Tensor, ...], *targets: Tensor) -> Tensor:
        """Train on one batch; the loss is a 0-d tensor on the device."""
        xs = inputs if isinstance(inputs, tuple) else (inputs,)
        if not self._can_capture:
            return self._train(xs, targets)
        return self._advance(lambda ts: self._train(ts[: len(xs)], ts[len(xs) :]), (len(xs), 1), 1, (*xs, *targets))

    def sweep(self, inputs: Tensor | tuple[Tensor, ...], *targets: Tensor, batch_size: int) -> Tensor:
        """Train on consecutive batches of longer tensors; returns every step's loss.

        On CUDA all of these steps are one launch. What does not fill a batch is left out.

        Shape:
            inputs and targets ``(n_steps * batch_size, ...)``; returns ``(n_steps,)``.
        """
        xs = inputs if isinstance(inputs, tuple) else (inputs,)
        n_steps = len(xs[0]) // batch_size
        if n_steps < 1:
            raise ValueError(f"a sweep needs at least one batch of {batch_size}, got {len(xs[0])} examples")

        def train(tensors: Sequence[Tensor]) -> Tensor:
            batches = zip(*(t[: n_steps * batch_size].split(batch_size) for t in tensors))
            return torch.stack([self._train(batch[: len(xs)], batch[len(xs) :]) for batch in batches])

        if not self._can_capture:
            return train((*xs, *targets))
        return self._advance(train, (len(xs), batch_size), n_steps, (*xs, *targets))

    def forget(self) -> None:
        """Drop what was captured; the next calls warm up and capture again."""
        self._recordings.clear()
        self._warm.clear()

    # One step ----------------------------------------------------------------

    def _train(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        for p in self._params:  # optimizer.zero_grad() does this, at twenty times the cost
            p.grad = None
        if self.autocast is None:
            loss = self._loss(inputs, targets)
        else:
            # a cast cached in one step must not be found in the next: a capture holds several
            with torch.autocast(self.device.type, self.autocast, cache_enabled=False):
                loss = self._loss(inputs, targets)
        loss.backward(**self._backward_args)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._params, self.clip_norm)
        (self._captured_update if self._capturing else self.optimizer.step)()
        return loss.detach()

    def _loss(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        outputs = self.network(*inputs)
        loss = outputs if self.cost is None else self.cost(outputs, *targets)
        if loss.dim():
            raise ValueError(f"the cost must be one number, got a tensor of shape {tuple(loss.shape)}; take its mean()")
        return loss

    # Capturing ---------------------------------------------------------------

    def _advance(self, train: Callable[..., Tensor], kind: Any, n_steps: int, tensors: tuple[Tensor, ...]) -> Tensor:
        key = (kind, tuple((t.shape, t.dtype) for t in tensors), self._frozen_state())
        recording = self._recordings.get(key)
        if recording is None:
            if len(self._recordings) >= _MOST_RECORDINGS:
                return self._on_side_stream(train, tensors)
            n_calls, last = self._warm.get(key, 0), 2 if n_steps == 1 else 1
            if n_calls <= last:
                if len(self._warm) >= 4 * _MOST_RECORDINGS:  # a setting that changes every step never comes back
                    self._warm.clear()
                self._warm[key] = n_calls + 1
                # only the last is watched: a first call may compile, and wait for that
                with self._watching_for_waits() if n_calls == last else nullcontext():
                    return self._on_side_stream(train, tensors)
            recording = self._record(train, tensors)
            if recording is None:
                return self._on_side_stream(train, tensors)
            self._recordings[key] = recording
            if len(self._recordings) == _MOST_RECORDINGS:
                warnings.warn(
                    f"this training step was captured for {_MOST_RECORDINGS} different shapes, modes or settings, and "
                    "runs eagerly for any more; pad batches to fewer shapes, or call forget()",
                    stacklevel=3,
                )
        for held, given in zip(recording.inputs, tensors):
            held.copy_(given, non_blocking=True)
        for lr in self._lr:
            lr.refresh()
        bad_ids.look()  # what a replay reports nobody else would see
        recording.graph.replay()
        return recording.loss.clone()  # the next replay writes over its own

    def _record(self, train: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> _Recording | None:
        inputs = [torch.empty_like(t, device=self.device, memory_format=torch.contiguous_format) for t in tensors]
        self._forget_streams()
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad()  # so that gradients are made, and stay, in the graph's memory
        try:
            with self._device_learning_rates(), capturing(graph, self._stream, pool=self._pool):
                self._capturing = True
                loss = train(inputs)
        except Exception as error:
            self.optimizer.zero_grad()
            self._give_up(str(error).splitlines()[0], error)
            return None
        finally:
            self._capturing = False
        return _Recording(graph, inputs, loss)

    @contextmanager
    def _watching_for_waits(self) -> Iterator[None]:
        """Notice a step that waits for the device (``.item()``, a copy to the host): it cannot be captured."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with reporting_waits("warn"):
                yield
        waits = [w for w in caught if "synchronizing CUDA operation" in str(w.message)]
        for w in caught:
            if w not in waits:
                warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
        if waits:
            self._give_up(f"it waits for the device in {waits[0].filename}:{waits[0].lineno}")

    def _give_up(self, why: str, error: Exception | None = None) -> None:
        if self._must_capture:
            raise RuntimeError(f"this training step cannot be captured: {why}") from error
        self._can_capture = False
        warnings.warn(
            f"this training step cannot be captured and runs eagerly: {why} (TrainStep(..., capture=False) is silent)",
            stacklevel=2,
        )

    def _on_side_stream(self, train: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
        """Run eagerly where captures are made: autograd remembers the stream of its first pass."""
        self._forget_streams()
        here = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            loss = train([t.to(self.device, non_blocking=True) for t in tensors])
        here.wait_stream(self._stream)
        return loss

    def _forget_streams(self) -> None:
        """Part the parameters from backward nodes that a loss somebody still holds keeps alive.

        Such a node remembers the stream it was made on, and gradients are handed over there, which no capture allows.
        A parameter takes a new node when its storage changes dtype, so it is given another for a moment.
        """
        for p in self._params:
            held = p.data
            p.data = torch.empty(0, dtype=torch.float64 if p.dtype != torch.float64 else torch.float32, device=p.device)
            p.data = held

    def _frozen_state(self) -> tuple[Any, ...]:
        """What a capture has built in and may yet change: the layers' modes, the optimiser's settings."""
        modes = tuple([module.training for module in self._modules])
        settings = tuple(
            tuple(value for key, value in group.items() if key != "params" and not (key == "lr" and lr.is_live))
            for group, lr in zip(self.optimizer.param_groups, self._lr)
        )
        return modes, settings

    @contextmanager
    def _device_learning_rates(self) -> Iterator[None]:
        for lr in self._lr:
            lr.enter()
        try:
            yield
        finally:
            for lr in self._lr:
                lr.leave()


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    loss: Tensor
