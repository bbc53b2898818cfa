"""Text generation: a language model of words learns a book, and writes.

Reproduces  tutorial_generate_text.py of TensorLayer 1.3, both of its programs. --model original has its two cells of
            200 that read 4 words at a time, its rates and its dropout; but the last tenth of the text is held out, and
            words that occur once are one word, _UNK. --model long is ours: windows of 35 words, a tied softmax, and
            what Merity et al. 2017 (arXiv:1708.02182) drop. --embedding FILE begins with restored word vectors.
Expect      the training perplexity falls far below 100, that of the held-out text does not: see examples/README.md.
Run         python examples/tutorial_generate_text.py --model long [--data nietzsche.txt]
            --data is any text, or a folder with nietzsche.txt or nietzsche.txt.gz; without it that is looked for in
            $TORCHLAYER_DATA, and else the docstrings on this machine are read.
            python examples/tutorial_generate_text.py --model long --resume --words 500    # when it is trained: writes
"""

import argparse
import math
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import torchlayer as tl


class Config(NamedTuple):
    size: int  # of the cells and of the embedding
    num_steps: int  # of a window
    n_epoch: int
    lr: float
    clip: float  # of the norm of the whole gradient
    keep: float  # of what enters a cell and what leaves the last
    n_full: int = 0  # after so many epochs and one, the rate decays
    decay: float = 1.0
    tied: bool = False  # and regularised; its loss is a mean over all words, the original's a sum over a window's steps


MODELS = {
    "original": Config(200, 4, 100, 1.0, 5.0, 0.8, 4, 0.9),
    "long": Config(256, 35, 30, 5e-3, 0.5, 0.5, 10, 0.85, True),
}
VOCABULARY, LEAST_COUNT = 10_000, 2
UNKNOWN = 0  # the id of _UNK
BLOCK = 20  # windows a launch: on a GPU their training steps are one CUDA graph
# How the next word is drawn: the original's four, the nucleus, and a lower temperature. They are rows of one batch.
WAYS = {
    "5": (5, 1.0, 1.0),  # top_k, top_p, temperature
    "10": (10, 1.0, 1.0),
    "50": (50, 1.0, 1.0),
    "100": (100, 1.0, 1.0),
    "nucleus 0.9": (VOCABULARY, 0.9, 1.0),
    "temperature 0.7": (VOCABULARY, 1.0, 0.7),
}


# The text ------------------------------------------------------------------------

CLEANING = [  # in the order of the original: 112,958 words of Nietzsche, 10,182 different
    ("\u2019", "'"), ("'s", " 's"), ("'ve", " have"), ("'t", " not"), ("'re", " are"), ("'d", ""), ("'ll", " will"),
    ("[\"\u201c\u201d)]", ""), (r"(?!'s\b)[^\w\s.,!]|_", " "), (r"([.,!])", r" \1 "),
]  # fmt: skip


def basic_clean_str(text: str) -> str:
    """Lower case; contractions in two words; of all marks only period, comma and exclamation mark, as words."""
    for pattern, new in CLEANING:
        text = re.sub(pattern, new, text)
    return text.lower()


def load_words(data: str | None) -> tuple[list[str], str]:
    """The words of the text and where they are from."""
    if data is None and (root := os.environ.get("TORCHLAYER_DATA")):
        folders = [Path(root), Path(root) / "nietzsche", Path(root) / "textgen"]
        data = next((str(f) for f in folders for n in ("nietzsche.txt", "nietzsche.txt.gz") if (f / n).is_file()), None)
    if data is None or data == "docstrings":
        return tl.files.load_docstrings_dataset(), "the docstrings on this machine"
    if Path(data).is_dir():
        text = tl.files.load_nietzsche_dataset(data)
    elif Path(data).is_file():
        text = tl.nlp.simple_read_words(data)
    else:
        raise SystemExit(f"{data} is no text, and no folder with nietzsche.txt in it")
    return basic_clean_str(text).split(), data


class Texts(NamedTuple):
    train: Tensor  # ids, as the others
    valid: Tensor
    test: Tensor
    word_to_id: dict[str, int]
    id_to_word: dict[int, str]


def split(words: list[str], source: str, config: Config, args: argparse.Namespace) -> Texts:
    """Nine tenths to train on; of the last tenth one half to choose the best epoch by, and the other to test it."""
    n_train, n_valid = len(words) * 9 // 10, len(words) // 20
    parts = words[:n_train], words[n_train : n_train + n_valid], words[n_train + n_valid :]
    needed = args.batch_size * (config.num_steps + 1)
    for part, what, least in zip(parts, ("training", "validation", "test"), (needed, 2, 2)):
        if len(part) < least:
            raise SystemExit(
                f"{source} has {len(words)} words, {len(part)} of them for {what}, which takes {least} or more; give a "
                "longer text, a smaller --batch-size or a smaller --num-steps"
            )
    n_kept = sum(n >= LEAST_COUNT for n in Counter(parts[0]).values())
    _, _, word_to_id, id_to_word = tl.nlp.build_words_dataset(parts[0], min(VOCABULARY, n_kept + 1), True, "_UNK")
    ids = [torch.tensor(tl.nlp.words_to_word_ids(p, word_to_id, "_UNK"), device=args.device) for p in parts]
    unknown = [f"{(part == UNKNOWN).double().mean().item():.1%}" for part in ids]
    print(
        f"{source}: {n_train:,} words to train on, {len(ids[1]):,} and {len(ids[2]):,} to measure; unknown: {unknown}"
    )
    return Texts(ids[0], ids[1], ids[2], word_to_id, id_to_word)


# Restoring an embedding: the original's first program ----------------------------


def restore_embedding(path: Path) -> tuple[list[str], np.ndarray]:
    """Words and their vectors out of what tutorial_word2vec_basic.py leaves: .npz beside .npy, .bin, or .txt."""
    if path.suffix != ".npz":
        return tl.files.load_word2vec_format(path, binary=path.suffix == ".bin")
    vectors = tl.files.load_npz(name=path)[0]
    words = tl.files.load_npy_to_any(name=path.with_suffix(".npy"))["reverse_dictionary"]
    if missing := [i for i in range(len(vectors)) if i not in words]:
        raise SystemExit(f"{path.with_suffix('.npy')} has no word for id {missing[0]} of the {len(vectors)} in {path}")
    return [words[i] for i in range(len(vectors))], vectors


def look_up(words: list[str], vectors: np.ndarray) -> None:
    """A network of one layer, which is the table."""
    ids = tl.layers.InputLayer((None,), torch.int64, name="ids")
    net = tl.layers.EmbeddingInputlayer(ids, *vectors.shape, E_init=vectors, name="embedding_layer")
    dictionary = {word: i for i, word in enumerate(words)}
    some = [word for word in ("hello", "i", "am", "a", "new", "student") if word in dictionary] or words[:5]
    for chosen in (some[:1], some[1:]):
        rows = torch.tensor([dictionary[word] for word in chosen], dtype=torch.int64)
        print(f"vectors of {chosen}: {tuple(net(rows).shape)}")


def begin_with(table: nn.Parameter, words: list[str], vectors: np.ndarray, word_to_id: dict[str, int]) -> None:
    """Give the words that have a vector that vector, on the scale of the others."""
    if vectors.shape[1] != table.shape[1]:
        raise SystemExit(f"--embedding has vectors of {vectors.shape[1]} numbers, the model of {table.shape[1]}")
    known = [(word_to_id[word], i) for i, word in enumerate(words) if word in word_to_id]
    scale = table.detach().std() / float(vectors.std())
    rows, of_file = (list(column) for column in zip(*known)) if known else ([], [])
    with torch.no_grad():
        table[rows] = torch.from_numpy(vectors[of_file]).to(table) * scale
    print(f"{len(known)} of {len(table)} words begin with a vector of the file")


# The network: from ids (N, T) to what the softmax reads (N * T, H) ---------------


def build(config: Config, vocabulary: int) -> tuple[tl.Network, tl.nn.LinearCrossEntropyLoss]:
    uniform = tl.initializers.random_uniform(-0.1, 0.1)
    dropout = tl.layers.LockedDropoutLayer if config.tied else tl.layers.DropoutLayer
    net = tl.layers.InputLayer((None, None), torch.int64, name="ids")
    keep_words = 0.9 if config.tied else 1.0
    net = tl.layers.EmbeddingInputlayer(
        net, vocabulary, config.size, uniform, keep_words=keep_words, name="embedding_layer"
    )
    for i in (1, 2):
        net = dropout(net, keep=config.keep, name=f"drop{i}")
        cell, settings = tl.layers.BasicLSTMCell, {"forget_bias": 0.0}
        if config.tied:
            cell, settings = tl.layers.WeightDropLSTMCell, {"keep": config.keep}
        net = tl.layers.RNNLayer(
            net, cell_fn=cell, cell_init_args=settings, n_hidden=config.size, initializer=uniform, name=f"lstm{i}"
        )
    net = dropout(net, keep=config.keep, name="drop3")
    net = tl.layers.ReshapeLayer(net, shape=(-1, config.size), name="flat")
    softmax = tl.nn.LinearCrossEntropyLoss(config.size, vocabulary, reduction="sum")
    for p in softmax.parameters():
        uniform(p)
    if config.tied:
        softmax.weight = net.embedding_layer.embeddings
    return net, softmax


class Cost:
    """What a window costs, in the model's scale; ``total`` adds up the plain cross-entropy of all words."""

    def __init__(self, softmax: nn.Module, config: Config, device: str):
        self.softmax, self.tied = softmax, config.tied
        self.total = torch.zeros((), dtype=torch.float64, device=device)

    def __call__(self, hidden: Tensor, targets: Tensor) -> Tensor:
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


@torch.no_grad()
def perplexity(net: tl.Network, cost: Cost, ids: Tensor) -> float:
    """Of every word that has one before it, in one stream with its state carried."""
    carry = tl.Carry(net).eval()
    cost.total.zero_()
    for x, y in zip(ids[None, :-1].split(8000, 1), ids[None, 1:].split(8000, 1)):
        cost(carry(x), y)
    net.train()
    return cost.perplexity(len(ids) - 1)


# Writing -------------------------------------------------------------------------


def writer(net: tl.Network, softmax: Any, device: str, rng: Any, ways=WAYS) -> tl.nlp.TextGenerator:
    """Words drawn in each of these ways side by side; never ``_UNK``, which is no word."""
    top_k, top_p, temperature = (torch.tensor(column, device=device) for column in zip(*ways.values()))
    unknown = torch.tensor([UNKNOWN], device=device)

    def scores(hidden: Tensor) -> Tensor:
        return F.linear(hidden, softmax.weight, softmax.bias).index_fill(1, unknown, -math.inf)

    return tl.nlp.TextGenerator(net, scores, top_k=top_k, top_p=top_p, temperature=temperature, rng=rng)


def write(generate: tl.nlp.TextGenerator, seed: list[str], data: Texts, n_words: int) -> str:
    """A line for each way; the only time that the words come to the host is when all are there."""
    ids = torch.tensor([tl.nlp.words_to_word_ids(seed, data.word_to_id, "_UNK")] * len(WAYS))
    texts = [tl.nlp.word_ids_to_words(row, data.id_to_word) for row in generate(ids, n_words).tolist()]
    return "\n".join(f"{way} : {' '.join([*seed, *text])}" for way, text in zip(WAYS, texts))


def writing_speed(net: tl.Network, softmax: tl.nn.LinearCrossEntropyLoss, device: str, n_words: int) -> float:
    """Words a second of one text, ten likeliest."""
    generate, ids = writer(net, softmax, device, 0, {"10": (10, 1.0, 1.0)}), torch.ones(1, 1, dtype=torch.int64)
    generate(ids, 4).tolist()  # on a GPU the step is captured here
    started = time.perf_counter()
    generate(ids, n_words).tolist()  # waits for the device
    return n_words / (time.perf_counter() - started)


@torch.no_grad()
def draw_choices(net: tl.Network, softmax: tl.nn.LinearCrossEntropyLoss, data: Texts, path: Path) -> None:
    """How much of the probability the likeliest words have, at some places of the test text, and where a cut falls."""
    from matplotlib.figure import Figure

    net.eval()
    ids = data.test[:400].tolist()
    logits = F.linear(net(data.test[None, :400]), softmax.weight, softmax.bias)
    net.train()
    shares = logits.softmax(1).sort(1, descending=True).values.cumsum(1).cpu()  # (400, V)
    order = (shares > 0.9).int().argmax(1).argsort().tolist()  # from the narrowest nucleus to the widest
    order = [at for at in order if UNKNOWN not in ids[max(0, at - 3) : at + 1]] or order
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xscale="log", xlim=(1, shares.shape[1]), ylim=(0, 1.02))
    axes.set(xlabel="the n likeliest next words", ylabel="have this share of the probability")
    for quantile, colour in zip((0.02, 0.25, 0.5, 0.75, 0.98), ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00")):
        at = order[int(quantile * (len(order) - 1))]
        before = " ".join(data.id_to_word[i] for i in ids[max(0, at - 3) : at + 1])
        n = int((shares[at] > 0.9).int().argmax()) + 1
        ranks = range(1, shares.shape[1] + 1)
        axes.plot(ranks, shares[at], color=colour, label=f"… {before} …: {n} of {len(ranks)}")
        axes.plot(n, shares[at, n - 1], "o", color=colour)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(10, color="grey", linestyle=":")
    axes.axhline(0.9, color="grey", linestyle="--")
    axes.text(10.4, 0.02, "top_k = 10")
    axes.text(12, 0.84, "top_p = 0.9")
    axes.legend(fontsize=8, loc="lower right", title="after these words, the nucleus", title_fontsize=8)
    figure.savefig(path, dpi=130)


# Training ------------------------------------------------------------------------


def windows(ids: Tensor, batch_size: int, num_steps: int) -> tuple[Tensor, Tensor]:
    """All of an epoch's batches below each other: ``(n_windows * batch_size, num_steps)`` twice."""
    batches = [*tl.iterate.ptb_iterator(ids, batch_size, num_steps)]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def train(config: Config, data: Texts, args: argparse.Namespace) -> dict[str, float]:
    """The loop. After each epoch the held-out text is measured; the best epoch's weights are those that are tested."""
    net, softmax = build(config, len(data.word_to_id))
    if args.embedding:
        restored = restore_embedding(args.embedding)
        look_up(*restored)
        begin_with(net.embedding_layer.embeddings, *restored, data.word_to_id)
    whole = nn.ModuleDict({"network": net, "softmax": softmax}).to(args.device)
    carry, cost = tl.Carry(net), Cost(softmax, config, args.device)
    draws = torch.Generator(args.device).manual_seed(args.seed)
    generate = writer(net, softmax, args.device, draws)
    optimizer: Any = torch.optim.SGD(whole.parameters(), lr=config.lr)
    if config.tied:
        optimizer = torch.optim.AdamW(whole.parameters(), lr=config.lr, weight_decay=1e-5)
    step = tl.TrainStep(carry, optimizer, cost, clip_norm=config.clip)
    net.print_params(False)
    print(f"  {sum(p.numel() for p in whole.parameters()):,} parameters with the softmax")

    carry.begin(data.train[: args.batch_size, None])  # its state is part of a checkpoint
    history: dict[str, Any] = {"epoch": [], "seconds": [], "train_perplexity": [], "valid_perplexity": [], "best": {}}
    parts: Any = {"model": carry, "optimizer": optimizer, "softmax": softmax, "cost": cost}
    saved = {"resume": args.resume, "every_seconds": args.checkpoint_seconds, "extra": history}
    run = tl.Resumable(args.out / f"{args.model}.ckpt", generators={"draws": draws}, **parts, **saved)
    x, y = windows(data.train, args.batch_size, config.num_steps)
    n, n_words = len(x) // args.batch_size, args.batch_size * config.num_steps  # windows, and words in one
    batches, started = [*zip(x.split(BLOCK * args.batch_size), y.split(BLOCK * args.batch_size))], time.perf_counter()
    with run:
        bar = tqdm(run.epochs(config.n_epoch), args.model, initial=run.epoch, total=config.n_epoch, disable=None)
        for epoch in bar:
            epoch_started, n_seen, next_report = time.perf_counter(), 0, 10
            optimizer.param_groups[0]["lr"] = lr = config.lr * config.decay ** max(epoch - 1 - config.n_full, 0)
            tqdm.write(f"Epoch: {epoch}/{config.n_epoch} Learning rate: {lr:.8f}")
            carry.reset()  # an epoch begins at a state of zero
            cost.total.zero_()
            for i, (xs, ys) in run.steps(enumerate(batches)):
                step.sweep(xs, ys, batch_size=args.batch_size)
                n_seen += xs.numel()  # not the words before a resumed run's first step
                done = i * BLOCK + len(xs) // args.batch_size
                if done >= next_report:
                    next_report = done + max(1, n // 10)
                    speed, now = n_seen / (time.perf_counter() - epoch_started), cost.perplexity(done * n_words)
                    tqdm.write(f"{done / n:.3f} perplexity: {now:.3f} speed: {speed:.0f} wps")
            trained = cost.perplexity(n * n_words)
            seconds = time.perf_counter() - epoch_started
            valid = perplexity(net, cost, data.valid)
            if valid < min(history["valid_perplexity"], default=math.inf):
                history["best"] = {key: value.detach().cpu().clone() for key, value in whole.state_dict().items()}
            for key, value in zip(history, (epoch, seconds, trained, valid)):
                history[key].append(value)
            tqdm.write(f"Epoch: {epoch}/{config.n_epoch} Train Perplexity: {trained:.3f} Valid Perplexity: {valid:.3f}")
            tqdm.write(write(generate, args.seed_words, data, args.words))
            if args.minutes is not None and time.perf_counter() - started > 60 * args.minutes:
                run.stop()

    whole.load_state_dict(history.pop("best"))
    test = perplexity(net, cost, data.test)
    print(f"Test Perplexity: {test:.3f}\nWritten by the best epoch's weights:")
    print(write(generate, args.seed_words, data, args.words))
    speed = writing_speed(net, softmax, args.device, 100 if args.smoke else 1000)
    tl.files.save_npz(whole, name=args.out / "model_generate_text.npz")
    tl.files.save_any_to_npy({"dictionary": data.word_to_id}, args.out / "model_generate_text.npy")
    tl.visualize.curves(history, name=args.out / f"{args.model}_curves.png", log=True)
    draw_choices(net, softmax, data, args.out / "choices.png")
    return {
        "train_perplexity": history["train_perplexity"][-1],
        "valid_perplexity": min(history["valid_perplexity"]),
        "test_perplexity": test,
        "epochs": len(history["epoch"]),
        "words_per_second": len(history["epoch"]) * n * n_words / sum(history["seconds"]),
        "written_per_second": speed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="original")
    parser.add_argument("--epochs", type=int, help="default: the model's")
    parser.add_argument("--minutes", type=float, help="stop after the epoch in which this much time has passed")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--num-steps", type=int, help="words of a window; default: the model's")
    parser.add_argument("--lr", type=float, help="default: the model's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", help="a text, a folder with nietzsche.txt, or the word docstrings")
    parser.add_argument("--embedding", type=Path, help="word vectors to begin with: .npz (beside .npy), .bin or .txt")
    parser.add_argument("--seed-words", default="it should be good", help="what the text that is written begins with")
    parser.add_argument("--words", type=int, default=100, help="to write in each way, after each epoch")
    parser.add_argument("--out", type=Path, default=Path("out/generate_text"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--smoke", action="store_true", help="a small network, two epochs of little text: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.seed_words = basic_clean_str(args.seed_words).split()
    if not args.seed_words:
        raise SystemExit("--seed-words has no words to go on from")
    config = MODELS[args.model]
    words, source = load_words(args.data)
    if args.smoke:  # cells so small gain nothing from threads
        torch.set_num_threads(1)
        words, config, args.words = words[:12_000], config._replace(size=32, n_epoch=2), 20
    chosen = {"n_epoch": args.epochs, "lr": args.lr, "num_steps": args.num_steps}
    config = config._replace(**{key: value for key, value in chosen.items() if value is not None})
    tl.utils.set_seed(args.seed)
    data = split(words, source, config, args)
    result = train(config, data, args)
    print(f"Weights, dictionary, checkpoint and pictures are in {args.out}")
    print(f"result: {args.model} " + " ".join(f"{key}={value:.5g}" for key, value in result.items()))


if __name__ == "__main__":
    main()
