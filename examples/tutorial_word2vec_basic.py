"""Word vectors: a word is known by the company it keeps.

Reproduces  tutorial_word2vec_basic.py of TensorLayer 1.3, its four settings (--model one, two, three, four) with its
            batches, its loss and its optimiser. --model fast is ours: every word of the text, frequent ones thinned
            out, windows of random width, noise by word frequency to the power 3/4, and one kernel for the whole step.
Expect      one: 13.1 % of the analogies on text8 (the original's own count); fast: see examples/README.md.
Run         python examples/tutorial_word2vec_basic.py --model fast [--data text8.zip]
            --data is a text, or a folder; there, or in $TORCHLAYER_DATA, lie text8.zip (or wiki8.xz) and wordsim/ with
            questions-words.txt and EN-*.txt. Without a text the docstrings on this machine are read.
"""

import argparse
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import torchlayer as tl


class Settings(NamedTuple):
    vocabulary: int  # at most
    batch: int  # pairs a step; of fast, windows that are computed at once, 0: as suits the device
    size: int  # of a vector
    window: int
    skips: int  # neighbours drawn for each word; 0: all of them
    negatives: int
    lr: float
    epochs: int
    stem: str  # of the files


SETTINGS = {
    "one": Settings(50_000, 128, 128, 1, 2, 64, 1.0, 20, "model_word2vec_50k_128"),
    "two": Settings(80_000, 20, 200, 5, 10, 100, 0.2, 15, "model_word2vec_80k_200"),
    "three": Settings(80_000, 500, 200, 5, 10, 25, 0.025, 20, "model_word2vec_80k_200_opt"),
    "four": Settings(80_000, 100, 600, 5, 10, 25, 0.03, 2000, "model_word2vec_80k_600"),
    "fast": Settings(80_000, 0, 200, 5, 0, 5, 0.025, 5, "model_word2vec_fast"),
}
LEAST_COUNT = 5  # of a word in the vocabulary of fast
GROUP = {"cpu": 1024, "cuda": 8192}  # windows computed at once: what fits a cache, what fills a chip
LIMIT = 1.6  # times the rate: of how many of them a frequent word may follow; with twice as many it diverges
PRINT_FREQ, NEAREST_FREQ = 2000, 10_000  # steps


# The text ------------------------------------------------------------------------


def find(data, *names):
    """The first of these files in --data or $TORCHLAYER_DATA, or in a folder of theirs."""
    for root in [Path(p) for p in (data, os.environ.get("TORCHLAYER_DATA")) if p]:
        for folder in (root, *(root / sub for sub in ("text8", "wiki8", "wordsim"))):
            for name in names:
                if (folder / name).is_file():
                    return folder / name
    return None


def load_words(data):
    path = Path(data) if data and Path(data).is_file() else find(data, "text8.zip", "text8", "wiki8.xz")
    if data and (path is None or not Path(data).exists()):
        raise SystemExit(f"{data} is no text, and no folder with text8.zip or wiki8.xz in it")
    words = tl.files.load_docstrings_dataset() if path is None else tl.files.load_matt_mahoney_text8_dataset(path)
    print(f"Corpus: {path or 'the docstrings on this machine'}, {len(words)} words")
    return words


def make_vocabulary(words, s):
    least = 1 if s.skips else LEAST_COUNT
    n_kept = sum(n >= least for n in Counter(words).values())
    return tl.nlp.build_words_dataset(words, min(s.vocabulary, n_kept + 1), True, "_UNK")


# The network ---------------------------------------------------------------------


def build(s, vocabulary_size) -> Any:  # a Word2vecNetwork
    inputs = tl.layers.InputLayer((None,), dtype=torch.int64, name="inputs")
    if s.skips:  # the original
        return tl.layers.Word2vecEmbeddingInputlayer(
            inputs=inputs, vocabulary_size=vocabulary_size, embedding_size=s.size, num_sampled=s.negatives,
            nce_W_init=tl.initializers.truncated_normal(stddev=s.size**-0.5), sparse=True, name="word2vec_layer",
        )  # fmt: skip
    return tl.layers.Word2vecEmbeddingInputlayer(
        inputs=inputs, vocabulary_size=vocabulary_size, embedding_size=s.size, num_sampled=s.negatives,
        E_init=tl.initializers.random_uniform(-0.5 / s.size, 0.5 / s.size), nce_W_init=tl.initializers.constant(0.0),
        nce_b_init=None, name="word2vec_layer",
    )  # fmt: skip


# Training as the original does: batches of pairs, NCE, Adagrad ---------------------


def original_batches(ids, s, n_steps, step):
    """What `tl.nlp.generate_skip_gram_batch` gives in one step after another, from ``step`` on, 200 steps at once."""
    n, span = s.batch // s.skips, 2 * s.window + 1  # words a batch, words a window
    offsets = torch.tensor([d for d in range(-s.window, s.window + 1) if d], device=ids.device)
    while step < n_steps:
        steps = torch.arange(step, min(step + 200, n_steps), device=ids.device)
        first = steps * (n + span) + s.window  # it passes over the words of a window between two batches
        places = first[:, None] + torch.arange(n, device=ids.device)  # (steps, n)
        drawn = torch.rand(*places.shape, len(offsets), device=ids.device).argsort(-1)[..., : s.skips]
        words = ids[places % len(ids)].repeat_interleave(s.skips, 1)  # (steps, batch)
        neighbours = ids[(places[..., None] + offsets[drawn]) % len(ids)]  # (steps, n, skips)
        step += len(steps)
        yield words.view(-1), neighbours.view(-1), step


def train_original(net, ids, s, args, show):
    """The loop. Everything stays on the device, where 200 steps are one launch; every 2000 the loss is looked at."""
    optimizer = tl.optim.RowAdagrad(net.parameters(), lr=s.lr)  # its sums of squares begin at 0.1, as TensorFlow's
    train_step = tl.TrainStep(net.nce_cost, optimizer)
    n_steps = args.steps or int(len(ids) / s.batch * s.epochs)  # an epoch has as many pairs as the text has words
    saved = {"resume": args.resume, "every_seconds": args.checkpoint_seconds}
    run = tl.Resumable(args.out / f"{s.stem}.ckpt", model=net, optimizer=optimizer, **saved)
    begin = run.position or 0
    losses, started, bar = [], time.perf_counter(), tqdm(total=n_steps, initial=begin, unit="step", disable=None)
    clock = started
    with run:
        for words, neighbours, step in original_batches(ids, s, n_steps, begin):
            losses.append(train_step.sweep((words, neighbours), batch_size=s.batch))
            bar.update(step - bar.n)
            if step % PRINT_FREQ == 0 or step == n_steps:
                loss, now = float(torch.cat(losses).mean()), time.perf_counter()
                tqdm.write(f"Average loss at step {step}/{n_steps}. loss:{loss:f} took:{now - clock:f}s")
                losses, clock = [], now
            if step % NEAREST_FREQ == 0 or step == n_steps:
                show()
            run.tick(step)
        run.save(n_steps)
    seconds = time.perf_counter() - started
    return (n_steps - begin) * (s.batch // s.skips + 2 * s.window + 1) / seconds


# Training as word2vec does: whole windows, negative sampling, plain descent ---------


def train_fast(net, count, ids, s, args, show):
    """The loop. A piece of the text at a time is thinned out, its windows and negatives are drawn, a kernel trains."""
    table, weights = net.word2vec_layer.embeddings, net.word2vec_layer.nce_weights
    often = torch.tensor([n for _, n in count], dtype=torch.float64, device=ids.device)
    often[0] = 0  # unknown words are not in the text
    share = often / often.sum() / 1e-4
    keep = (share**-0.5 + 1 / share).float()  # the probability of keeping a word; above 1 that of rare ones
    draw = tl.kernels.FixedUnigram(often, distortion=0.75)
    pieces = ids.split(2**17 if ids.device.type == "cpu" else 2**21)
    group, limit = s.batch or GROUP[ids.device.type], max(1, min(64, int(LIMIT / s.lr)))
    saved = {"resume": args.resume, "every_seconds": args.checkpoint_seconds}
    run, n_pieces = tl.Resumable(args.out / f"{s.stem}.ckpt", model=net, **saved), s.epochs * len(pieces)
    begin = run.position or 0
    tl.kernels.compiled()  # if kernels must be compiled, then now and not on the clock
    n_done, seconds, bar = 0, 0.0, tqdm(total=n_pieces, initial=begin, unit="piece", disable=None)
    started = time.perf_counter()
    with run:
        for at in range(begin, n_pieces):
            piece = pieces[at % len(pieces)]
            words = piece[torch.rand(len(piece), device=ids.device) < keep[piece]]
            radius = torch.randint(1, s.window + 1, words.shape, device=ids.device)
            n_drawn = max(1, len(words) * s.negatives)  # of a short text no word may be left
            drawn = draw(ids[:1], n_drawn, len(often), unique=False).sampled[: len(words) * s.negatives]
            lr = s.lr * max(1e-4, 1 - at / n_pieces)
            with torch.no_grad():
                losses = tl.kernels.skip_gram_(
                    table, weights, words, radius, drawn.view(len(words), s.negatives), lr, s.window, group, limit
                )
            n_done += len(piece)
            bar.update()
            if (at + 1) % len(pieces) == 0:
                loss = float(losses.mean())  # waits for the device
                seconds += time.perf_counter() - started
                tqdm.write(f"Epoch {(at + 1) // len(pieces)}/{s.epochs}. loss of a window:{loss:f}")
                started = time.perf_counter()
            run.tick(at + 1)
        run.save(n_pieces)
    show()
    return n_done / seconds if n_done else 0.0


# What the vectors know -------------------------------------------------------------


def show_nearest(net, words_of, examples):
    table = net.normalized_embeddings.detach()
    nearest = (table[examples] @ table.T).topk(min(9, len(table))).indices[:, 1:]  # the word itself is the nearest
    for word, row in zip(examples.tolist(), nearest.tolist()):
        tqdm.write(f"Nearest to {words_of[word]}: " + ", ".join(words_of[i] for i in row))


def analogies(table, questions):
    """How many questions ``a is to b as c is to`` are answered by the nearest word that is not in the question."""
    right = 0
    for q in torch.as_tensor(questions, device=table.device).long().split(2500):
        a, b, c = (table[q[:, i]] for i in range(3))
        best = ((c + b - a) @ table.T).topk(4).indices  # three of them may be the question's
        other = (best[:, :, None] != q[:, None, :3]).all(2)
        first = other.int().argmax(1, keepdim=True)
        right += int((best.gather(1, first)[:, 0] == q[:, 3]).sum())
    return right


def ranks(x):
    _, place, n = np.unique(x, return_inverse=True, return_counts=True)
    return (n.cumsum() - (n - 1) / 2)[place]  # equal numbers share their mean rank


def similarity(table, dictionary, path):
    """Spearman's correlation of cosines with people's scores, over the pairs whose words are both known."""
    rows = [line.lower().split() for line in path.read_text().splitlines()]
    known = [(dictionary[a], dictionary[b], float(s)) for a, b, s in rows if a in dictionary and b in dictionary]
    if len(known) < 2:
        return float("nan")
    a, b = (torch.tensor([row[i] for row in known], device=table.device) for i in range(2))
    cosines = (table[a] * table[b]).sum(1).cpu().numpy()
    return float(np.corrcoef(ranks(cosines), ranks([score for *_, score in known]))[0, 1])


def scores(table, dictionary, data):
    """All scores for which there are files: percentages of analogies, correlations of similarities."""
    result, path = {}, find(data, "questions-words.txt")
    if path is not None:
        questions = tl.nlp.read_analogies_file(path, dictionary)
        right = analogies(table, questions)
        print(f"Eval {right:4d}/{len(questions)} accuracy = {100 * right / len(questions):4.1f}%")
        frequent = questions[(questions < 30_000).all(1)]  # word2vec's own custom: among the 30,000 most frequent words
        result["analogies"] = 100 * right / len(questions)
        result["analogies_30k"] = 100 * analogies(table[:30_000], frequent) / len(frequent)
    for name, file in (("ws353", "EN-WS-353-ALL.txt"), ("simlex", "EN-SIMLEX-999.txt"), ("men", "EN-MEN-TR-3k.txt")):
        if (path := find(data, file)) is not None:
            result[name] = similarity(table, dictionary, path)
    if not result:
        print("No questions-words.txt and no EN-*.txt: the vectors are not scored")
    return result


# Files ---------------------------------------------------------------------------


def save(net, s, args, ids, count, dictionary, words_of):
    vectors = net.word2vec_layer.embeddings.detach().cpu()
    words = [words_of[i] for i in range(len(words_of))]
    tl.files.save_npz(net, name=args.out / f"{s.stem}.npz")
    named = {"count": [list(pair) for pair in count], "dictionary": dictionary, "reverse_dictionary": words_of}
    tl.files.save_any_to_npy({"data": ids.cpu().numpy(), **named}, args.out / f"{s.stem}.npy")
    tl.nlp.save_vocab(count, name=str((args.out / "vocab_text8.txt").absolute()))
    tl.files.save_word2vec_format(args.out / f"{s.stem}.bin", words, vectors, binary=True)
    tl.files.save_word2vec_format(args.out / f"{s.stem}.txt", words, vectors)
    projector = args.out / "projector"  # tensorboard --logdir, or projector.tensorflow.org
    projector.mkdir(exist_ok=True)
    np.savetxt(projector / "vectors.tsv", vectors[:10_000].numpy(), fmt="%.5g", delimiter="\t")
    (projector / "words.tsv").write_text("\n".join(words[:10_000]) + "\n")
    files = 'tensor_path: "vectors.tsv" metadata_path: "words.tsv"'
    (projector / "projector_config.pbtxt").write_text(f'embeddings {{ tensor_name: "words" {files} }}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SETTINGS, default="one")
    parser.add_argument("--epochs", type=int, help="default: the setting's")
    parser.add_argument("--steps", type=int, help="of one, two, three, four, instead of --epochs")
    parser.add_argument("--batch-size", type=int, help="default: the setting's; of fast, windows computed at once")
    parser.add_argument("--lr", type=float, help="default: the setting's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", help="a text, or a folder (default: $TORCHLAYER_DATA, else docstrings)")
    parser.add_argument("--words", type=int, help="use only so many words of the text")
    parser.add_argument("--out", type=Path, default=Path("out/word2vec"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--smoke", action="store_true", help="a little of everything on the docstrings: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tl.utils.set_seed(args.seed)
    s = SETTINGS[args.model]
    chosen = {"epochs": args.epochs, "batch": args.batch_size, "lr": args.lr}
    s = s._replace(**{key: value for key, value in chosen.items() if value is not None})
    if args.smoke:
        s, args.steps, args.words = s._replace(epochs=2, size=32, vocabulary=5000), 400, 200_000

    words = load_words(args.data)[: args.words]
    data, count, dictionary, words_of = make_vocabulary(words, s)
    if len(dictionary) == 1:
        raise SystemExit(f"--model fast learns words that occur {LEAST_COUNT} times or more, and this text has none")
    ids = torch.tensor(data, device=args.device)
    net = build(s, len(dictionary)).to(args.device)
    net.print_params()
    n_examples = min(16, len(words_of) - 1)
    chosen = np.random.RandomState(args.seed).choice(min(100, len(words_of) - 1), n_examples, replace=False) + 1
    examples = torch.tensor(chosen, device=args.device)

    def show():
        show_nearest(net, words_of, examples)

    if s.skips:
        speed = train_original(net, ids, s, args, show)
    else:
        speed = train_fast(net, count, ids[ids != 0], s, args, show)

    result = scores(net.normalized_embeddings.detach(), dictionary, args.data)
    save(net, s, args, ids, count, dictionary, words_of)
    tl.visualize.tsne_embedding(
        net.normalized_embeddings.detach().cpu()[1:], [words_of[i] for i in range(1, len(words_of))],
        plot_only=60 if args.smoke else 500, max_iter=300 if args.smoke else 5000, saveable=True,
        name=args.out / "tsne.png", random_state=args.seed,
    )  # fmt: skip
    print(f"Vectors, vocabulary, checkpoint and picture are in {args.out}")
    print(f"result: {args.model} words_per_second={speed:.0f}" + "".join(f" {k}={v:.4f}" for k, v in result.items()))


if __name__ == "__main__":
    main()
