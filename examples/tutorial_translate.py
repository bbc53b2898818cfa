"""Translation: a recurrent network reads English, looks at its words one after the other, and writes French.

Reproduces  tutorial_translate.py of TensorLayer 1.3 with its hyper-parameters and printed lines (--model tensorlayer):
            3 layers of 1024 GRUs, 40,000 words each, buckets, 512 sampled words, plain descent from 0.5.
            And, with what was learnt since (an encoder in both directions, attention that sees no padding, dropout,
            label smoothing, averaged weights, batches by length, beam search):
              numbers   number words, 0 to 999,999, whose translation is a rule: every answer can be checked. Offline
              multi30k  captions of photographs, 29,000 pairs, a common measure; multi30k_small is for a CPU
Expect      numbers: 99 % of numbers never seen before translated without a mistake, in a minute of one core; the
            others: see examples/README.md. The page prints a training perplexity of 174 after 1000 steps.
Run         python examples/tutorial_translate.py [--decode: afterwards, to translate what you type]
            python examples/tutorial_translate.py --model multi30k [--data DIR]
            python examples/tutorial_translate.py --model tensorlayer [--data DIR] [--minutes 9, then again --resume]
            Any model takes other texts: --train PREFIX --dev PREFIX, two files each, PREFIX.en and PREFIX.fr.
"""

import argparse
import math
import random
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import torchlayer as tl
from torchlayer.layers import EmbeddingAttentionSeq2Seq, EmbeddingAttentionSeq2seqWrapper


class Settings(NamedTuple):
    vocabulary: int  # words of a language at most, the four special ones included
    size: int  # units of a layer
    embedding: int
    layers: int
    lr: float
    batch: int  # tokens of both languages; of tensorlayer, pairs
    epochs: int
    keep: float = 1.0  # the probability of keeping, as everywhere here
    smoothing: float = 0.0  # the share of the target's probability that all words get
    average: float = 0.99  # how much of the averaged weights stays at each step


SETTINGS = {
    "numbers": Settings(60, 128, 64, 1, 3e-3, 1000, 6),
    "multi30k": Settings(8000, 320, 256, 1, 1e-3, 2000, 30, keep=0.6, smoothing=0.1, average=0.998),
    "multi30k_small": Settings(5000, 192, 128, 1, 3e-3, 1500, 6, keep=0.8, average=0.995),
    "tensorlayer": Settings(40_000, 1024, 1024, 3, 0.5, 64, 0),
}
BUCKETS = [(5, 10), (10, 15), (20, 25), (40, 50)]  # lengths of tensorlayer's batches, of the source and of the target
SAMPLES, CLIP, DECAY, STEPS_PER_CHECKPOINT = 512, 5.0, 0.99, 10


# Texts: from files of sentences to pairs of ids ---------------------------------------------------


def how(args: argparse.Namespace) -> dict[str, Any]:
    """How lines are split into words: None is tl.nlp.basic_tokenizer, and Multi30k's words stand between spaces."""
    tokenizers = {"numbers": tl.files.split_number_words, "tensorlayer": None}
    return {"tokenizer": tokenizers.get(args.model, bytes.split), "normalize_digits": args.model == "tensorlayer"}


def texts(args: argparse.Namespace) -> dict[str, str]:
    """The prefixes of the files with the training, validation and test sentences."""
    if args.train:
        return {"train": args.train, "valid": args.dev or args.train, "test": args.dev or args.train}
    if args.smoke:
        parts = tl.files.load_number_words_dataset(600, 40, 40)
    elif args.model == "numbers":
        parts = tl.files.load_number_words_dataset(10_000, 1_000, 5_000)
    elif args.model.startswith("multi30k"):
        parts = tl.files.load_multi30k_dataset(args.data)
        args.raw = [french for _, french in tl.files.load_multi30k_dataset(args.data, tokenized=False)[2]]
    else:
        train, dev = tl.files.load_wmt_en_fr_dataset(args.data)
        return {"train": train, "valid": dev, "test": dev}
    prefixes = {name: str(args.out / name) for name in ("train", "valid", "test")}
    for prefix, pairs in zip(prefixes.values(), parts):
        tl.files.save_parallel_text(pairs, f"{prefix}.en", f"{prefix}.fr")
    return prefixes


def load_pairs(args: argparse.Namespace, s: Settings, prefixes: dict[str, str]) -> dict[str, Any]:
    """Vocabularies and ids, as files in --out, and of these the training and validation pairs, by buckets."""
    buckets = BUCKETS if args.model == "tensorlayer" else [(52, 52)]
    pairs = {}
    for part in ("train", "valid"):
        ids = []
        for language in ("en", "fr"):
            text, vocabulary = f"{prefixes[part]}.{language}", args.out / f"vocab{s.vocabulary}.{language}"
            if part == "train":
                tl.nlp.create_vocabulary(vocabulary, text, s.vocabulary, **how(args))
            ids.append(args.out / f"{part}.ids{s.vocabulary}.{language}")
            tl.nlp.data_to_token_ids(text, ids[-1], vocabulary, **how(args))
        pairs[part] = tl.nlp.read_data(ids[0], ids[1], buckets, max_size=args.max_train_data_size)
        if not any(pairs[part]):
            raise SystemExit(f"no pair of {prefixes[part]}.en and .fr is shorter than {buckets[-1]}: nothing is left")
    return pairs


def load_languages(args: argparse.Namespace, s: Settings) -> tuple[tl.nlp.Language, ...]:
    joined = "-" if args.model == "numbers" else ""
    files = (args.out / f"vocab{s.vocabulary}.{language}" for language in ("en", "fr"))
    return tuple(tl.nlp.Language(file, joined=joined, **how(args)) for file in files)


def sentences(prefix: str, english: Any, french: Any, longest: int) -> list[tuple[str, str]]:
    """Sentences and what is expected of them, its words split as the model writes them; the too long are left out."""
    pairs = tl.files.load_parallel_text(f"{prefix}.en", f"{prefix}.fr")
    kept = [pair for pair in pairs if 0 < len(english.split(pair[0])) <= longest]
    if len(kept) < len(pairs):
        print(f"{len(pairs) - len(kept)} of {len(pairs)} sentences of {prefix} are empty or too long, and left out")
    return [(source, french.say(french.split(target))) for source, target in kept]


# The models ---------------------------------------------------------------------------------------


def build(args: argparse.Namespace, s: Settings, n_english: int, n_french: int) -> Any:
    if args.model == "tensorlayer":
        samples = SAMPLES if n_french > SAMPLES else n_french // 4
        return EmbeddingAttentionSeq2seqWrapper(
            n_english, n_french, BUCKETS, s.size, s.layers, CLIP, s.batch, s.lr, DECAY, num_samples=samples
        )
    # The softmax is over all words; a French word that is read and one that is written have one vector.
    return EmbeddingAttentionSeq2Seq(
        n_english, n_french, s.size, s.layers, num_samples=0, projection=True, tie_embeddings=True,
        embedding_size=s.embedding, bidirectional=True, reverse_source=False, mask_attention=True,
        output_act=torch.tanh, cell_fn=tl.layers.CudnnCompatibleGRUCell, keep=s.keep, label_smoothing=s.smoothing,
    )  # fmt: skip


def perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 300 else math.inf


class Checkpoint:
    """What a run needs to go on, with the digests of the vocabularies that its model speaks."""

    def __init__(self, args: argparse.Namespace, *languages: tl.nlp.Language):
        self.path, self.args = args.out / f"{args.model}.ckpt", args
        self.digests = [language.sha256 for language in languages]
        self.started = time.perf_counter()

    def load(self) -> dict[str, Any]:
        if not tl.checkpoint.exists(self.path):
            raise SystemExit(f"there is no {self.path}; train first, without --decode")
        state = tl.checkpoint.load(self.path)
        for language, trained_with, found in zip(("en", "fr"), state["extra"]["vocabularies"], self.digests):
            if trained_with != found:
                raise SystemExit(
                    f"the vocabulary .{language} in {self.args.out} is not the one that the model in {self.path} was "
                    "trained with: put that back, or train anew with another --out (the checkpoint is as it was)"
                )
        return state

    def run(self, history: dict[str, Any], generators: dict[str, Any], **parts: Any) -> tl.Resumable:
        """The run, where it was if it is to be resumed; it keeps ``history``."""
        history["vocabularies"] = self.digests
        resume = self.args.resume and tl.checkpoint.exists(self.path)
        if resume:
            self.load()  # looks at the vocabularies before anything is changed
        saved = {"resume": resume, "every_seconds": self.args.checkpoint_seconds, "extra": history}
        return tl.Resumable(self.path, generators=generators, **parts, **saved)

    def is_late(self) -> bool:
        return self.args.minutes is not None and time.perf_counter() - self.started > 60 * self.args.minutes


# Training as the original does: buckets, plain descent, a rate that decays when it no longer helps ------------


def train_original(model: EmbeddingAttentionSeq2seqWrapper, data: Any, args: Any, checkpoint: Checkpoint) -> dict:
    sizes = [len(pairs) for pairs in data["train"]]
    scale = (np.cumsum(sizes) / sum(sizes)).tolist()
    print(f"the num of training data in each buckets: {sizes}\nthe num of training data: {sum(sizes)}")
    print(f"train_buckets_scale: {scale}")
    rng = random.Random(args.seed)
    history: dict[str, Any] = {"step": [], "learning_rate": [], "train_perplexity": []}
    run = checkpoint.run(history, {"order": rng}, model=model, optimizer=model.optimizer)
    losses, clock = [], time.perf_counter()
    with run:
        while model.global_step < args.steps:
            drawn = rng.random()
            bucket = next(i for i, share in enumerate(scale) if drawn < share)
            losses.append(model.step(*model.get_batch(data["train"], bucket, rng=rng), bucket, False)[1])
            if model.global_step % STEPS_PER_CHECKPOINT and model.global_step < args.steps:
                continue
            ppl = perplexity(float(torch.stack(losses).mean()))  # the one look at the device
            seconds, step, rate = (time.perf_counter() - clock) / len(losses), model.global_step, model.learning_rate
            tqdm.write(f"global step {step} learning rate {rate:.4f} step-time {seconds:.2f} perplexity {ppl:.2f}")
            recent = history["train_perplexity"][-args.look_back :]
            if len(recent) == args.look_back and ppl > max(recent):
                model.decay_learning_rate()
            for key, value in zip(history, (step, rate, ppl)):
                history[key].append(value)
            evaluate_buckets(model, data["valid"], rng)
            if step >= args.steps or checkpoint.is_late():
                run.save(step)
                break
            run.tick(step)  # between two windows, so that no loss is lost
            losses, clock = [], time.perf_counter()
    return history


@torch.no_grad()
def evaluate_buckets(model: EmbeddingAttentionSeq2seqWrapper, data: list, rng: random.Random) -> None:
    """A batch of each bucket. The original prints the sampled softmax's perplexity; beside it stands the true one."""
    for bucket, pairs in enumerate(data):
        if not pairs:
            tqdm.write(f"  eval: empty bucket {bucket}")
            continue
        encoder, decoder, weights = model.get_batch(data, bucket, rng=rng)
        source = torch.from_numpy(np.stack(encoder[::-1], 1)).long().to(model.source_embeddings.device)
        target = torch.from_numpy(np.stack([*decoder[1:], 0 * decoder[0]], 1)).long().to(source.device)
        sampled = perplexity(float(model.train().loss(source, target, reduction="sentence")))
        full = perplexity(float(model.step(encoder, decoder, weights, bucket, True)[1]))
        tqdm.write(f"  eval: bucket {bucket} perplexity {sampled:.2f} (full softmax {full:.2f})")


# Training as it is done today: batches of like lengths, Adam, averaged weights ------------------------------


class Total(torch.nn.Module):
    """The sum of an epoch's losses, where the loop is."""

    def __init__(self, device: str):
        super().__init__()
        self.register_buffer("loss", torch.zeros((), dtype=torch.float64, device=device))


def train(model: Any, averaged: Any, data: Any, measure: Any, s: Settings, args: Any, checkpoint: Checkpoint) -> dict:
    """``measure(model)`` says how well it translates."""
    few_shapes = {"multiple_of": 4, "fill": True} if args.device != "cpu" else {}  # each is one launch
    batches = tl.nlp.TokenBatches(data["train"][0], s.batch, device=args.device, **few_shapes)
    watched = tl.nlp.TokenBatches(data["valid"][0], 4000, device=args.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=s.lr, betas=(0.9, 0.98))
    autocast = torch.bfloat16 if args.precision == "bf16" else None
    step = tl.TrainStep(model.loss, optimizer, clip_norm=1.0, autocast=autocast)
    rng = np.random.default_rng(args.seed)
    history: dict[str, Any] = {"epoch": [], "seconds": [], "train_loss": [], "valid_perplexity": []}
    total: Any = Total(args.device)
    run = checkpoint.run(history, {"order": rng}, model=averaged, trained=model, optimizer=optimizer, total=total)
    n, n_steps = len(batches), s.epochs * len(batches)
    warm = max(1, min(400, n_steps // 10))
    with run:
        for epoch in tqdm(run.epochs(s.epochs), args.model, initial=run.epoch, total=s.epochs, disable=None):
            started, n_seen = time.perf_counter(), 0  # not the batches before a resumed run's first step
            total.loss.zero_()
            for done, (source, lengths, target) in run.steps(enumerate(batches.epoch(rng), (epoch - 1) * n + 1)):
                # the rate rises, then falls to nothing
                optimizer.param_groups[0]["lr"] = s.lr * min(done / warm, (n_steps - done + 1) / (n_steps - warm + 1))
                total.loss += step((source, target, lengths))
                n_seen += 1
                if done >= warm:
                    averaged.update_parameters(model)  # the first time a copy
            loss = float(total.loss) / n  # the one look at the device
            seconds = time.perf_counter() - started
            measured = {"valid_perplexity": true_perplexity(averaged.module, watched), **measure(averaged.module)}
            for key, value in {"epoch": epoch, "seconds": seconds, "train_loss": loss, **measured}.items():
                history.setdefault(key, []).append(value)
            told = " ".join(f"{key} {value:.4g}" for key, value in measured.items())
            speed = batches.n_words * n_seen / n / seconds
            tqdm.write(f"Epoch: {epoch}/{s.epochs} loss {loss:.4f} {told} ({speed:,.0f} words/s)")
            if checkpoint.is_late():
                run.stop()
    return history


@torch.no_grad()
def true_perplexity(model: Any, batches: tl.nlp.TokenBatches) -> float:
    """Of a word, its sentence's end included, with nothing dropped, smoothed or sampled."""
    total, n = 0.0, 0
    model.eval()
    for source, lengths, target in batches.epoch(shuffle=False):
        n_words = int((target != model.PAD_ID).sum())
        total, n = total + n_words * float(model.loss(source, target, lengths)), n + n_words
    model.train()
    return perplexity(total / n)


# Translating --------------------------------------------------------------------------------------


def scores(args: argparse.Namespace, answers: Any, expected: Any) -> dict[str, float]:
    """BLEU, unless it is numbers, and the share of sentences that are what was expected, word for word."""
    exact = {"exact": sum(map(str.__eq__, answers, expected)) / len(expected)}
    return {"bleu": tl.nlp.bleu(answers, expected).score, **exact} if args.bleu else exact


def test(model: Any, english: Any, french: Any, prefix: str, args: argparse.Namespace) -> dict[str, float]:
    """Translate the test sentences, greedily and with a beam; show some, and draw where the network looked."""
    lines, expected = zip(*sentences(prefix, english, french, args.longest))
    result, found = dict[str, float](), list[tl.nlp.Translation]()
    for beam in dict.fromkeys((1, args.beam)):
        started = time.perf_counter()
        found = tl.nlp.translate(model, english, french, lines, beam=beam)
        print(f"{len(lines)} sentences translated in {time.perf_counter() - started:.2f} s, beam {beam}")
        answers = [t.text for t in found]
        if args.bleu:
            print("  BLEU {:.2f} {}".format(*tl.nlp.bleu(answers, expected)))
            if args.raw:  # and as people write
                plain = tl.nlp.moses_detokenize(answers, "fr")
                print("  BLEU {:.2f} {}".format(*tl.nlp.bleu(plain, args.raw, tokenize="13a", lowercase=True)))
        suffix = "" if beam == 1 else f"_beam{beam}"
        result |= {key + suffix: value for key, value in scores(args, answers, expected).items()}
    wrong = [i for i, t in enumerate(found) if t.text != expected[i]]
    for i in [*range(min(4, len(found))), *[i for i in wrong if i >= 4][:4]]:
        print(f"  {lines[i]}\n    {found[i].text}" + (f"\n    expected: {expected[i]}" if i in wrong else ""))
    drawn = [t for t in found if t.words and len(t.words) < 16]
    for number, t in enumerate(sorted(drawn, key=lambda t: len(t.words))[-3:], 1):
        picture = args.out / f"{args.model}_attention{number}.png"
        tl.visualize.attention(t.attention, t.source, t.words, name=picture)
    return result


def talk(model: Any, english: Any, french: Any, args: argparse.Namespace) -> None:
    """Translate what is typed, a sentence at a time, until an empty line."""
    print("Type an English sentence, or an empty line to end.")
    while line := (input("> ") if sys.stdin.isatty() else sys.stdin.readline()).strip():
        if args.model.startswith("multi30k") and not args.smoke:
            line = tl.nlp.moses_tokenize([line], "en")[0]
        ids, words = english.read(line), english.split(line)
        if len(ids) > args.longest:
            print(f"  that is {len(ids)} words, and this model reads {args.longest} at most; say it in fewer")
            continue
        if unknown := [word for word, i in zip(words, ids) if i == model.UNK_ID]:
            print(f"  it does not know: {', '.join(unknown)}")
        print(f"  {tl.nlp.translate(model, english, french, [line], beam=args.beam)[0].text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SETTINGS, default="numbers")
    parser.add_argument("--epochs", type=int, help="default: the model's; tensorlayer has --steps")
    parser.add_argument("--steps", type=int, default=350_000, help="of tensorlayer")
    parser.add_argument("--minutes", type=float, help="stop when this much time has passed; go on with --resume")
    parser.add_argument("--batch-size", type=int, help="tokens, of tensorlayer pairs; default: the model's")
    parser.add_argument("--size", type=int, help="units of a layer; default: the model's")
    parser.add_argument("--lr", type=float, help="default: the model's")
    parser.add_argument("--look-back", type=int, default=3, help="windows; 3 by the page's text, 6 by its figures")
    parser.add_argument("--max-train-data-size", type=int, default=0, help="lines of a text to read; 0: all")
    parser.add_argument("--beam", type=int, default=5, help="hypotheses kept while translating")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="tf32", help="of products on a GPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", help="folder of the model's data set (default: in $TORCHLAYER_DATA, or downloaded)")
    parser.add_argument("--train", help="other texts: the prefix of two files, .en and .fr, line by line")
    parser.add_argument("--dev", help="the same, to watch and to test with (default: those of --train)")
    parser.add_argument("--out", type=Path, default=Path("out/translate"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--decode", action="store_true", help="translate what you type, with the model in --out")
    parser.add_argument("--smoke", action="store_true", help="a small network, few number words: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("highest" if args.precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = args.precision != "fp32"
    s = SETTINGS[args.model]
    if args.smoke or args.model == "numbers":  # threads of so small a network only wait for each other
        torch.set_num_threads(1)
    if args.smoke:
        s = s._replace(size=32, embedding=32, vocabulary=60, epochs=2, lr=max(s.lr, 0.01), batch=min(s.batch, 300))
        args.steps = min(args.steps, 20)
    chosen = {"epochs": args.epochs, "size": args.size, "lr": args.lr, "batch": args.batch_size}
    s = s._replace(**{key: value for key, value in chosen.items() if value})
    args.longest, args.raw = BUCKETS[-1][0] - 1 if args.model == "tensorlayer" else 100, []
    args.bleu = args.model != "numbers" and not args.decode
    if args.bleu:
        tl.nlp.bleu(["a"], ["a"])  # if sacrebleu is missing, then say so now and not after the training

    tl.utils.set_seed(args.seed)
    prefixes = {} if args.decode else texts(args)
    data = {} if args.decode else load_pairs(args, s, prefixes)
    english, french = load_languages(args, s)
    checkpoint = Checkpoint(args, english, french)
    model = build(args, s, len(english), len(french)).to(args.device)
    is_ours = args.model != "tensorlayer"
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(s.average)) if is_ours else model
    final = averaged.module if is_ours else model
    if args.decode:
        averaged.load_state_dict(checkpoint.load()["model"])
        talk(final, english, french, args)
        return

    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    started = time.perf_counter()
    if not is_ours:
        history = train_original(model, data, args, checkpoint)
    else:
        lines, expected = zip(*sentences(prefixes["valid"], english, french, args.longest)[:500])

        def measure(model: Any) -> dict[str, float]:
            answers = [t.text for t in tl.nlp.translate(model, english, french, lines)]
            return {f"valid_{key}": value for key, value in scores(args, answers, expected).items()}

        history = train(model, averaged, data, measure, s, args, checkpoint)
    seconds = time.perf_counter() - started
    result = test(final, english, french, prefixes["test"], args)
    drawn = {key: values for key, values in history.items() if key not in ("seconds", "valid_exact", "vocabularies")}
    tl.visualize.curves(drawn, name=args.out / f"{args.model}_curves.png", log=True)
    tl.files.save_npz(final, name=args.out / f"{args.model}.npz")
    print(f"trained in {seconds:.1f} s; pictures, weights, vocabularies and the checkpoint are in {args.out}")
    print(f"result: {args.model} " + " ".join(f"{key}={value:.5g}" for key, value in result.items()))


if __name__ == "__main__":
    main()
