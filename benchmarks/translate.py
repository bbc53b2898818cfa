"""Translation: a training step beside the same model by hand, sampled beside full softmaxes, and beam search.

python benchmarks/translate.py                 # sizes that suit the device: whole ones on a GPU, small ones on a CPU
python benchmarks/translate.py --only softmax  # or steps, or decoding
python benchmarks/translate.py --whole         # the whole sizes on a CPU, too: hours

Contenders take turns, and a time is the middle one of the rounds. On a CPU with one thread it is the thread's own time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchlayer as tl
from torchlayer.kernels import compiled
from torchlayer.layers import CudnnCompatibleGRUCell, EmbeddingAttentionSeq2Seq
from torchlayer.layers._word_losses import sampled_at_each_step, sampled_at_once

Step = Callable[[], Any]


class Sizes(NamedTuple):
    vocabulary: int
    size: int
    embedding: int
    layers: int
    batch: int
    source: int  # words of a sentence
    target: int


# name: (whole, small). The recipe is the tutorial's multi30k, the page is TensorLayer's tutorial with its third bucket.
CASES = {
    "recipe": (Sizes(8000, 320, 256, 1, 64, 13, 16), Sizes(4000, 128, 128, 1, 32, 13, 16)),
    "page": (Sizes(40_000, 1024, 1024, 3, 64, 20, 25), Sizes(8000, 128, 128, 3, 16, 20, 25)),
}
SAMPLES = 512
KEEP = 0.6


class ByHand(nn.Module):
    """The recipe's model as one writes it in plain PyTorch: ``nn.GRU``, cells in a loop, all logits at once."""

    def __init__(self, s: Sizes, two_ways: bool, keep: float, tied: bool):
        super().__init__()
        self.keep, self.two_ways = keep, two_ways
        width = s.size * (2 if two_ways else 1)
        self.source = nn.Embedding(s.vocabulary, s.embedding)
        self.target = nn.Embedding(s.vocabulary, s.embedding)
        self.encoder = nn.GRU(s.embedding, s.size, s.layers, batch_first=True, bidirectional=two_ways)
        self.bridge = nn.Linear(2 * s.size, s.size) if two_ways else None
        self.enter = nn.Linear(s.embedding + width, s.size)
        self.cells = nn.ModuleList(nn.GRUCell(s.size, s.size) for _ in range(s.layers))
        self.keys = nn.Linear(width, s.size, bias=False)
        self.query = nn.Linear(s.layers * s.size, s.size)
        self.score = nn.Linear(s.size, 1, bias=False)
        self.leave = nn.Linear(s.size + width, s.embedding if tied else s.size)
        self.softmax = nn.Linear(s.embedding if tied else s.size, s.vocabulary)
        if tied:
            self.softmax.weight = self.target.weight

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, ends = self.encoder(self._drop(self.source(source)))
        memory = self._drop(memory)
        states = [*ends] if self.bridge is None else [torch.tanh(self.bridge(torch.cat([ends[0], ends[1]], 1)))]
        keys = self.keys(memory)
        words = self._drop(self.target(F.pad(target[:, :-1], (1, 0), value=1)))
        context = memory.new_zeros(len(source), memory.shape[2])
        outputs = []
        for word in words.unbind(1):
            y = self.enter(torch.cat([word, context], 1))
            for i, cell in enumerate(self.cells):
                y = states[i] = cell(y, states[i])
            query = self.query(torch.cat(states, 1))[:, None]
            weights = self.score(torch.tanh(keys + query)).softmax(1)  # (N, I, 1)
            context = (weights * memory).sum(1)
            outputs.append(torch.cat([y, context], 1))
        logits = self.softmax(self._drop(torch.tanh(self.leave(torch.stack(outputs, 1)))))
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=0)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, 1 - self.keep, self.training)


def same_function(s: Sizes, two_ways: bool, keep: float, tied: bool, **options: Any) -> EmbeddingAttentionSeq2Seq:
    """Ours, the same function as :class:`ByHand`."""
    return EmbeddingAttentionSeq2Seq(
        s.vocabulary, s.vocabulary, s.size, s.layers, embedding_size=s.embedding, bidirectional=two_ways, keep=keep,
        tie_embeddings=tied, cell_fn=CudnnCompatibleGRUCell, reverse_source=False, output_act=torch.tanh,
        **{"num_samples": 0, "projection": True, **options},
    )  # fmt: skip


@torch.no_grad()
def copy_weights(ours: EmbeddingAttentionSeq2Seq, hand: ByHand) -> None:
    """Give the model by hand the weights of ours."""
    encoder, decoder, attention = ours.encoder, ours.decoder, ours.decoder.attention
    ends = [("", encoder.fw)] + ([("_reverse", encoder.bw)] if encoder.bw is not None else [])
    for suffix, stack in ends:
        for i, cell in enumerate(stack.cells()):
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(hand.encoder, f"{kind}_l{i}{suffix}").copy_(getattr(cell, kind))
    for mine, cell in zip(hand.cells, decoder.cells.cells()):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(mine, kind).copy_(getattr(cell, kind))
    pairs: list[tuple[nn.Linear, Tensor, Tensor | None]] = [
        (hand.enter, decoder.W_input, decoder.b_input),
        (hand.leave, decoder.W_output, decoder.b_output),
        (hand.keys, attention.W_memory, None),
        (hand.query, attention.W_query, attention.b_query),
        (hand.score, attention.v[:, None], None),
    ]
    if hand.bridge is not None:
        pairs.append((hand.bridge, encoder.bridges[0], encoder.bridge_biases[0]))
    for linear, matrix, bias in pairs:
        linear.weight.copy_(matrix.T)
        if bias is not None:
            linear.bias.copy_(bias)
    hand.source.weight.copy_(ours.source_embeddings)
    hand.target.weight.copy_(ours.target_embeddings)
    hand.softmax.weight.copy_(ours.proj_w)
    hand.softmax.bias.copy_(ours.proj_b)


def batch(s: Sizes, device: str) -> tuple[Tensor, Tensor]:
    """Sentences of random words; in the texts, too, there is hardly any padding in a batch."""
    generator = torch.Generator().manual_seed(0)
    shapes = (s.batch, s.source), (s.batch, s.target)
    source, target = (torch.randint(4, s.vocabulary, shape, generator=generator).to(device) for shape in shapes)
    return source, target


def middle(contenders: dict[str, Step], device: str, n_rounds: int) -> dict[str, float]:
    """Seconds of each, the middle of rounds in which all take turns, after three rounds for warming up."""
    own = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if own else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(n_rounds + 4):
        for name, step in contenders.items():
            _wait(device)
            started = clock()
            step()
            _wait(device)
            if i >= 4:
                times[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def trained(model: nn.Module, call: Callable[..., Tensor], data: tuple[Tensor, ...], captured: bool) -> Step:
    """A whole step with Adam: ours through ``TrainStep``, the other as it is written everywhere."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    if captured:
        step = tl.TrainStep(call, optimizer, clip_norm=1.0)
        return lambda: step(data)

    def by_hand() -> None:
        optimizer.zero_grad()
        call(*data).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return by_hand


def compare_steps(args: argparse.Namespace) -> None:
    """Training steps of the two cases, beside each other and beside the goals."""
    for name, sizes in CASES.items():
        s, is_page = sizes[0 if args.whole else 1], name == "page"
        data = batch(s, args.device)
        torch.manual_seed(0)
        shape = {"two_ways": not is_page, "keep": 1.0 if is_page else KEEP, "tied": not is_page}
        contenders: dict[str, Step] = {}

        def add(label: str, model: EmbeddingAttentionSeq2Seq) -> None:
            model.to(args.device)
            contenders[label] = trained(model, model.loss, data, captured=True)  # noqa: B023

        add("ours, full softmax", same_function(s, **shape))
        hand = ByHand(s, **shape).to(args.device)
        contenders["by hand, full softmax"] = trained(hand, hand, data, captured=False)
        if is_page:
            add("ours, 512 sampled, one set a step", same_function(s, **shape, num_samples=SAMPLES))
            add(
                "ours, 512 sampled, one set a batch", same_function(s, **shape, num_samples=SAMPLES, share_samples=True)
            )
            page = EmbeddingAttentionSeq2Seq(s.vocabulary, s.vocabulary, s.size, s.layers, num_samples=SAMPLES)
            add("ours as TensorLayer: its cells, sampled", page)
        seconds = middle(contenders, args.device, args.rounds)
        n_tokens = s.batch * (s.source + s.target)
        print(f"\n{name}: {s}\n\n| training step | ms | tokens/s | beside by hand |\n|---|---|---|---|")
        for label, value in seconds.items():
            ratio = seconds["by hand, full softmax"] / value
            print(f"| {label} | {1e3 * value:.1f} | {n_tokens / value:,.0f} | {ratio:.2f} x |")
        if is_page:
            ratio = seconds["ours, full softmax"] / seconds["ours, 512 sampled, one set a step"]
            print(f"\nfull / sampled: {ratio:.2f}; goal on a GPU, whole size: 2 at most, better 1.15")
            print(
                "goal of the sampled step on a GPU, whole size: 150 ms at most, better 12; TensorLayer's page: 18,200"
            )
        else:
            print("\ngoal on a GPU, whole size: 100,000 tokens/s at least, better 1,000,000")


def compare_softmaxes(args: argparse.Namespace) -> None:
    """The output layer alone, forward and backward, by the size of the vocabulary."""
    n, steps, d = (64, 25, 1024) if args.whole else (8, 25, 128)
    print(f"\n{n} sentences of {steps} words, {d} features; ms forward and backward\n")
    rows: dict[str, list[float]] = {}
    vocabularies = (10_000, 40_000, 200_000)
    for v in vocabularies:
        generator = torch.Generator().manual_seed(0)
        outputs = torch.randn(n, steps, d, generator=generator).to(args.device).requires_grad_()
        weight = (0.02 * torch.randn(v, d, generator=generator)).to(args.device).requires_grad_()
        bias = torch.zeros(v, device=args.device, requires_grad=True)
        labels = torch.randint(4, v, (n, steps), generator=generator).to(args.device)
        sampler = tl.kernels.log_uniform_sampler

        def backward(loss: Callable[[], Tensor], *, leaves: tuple[Tensor, ...] = (outputs, weight, bias)) -> Step:
            return lambda: torch.autograd.grad(loss().mean(), leaves)

        sampled = outputs, labels, weight, bias, SAMPLES, sampler
        contenders = {
            "512 sampled, one set a step": backward(lambda a=sampled: sampled_at_each_step(*a)),
            "512 sampled, one set a batch": backward(lambda a=sampled: sampled_at_once(*a)),
            "full, exact: linear_cross_entropy": backward(
                lambda o=outputs, w=weight, b=bias, y=labels: tl.kernels.linear_cross_entropy(o, w, y, b)
            ),
            "full, plain: all logits": backward(
                lambda o=outputs, w=weight, b=bias, y=labels: F.cross_entropy(
                    F.linear(o, w, b).flatten(0, 1), y.flatten()
                )
            ),
        }
        for label, value in middle(contenders, args.device, args.rounds).items():
            rows.setdefault(label, []).append(1e3 * value)
    print("| softmax | " + " | ".join(f"{v:,}" for v in vocabularies) + " |\n|---|" + "---|" * len(vocabularies))
    for label, values in rows.items():
        print(f"| {label} | " + " | ".join(f"{value:.1f}" for value in values) + " |")


def compare_decoding(args: argparse.Namespace) -> None:
    """1,000 sentences in batches of 100, to the end of a length: an untrained model ends nowhere."""
    s = CASES["recipe"][0 if args.whole else 1]
    torch.manual_seed(0)
    model = same_function(s, two_ways=True, keep=1.0, tied=True).to(args.device)
    source, _ = batch(s._replace(batch=100), args.device)
    print(f"\n1,000 sentences of {s.source} words into {s.target}, in batches of 100: {s}\n\n| beam | s |\n|---|---|")
    for beam in (1, 5):
        search = {
            f"{beam}": lambda beam=beam: [model.decode(source, max_length=s.target, beam=beam) for _ in range(10)]
        }
        print(f"| {beam} | {middle(search, args.device, max(1, args.rounds // 5))[f'{beam}']:.2f} |")
    print("\ngoal of beam 5 on a GPU, whole size: 20 s at most, better 0.7")


def main() -> None:
    """All three comparisons, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", choices=("steps", "softmax", "decoding"))
    parser.add_argument("--whole", action="store_true", help="the whole sizes, which a GPU always gets")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    args = parser.parse_args()
    args.whole |= args.device != "cpu"
    torch.set_num_threads(args.threads)
    where = torch.cuda.get_device_name() if args.device != "cpu" else f"{args.threads} of {os.cpu_count()} cores"
    print(f"torchlayer {tl.__version__}, torch {torch.__version__}, {where}, kernels: {compiled()}")
    compare = {"steps": compare_steps, "softmax": compare_softmaxes, "decoding": compare_decoding}
    for name in [args.only] if args.only else compare:
        compare[name](args)


if __name__ == "__main__":
    main()
