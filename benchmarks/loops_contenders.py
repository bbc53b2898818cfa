"""The loops that loops.py compares: written by hand, torchlayer's, and the peers', one function each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from loops_tasks import BATCH_SIZE, Task, Trained, batches_of, described, epoch_by_hand, loader, slices
from torch import Tensor, nn


@dataclass(frozen=True)
class Contender:
    """A row of a table; ``module`` is what has to be importable."""

    title: str
    train: Callable[[Task], Trained]
    module: str = "torch"
    tf32: bool = False


def by_hand(task: Task, source: str = "tensors", fused: bool | None = True) -> Trained:
    net = task.net.to(task.device).train()
    optimizer = torch.optim.Adam(net.parameters(), task.lr, fused=fused)
    batches = batches_of(task, source)
    for _ in range(task.n_epochs):
        epoch_by_hand(net, optimizer, batches())
        task.clock.epoch_ends()
    return Trained(net, described(optimizer))


def graph_by_hand(task: Task) -> Trained:
    """The floor on a GPU: the step captured once by hand and replayed."""
    net = task.net.to(task.device).train()
    optimizer = torch.optim.Adam(net.parameters(), task.lr, fused=True, capturable=True)
    X, y = task.X.to(task.device), task.y.to(task.device)
    x_now, y_now = X[:BATCH_SIZE].clone(), y[:BATCH_SIZE].clone()

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x_now), y_now).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(task.n_epochs):
        for x, t in slices(X, y):
            x_now.copy_(x)
            y_now.copy_(t)
            graph.replay()
        task.clock.epoch_ends()
    return Trained(net, described(optimizer))


def stacked(net: nn.Sequential) -> Any:
    """The same net, with the same weights, out of torchlayer's layers."""
    import torchlayer as tl

    result = tl.layers.InputLayer((None, next(net.parameters()).shape[1]))
    for module, following in pairwise([*net, None]):
        if isinstance(module, nn.Linear):
            act = torch.relu if isinstance(following, nn.ReLU) else None
            result = tl.layers.DenseLayer(result, n_units=module.out_features, act=act)
        elif isinstance(module, nn.Dropout):
            result = tl.layers.DropoutLayer(result, keep=1 - module.p)
    with torch.no_grad():
        for ours, theirs in zip(result.parameters(), net.parameters()):
            ours.copy_(theirs.t())  # W is a Linear's weight transposed; a bias is as it is
    return result


def with_step(task: Task) -> Trained:
    import torchlayer as tl

    net = stacked(task.net).to(task.device).train()
    optimizer = torch.optim.Adam(net.parameters(), task.lr)
    step = tl.TrainStep(net, optimizer, tl.cost.cross_entropy)
    X, y = task.X.to(task.device), task.y.to(task.device)
    for _ in range(task.n_epochs):
        for batch, labels in tl.iterate.minibatches(X, y, BATCH_SIZE, shuffle=True):
            step(batch, labels)
        task.clock.epoch_ends()
    return Trained(net, described(optimizer))


def with_fit(task: Task, everything: bool = False, compiled: bool = False) -> Trained:
    """`everything`: in every epoch the loss and accuracy of 2,560 rows, the history, the printed lines."""
    import torchlayer as tl

    class EpochEnd:
        step = staticmethod(task.clock.epoch_ends)  # `fit` steps its schedule once an epoch, the device being idle

    net: Any = stacked(task.net).to(task.device)
    optimizer = torch.optim.Adam(net.parameters(), task.lr)
    if compiled:
        net = torch.compile(net)
    extra: dict[str, Any] = {"print_freq": task.n_epochs, "eval_train": False}
    if everything:
        extra |= {"print_freq": 1, "acc": tl.utils.accuracy, "X_val": task.X[:2560], "y_val": task.y[:2560]}
    counts = {"batch_size": BATCH_SIZE, "n_epoch": task.n_epochs}
    tl.utils.fit(net, optimizer, tl.cost.cross_entropy, task.X, task.y, scheduler=EpochEnd(), **counts, **extra)
    return Trained(net, described(optimizer))


def lightning(task: Task, defaults: bool = False) -> Trained:
    """`defaults` leaves the logger, the bar and the checkpoints on and logs the loss, as its first example does."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = task.net

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            if defaults:
                self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), task.lr)

    class EpochEnd(L.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            task.clock.epoch_ends()

    options = {"accelerator": "cpu", "max_epochs": task.n_epochs, "enable_model_summary": False}
    if not defaults:
        options |= {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(callbacks=[EpochEnd()], default_root_dir=folder, **options)
        trainer.fit(Module(), loader(task))
    return Trained(task.net, described(trainer.optimizers[0]))


def keras(task: Task) -> Trained:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras as K

    layers: list[Any] = [K.Input((64,)), K.layers.Dense(32, activation="relu"), K.layers.Dense(10)]
    model = K.Sequential(layers)
    model.set_weights([p.detach().t().numpy() for p in task.net.parameters()])
    loss = K.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=K.optimizers.Adam(task.lr), loss=loss)

    class EpochEnd(K.callbacks.Callback):
        def on_epoch_end(self, *_: Any) -> None:
            task.clock.epoch_ends()

    X, y = task.X.numpy(), task.y.numpy()
    model.fit(X, y, batch_size=BATCH_SIZE, epochs=task.n_epochs, verbose=0, callbacks=[EpochEnd()])
    return Trained(model, "keras.Adam")


def skorch(task: Task) -> Trained:
    import skorch as S

    class EpochEnd(S.callbacks.Callback):
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            task.clock.epoch_ends()

    options: dict[str, Any] = {"criterion": nn.CrossEntropyLoss, "optimizer": torch.optim.Adam, "lr": task.lr}
    options |= {"batch_size": BATCH_SIZE, "max_epochs": task.n_epochs, "iterator_train__shuffle": True}
    options |= {"train_split": None, "verbose": 0, "callbacks": [("epoch_end", EpochEnd())]}
    learner = S.NeuralNetClassifier(task.net, **options)
    learner.fit(task.X.numpy(), task.y.numpy())
    return Trained(learner.module_, described(learner.optimizer_))


def fastai(task: Task) -> Trained:
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Callback, Learner
    from torch.utils.data import TensorDataset

    class EpochEnd(Callback):
        def after_train(self) -> None:
            task.clock.epoch_ends()

    dataset = TensorDataset(task.X, task.y)
    batches = DataLoader(dataset, bs=BATCH_SIZE, shuffle=True, drop_last=True, num_workers=0)
    learner = Learner(DataLoaders(batches, []), task.net, loss_func=F.cross_entropy, cbs=[EpochEnd()])
    with learner.no_logging():  # the bar is a callback that only `fastai.callback.progress` would add
        learner.fit(task.n_epochs, task.lr)
    return Trained(task.net, f"fastai.{type(learner.opt).__name__}")


PEERS = ("lightning", "keras", "skorch", "fastai")

SMALL = [
    Contender("by hand, fused Adam", by_hand),
    Contender("by hand, default Adam", partial(by_hand, fused=None)),
    Contender("by hand, DataLoader(TensorDataset)", partial(by_hand, source="DataLoader", fused=None)),
    Contender("torchlayer TrainStep in a loop", with_step, "torchlayer"),
    Contender("torchlayer fit", with_fit, "torchlayer"),
    Contender("torchlayer fit, everything on", partial(with_fit, everything=True), "torchlayer"),
    Contender("skorch", skorch, "skorch"),
    Contender("fastai Learner", fastai, "fastai"),
    Contender("Lightning, no logger, bar, checkpoints", lightning, "lightning"),
    Contender("Lightning", partial(lightning, defaults=True), "lightning"),
    Contender("Keras fit on torch", keras, "keras"),
]

MNIST = [
    Contender("by hand, data on the device", by_hand),
    Contender("by hand, data on the device, tf32", by_hand, tf32=True),
    Contender("by hand, NumPy minibatches and .to", partial(by_hand, source="NumPy")),
    Contender("by hand, DataLoader pinned, 0 workers", partial(by_hand, source="DataLoader")),
    Contender("by hand, CUDA graph", graph_by_hand),
    Contender("by hand, CUDA graph, tf32", graph_by_hand, tf32=True),
    Contender("torchlayer TrainStep in a loop", with_step, "torchlayer"),
    Contender("torchlayer TrainStep in a loop, tf32", with_step, "torchlayer", tf32=True),
    Contender("torchlayer fit", with_fit, "torchlayer"),
    Contender("torchlayer fit, tf32", with_fit, "torchlayer", tf32=True),
    Contender("torchlayer fit of torch.compile(net), tf32", partial(with_fit, compiled=True), "torchlayer", tf32=True),
]
