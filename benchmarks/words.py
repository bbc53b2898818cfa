"""Words: vectors beside gensim's (words a second, and what they know), pairs a second, and how fast text is written.

python benchmarks/words.py --data DIR                      # wiki8.xz or text8.zip, and wordsim/, as the tutorial wants
python benchmarks/words.py --data DIR --words 5000000 --seeds 2 --workers 2
python benchmarks/words.py --only batches                  # the generator of pairs alone, which needs no data
python benchmarks/words.py --only writing                  # words a second of a language model, neither

Contenders take turns, seed after seed, and a speed is the best of its runs. gensim reads its fast way, from a file.
"""

from __future__ import annotations

import argparse
import collections
import math
import os
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import torchlayer as tl

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import tutorial_word2vec_basic as tutorial  # pyright: ignore

SCORES = ("ws353", "simlex", "men", "analogies", "analogies_30k")


class Text:
    """The corpus as all contenders see it: ids for us, lines of words for gensim; rare words taken out by both."""

    def __init__(self, data: str, n_words: int | None, settings: tutorial.Settings, folder: Path):
        words = tutorial.load_words(data)[:n_words]
        self.n_words = len(words)
        ids, self.count, self.dictionary, self.words_of = tutorial.make_vocabulary(words, settings)
        self.ids = torch.tensor(ids)
        self.file = folder / "text.txt"
        lines = (words[i : i + 10_000] for i in range(0, len(words), 10_000))  # gensim cuts longer ones off
        self.file.write_text("\n".join(" ".join(line) for line in lines) + "\n")


def ours(text: Text, s: tutorial.Settings, seed: int, device: str, folder: Path) -> tuple[float, torch.Tensor]:
    """The tutorial's ``--model fast``; words a second and the table."""
    tl.utils.set_seed(seed)
    net = tutorial.build(s, len(text.dictionary)).to(device)
    ids = text.ids.to(device)
    args = argparse.Namespace(out=folder, resume=False, checkpoint_seconds=math.inf)
    known = ids[ids != 0]
    speed = tutorial.train_fast(net, text.count, known, s, args, lambda: None)
    return speed * text.n_words / len(known), net.normalized_embeddings.detach().cpu()  # words that were read


def gensims(text: Text, s: tutorial.Settings, seed: int, workers: int) -> tuple[float, torch.Tensor]:
    """gensim's Word2Vec with the same settings."""
    from gensim.models import Word2Vec  # pyright: ignore

    model = Word2Vec(
        vector_size=s.size, window=s.window, negative=s.negatives, alpha=s.lr, sg=1, sample=1e-4,
        min_count=tutorial.LEAST_COUNT, workers=workers, seed=seed,
    )  # fmt: skip
    model.build_vocab(corpus_file=str(text.file))
    started = time.perf_counter()
    model.train(
        corpus_file=str(text.file), total_words=text.n_words, total_examples=model.corpus_count, epochs=s.epochs
    )
    seconds = time.perf_counter() - started
    table = np.zeros((len(text.dictionary), s.size), np.float32)
    for word, i in text.dictionary.items():
        if word in model.wv:
            table[i] = model.wv[word]
    return text.n_words * s.epochs / seconds, torch.nn.functional.normalize(torch.from_numpy(table))


def compare_vectors(args: argparse.Namespace, folder: Path) -> None:
    """A line for each run, then the table."""
    s = tutorial.SETTINGS["fast"]._replace(epochs=args.epochs, size=args.size)
    text = Text(args.data, args.words, s, folder)
    contenders: dict[str, Any] = {}
    try:
        import gensim  # pyright: ignore

        name = f"gensim {gensim.__version__}, {args.workers} workers"
        contenders[name] = lambda seed: gensims(text, s, seed, args.workers)
    except ImportError:
        print("gensim is not installed: pip install gensim")
    torch.set_num_threads(args.workers)
    if "cpu" in args.devices:
        contenders[f"torchlayer, CPU, {args.workers} threads"] = lambda seed: ours(text, s, seed, "cpu", folder)
    if "cuda" in args.devices:
        contenders[f"torchlayer, {torch.cuda.get_device_name()}"] = lambda seed: ours(text, s, seed, "cuda", folder)
    results = {name: [] for name in contenders}
    for seed in range(args.seeds):
        for name, run in contenders.items():
            speed, table = run(seed)
            found = tutorial.scores(table, text.dictionary, args.data)
            results[name].append({"speed": speed, **found})
            print(f"{name}, seed {seed}: {speed:,.0f} words/s {found}", flush=True)
    print(f"\n{text.n_words:,} words, {s.epochs} epochs, {s.size} dimensions, {args.seeds} seeds: mean ± deviation\n")
    print("| | words/s | ratio | " + " | ".join(SCORES) + " |\n|" + "---|" * (3 + len(SCORES)))
    first = max(run["speed"] for run in results[next(iter(results))])
    for name, runs in results.items():
        speed = max(run["speed"] for run in runs)
        cells = [f"{speed:,.0f}", f"{speed / first:.2f}"]
        for score in SCORES:
            values = np.array([run[score] for run in runs if score in run])
            digits = 1 if score.startswith("analogies") else 3
            cells.append(f"{values.mean():.{digits}f} ± {values.std():.{digits}f}" if len(values) else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


def original_batch(
    data: list[int], batch_size: int, num_skips: int, skip_window: int, data_index: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """The loop of TensorLayer 1.3, as TensorFlow's tutorial had it before."""
    words = np.ndarray(shape=(batch_size), dtype=np.int32)
    neighbours = np.ndarray(shape=(batch_size, 1), dtype=np.int32)
    span = 2 * skip_window + 1
    buffer: collections.deque[int] = collections.deque(maxlen=span)
    for _ in range(span):
        buffer.append(data[data_index])
        data_index = (data_index + 1) % len(data)
    for i in range(batch_size // num_skips):
        target, avoid = skip_window, [skip_window]
        for j in range(num_skips):
            while target in avoid:
                target = random.randint(0, span - 1)
            avoid.append(target)
            words[i * num_skips + j] = buffer[skip_window]
            neighbours[i * num_skips + j, 0] = buffer[target]
        buffer.append(data[data_index])
        data_index = (data_index + 1) % len(data)
    return words, neighbours, data_index


def compare_batches() -> None:
    """Pairs a second of the loop, of our function with its draws and with NumPy's, and of the generator."""
    data = np.random.RandomState(0).randint(0, 50_000, 1_000_000)
    listed = data.tolist()
    print("\n| pairs, million a second | batch 128, 2 of 2 | batch 500, 10 of 10 |\n|---|---|---|")
    shapes = [(128, 2, 1), (500, 10, 5)]
    rows: dict[str, list[float]] = collections.defaultdict(list)
    for size, skips, window in shapes:
        random.seed(0)
        generate = partial(tl.nlp.generate_skip_gram_batch, data, size, skips, window)
        rows["the original's loop"].append(_rate(partial(original_batch, listed, size, skips, window, 0), size))
        rows["generate_skip_gram_batch, the original's draws"].append(_rate(generate, size))
        rows["generate_skip_gram_batch, rng=0"].append(_rate(partial(generate, rng=0), size))
        for name, shuffle in (("skip_gram_batches", False), ("skip_gram_batches, shuffled", True)):
            batches = tl.nlp.skip_gram_batches(data, size, window, shuffle=shuffle, rng=0)
            rows[name].append(_rate(partial(next, batches), size, 10_000))
    first = next(iter(rows.values()))
    for name, rates in rows.items():
        cells = [f"{rate / 1e6:.3f} ({rate / slow:.0f}x)" for rate, slow in zip(rates, first)]
        print(f"| {name} | " + " | ".join(cells) + " |")


def _rate(call: Any, n_pairs: int, n_calls: int = 200) -> float:
    """Pairs a second, the best of five."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(n_calls // 5):
            call()
        seconds.append(time.perf_counter() - started)
    return n_pairs * (n_calls // 5) / min(seconds)


def word_by_word(network: torch.nn.Module, softmax: torch.nn.Linear, n_words: int, device: str) -> None:
    """As the original writes: every word's probabilities come to the host, where the next one is drawn."""
    ids, state = torch.zeros(1, 1, dtype=torch.int64, device=device), None
    with torch.inference_mode():
        for _ in range(n_words):
            hidden, state = network.step(ids, state=state)  # pyright: ignore[reportCallIssue]
            p = softmax(hidden[:, -1]).float().softmax(1)
            ids.fill_(tl.nlp.sample_top(p[0].cpu().numpy(), top_k=10))


def compare_writing(n_words: int, devices: list[str], size: int = 1500, vocabulary: int = 10_000) -> None:
    """The Penn Treebank's large model, one text, the next word one of the ten likeliest."""
    rows: list[tuple[str, Any]] = []
    places = [("cpu", "CPU", torch.float32)] * ("cpu" in devices)
    if "cuda" in devices:
        places += [("cuda", torch.cuda.get_device_name(), dtype) for dtype in (torch.float32, torch.bfloat16)]
    for device, where, dtype in places:
        net = tl.layers.InputLayer((None, None), torch.int64, name="ids")
        net = tl.layers.EmbeddingInputlayer(net, vocabulary, size, name="embed")
        net = tl.layers.RNNLayer(net, cell_fn=tl.layers.BasicLSTMCell, n_hidden=size, n_layer=2, name="lstm")
        softmax = torch.nn.Linear(size, vocabulary)
        net.to(device, dtype).eval()
        softmax.to(device, dtype)
        seed = torch.zeros(1, 1, dtype=torch.int64, device=device)
        eager, captured = (tl.nlp.TextGenerator(net, softmax, top_k=10, capture=capture) for capture in (False, True))
        n = n_words if device == "cpu" else 10 * n_words
        kind = f"{where}, {str(dtype).removeprefix('torch.')}"
        by_hand = partial(word_by_word, net, softmax, n, device)
        rows.append((f"a word at a time to the host, {kind}", (by_hand, n)))
        rows.append((f"TextGenerator(capture=False), {kind}", (lambda g=eager, n=n, s=seed: g(s, n).tolist(), n)))
        if device == "cuda":
            rows.append((f"TextGenerator, {kind}", (lambda g=captured, n=n, s=seed: g(s, n).tolist(), n)))
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for turn in range(4):  # the first is the warm-up
        for name, (write, _) in rows:
            started = time.perf_counter()
            write()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    print(f"\n| 2 cells of {size}, {vocabulary:,} words, batch 1, top_k 10 | words/s |\n|---|---|")
    for name, (_, n) in rows:
        print(f"| {name} | {n / min(seconds[name]):,.0f} |")


def main() -> None:
    """All comparisons, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="as for the tutorial: a text, or a folder (default: $TORCHLAYER_DATA)")
    parser.add_argument("--words", type=int, help="of the text (default: all)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=200, help="of a vector")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="threads, of gensim and of ours on the CPU")
    on_hand = ["cpu", *["cuda"] * torch.cuda.is_available()]
    parser.add_argument("--devices", nargs="+", choices=on_hand, default=on_hand, help="to run ours on")
    parser.add_argument("--only", choices=("vectors", "batches", "writing"))
    parser.add_argument("--write", type=int, default=200, help="words in a run of a CPU; ten times as many of a GPU")
    args = parser.parse_args()
    print(f"torchlayer {tl.__version__}, torch {torch.__version__}, {os.cpu_count()} cores")
    if args.only in (None, "vectors"):
        with tempfile.TemporaryDirectory() as folder:
            compare_vectors(args, Path(folder))
    if args.only in (None, "batches"):
        compare_batches()
    if args.only in (None, "writing"):
        compare_writing(args.write, args.devices)


if __name__ == "__main__":
    main()
