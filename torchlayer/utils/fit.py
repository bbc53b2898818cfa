"""The training loop for people who do not want to write one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from .. import checkpoint as checkpoints
from ..kernels import bad_ids
from ..step import TrainStep
from .data import as_generator, checked, chunk_steps, placed
from .evaluate import Metric, device_of, measure, modes_kept
from .interrupt import deferred_signals, leave
from .run import History, Run


def fit(
    network: nn.Module,
    optimizer: Optimizer,
    cost: Metric,
    X_train: Any,
    y_train: Any,
    acc: Metric | Mapping[str, Metric] | None = None,
    batch_size: int = 100,
    n_epoch: int = 100,
    print_freq: int = 5,
    X_val: Any = None,
    y_val: Any = None,
    eval_train: bool = True,
    tensorboard: bool = False,
    tensorboard_epoch_freq: int = 5,
    tensorboard_weight_histograms: bool = True,
    *,
    log_dir: str | Path = "logs",
    scheduler: Any = None,
    patience: int | None = None,
    restore_best: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    resume: bool = False,
    clip_norm: float | None = None,
    autocast: torch.dtype | None = None,
    capture: bool | None = None,
    rng: int | torch.Generator | None = None,
    verbose: bool = True,
) -> History:
    """Train a network, measuring it now and then; returns what was measured.

    The data move to the network's device once, if they fit. Nothing is read back inside an epoch. On CUDA whole
    stretches of steps are captured and replayed (:class:`torchlayer.TrainStep`). Each epoch visits the examples in a
    new order and leaves out what does not fill a batch; measurements are over all examples. Layers that you put into
    ``eval()`` stay there (a network that is in ``eval()`` as a whole is trained in ``train()`` and put back).

    Args:
        cost: ``cost(outputs, targets)``, one number, a mean over the batch.
        acc: ``acc(outputs, targets)``, or several by name; ``tl.utils.accuracy`` for classes.
        print_freq: measure and print at epoch 1, every so many epochs, and the last.
        eval_train: measure the training set too; otherwise ``train_loss`` is the mean over the epoch's steps.
        tensorboard: write scalars, and histograms of the weights every ``tensorboard_epoch_freq`` epochs, to
            ``log_dir``.
        scheduler: a torch learning-rate schedule, stepped once an epoch.
        patience: stop after so many measurements without a better one on the validation set: the accuracy (the
            first of several) if there is one, else the loss.
        restore_best: leave the network with the weights that were best on the validation set.
        checkpoint: a file that is rewritten at every measurement, when interrupted, and whenever
            ``checkpoint_seconds`` have passed since, in the middle of an epoch too; ``resume=True`` continues from it
            exactly, if it exists.
        clip_norm, autocast, capture: as in :class:`torchlayer.TrainStep`.
        rng: what shuffles: a seed, or a ``torch.Generator`` on the CPU; by default torch's own.

    Returns:
        equally long lists by name, ``epoch``, ``seconds``, ``train_loss``, ``val_loss``, ``train_acc``, ``val_acc`` …

    Raises:
        ValueError: data are empty, of different lengths, smaller than a batch, or hold NaN or infinity.
        FloatingPointError: the training loss is no longer finite.
        IndexError: a sampled loss met a label that names no class, or a row optimiser an id that names no row.
        KeyboardInterrupt: Ctrl-C; the steps in flight (at most 32) are finished, the best weights so far are put back,
            the checkpoint is written, then the interrupt goes on. SIGTERM does the same and exits with 143.

    >>> import torchlayer as tl
    >>> net = tl.layers.DenseLayer(tl.layers.InputLayer((None, 2)), n_units=2)
    >>> X, y = torch.eye(2).repeat(8, 1), torch.tensor([0, 1]).repeat(8)
    >>> history = tl.utils.fit(net, torch.optim.Adam(net.parameters(), lr=0.1), tl.cost.cross_entropy, X, y,
    ...                        acc=tl.utils.accuracy, batch_size=4, n_epoch=20, verbose=False)
    >>> history["train_acc"][-1]
    1.0
    """
    device = device_of(network)
    X_train, y_train = checked("train", X_train, y_train)
    if X_val is not None or y_val is not None:
        X_val, y_val = checked("val", X_val, y_val)
        X_val, y_val = placed(device, X_val, y_val)
    n_steps = len(X_train) // batch_size if batch_size > 0 else 0
    if n_steps < 1:
        raise ValueError(f"batch_size={batch_size} does not fit the {len(X_train)} training examples; choose 1 to that")
    if patience is not None and X_val is None:
        raise ValueError("patience needs validation data to judge by; give X_val and y_val")
    X_train, y_train = placed(device, X_train, y_train)

    accs: dict[str, Metric] = {} if acc is None else dict(acc) if isinstance(acc, Mapping) else {"acc": acc}
    metrics = {"loss": cost, **accs}
    order_of = as_generator(rng)
    step = TrainStep(network, optimizer, cost, clip_norm=clip_norm, autocast=autocast, capture=capture)
    run = Run(network, optimizer, scheduler, order_of, judged_by=next(iter(accs), "loss"), path=checkpoint)
    if resume and checkpoint is not None and checkpoints.exists(checkpoint):
        run.load()
    writer = _tensorboard(log_dir) if tensorboard else None
    say: Callable[[str], None] = tqdm.write if verbose else (lambda line: None)

    n_chunk = chunk_steps(n_steps, batch_size, X_train)
    chunks = [(at, min(at + n_chunk, n_steps)) for at in range(0, n_steps, n_chunk)]
    bar = tqdm(total=n_epoch * n_steps, initial=run.epoch * n_steps, unit="step", disable=None if verbose else True)
    started = time.perf_counter()
    say("Start training the network ...")
    with bar, modes_kept(network), deferred_signals() as signals:
        if not network.training:
            network.train()
        for epoch in range(run.epoch + 1, n_epoch + 1):
            epoch_started = time.perf_counter()
            order = run.next_order(len(X_train)).to(X_train.device, non_blocking=True)
            for first, last in chunks:
                if first < run.n_done:  # resumed in the middle of this epoch
                    continue
                rows = order[first * batch_size : last * batch_size]
                x, y = (data.index_select(0, rows).to(device, non_blocking=True) for data in (X_train, y_train))
                losses = step.sweep(x, y, batch_size=batch_size)
                run.advance(last, losses)
                bar.update(last - first)
                if signals:
                    _interrupted(run, signals[0], say)
                if time.monotonic() - run.saved_at >= checkpoint_seconds:
                    run.save()
            loss = run.end_epoch(n_steps)
            bad_ids.look()  # of this epoch: its last loss has been read
            seconds = time.perf_counter() - epoch_started
            if scheduler is not None:
                scheduler.step()
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            if not math.isfinite(loss):
                run.put_best_back()
                raise FloatingPointError(
                    f"the training loss became {loss} in epoch {epoch}; lower the learning rate or give clip_norm. "
                    + ("The best weights so far are in the network." if run.best else "No measurement was kept yet.")
                )
            if epoch == 1 or epoch % print_freq == 0 or epoch == n_epoch:
                found = {"epoch": float(epoch), "seconds": seconds, "train_loss": loss}
                if eval_train:
                    found |= {f"train_{k}": v for k, v in measure(network, metrics, X_train, y_train).items()}
                if X_val is not None:
                    found |= {f"val_{k}": v for k, v in measure(network, metrics, X_val, y_val).items()}
                run.measured(found)
                for line in _lines(found, n_epoch):
                    say(line)
                run.save()
            if writer is not None:
                histograms = tensorboard_weight_histograms and epoch % tensorboard_epoch_freq == 0
                _log(writer, network, run.history, epoch, histograms)
            if signals:
                _interrupted(run, signals[0], say)
            if patience is not None and run.n_worse >= patience:
                say(f"Stopped: no better val_{run.judged_by} in {patience} measurements")
                break
    say(f"Total training time: {time.perf_counter() - started:f}s")
    if restore_best:
        run.put_best_back()
    if writer is not None:
        writer.close()
    return run.history


def _interrupted(run: Run, number: int, say: Callable[[str], None]) -> NoReturn:
    run.save()
    run.put_best_back()
    say(
        f"Interrupted in epoch {run.epoch + 1} after {run.n_done} steps"
        + (f"; checkpoint written to {run.path}" if run.path is not None else "")
        + ("; the network holds its best weights so far" if run.best else "")
    )
    leave(number, None)


def _lines(found: dict[str, float], n_epoch: int) -> list[str]:
    rest = {name: value for name, value in found.items() if name not in ("epoch", "seconds")}
    head = f"Epoch {found['epoch']:.0f} of {n_epoch} took {found['seconds']:f}s"
    if list(rest) == ["train_loss"]:
        return [f"{head}, loss {rest['train_loss']:f}"]
    return [head, *(f"   {name.replace('_', ' ', 1)}: {value:f}" for name, value in rest.items())]


def _tensorboard(log_dir: str | Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("fit(tensorboard=True) needs TensorBoard: pip install tensorboard") from None
    return SummaryWriter(str(log_dir))


def _log(writer: Any, network: nn.Module, history: History, epoch: int, histograms: bool) -> None:
    if history["epoch"][-1] == epoch:
        for name, values in history.items():
            if name != "epoch":
                writer.add_scalar(name.replace("_", "/", 1), values[-1], epoch)
    if histograms:
        for name, p in network.named_parameters():
            writer.add_histogram(name, p, epoch)
