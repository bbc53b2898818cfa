"""One model on several processes: its trunk data-parallel, its vocabulary divided among them.

Reproduces  nothing of TensorLayer 1.3, which trained on one device. The network guesses a word from the four before it
            (Bengio et al. 2003). The trunk is a stack of torchlayer's layers under DDP or FSDP2 (--trunk), each process
            with its own part of a batch. The softmax is class-parallel: each process holds some rows of the table, all
            draw the same negatives, and loss and gradients are those of one process.
Expect      the same perplexity on any number of processes, see examples/README.md.
Run         torchrun --nproc-per-node 2 examples/tutorial_distributed.py --trunk fsdp2     # NCCL on GPUs, else gloo
            python examples/tutorial_distributed.py                                        # the same code, alone
            A checkpoint of two processes can be resumed on four, or on one.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel as DDP
from tqdm import tqdm

import torchlayer as tl

N_BEFORE = 4  # words that the next one is guessed from
LOOK = 10  # steps after which the processes agree on whether it is time to save


def build_trunk(n_words, size):
    net = tl.layers.InputLayer((None, N_BEFORE), dtype=torch.int64, name="input_layer")
    net = tl.layers.EmbeddingInputlayer(net, vocabulary_size=n_words, embedding_size=size, name="words")
    net = tl.layers.FlattenLayer(net, name="flatten")  # (N, 4 * size)
    net = tl.layers.DenseLayer(net, n_units=2 * size, act=torch.tanh, name="tanh1")
    return tl.layers.DenseLayer(net, n_units=size, name="hidden")


def parallel(net, kind, n_processes):
    """What computes the hidden layer: the network itself, or what makes it data-parallel."""
    if n_processes == 1:
        return net
    if kind == "ddp":
        return DDP(net)
    for layer in (net.words, net.tanh1, net.hidden):
        fully_shard(layer)  # each layer's weights are gathered when it runs, and let go of afterwards
    return fully_shard(net)


def load(args):
    """Ids of the training and the validation text, most frequent words first, and the size of the vocabulary."""
    if args.smoke:  # a language in which a word and its place decide the next, with some noise
        rng, text = np.random.default_rng(0), [1]
        for noise in rng.integers(0, 500, 3000):
            text.append(int(noise if noise % 5 == 0 else (7 * text[-1] + 3) % 500))
        return torch.tensor(text[:2500]), torch.tensor(text[2500:]), 500
    train, valid, _, n_words = tl.files.load_docstrings_splits(args.data, args.vocabulary)
    return torch.as_tensor(train).long(), torch.as_tensor(valid).long(), n_words


def batches(ids, batch_size, order=None):
    """Batches (N, 4), (N,) of every place in a text, in order or as shuffled; alike on all processes."""
    places = torch.arange(N_BEFORE, len(ids)) if order is None else order
    for chosen in places.split(batch_size):
        if len(chosen) == batch_size or order is None:
            yield ids[chosen[:, None] + torch.arange(-N_BEFORE, 0)], ids[chosen]


def agreed(value, here):
    """What the first process thinks: clocks differ, and all have to save together."""
    decided = torch.tensor(value, device=here.device)
    if here.count > 1:
        dist.broadcast(decided, 0)
    return bool(decided)


def mean_loss(model, loss, ids, args, here):
    """The exact loss over all classes; every process has all of the rows."""
    model.eval()
    loss.eval()
    total = torch.zeros((), device=here.device)
    with torch.no_grad():
        for x, y in batches(ids, args.batch_size):
            total += loss(model(x.to(here.device)), y.to(here.device)) * len(y)
    model.train()
    loss.train()
    return float(total) / (len(ids) - N_BEFORE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", choices=["ddp", "fsdp2"], default="ddp", help="how the trunk is data-parallel")
    parser.add_argument("--vocabulary", type=int, default=10_000, help="words, the others are <unk>")
    parser.add_argument("--size", type=int, default=128, help="of an embedding and of the hidden layer")
    parser.add_argument("--samples", type=int, default=512, help="negatives, shared by all rows and all processes")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=512, help="of all processes together")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--data", help="a folder to keep the docstrings' words in (default: the user's cache)")
    parser.add_argument("--out", type=Path, default=Path("out/distributed"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out, of any number")
    parser.add_argument("--smoke", action="store_true", help="two epochs of a made-up language: does it run?")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.size, args.samples, args.batch_size, args.lr = 2, 32, 64, 100, 1e-2
    with tl.distributed.process_group(device=args.device) as here:
        run(args, here)


def run(args, here):
    if args.batch_size % here.count:
        raise SystemExit(f"--batch-size {args.batch_size} cannot be divided among {here.count} processes")
    args.out.mkdir(parents=True, exist_ok=True)
    train, valid, n_words = load(args)
    tl.utils.set_seed(args.seed)  # alike on all processes: they begin with one trunk, and visit one order
    net = build_trunk(n_words, args.size).to(here.device)
    loss = tl.distributed.ClassParallelSampledSoftmaxLoss(args.size, n_words, args.samples, device=here.device)
    model = parallel(net, args.trunk, here.count)
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=args.lr)
    orders = torch.Generator().manual_seed(args.seed)
    parts = {"model": net, "loss": loss, "optimizer": optimizer}
    n_steps = (len(train) - N_BEFORE) // args.batch_size
    checkpoint, done, saved_at = args.out / "run.ckpt", 0, time.monotonic()
    if args.resume and checkpoint.exists():
        position = tl.distributed.restore(tl.checkpoint.load(checkpoint), **parts)
        if position["of"] != n_steps:
            was = f"{position['of']} steps an epoch, and this one has {n_steps}"
            raise SystemExit(f"the run in {checkpoint} has {was}; go on with its text and its --batch-size")
        done = position["done"]
    print(
        f"process {here.rank} of {here.count} on {here.device}: classes {loss.classes.start} to {loss.classes.stop - 1}"
    )

    share = args.batch_size // here.count
    own = slice(here.rank * share, (here.rank + 1) * share)
    for epoch in range(1, args.epochs + 1):
        order = N_BEFORE + torch.randperm(len(train) - N_BEFORE, generator=orders)  # of the epochs that are done, too
        if done >= epoch * n_steps:
            continue
        first = done % n_steps
        left = batches(train, args.batch_size, order[first * args.batch_size :])
        for x, y in tqdm(left, initial=first, total=n_steps, disable=here.rank > 0 or None):
            hidden = model(x[own].to(here.device))  # (N / processes, size)
            cost = loss(tl.distributed.gather_rows(hidden), y.to(here.device))  # the loss of the whole batch
            optimizer.zero_grad()
            cost.backward()
            optimizer.step()
            done += 1
            is_over = done == args.epochs * n_steps
            late = time.monotonic() - saved_at >= args.checkpoint_seconds
            if is_over or (done % LOOK == 0 and agreed(late, here)):
                tl.distributed.save(checkpoint, **parts, position={"done": done, "of": n_steps})
                saved_at = time.monotonic()
        perplexity = math.exp(mean_loss(model, loss, valid, args, here))
        if here.rank == 0:
            tqdm.write(f"Epoch {epoch} of {args.epochs}   train loss: {cost.item():f}   perplexity: {perplexity:f}")

    perplexity = math.exp(mean_loss(model, loss, valid, args, here))
    if here.rank == 0:
        print(f"result: perplexity={perplexity:.4f}")


if __name__ == "__main__":
    main()
