"""Every example as a user runs it, on little data."""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import torchlayer as tl

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("tutorial_*.py"))


def run(script, *args, cwd):
    done = subprocess.run(
        [sys.executable, "-W", "error", script, *args], cwd=cwd, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def run_here(monkeypatch, tmp_path, capsys):
    """``run(script, *flags)`` in this process and an empty folder, which spares seconds of imports: for what has run as
    a user runs it already.
    """
    monkeypatch.chdir(tmp_path)
    before = torch.get_float32_matmul_precision()

    def run(script, *flags):
        monkeypatch.setattr(sys, "argv", [str(script), *flags])
        capsys.readouterr()
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    yield run
    torch.set_float32_matmul_precision(before)


COMMON = ("--seed", "--device", "--data", "--out", "--smoke")
NOT_TRAINING = ("image_preprocess", "tfrecord", "tfrecord2", "tfrecord3", "vgg16", "vgg19", "inceptionV3")


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda p: p.stem)
def test_help_tells_what_to_expect_and_has_the_common_flags(script, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location(f"help_of_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    with pytest.raises(SystemExit) as done:
        module.main()
    assert done.value.code == 0
    text = capsys.readouterr().out
    trains = script.stem.removeprefix("tutorial_") not in NOT_TRAINING
    for flag in (*COMMON, "--epochs", "--batch-size", "--lr", "--checkpoint-seconds", "--resume") if trains else COMMON:
        assert flag in text
    for word in ("Reproduces", "Expect", "Run"):
        assert word in text


def test_mnist_simple_runs_and_resumes(run_here, tmp_path):
    script = next(p for p in EXAMPLES if p.stem == "tutorial_mnist_simple")
    text = run(script, "--smoke", "--out", "out", cwd=tmp_path)
    assert re.search(r"^result: test_loss=\d\.\d{4} test_acc=\d\.\d{4}$", text, re.MULTILINE)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.npz", "learning_curve.png", "run.ckpt"}
    again = run_here(script, "--smoke", "--out", "out", "--resume")
    assert again.splitlines()[-1] == text.splitlines()[-1]  # both epochs were done: the same network


def test_every_mnist_variant_runs_draws_and_saves(tmp_path):
    script = next(p for p in EXAMPLES if p.stem == "tutorial_mnist")
    text = run(script, "--smoke", "--model", "all", "--out", "out", cwd=tmp_path)
    names = ["mlp", "dropconnect", "denoise_ae", "stacked_denoise_ae", "cnn"]
    assert re.findall(r"^result: (\w+) ", text, re.MULTILINE) == names
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert {f"{name}_filters.png" for name in names} <= left
    assert {f"{name}.npz" for name in names} <= left
    assert {f"{name}.ckpt" for name in names} <= left


def test_distributed_runs_under_torchrun(tmp_path):
    script = next(p for p in EXAMPLES if p.stem == "tutorial_distributed")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script)
    text = run(*torchrun, "--smoke", "--device", "cpu", "--out", "out", "--trunk", "fsdp2", cwd=tmp_path)
    for line in ("process 0 of 2 on cpu: classes 0 to 249", "process 1 of 2 on cpu: classes 250 to 499"):
        assert line in text
    assert len(re.findall(r"^result: perplexity=\d+\.\d{4}$", text, re.MULTILINE)) == 1
    assert tl.checkpoint.load(tmp_path / "out" / "run.ckpt")["loss"]["weight"].shape == (500, 32)  # the whole table


@pytest.mark.parametrize(("model", "stem"), [("one", "model_word2vec_50k_128"), ("fast", "model_word2vec_fast")])
def test_word2vec_trains_scores_saves_and_resumes(model, stem, run_here, tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHLAYER_DATA", raising=False)  # where there are more texts and word lists
    script = next(p for p in EXAMPLES if p.stem == "tutorial_word2vec_basic")
    (tmp_path / "wordsim").mkdir()
    (tmp_path / "wordsim" / "questions-words.txt").write_text(": some\nThe of and to\nis in a for\nthe zyzzyva a b\n")
    (tmp_path / "wordsim" / "EN-WS-353-ALL.txt").write_text("the of 7.5\nand to 3.0\nis in 9.1\nfor a 1.2\n")
    vocabulary = ["the", "of", "and", "to", "is", "in", "a", "for", *(f"w{i}" for i in range(92))]
    text = " ".join(np.random.RandomState(0).choice(vocabulary, 5000))
    (tmp_path / "text8").write_text(text)
    flags = ("--smoke", "--model", model, "--data", ".", "--out", "out", "--device", "cpu")
    first = run(script, *flags, cwd=tmp_path)
    pattern = rf"^result: {model} words_per_second=\d+ analogies=\d+\.\d+ analogies_30k=\d+\.\d+ ws353=-?\d\.\d+$"
    assert re.search(pattern, first, re.MULTILINE)
    assert "Questions:  2\nSkipped:  1\n" in first
    names = {f"{stem}.{kind}" for kind in ("npz", "npy", "ckpt", "bin", "txt")}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names | {"vocab_text8.txt", "projector", "tsne.png"}
    words, vectors = tl.files.load_word2vec_format(tmp_path / "out" / f"{stem}.bin")
    assert len(words) == 101
    assert vectors.shape == (101, 32)
    again = run_here(script, *flags, "--resume")  # all was done: the same vectors
    assert re.findall("analogies=.*", again) == re.findall("analogies=.*", first)


def test_image_preprocess_draws_its_sheets_and_cuts_everywhere(tmp_path):
    script = next(p for p in EXAMPLES if p.stem == "tutorial_image_preprocess")
    text = run(script, "--smoke", "--epochs", "1", "--out", "out", "--device", "cpu", cwd=tmp_path)
    assert "(100, 28, 28, 3)\n" in text
    shares = [float(share) for share in re.findall(r"in percent: (.*)", text)[0].split()]
    assert len(shares) == 5
    assert all(abs(share - 20) < 1 for share in shares)  # 8 deviations
    assert re.search(r"^result: threads_images_a_second=\d+ batch_images_a_second=\d+$", text, re.MULTILINE)
    names = {"cifar10.pdf", "cifar10_distort.pdf", "sheet.png"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("text", "flags", "error"),
    [
        ("", ("--model", "fast"), "it has no words"),
        ("a", ("--model", "fast"), "learns words that occur 5 times or more, and this text has none"),
        ("a " * 50, ("--model", "one"), "num_sampled=64 different words cannot be drawn of vocabulary_size=2"),
    ],
)
def test_word2vec_says_what_is_wrong_with_a_text(text, flags, error, run_here, tmp_path):
    script = next(p for p in EXAMPLES if p.stem == "tutorial_word2vec_basic")
    (tmp_path / "text").write_text(text)
    with pytest.raises((SystemExit, ValueError), match=re.escape(error)):
        run_here(script, "--data", "text", *flags)


def test_word2vec_needs_a_text_where_it_is_told_to_look(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHLAYER_DATA", raising=False)
    script = next(p for p in EXAMPLES if p.stem == "tutorial_word2vec_basic")
    done = subprocess.run([sys.executable, script, "--data", "nowhere"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "nowhere is no text, and no folder with text8.zip or wiki8.xz in it" in done.stderr


def test_a_missing_data_set_says_where_to_put_it(tmp_path):
    script = next(p for p in EXAMPLES if p.stem == "tutorial_mnist_simple")
    done = subprocess.run(
        [sys.executable, script, "--data", "nowhere", "--epochs", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={
            "TORCHLAYER_OFFLINE": "1",
            "PATH": "/usr/bin",
            "HOME": str(tmp_path),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # where torchlayer is, if it was not installed
        },
        timeout=60,
    )
    assert done.returncode == 1
    assert "train-images-idx3-ubyte.gz" in done.stderr
