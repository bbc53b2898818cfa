"""Language models of the Penn Treebank: the original's three, and two that go beyond.

Reproduces  tutorial_ptb_lstm.py of TensorLayer 1.3 (Zaremba et al. 2014, arXiv:1409.2329) with its hyper-parameters:
              small   2 cells of 200,  20 steps, nothing dropped, 13 epochs
              medium  2 cells of 650,  35 steps, half dropped,    39 epochs
              large   2 cells of 1500, 35 steps, 65 % dropped,    55 epochs
            and, with what was learnt since:
              tied    large, its softmax being the embedding (Press, Wolf 2017, arXiv:1608.05859), 40 epochs
              awd     3 cells of 1150, 1150 and 400, tied, and all that Merity et al. 2017 (arXiv:1708.02182) add:
                      weights, words and values dropped all along a window, windows of random length, averaged weights
Expect      test perplexity 116.7 (small), 83.9 (medium), 78.3 (large): the original's; ours are in examples/README.md.
Run         python examples/tutorial_ptb_lstm.py --model small [--data DIR]
            python examples/tutorial_ptb_lstm.py --all        # the original's three
            python examples/tutorial_ptb_lstm.py --model large --minutes 8    # and then again with --resume
"""

import argparse
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

import torchlayer as tl


class Config(NamedTuple):
    """A model and its schedule. ``keep`` is the probability of keeping, as everywhere here."""

    size: int  # of each of two cells and of the embedding
    num_steps: int
    n_epoch: int
    lr: float
    clip: float
    init_scale: float
    keep: float = 1.0
    n_full: int = 0  # after so many epochs and one, the rate decays
    decay: float = 1.0
    # Rate and clip of a tied model are for a loss averaged over all words; the original's are for one summed over a
    # window's steps and averaged over the batch. Its rate is divided by 4 after an epoch that was not the best so far.
    tied: bool = False
    hidden: int = 0  # of awd's first two cells; its third is of ``size``


MODELS = {
    "small": Config(200, 20, 13, 1.0, 5, 0.1, 1.0, 4, 0.5),
    "medium": Config(650, 35, 39, 1.0, 5, 0.05, 0.5, 6, 0.8),
    "large": Config(1500, 35, 55, 1.0, 10, 0.04, 0.35, 14, 1 / 1.15),
    "tied": Config(1500, 35, 40, 20, 0.25, 1500**-0.5, 0.35, tied=True),
    "awd": Config(400, 70, 100, 30, 0.25, 0.1, tied=True, hidden=1150),  # the paper's has 750 epochs
}
# What awd keeps: words, values between layers, recurrent weights; and how it holds outputs and their changes small.
KEEP_WORDS, KEEP_INPUT, KEEP_BETWEEN, KEEP_OUTPUT, KEEP_WEIGHTS = 0.9, 0.6, 0.75, 0.6, 0.5
ALPHA, BETA, WEIGHT_DECAY = 2.0, 1.0, 1.2e-6
PATIENCE, LATEST = 5, 0.6  # after so many epochs without a better one, or this share of all, weights are averaged
BATCH_SIZE = 20
BLOCK = 10  # windows a launch: on a GPU their training steps are one CUDA graph


class Texts(NamedTuple):
    train: Tensor  # ids, as the others
    valid: Tensor
    test: Tensor
    vocabulary: int  # how many different ids there are


# The networks: from ids (N, T) to what the softmax reads, (N * T, H) or (N, T, H) -


def build(config: Config, vocabulary: int) -> tuple[tl.Network, tl.nn.LinearCrossEntropyLoss]:
    """The original's: cells without a forget bias, whose biases begin at 0, and a softmax whose bias does not."""
    if config.hidden:
        return build_awd(config, vocabulary)
    uniform = tl.initializers.random_uniform(-config.init_scale, config.init_scale)
    table = tl.initializers.random_uniform(-0.1, 0.1) if config.tied else uniform
    net = tl.layers.InputLayer((None, None), torch.int64, name="ids")
    net = tl.layers.EmbeddingInputlayer(net, vocabulary, config.size, E_init=table, name="embedding_layer")
    # What enters each cell is dropped, and what leaves the last one. The two cells are one layer, so that cuDNN runs
    # the second one's steps beside the first one's.
    net = tl.layers.RNNLayer(
        net,
        cell_fn=tl.layers.BasicLSTMCell,
        cell_init_args={"forget_bias": 0.0},
        n_hidden=config.size,
        n_layer=2,
        initializer=uniform,
        dropout=(config.keep, 1.0),
        return_seq_2d=True,
        name="basic_lstm_layer",
    )
    net = tl.layers.DropoutLayer(net, keep=config.keep, name="drop")
    softmax = tl.nn.LinearCrossEntropyLoss(config.size, vocabulary, reduction="sum")
    if config.tied:
        softmax.weight = net.embedding_layer.embeddings
    else:
        for p in softmax.parameters():  # the bias, too
            uniform(p)
    return net, softmax


def build_awd(config: Config, vocabulary: int) -> tuple[tl.Network, tl.nn.LinearCrossEntropyLoss]:
    """Section 4 of Merity et al. Two outputs: those of the last cell, whole and dropped."""
    uniform = tl.initializers.random_uniform
    ids = tl.layers.InputLayer((None, None), torch.int64, name="ids")
    table = uniform(-config.init_scale, config.init_scale)
    net = tl.layers.EmbeddingInputlayer(
        ids, vocabulary, config.size, table, keep_words=KEEP_WORDS, name="embedding_layer"
    )
    for i, size in enumerate((config.hidden, config.hidden, config.size)):
        net = tl.layers.LockedDropoutLayer(net, keep=KEEP_BETWEEN if i else KEEP_INPUT, name=f"drop{i}")
        net = tl.layers.RNNLayer(
            net,
            cell_fn=tl.layers.WeightDropLSTMCell,
            cell_init_args={"keep": KEEP_WEIGHTS, "forget_bias": 0.0},
            n_hidden=size,
            initializer=uniform(-(config.hidden**-0.5), config.hidden**-0.5),
            name=f"lstm{i}",
        )
    softmax = tl.nn.LinearCrossEntropyLoss(config.size, vocabulary, reduction="sum")
    softmax.weight = net.embedding_layer.embeddings
    return tl.layers.join(net, tl.layers.LockedDropoutLayer(net, keep=KEEP_OUTPUT, name="drop")), softmax


class Cost:
    """What a window costs, in the model's scale; ``total`` adds up the plain cross-entropy of all words."""

    def __init__(self, softmax: nn.Module, config: Config, device: str):
        self.softmax, self.tied = softmax, config.tied
        self.total = torch.zeros((), dtype=torch.float64, device=device)

    def __call__(self, hidden: Tensor | tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        if isinstance(hidden, Tensor):
            return self.cross_entropy(hidden, targets)
        whole, dropped = hidden  # awd's: large outputs cost something, and so do large steps from one to the next
        changes = whole[:, 1:] - whole[:, :-1]
        penalty = ALPHA * dropped.square().mean() + BETA * changes.square().mean()
        return self.cross_entropy(dropped.flatten(0, 1), targets) + penalty

    def cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        loss = self.softmax(hidden, targets.flatten())
        self.total += loss.detach()
        return loss / (targets.numel() if self.tied else len(targets))

    def perplexity(self, n_words: int) -> float:
        """Of the ``n_words`` words since ``total`` was 0; waits for the device."""
        mean = self.total.item() / n_words
        return math.exp(mean) if mean < 700 else math.inf

    def state_dict(self) -> dict[str, Tensor]:
        return {"total": self.total}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        self.total.copy_(state_dict["total"])


class Best:
    """The weights of the epoch that was best, beside those that train on."""

    def __init__(self, params: list[nn.Parameter]):
        self.params, self.held = params, []

    def keep(self) -> None:
        self.held = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def put_back(self) -> None:
        for p, held in zip(self.params, self.held):
            p.copy_(held)

    def state_dict(self) -> dict[str, Any]:
        return {"held": self.held}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.held = [held.to(p.device) for held, p in zip(state_dict["held"], self.params)]


def rate(config: Config, epoch: int) -> float:
    """The original's learning rate; epochs count from 0."""
    return config.lr * config.decay ** max(epoch - config.n_full, 0)


# Training and measuring ----------------------------------------------------------


@torch.no_grad()
def perplexity(net: tl.Network, cost: Cost, ids: Tensor, batch_size: int = 1, num_steps: int = 1) -> float:
    """Exact, in windows with carried state. The sizes say which words the original leaves out: with 1 and 1, none."""
    carry = tl.Carry(net).eval()
    rows = ids[: len(ids) // batch_size * batch_size].view(batch_size, -1)
    n_columns = (rows.shape[1] - 1) // num_steps * num_steps
    length = max(1, 8000 // batch_size)  # how it is cut into windows changes nothing
    cost.total.zero_()
    for x, y in zip(rows[:, :n_columns].split(length, 1), rows[:, 1 : n_columns + 1].split(length, 1)):
        cost(carry(x), y)
    net.train()
    return cost.perplexity(batch_size * n_columns)


def windows(ids: Tensor, batch_size: int, num_steps: int) -> tuple[Tensor, Tensor]:
    """All of an epoch's batches below each other: ``(n_windows * batch_size, num_steps)`` twice."""
    batches = [*tl.iterate.ptb_iterator(ids, batch_size, num_steps)]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def launches(
    ids: Tensor, batch_size: int, config: Config, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch's batches, `BLOCK` windows at a time; awd's are of random length, so that no word is always the last.

    The paper draws a length for each window: near 70, and near 35 for one in twenty. A captured step has its length
    built in. So here a length is drawn for each launch, and is one of six.
    """
    if not config.hidden:
        x, y = windows(ids, batch_size, config.num_steps)
        yield from zip(x.split(BLOCK * batch_size), y.split(BLOCK * batch_size))
        return
    rows, at = ids[: len(ids) // batch_size * batch_size].view(batch_size, -1), 0
    while True:
        chance, normal = torch.rand((), generator=generator), torch.randn((), generator=generator)
        length = config.num_steps + 5 * round(float(normal.clamp(-2, 2))) if chance < 0.95 else config.num_steps // 2
        n = min(BLOCK, (rows.shape[1] - 1 - at) // length)
        if n < 1:
            return
        n = BLOCK if n == BLOCK else 1  # no more shapes than need be
        cut = (rows[:, at + shift : at + shift + n * length].view(batch_size, n, length) for shift in (0, 1))
        x, y = (part.transpose(0, 1).reshape(n * batch_size, length) for part in cut)
        yield x, y
        at += n * length


def counted(data: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """With each batch the number of words up to its end."""
    done = 0
    for x, y in data:
        done += x.numel()
        yield done, x, y


def run_epoch(
    step: tl.TrainStep, run: tl.Resumable, carry: tl.Carry, cost: Cost, data: Iterable[tuple[Tensor, Tensor]],
    batch_size: int, n_words: int, num_steps: int, average: tl.utils.WeightAverage | None = None,
) -> tuple[float, float]:  # fmt: skip
    """One pass: perplexity and words a second. Ten times it is told how it goes, as the original tells it."""
    started, n_seen, done, group = time.perf_counter(), 0, 0, step.optimizer.param_groups[0]
    lr, next_report, tenth = group["lr"], 10 * batch_size * num_steps, max(1, n_words // 10)
    cost.total.zero_()
    carry.reset()
    for done, x, y in run.steps(counted(data)):
        group["lr"] = lr * x.shape[1] / num_steps  # a longer window takes a longer step
        step.sweep(x, y, batch_size=batch_size)
        if average:  # it has begun
            average.update()
        n_seen += x.numel()  # not the words before a resumed run's first step
        if done >= next_report:
            next_report = (done // tenth + 1) * tenth
            now, speed = cost.perplexity(done), n_seen / (time.perf_counter() - started)
            tqdm.write(f"{done / n_words:.3f} perplexity: {now:.3f} speed: {speed:.0f} wps")
    group["lr"] = lr
    return cost.perplexity(done), n_seen / (time.perf_counter() - started)


def run_model(name: str, config: Config, data: Texts, args: argparse.Namespace) -> dict[str, float]:
    batch_size = args.batch_size
    check(data, batch_size, config.num_steps)
    tl.utils.set_seed(args.seed)
    net, softmax = build(config, data.vocabulary)
    net.to(args.device)
    softmax.to(args.device)
    carry, cost = tl.Carry(net), Cost(softmax, config, args.device)
    params = [*dict.fromkeys([*net.parameters(), *softmax.parameters()])]  # a tied weight once
    optimizer = torch.optim.SGD(params, lr=config.lr, weight_decay=WEIGHT_DECAY if config.hidden else 0.0)
    autocast = torch.bfloat16 if args.precision == "bf16" else None
    step = tl.TrainStep(carry, optimizer, cost, clip_norm=config.clip, autocast=autocast)
    best, average = Best(params), tl.utils.WeightAverage(params)
    history: dict[str, list[float]] = {"epoch": [], "seconds": [], "train_perplexity": [], "valid_perplexity": []}
    net.print_params(False)
    print(f"  {sum(p.numel() for p in params):,} parameters with the softmax")

    carry.begin(data.train[:batch_size, None])  # its state is part of a checkpoint
    n_words = (len(data.train) // batch_size - 1) // config.num_steps * config.num_steps * batch_size
    parts: Any = {"model": carry, "optimizer": optimizer, "softmax": softmax, "best": best, "average": average}
    saved = {"resume": args.resume, "every_seconds": args.checkpoint_seconds, "extra": history}
    run = tl.Resumable(args.out / f"{name}.ckpt", **parts, cost=cost, **saved)
    batches: list[tuple[Tensor, Tensor]] = []
    started = time.perf_counter()
    with run:
        bar = tqdm(run.epochs(config.n_epoch), name, initial=run.epoch, total=config.n_epoch, disable=None)
        for epoch in bar:
            epoch_started = time.perf_counter()
            group = optimizer.param_groups[0]
            if config.hidden or not config.tied:
                group["lr"] = rate(config, epoch - 1)
            tqdm.write(f"Epoch: {epoch}/{config.n_epoch} Learning rate: {group['lr']:.3f}")
            if config.hidden or not batches:  # awd's are others in each epoch
                draw = torch.Generator().manual_seed(args.seed * 1000 + epoch)
                batches = [*launches(data.train, batch_size, config, draw)]
            train, speed = run_epoch(step, run, carry, cost, batches, batch_size, n_words, config.num_steps, average)
            before = history["valid_perplexity"]
            with average.used():  # if it has begun
                valid = perplexity(net, cost, data.valid, batch_size, config.num_steps)
                if better := valid < min(before, default=math.inf):
                    best.keep()
            if config.hidden:
                stuck = valid > min(before[:-PATIENCE], default=math.inf)
                if not average and (stuck or epoch >= LATEST * config.n_epoch):
                    average.update()
            elif config.tied and not better:
                group["lr"] /= 4
            for key, value in zip(history, (epoch, time.perf_counter() - epoch_started, train, valid)):
                history[key].append(value)
            tqdm.write(f"Epoch: {epoch}/{config.n_epoch} Train Perplexity: {train:.3f} ({speed:.0f} wps)")
            tqdm.write(f"Epoch: {epoch}/{config.n_epoch} Valid Perplexity: {valid:.3f}")
            if args.minutes is not None and time.perf_counter() - started > 60 * args.minutes:
                run.stop()

    if config.tied:
        best.put_back()  # the original tests the weights of the last epoch, and so do its models here
    now = time.perf_counter()
    test = perplexity(net, cost, data.test)
    print(f"Test Perplexity: {test:.3f} took {time.perf_counter() - now:.2f}s")
    curves = {key: values for key, values in history.items() if key != "seconds"}
    tl.visualize.curves(curves, name=args.out / f"{name}_curves.png", log=True)
    tl.files.save_npz(nn.ModuleDict({"network": net, "softmax": softmax}), name=args.out / f"{name}.npz")
    valid = history["valid_perplexity"]
    return {
        "test_perplexity": test,
        "valid_perplexity": min(valid) if config.tied else valid[-1],
        "epochs": len(valid),
        "seconds": sum(history["seconds"]),
    }


# The texts -----------------------------------------------------------------------


def load(args: argparse.Namespace) -> Texts:
    """Three texts as ids, all of them on the device, once, and the number of different ids."""
    if args.smoke:
        *parts, vocabulary = tl.files.load_docstrings_splits(vocabulary_size=1000)
        parts = [part[:n] for part, n in zip(parts, (8000, 1500, 1500))]
    elif args.data == "docstrings":
        *parts, vocabulary = tl.files.load_docstrings_splits()
    else:
        *parts, vocabulary = tl.files.load_ptb_dataset(args.data)
    train, valid, test = (torch.as_tensor(part, dtype=torch.int64, device=args.device) for part in parts)
    return Texts(train, valid, test, int(vocabulary))


def check(data: Texts, batch_size: int, num_steps: int) -> None:
    """Every text must fill one window."""
    needed = batch_size * (num_steps + 1)
    for part, ids, least in zip(("training", "validation", "test"), data[:3], (needed, needed, 2)):
        if len(ids) < least:
            raise SystemExit(
                f"the {part} text has {len(ids)} words, and a window of {batch_size} x {num_steps} words and their "
                f"next ones takes {least}; give a longer text or a smaller --batch-size"
            )


def chosen(name: str, args: argparse.Namespace) -> Config:
    """The model's configuration as the flags change it."""
    config = MODELS[name]
    if args.smoke:  # the same with small cells
        config = config._replace(size=min(config.size // 10, 40), hidden=config.hidden // 25, n_epoch=2)
    return config._replace(n_epoch=args.epochs or config.n_epoch, lr=args.lr or config.lr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--all", action="store_true", help="small, medium and large, one after the other")
    parser.add_argument("--epochs", type=int, help="default: the model's")
    parser.add_argument("--minutes", type=float, help="stop a model after the epoch in which this much time has passed")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--lr", type=float, help="default: the model's")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="tf32", help="of products on a GPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--data",
        help="a folder with ptb.train.txt, ptb.valid.txt, ptb.test.txt, or these with .gz; the word docstrings stands "
        "for the docstrings on this machine",
    )
    parser.add_argument("--out", type=Path, default=Path("out/ptb"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--smoke", action="store_true", help="small networks, two epochs of docstrings: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.smoke:  # cells so small gain nothing from threads, which wait for each other where others are busy, too
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest" if args.precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = args.precision != "fp32"

    started, results = time.perf_counter(), {}
    data = load(args)
    n_train, n_valid, n_test = map(len, data[:3])
    print(f"{n_train:,} words to train on, {n_valid:,} and {n_test:,} to measure, {data.vocabulary:,} different")
    for name in ("small", "medium", "large") if args.all else [args.model]:
        results[name] = run_model(name, chosen(name, args), data, args)
    print(f"Total time: {time.perf_counter() - started:.1f}s; pictures, weights and checkpoints are in {args.out}")
    for name, result in results.items():
        print(f"result: {name} " + " ".join(f"{key}={value:.5g}" for key, value in result.items()))


if __name__ == "__main__":
    main()
