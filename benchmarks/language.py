"""Language models: words a second of the tutorial's training step, beside the same model in an eager loop by hand.

python benchmarks/language.py                            # small; on a GPU medium and large as well
python benchmarks/language.py --only small --rounds 9

By hand is the loop that PyTorch's word_language_model example made known: nn.Embedding, nn.LSTM, nn.Linear, a state
cut off between windows, cross_entropy, clip_grad_norm_, and p.add_(p.grad, alpha=-lr). Both begin with the same
weights, and their first losses are compared. Contenders take turns, window after window of the same random words, of
which a speed does not depend; it is the middle one of the rounds, with the device idle at both ends of each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchlayer as tl

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import tutorial_ptb_lstm as tutorial  # pyright: ignore

VOCABULARY = 10_000
PRECISIONS = ("fp32", "tf32", "bf16")


class ByHand(nn.Module):
    """PyTorch's word_language_model without its dictionary."""

    def __init__(self, config: tutorial.Config):
        super().__init__()
        self.drop = nn.Dropout(1 - config.keep)
        self.encoder = nn.Embedding(VOCABULARY, config.size)
        self.rnn = nn.LSTM(config.size, config.size, 2, dropout=1 - config.keep)
        self.decoder = nn.Linear(config.size, VOCABULARY)

    def forward(self, ids: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, last = self.rnn(self.drop(self.encoder(ids)), state)
        return self.decoder(self.drop(hidden)), last

    @torch.no_grad()
    def take(self, net: tl.Network, softmax: nn.Module) -> None:
        """The weights of the tutorial's network, whose cells have one bias where torch's have two."""
        own = dict(self.rnn.named_parameters())
        for i in range(2):
            for kind in ("weight_ih", "weight_hh", "bias_ih"):
                own[f"{kind}_l{i}"].copy_(net.get_parameter(f"basic_lstm_layer.cells.{i}.{kind}"))
            own[f"bias_hh_l{i}"].zero_()
        self.encoder.weight.copy_(net.get_parameter("embedding_layer.embeddings"))
        self.decoder.weight.copy_(softmax.get_parameter("weight"))
        self.decoder.bias.copy_(softmax.get_parameter("bias"))


def contenders(config: tutorial.Config, x: Tensor, y: Tensor, autocast: bool) -> dict[str, Callable[[], float]]:
    """Each trains on all windows and returns the loss of a word in them."""
    device, n = x.device.type, tutorial.BATCH_SIZE
    net, softmax = tutorial.build(config, VOCABULARY)
    model = ByHand(config).to(device)
    model.take(net.to(device), softmax.to(device))
    carry, cost = tl.Carry(net), tutorial.Cost(softmax, config, device)
    params = [*net.parameters(), *softmax.parameters()]
    dtype = torch.bfloat16 if autocast else None
    step = tl.TrainStep(carry, torch.optim.SGD(params, lr=config.lr), cost, clip_norm=config.clip, autocast=dtype)

    def ours() -> float:
        cost.total.zero_()
        carry.reset()
        for data, targets in zip(x.split(tutorial.BLOCK * n), y.split(tutorial.BLOCK * n)):
            step.sweep(data, targets, batch_size=n)
        return cost.total.item() / y.numel()

    def by_hand() -> float:
        state, total = None, torch.zeros((), device=device)
        for data, targets in zip(x.split(n), y.split(n)):
            model.zero_grad()
            state = None if state is None else (state[0].detach(), state[1].detach())
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                logits, state = model(data.T, state)
                loss = F.cross_entropy(logits.view(-1, VOCABULARY), targets.T.reshape(-1))
            (loss * config.num_steps).backward()  # the original's loss is summed over a window's steps
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            with torch.no_grad():
                for p in model.parameters():
                    assert p.grad is not None
                    p.add_(p.grad, alpha=-config.lr)
            total += loss.detach()
        return total.item() / (len(x) // n)

    return {"ours, by `TrainStep.sweep`": ours, "eager, by hand": by_hand}


def measure(name: str, precision: str, device: str, n_windows: int, n_rounds: int) -> None:
    """Rows of the table."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    config = tutorial.MODELS[name]
    ids = torch.randint(VOCABULARY, (tutorial.BATCH_SIZE * (n_windows * config.num_steps + 1),), device=device)
    x, y = tutorial.windows(ids, tutorial.BATCH_SIZE, config.num_steps)
    whole = contenders(config, x, y, precision == "bf16")
    first = contenders(config._replace(keep=1.0), x[: tutorial.BATCH_SIZE], y[: tutorial.BATCH_SIZE], False)
    losses = [run() for run in first.values()]
    if max(losses) - min(losses) > 1e-3:
        raise SystemExit(f"{name}: the first losses differ: {losses}")
    seconds: dict[str, list[float]] = {who: [] for who in whole}
    for turn in range(n_rounds + 1):  # the first captures, and warms up
        for who, run in whole.items():
            started = time.perf_counter()
            run()  # waits for its loss
            if turn:
                seconds[who].append(time.perf_counter() - started)
    middle = {who: sorted(values)[len(values) // 2] for who, values in seconds.items()}
    for who, value in middle.items():
        speed = f"{y.numel() / value:,.0f} | {1e3 * value / n_windows:.3g} | {middle['eager, by hand'] / value:.2f}"
        print(f"| {name}, {precision} | {who} | {speed} |", flush=True)


def main() -> None:
    """A table of all models and precisions that suit the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=("small", "medium", "large"))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS)
    parser.add_argument("--windows", type=int, help="of a round; default: 200 on a GPU, 10 on a CPU")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    on_gpu = args.device.startswith("cuda")
    where = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"torchlayer {tl.__version__}, torch {torch.__version__}, {where}\n")
    print("| model | training step | words/s | ms a window | beside by hand |\n|---|---|---|---|---|")
    for name in args.only or (("small", "medium", "large") if on_gpu else ("small",)):
        for precision in args.precisions or (PRECISIONS if on_gpu else ("fp32",)):
            measure(name, precision, args.device, args.windows or (200 if on_gpu else 10), args.rounds)


if __name__ == "__main__":
    main()
