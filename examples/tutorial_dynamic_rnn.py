"""Sequences of different lengths in one batch: what a recurrent layer gives, remembers and ignores.

Reproduces  tutorial_dynamic_rnn.py of TensorLayer 1.3, its three parts and the fourth, which it left as a comment:
            lengths given, an initial state, lengths counted from the data, and the layer that does it all. Its last
            outputs were gathered from a transposed tensor, as its author suspected; here they are right. The fifth part
            is ours: the same network learns a task with lengths and without.
Expect      every claim is asserted, in float64; then a mean squared error below 0.01 with lengths, where guessing the
            mean scores 0.167.
Run         python examples/tutorial_dynamic_rnn.py
            It makes its own data; --data is not looked at.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import torchlayer as tl

N, T, D, H = 2, 10, 8, 64  # sequences, steps, numbers in a step, units


# What lengths mean ---------------------------------------------------------------


def batch() -> tuple[Tensor, Tensor]:
    """Two sequences of random numbers; the second ends after six steps, and zeros fill it up."""
    x = torch.randn(N, T, D, dtype=torch.float64)
    x[1, 6:] = 0
    return x, torch.tensor([10, 6])


def lengths_given(lstm: tl.layers.DynamicRNNLayer) -> None:
    """Part 1. Beyond its end a sequence gives zeros, and its state stays what it was there."""
    x, lengths = batch()
    y, state = lstm.step(x, lengths)
    assert y.shape == (N, T, H)
    assert not y[1, 6:].any(), "zeros beyond the length"
    assert torch.equal(state.h, torch.stack([y[0, 9], y[1, 5]])), "the state is that after the last step"
    alone, end = lstm.step(x[1:, :6])  # the second sequence without its filling
    torch.testing.assert_close(alone[0], y[1, :6])
    torch.testing.assert_close(end.c[0], state.c[1])
    noisy = x.clone()
    noisy[1, 6:] = 99.0  # what fills it up is never read
    assert torch.equal(lstm.step(noisy, lengths)[0], y)
    print(f"1. lengths {lengths.tolist()}: outputs {tuple(y.shape)}, y[1, 7] is {y[1, 7].abs().sum().item()}")


def initial_state(lstm: tl.layers.DynamicRNNLayer) -> None:
    """Part 2. Zero is where a layer begins by itself; any other state may be given, and one goes on from another."""
    x, lengths = batch()
    y, state = lstm.step(x, lengths)
    zero = tl.layers.initialize_rnn_state(state)
    assert torch.equal(lstm.step(x, lengths, state=zero)[0], y)
    first, held = lstm.step(x[:, :4], torch.tensor([4, 4]))
    second, end = lstm.step(x[:, 4:], torch.tensor([6, 2]), state=held)
    torch.testing.assert_close(torch.cat([first, second], 1), y)
    torch.testing.assert_close(end, state)
    print("2. a state of zeros is the beginning; four steps and then six are ten steps")


def lengths_counted() -> None:
    """Part 3. Lengths from the data, and each sequence's last output."""
    x, lengths = batch()
    assert torch.equal(tl.layers.retrieve_seq_length_op(x), lengths)
    hole = x.clone()
    hole[0, 3] = 0  # steps that are not all zero are counted, wherever they stand
    assert tl.layers.retrieve_seq_length_op(hole).tolist() == [9, 6]
    ids = torch.tensor([[7, 3, 5, 0], [2, 0, 0, 0]])
    assert tl.layers.retrieve_seq_length_op2(ids).tolist() == [3, 1]
    last = tl.layers.advanced_indexing_op(x, lengths)
    assert torch.equal(last, torch.stack([x[0, 9], x[1, 5]]))
    print(f"3. lengths of vectors {lengths.tolist()}, of ids [3, 1]; last steps {tuple(last.shape)}")


def layer_does_it_all() -> None:
    """Part 4. Ids, their vectors and their lengths as one network; only the last outputs."""
    ids = tl.layers.InputLayer((None, None), torch.int64, name="ids")
    lengths = tl.layers.LambdaLayer(ids, fn=tl.layers.retrieve_seq_length_op2, name="lengths")
    words = tl.layers.EmbeddingInputlayer(ids, vocabulary_size=20, embedding_size=D, name="words")
    settings = {"cell_fn": tl.layers.BasicLSTMCell, "n_hidden": H, "sequence_length": lengths}
    every: Any = tl.layers.DynamicRNNLayer(words, **settings, name="lstm")
    last: Any = tl.layers.DynamicRNNLayer(words, **settings, return_last=True, name="lstm_last")
    last.lstm_last.load_state_dict(every.lstm.state_dict())
    x = torch.tensor([[7, 3, 5, 1, 9], [2, 4, 0, 0, 0]])
    y = every(x)
    assert torch.equal(last(x), torch.stack([y[0, 4], y[1, 1]]))
    longer = torch.nn.functional.pad(x, (0, 3))  # three more zeros change nothing
    torch.testing.assert_close(last(longer), last(x))
    print(f"4. ids {tuple(x.shape)} -> outputs {tuple(y.shape)} -> last ones {tuple(last(x).shape)}")


# What they are good for: the adding problem --------------------------------------


def adding_problem(n: int, longest: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences of numbers, two of which are marked: their sum is sought. Hochreiter and Schmidhuber 1997, section 5.4.

    Here each has its own length, and is filled up with numbers like its own, none of them marked.
    """
    numbers = torch.rand(n, longest, generator=generator)
    lengths = torch.randint(4, longest + 1, (n,), generator=generator)
    places = torch.rand(n, longest, generator=generator)
    places[torch.arange(longest) >= lengths[:, None]] = -1
    marked = torch.zeros(n, longest).scatter_(1, places.topk(2, 1).indices, 1.0)
    return torch.stack([numbers, marked], 2), lengths, (numbers * marked).sum(1, keepdim=True)


def build() -> Any:  # a Network
    """Numbers ``(N, T, 2)`` and lengths ``(N,)`` to sums ``(N, 1)``."""
    x = tl.layers.InputLayer((None, None, 2), name="numbers")
    lengths = tl.layers.InputLayer((None,), torch.int64, name="lengths")
    net: Any = tl.layers.DynamicRNNLayer(
        x, cell_fn=tl.layers.BasicLSTMCell, n_hidden=H, sequence_length=lengths, return_last=True, name="lstm"
    )
    return tl.layers.DenseLayer(net, n_units=1, name="sum")


def train(name: str, args: argparse.Namespace) -> list[float]:
    """The mean squared error on sequences that training does not see, after each epoch."""
    tl.utils.set_seed(args.seed)
    net = build().to(args.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    step = tl.TrainStep(net, optimizer, tl.cost.mean_squared_error, clip_norm=1.0)
    draw = torch.Generator().manual_seed(args.seed)
    x, lengths, y = (t.to(args.device) for t in adding_problem(args.examples, args.longest, draw))
    unseen_x, unseen_lengths, unseen_y = (t.to(args.device) for t in adding_problem(1000, args.longest, draw))
    if name == "no lengths":  # every sequence is taken to be as long as the longest
        lengths, unseen_lengths = (torch.full_like(n, args.longest) for n in (lengths, unseen_lengths))
    history: dict[str, list[float]] = {"error": []}
    saved = {"resume": args.resume, "every_seconds": args.checkpoint_seconds, "extra": history}
    run = tl.Resumable(args.out / f"{name.replace(' ', '_')}.ckpt", model=net, optimizer=optimizer, **saved)
    with run:
        for epoch in tqdm(run.epochs(args.epochs), name, initial=run.epoch, total=args.epochs, disable=None):
            started, order = time.perf_counter(), torch.randperm(len(x), device=args.device)
            for rows in run.steps(order.split(args.batch_size)):
                step((x[rows], lengths[rows]), y[rows])
            with torch.no_grad():
                error = tl.cost.mean_squared_error(net(unseen_x, unseen_lengths), unseen_y).item()
            history["error"].append(error)
            took = time.perf_counter() - started
            tqdm.write(f"{name}: Epoch {epoch}/{args.epochs} mean squared error {error:.4f} took {took:.2f}s")
    return history["error"]


def draw(lstm: tl.layers.DynamicRNNLayer, errors: dict[str, list[float]], path: Path) -> None:
    """Above what each sequence of the first part gives, below how the two networks learn."""
    from matplotlib.figure import Figure

    x, lengths = batch()
    y = lstm(x, lengths).detach()
    figure = Figure(figsize=(7.4, 4.6), layout="constrained")
    panels = figure.subplot_mosaic([["0", "1"], ["errors", "errors"]], height_ratios=(1, 1.3))
    for row in range(N):
        axes = panels[str(row)]
        axes.imshow(y[row, :, :24].T.numpy(), cmap="RdBu", vmin=-0.3, vmax=0.3, aspect="auto", interpolation="nearest")
        axes.axvline(int(lengths[row]) - 0.5, color="black", linewidth=1.5)
        axes.set(title=f"length {lengths[row]}", xlabel="step", xticks=range(T))
    panels["0"].set_ylabel("unit")
    axes = panels["errors"]
    for (name, values), colour in zip(errors.items(), ("#0072B2", "#D55E00")):
        axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=name)
    axes.axhline(1 / 6, color="#444444", linestyle=":", label="always the mean")
    axes.set(xlabel="epoch", ylabel="mean squared error", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the fifth part")
    parser.add_argument("--data", help="not looked at: the data are drawn here")
    parser.add_argument("--examples", type=int, default=5000, help="sequences to learn from")
    parser.add_argument("--longest", type=int, default=40, help="steps of the longest sequence; 4 or more")
    parser.add_argument("--out", type=Path, default=Path("out/dynamic_rnn"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoints in --out")
    parser.add_argument("--smoke", action="store_true", help="two epochs of short sequences: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.longest < 4:
        raise SystemExit(f"--longest is 4 or more, got {args.longest}: two numbers of at least four are marked")
    if args.smoke:
        torch.set_num_threads(1)
        args.epochs, args.examples, args.longest = 2, 400, 10

    tl.utils.set_seed(args.seed)
    lstm: Any = tl.layers.DynamicRNNLayer(cell_fn=tl.layers.BasicLSTMCell, n_hidden=H, name="lstm").double()
    lengths_given(lstm)
    initial_state(lstm)
    lengths_counted()
    layer_does_it_all()
    errors = {name: train(name, args) for name in ("lengths", "no lengths")}
    draw(lstm, errors, args.out / "lengths.png")
    print(f"Checkpoints and picture are in {args.out}")
    with_lengths, without = (min(values) for values in errors.values())
    print(f"result: mse={with_lengths:.5f} mse_without_lengths={without:.5f} mse_of_the_mean={1 / 6:.5f}")


if __name__ == "__main__":
    main()
