"""The translation tutorial as its users run it, and what it says to bad input."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import random
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import torchlayer as tl
from torchlayer.files import FileFormatError

SCRIPT = Path(__file__).parent.parent / "examples" / "tutorial_translate.py"


class Done(NamedTuple):
    status: int
    said: str


def run(script, *args, stdin=""):
    """``main`` as a command runs it, in this process: a fresh one takes longer to import torch than to do the rest."""
    torch_settings = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    said, status = io.StringIO(), 0
    with (
        contextlib.redirect_stdout(said),
        pytest.MonkeyPatch.context() as patch,
        torch.random.fork_rng(devices=[]),
    ):
        patch.setattr(sys, "argv", ["tutorial_translate.py", "--device", "cpu", *map(str, args)])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            script.main()
        except (SystemExit, FileFormatError, ValueError) as error:
            status = 1
            said.write(str(error))
        finally:
            threads, precision, torch.backends.cudnn.allow_tf32 = torch_settings
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)
    return Done(status, said.getvalue())


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("tutorial_translate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(script, tmp_path_factory):
    """A run of numbers, and what it said."""
    folder = tmp_path_factory.mktemp("numbers") / "whole"
    done = run(script, "--smoke", "--out", folder)
    assert done.status == 0, done.said
    return folder, done.said


def test_numbers_are_learnt_saved_and_drawn(trained):
    folder, said = trained
    assert re.fullmatch(r"result: numbers exact=\S+ exact_beam5=\S+", said.splitlines()[-1])
    watched = [float(p) for p in re.findall(r"valid_perplexity (\S+)", said)]
    assert watched[1] < watched[0] < 30  # of 45 words
    pictures = {"numbers_curves.png", "numbers_attention1.png", "numbers_attention2.png", "numbers_attention3.png"}
    others = {"vocab60.en", "vocab60.fr", "numbers.npz", "numbers.ckpt"}
    assert pictures | others <= {p.name for p in folder.iterdir()}


def test_a_resumed_run_ends_as_if_it_had_not_stopped(script, trained, tmp_path):
    _, whole = trained
    first = run(script, "--smoke", "--out", tmp_path, "--minutes", "0")
    assert "Epoch: 1/2" in first.said
    assert "Epoch: 2/2" not in first.said
    second = run(script, "--smoke", "--out", tmp_path, "--resume")
    assert "Epoch: 1/2" not in second.said
    ends = [re.search(r"Epoch: 2/2 .*valid_exact \S+", said)[0] for said in (whole, second.said)]
    assert ends[0] == ends[1]
    assert second.said.splitlines()[-1] == whole.splitlines()[-1]


def test_what_is_typed_is_translated(script, trained):
    folder, _ = trained
    typed = f"two\ntwo frogs\n{'two ' * 101}\n\nunread\n"
    done = run(script, "--smoke", "--out", folder, "--decode", stdin=typed)
    assert done.status == 0, done.said
    first, *rest = done.said.splitlines()
    assert first == "Type an English sentence, or an empty line to end."
    assert len(rest) == 4
    assert rest[1] == "  it does not know: frogs"
    assert rest[3] == "  that is 101 words, and this model reads 100 at most; say it in fewer"


@pytest.mark.parametrize("flag", ["--decode", "--resume"])
def test_the_vocabulary_of_another_model_is_refused(flag, script, trained, tmp_path):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "numbers.ckpt").read_bytes()
    words = (tmp_path / "vocab60.fr").read_text().splitlines()
    words[10:12] = words[11], words[10]
    (tmp_path / "vocab60.fr").write_text("\n".join(words) + "\n")
    for ids in tmp_path.glob("*.ids60.fr*"):
        ids.unlink()
    done = run(script, "--smoke", "--out", tmp_path, flag, stdin="two\n")
    assert done.status == 1
    assert f"the vocabulary .fr in {tmp_path} is not the one that the model in {tmp_path}/numbers.ckpt was" in done.said
    assert "put that back, or train anew with another --out (the checkpoint is as it was)" in done.said
    assert (tmp_path / "numbers.ckpt").read_bytes() == before


def test_decoding_needs_a_model(script, trained):
    done = run(script, "--smoke", "--model", "multi30k", "--out", trained[0], "--decode", stdin="two\n")
    assert done.status == 1
    assert "multi30k.ckpt; train first, without --decode" in done.said


def test_the_originals_regime_prints_its_lines(script, tmp_path):
    pytest.importorskip("sacrebleu", reason="pip install sacrebleu")
    done = run(script, "--smoke", "--model", "tensorlayer", "--out", tmp_path)
    assert done.status == 0, done.said
    train, _, _ = tl.files.load_number_words_dataset(600, 40, 40)
    n_short = sum(len(english.split()) < 5 and len(french.split()) + 1 < 10 for english, french in train)
    assert f"the num of training data in each buckets: [{n_short}, {600 - n_short}, 0, 0]\n" in done.said
    assert f"train_buckets_scale: [{n_short / 600}, 1.0, 1.0, 1.0]\n" in done.said
    lines = re.findall(r"^global step (\d+) learning rate (\S+) step-time \d+\.\d\d perplexity \S+$", done.said, re.M)
    assert lines == [("10", "0.5000"), ("20", "0.5000")]
    assert len(re.findall(r"^  eval: bucket [01] perplexity \S+ \(full softmax \S+\)$", done.said, re.M)) == 4
    assert done.said.count("  eval: empty bucket 3\n") == 2
    assert re.search(r"^  BLEU \d+\.\d\d nrefs:1.*tok:none", done.said, re.M)
    resumed = run(script, "--smoke", "--model", "tensorlayer", "--out", tmp_path, "--resume", "--steps", "10")
    assert "global step" not in resumed.said  # all was done
    typed = run(script, "--smoke", "--model", "tensorlayer", "--out", tmp_path, "--decode", stdin="two " * 40)
    assert "that is 40 words, and this model reads 39 at most" in typed.said


@pytest.mark.parametrize(
    ("english", "french", "status", "said"),
    [
        ("a b\nc\n", "d\n", 1, "it goes on after line 1, where"),
        ("a b\n\n", "\nd\n", 1, "no pair of text.en and .fr is shorter than (52, 52): nothing is left"),
        (f"a b\n{'c ' * 52}\n\n", "d e\nf\ng\n", 0, "3 pairs, 1 with an empty side and 1 longer than every bucket"),
    ],
)
def test_texts_that_are_no_pairs_are_refused_or_counted(english, french, status, said, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.en").write_text(english)
    Path("text.fr").write_text(french)
    done = run(script, "--smoke", "--train", "text", "--out", "out")
    assert done.status == status, done.said
    assert said in done.said


# Parts ---------------------------------------------------------------------------------


class Recorder:
    """A checkpoint that never saves and stops with the last step."""

    def run(self, history, generators, **parts):
        return tl.Resumable(None, extra=history)

    def is_late(self):
        return False


class Losses:
    """A model whose training losses are known."""

    learning_rate = 0.5

    def __init__(self, losses):
        self.losses, self.global_step, self.optimizer = losses, 0, None

    def get_batch(self, data, bucket, rng):
        return ()

    def step(self, bucket, forward_only):
        self.global_step += 1
        return None, torch.tensor(self.losses[(self.global_step - 1) // 10]), None

    def decay_learning_rate(self):
        self.learning_rate *= 0.99


# Training perplexities and rates that the original's page prints, steps 10 to 200.
PAGE = [
    (12761.50, 0.5000), (28761.36, 0.5000), (6372.95, 0.5000), (3418.93, 0.5000), (1811.02, 0.5000), (1580.55, 0.5000),
    (1250.57, 0.5000), (793.90, 0.5000), (541.57, 0.5000), (471.12, 0.5000), (474.89, 0.5000), (832.11, 0.5000),
    (452.27, 0.5000), (847.11, 0.5000), (590.03, 0.4950), (400.80, 0.4950), (541.79, 0.4950), (400.65, 0.4950),
    (886.73, 0.4950), (449.64, 0.4901),
]  # fmt: skip


@pytest.mark.parametrize(("look_back", "like_the_page"), [(3, False), (4, False), (5, True), (6, True), (7, False)])
def test_the_rate_decays_as_the_page_prints_if_it_looks_back_far_enough(look_back, like_the_page, script, capsys):
    model = Losses([math.log(perplexity) for perplexity, _ in PAGE])
    args = type("Args", (), {"seed": 0, "steps": 200, "look_back": look_back})
    history = script.train_original(model, {"train": [[1]], "valid": [[]]}, args, Recorder())
    assert history["step"] == [*range(10, 201, 10)]
    assert history["train_perplexity"] == pytest.approx([p for p, _ in PAGE], rel=1e-4)
    rates = pytest.approx([rate for _, rate in PAGE], abs=6e-5)  # four digits of a float32
    assert (history["learning_rate"] == rates) == like_the_page


def test_buckets_are_drawn_by_their_share(script, capsys):
    drawn = []
    model = Losses([1.0] * 1000)
    model.get_batch = lambda data, bucket, rng: drawn.append(bucket) or ()
    args = type("Args", (), {"seed": 0, "steps": 4000, "look_back": 3})
    script.train_original(model, {"train": [[1] * 10, [], [1] * 30], "valid": [[]]}, args, Recorder())
    assert drawn.count(1) == 0
    assert drawn.count(0) / 4000 == pytest.approx(0.25, abs=0.03)


def test_evaluation_prints_the_sampled_and_the_true_perplexity(script, capsys):
    torch.manual_seed(0)
    model = tl.layers.EmbeddingAttentionSeq2seqWrapper(9, 20, [(3, 5)], 8, 1, 5.0, 4, 0.5, 0.99, num_samples=3)
    data = [[([5, 7], [4, 6, 2])]]
    before = [p.clone() for p in model.parameters()]
    script.evaluate_buckets(model, data, random.Random(0))
    printed = re.search(r"eval: bucket 0 perplexity (\S+) \(full softmax (\S+)\)", capsys.readouterr().out)
    source, target = torch.tensor([[5, 7, 0]]), torch.tensor([[4, 6, 2, 0, 0]])
    full = model.eval().loss(source, target, reduction="sentence").exp().item()
    assert float(printed[2]) == pytest.approx(full, abs=0.006)
    assert float(printed[1]) != pytest.approx(full, rel=0.05)  # of 4 words instead of 20
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))


def test_true_perplexity_counts_every_word_once(script):
    torch.manual_seed(0)
    model = tl.layers.EmbeddingAttentionSeq2Seq(
        9, 9, 8, num_samples=0, projection=True, mask_attention=True, keep=0.5, label_smoothing=0.2
    )
    pairs = [([4, 5], [6, 2]), ([4], [5, 6, 7, 2]), ([7, 8, 4], [2])]
    total = 0.0
    model.eval()
    for source, target in pairs:
        logits = model(torch.tensor([source]), model.shifted(torch.tensor([target])))[0]
        total -= logits.log_softmax(1)[range(len(target)), target].sum().item()
    found = script.true_perplexity(model, tl.nlp.TokenBatches(pairs, 9))
    assert found == pytest.approx(math.exp(total / 7), rel=1e-5)
    assert model.training
