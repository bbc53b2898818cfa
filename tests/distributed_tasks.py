"""What the ranks do in test_distributed.py: each function runs on every rank, or alone where there is no group."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from class_parallel_tasks import differences, draw, group_of, parallel, part_of
from sampled_loss_cases import inputs
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel as DDP

import torchlayer as tl

MODULES = {
    "sampled_softmax_loss": tl.distributed.ClassParallelSampledSoftmaxLoss,
    "nce_loss": tl.distributed.ClassParallelNCELoss,
}
ONE_PROCESS = {"sampled_softmax_loss": tl.nn.SampledSoftmaxLoss, "nce_loss": tl.nn.NCELoss}
V, D, K = 37, 6, 11  # 37 classes: 10, 10, 10 and 7 on four ranks


def on_first(n):
    """Whether this rank is among the first n, and their group; alone there is neither."""
    if not dist.is_initialized():
        return True, None
    group = group_of(n)
    return dist.get_rank() < n, group


def some_differences(seeds, n, dtype=torch.float64):
    return [differences(draw(seed), n, dtype) for seed in seeds]


# What is sent --------------------------------------------------------------------


@contextmanager
def counting():
    """The bytes that this rank hands to each collective."""
    sent, originals = {}, {}

    def wrap(name):
        originals[name] = original = getattr(dist, name)

        def counted(tensor, *args, **kwargs):
            given = args[0] if name in ("all_gather_into_tensor", "all_gather_single") else tensor
            sent.setdefault(name, []).append(given.numel() * given.element_size())
            return original(tensor, *args, **kwargs)

        setattr(dist, name, counted)

    for name in [
        n for n in dir(dist) if n.startswith(("all_", "reduce", "broadcast", "gather", "scatter", "send", "isend"))
    ]:
        if callable(getattr(dist, name)):
            wrap(name)
    try:
        yield sent
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def bytes_of_a_step(loss, n_rows, n_sampled, n_classes, n_features, dtype):
    given = inputs(n_rows, 1, n_sampled, n_classes, n_features, dtype=dtype)
    mine = part_of(given, n_classes, None)
    with counting() as sent:
        parallel(loss, mine, n_classes, None).sum().backward()
    return sent


# What is refused -----------------------------------------------------------------


def error_of(function):
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def different_batches(loss, what):
    given = inputs(4, 1, 5, 12, 3)
    if dist.get_rank() == 1:
        if what == "rows":
            given = inputs(3, 1, 5, 12, 3)._replace(weight=given.weight, sampled=given.sampled)
        elif what == "labels":
            given.labels[0] = (given.labels[0] + 1) % 12
        elif what == "samples":
            given.sampled[0] = (given.sampled[0] + 1) % 12
    return error_of(lambda: parallel(loss, part_of(given, 12, None), 12, None))


def different_rows_in_gather():
    return error_of(lambda: tl.distributed.gather_rows(torch.ones(2 + (dist.get_rank() == 1), 3)))


def wrong_part(loss):
    given = inputs(4, 1, 5, 12, 3)
    return error_of(lambda: parallel(loss, given, 12, None))


def bad_label(loss):
    given = inputs(4, 1, 5, 12, 3)
    given.labels[2] = 12
    return error_of(lambda: parallel(loss, part_of(given, 12, None), 12, None))


# Modules -------------------------------------------------------------------------


class Recorded:
    """A sampler that remembers what it drew."""

    def __init__(self):
        self.drawn = []

    def __call__(self, labels, n_sampled, n_classes, seed=None):
        values = tl.kernels.log_uniform_sampler(labels, n_sampled, n_classes, seed=seed)
        self.drawn.append(values.sampled.tolist())
        return values


def drawn(loss, n, seed_of_rank):
    """The classes of two steps; ``seed_of_rank`` maps a rank to its seed."""
    here, group = on_first(n)
    if not here:
        return None
    torch.manual_seed(seed_of_rank[dist.get_rank() if dist.is_initialized() else 0])
    sampler = Recorded()
    module = MODULES[loss](D, V, K, sampler=sampler, group=group)
    for _ in range(2):
        module(torch.zeros(3, D), torch.tensor([1, 2, 3]))
    return sampler.drawn


class Model(torch.nn.Module):
    def __init__(self, loss, group, sparse=False):
        super().__init__()
        self.trunk = torch.nn.Linear(5, D, dtype=torch.float64)
        self.loss = MODULES[loss](D, V, K, sparse=sparse, group=group, dtype=torch.float64)

    def forward(self, x, labels):
        return self.loss(self.trunk(x).tanh(), labels)


def data(step, n=12):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(V, (n,), generator=generator)


def optimizer_of(model, sparse):
    if sparse:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.0)
    return torch.optim.Adam(model.parameters(), lr=0.05)


def trained(loss, n, first, last, path=None, resume=None, sparse=False):
    """Losses of some steps, and the loss in eval() afterwards; from a checkpoint, to another."""
    here, group = on_first(n)
    if not here:
        return None
    torch.manual_seed(0)
    model = Model(loss, group, sparse)
    optimizer = optimizer_of(model, sparse)
    if resume is not None:
        state = tl.checkpoint.load(resume)
        assert tl.distributed.restore(state, model=model, optimizer=optimizer, group=group) == first
    losses = []
    for step in range(first, last):
        optimizer.zero_grad()
        value = model(*data(step))
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    if path is not None:
        tl.distributed.save(path, model=model, optimizer=optimizer, position=last, group=group)
    model.eval()
    x, labels = data(99)
    x.requires_grad_()
    value = model(x, labels)
    value.backward()
    return [*losses, float(value.detach()), *x.grad.flatten().tolist()]


def cannot_write(path):
    model = Model("nce_loss", None)
    return error_of(lambda: tl.distributed.save(path, model=model))


def different_optimizers(path):
    model = Model("nce_loss", None)
    optimizer = torch.optim.Adam(model.parameters())
    if dist.get_rank() != 1:
        model(*data(0)).backward()
        optimizer.step()
    else:
        model(*data(0)).backward()
    return error_of(lambda: tl.distributed.save(path, model=model, optimizer=optimizer))


def forgotten_module(path):
    model = Model("nce_loss", None)
    optimizer = torch.optim.Adam(model.parameters())
    return error_of(lambda: tl.distributed.save(path, model=model.trunk, optimizer=optimizer))


def plain_save(path):
    return error_of(lambda: tl.checkpoint.save(path, model=Model("nce_loss", None)))


def generators_after(n, path, save):
    """A number from each rank's torch generator, after saving or after restoring."""
    here, group = on_first(n)
    if not here:
        return None
    net = torch.nn.Linear(2, 2)
    if save:
        torch.manual_seed(dist.get_rank())
        tl.distributed.save(path, model=net, position=0, group=group)
    else:
        tl.distributed.restore(tl.checkpoint.load(path), model=net, group=group)
    return float(torch.rand(()))


def stored(folder, n, save):
    """By torch.distributed.checkpoint: the first n ranks save a table, or load it and say what they hold."""
    here, group = on_first(n)
    if not here:
        return None
    torch.manual_seed(5 if save else 6)
    module = MODULES["nce_loss"](D, V, K, group=group)
    state = {"module": module.state_dict()}
    if save:
        dcp.save(state, checkpoint_id=folder, process_group=group)
    else:
        dcp.load(state, checkpoint_id=folder, process_group=group)
        module.load_state_dict(state["module"])
    return module.weight.detach().tolist()


# Data parallelism ----------------------------------------------------------------


def digits_net():
    net = tl.layers.InputLayer((None, 8, 8, 1), name="x")
    net = tl.layers.Conv2d(net, n_filter=4, filter_size=(3, 3), act=torch.relu, name="cnn")
    net = tl.layers.MaxPool2d(net, filter_size=(2, 2), name="pool")
    net = tl.layers.FlattenLayer(net, name="flat")
    net = tl.layers.DenseLayer(net, n_units=16, act=torch.relu, name="relu1")
    return tl.layers.DenseLayer(net, n_units=10, name="out")


def digits(step, n=8):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(n, 8, 8, 1, generator=generator, dtype=torch.float64)
    return x, torch.randint(10, (n,), generator=generator)


def data_parallel(kind, n):
    """Four steps on each rank's share of a batch; all parameters in the end, as one process would hold them."""
    here, group = on_first(n)
    if not here:
        return None
    torch.manual_seed(0)
    net = digits_net().double()
    rank, count = (dist.get_rank(), n) if group is not None else (0, 1)
    model = net
    if group is not None and kind == "ddp":
        model = DDP(net, process_group=group)
    elif group is not None:
        from torch.distributed.device_mesh import DeviceMesh

        mesh = DeviceMesh.from_group(group, "cpu")
        for layer in (net.cnn, net.relu1, net.out):
            fully_shard(layer, mesh=mesh)
        fully_shard(net, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    step = tl.TrainStep(model, optimizer, tl.cost.cross_entropy)
    for i in range(4):
        x, y = digits(i)
        part = slice(rank * len(x) // count, (rank + 1) * len(x) // count)
        step(x[part], y[part])
    values = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in net.parameters()]
    return [v.detach().flatten().tolist() for v in values]


def fsdp_saved(n, path, resume=None, last=4):
    """A network of layers under fully_shard, saved as one file and gone on with; its parameters in the end."""
    here, group = on_first(n)
    if not here:
        return None
    torch.manual_seed(0)
    net = digits_net().double()
    rank, count = (dist.get_rank(), n) if group is not None else (0, 1)
    if group is not None:
        from torch.distributed.device_mesh import DeviceMesh

        fully_shard(net, mesh=DeviceMesh.from_group(group, "cpu"))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    first = 0
    if resume:
        first = tl.distributed.restore(tl.checkpoint.load(resume), model=net, optimizer=optimizer, group=group)
    for i in range(first, last):
        x, y = digits(i)
        part = slice(rank * len(x) // count, (rank + 1) * len(x) // count)
        optimizer.zero_grad()
        tl.cost.cross_entropy(net(x[part]), y[part]).backward()
        optimizer.step()
    if path:
        tl.distributed.save(path, model=net, optimizer=optimizer, position=last, group=group)
    values = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in net.parameters()]
    return [v.detach().flatten().tolist() for v in values]


def trunk_in_ddp(loss, n):
    """Each rank's own rows through DDP, all ranks' rows through the class-parallel loss; the trunk in the end."""
    here, group = on_first(n)
    if not here:
        return None
    torch.manual_seed(0)
    model = Model(loss, group)
    rank, count = (dist.get_rank(), n) if group is not None else (0, 1)
    trunk = model.trunk if group is None else DDP(model.trunk, process_group=group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(3):
        x, labels = data(step)
        part = slice(rank * len(x) // count, (rank + 1) * len(x) // count)
        optimizer.zero_grad()
        hidden, ids = (tl.distributed.gather_rows(t, group) for t in (trunk(x[part]).tanh(), labels[part]))
        model.loss(hidden, ids).backward()
        optimizer.step()
    return [p.detach().flatten().tolist() for p in model.trunk.parameters()]


def sampled_loss_in_ddp(loss):
    """The module of one process, whole on every rank; parameters after two steps on different data."""
    torch.manual_seed(dist.get_rank())  # every rank draws its own classes
    model = DDP(ONE_PROCESS[loss](D, V, K))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        generator = torch.Generator().manual_seed(10 * step + dist.get_rank())
        hidden, labels = torch.randn(4, D, generator=generator), torch.randint(V, (4,), generator=generator)
        optimizer.zero_grad()
        model(hidden, labels).backward()
        optimizer.step()
    return [p.detach().flatten().tolist() for p in model.parameters()]


# Faults --------------------------------------------------------------------------


def one_stays_away(seconds):
    """How long the others wait for rank 1, and what they are told."""
    group = dist.new_group(range(dist.get_world_size()), timeout=timedelta(seconds=seconds))
    if dist.get_rank() == 1:
        time.sleep(2 * seconds)
        return None
    given = inputs(4, 1, 5, 12, 3)
    start = time.monotonic()
    told = error_of(lambda: parallel("nce_loss", part_of(given, 12, group), 12, group))
    return time.monotonic() - start, told


def train_until_it_breaks(path, victim):
    """Steps, each with a checkpoint; one rank kills itself after the third. What the others say, and after how long."""
    model = Model("sampled_softmax_loss", None)
    optimizer = torch.optim.Adam(model.parameters())
    last = time.monotonic()
    try:
        for step in range(100):
            if step == 3 and dist.get_rank() == victim:
                os.kill(os.getpid(), 9)
            last = time.monotonic()
            optimizer.zero_grad()
            model(*data(step)).backward()
            optimizer.step()
            tl.distributed.save(path, model=model, optimizer=optimizer, position=step + 1)
    except Exception as error:
        return time.monotonic() - last, f"{type(error).__name__}: {error}"
    return None
