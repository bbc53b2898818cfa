"""The text generation's script: what it makes of a text, what it begins with, what it writes and leaves."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import torchlayer as tl

SCRIPT = Path(__file__).parent.parent / "examples" / "tutorial_generate_text.py"


@pytest.fixture(scope="module")
def script():
    return SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="imported"))


@pytest.fixture
def run(script, monkeypatch, tmp_path, capsys):
    """Runs the script in this process, as often as a test likes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHLAYER_DATA", raising=False)
    n_threads = torch.get_num_threads()

    def run(*flags):
        monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--device", "cpu", *flags])
        script.main()
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(n_threads)


def book(n_words=4000):
    """A text whose words follow each other in pairs, so that there is something to learn."""
    words = np.random.RandomState(0).randint(0, 40, n_words // 2)
    return " ".join(f"It{i} IS{i}, " if i % 3 else f"it{i} is{i} " for i in words)


def test_a_text_is_cleaned_as_by_the_original(script):
    text = "PREFACE\n\nSUPPOSING that Truth\u2019s a woman--what? \"It's (not) we've, I can't!\" _So_ [it]; is: 3.5=x\n"
    expected = (
        "preface supposing that truth 's a woman what it 's not we have , i can not ! so it is 3 . 5 x"  # not 3.5
    )
    assert script.basic_clean_str(text).split() == expected.split()


@pytest.mark.parametrize(("model", "table"), [("original", 10), ("long", 10)])
def test_models_are_what_they_say(model, table, script):
    config = script.MODELS[model]._replace(size=12)
    net, softmax = script.build(config, table)
    assert (softmax.weight is net.embedding_layer.embeddings) == config.tied
    assert isinstance(net.lstm1.cells[0], tl.layers.WeightDropLSTMCell) == config.tied
    assert net(torch.zeros(2, 3, dtype=torch.int64)).shape == (6, 12)
    kept = {layer.keep for name, layer in net.named_children() if name.startswith("drop")}
    assert kept == {config.keep}
    assert (script.MODELS["original"].keep, script.MODELS["original"].num_steps) == (0.8, 4)


def test_perplexity_is_that_of_the_whole_stream(script):
    config = script.MODELS["original"]._replace(size=8)
    net, softmax = script.build(config, 30)
    ids = torch.randint(30, (9001,))  # one window of 8000 and what remains
    cost = script.Cost(softmax, config, "cpu")
    with torch.no_grad():
        logits = F.linear(net.eval()(ids[None, :-1]), softmax.weight, softmax.bias)
    expected = F.cross_entropy(logits, ids[1:]).exp().item()
    assert script.perplexity(net, cost, ids) == pytest.approx(expected, rel=1e-5)
    assert net.training


def test_what_is_written_is_never_the_unknown_word(script):
    net, softmax = script.build(script.MODELS["original"]._replace(size=8), 30)
    with torch.no_grad():
        softmax.bias[script.UNKNOWN] = 50.0
    words = script.writer(net, softmax, "cpu", 0)(torch.ones(len(script.WAYS), 2, dtype=torch.int64), 40)
    assert words.shape == (6, 40)
    assert words.min() > 0


@pytest.mark.parametrize("model", ["original", "long"])
def test_it_learns_writes_saves_and_goes_on_as_if_it_had_not_stopped(model, run, tmp_path):
    (tmp_path / "book.txt").write_text(book(), encoding="utf-8")
    flags = ("--smoke", "--model", model, "--data", "book.txt", "--seed-words", "It3 is3")
    whole = run(*flags, "--out", "whole")
    line = whole.splitlines()[-1]
    names = ["train_perplexity", "valid_perplexity", "test_perplexity", "epochs", "words_per_second"]
    pattern = rf"result: {model} " + " ".join(rf"{name}=\S+" for name in names) + r" written_per_second=\S+"
    assert re.fullmatch(pattern, line)
    last = whole[whole.index("Written by") :]
    for way in ("5", "10", "50", "100", "nucleus 0.9", "temperature 0.7"):
        assert re.search(rf"^{way} : it3 is3( \S+){{20}}$", last, re.MULTILINE)
    trained, valid = (float(re.search(rf"{name}=(\S+)", line)[1]) for name in names[:2])
    assert max(trained, valid) < 80  # of 82 words
    left = {p.name for p in (tmp_path / "whole").iterdir()}
    assert left == {
        "model_generate_text.npz", "model_generate_text.npy", f"{model}.ckpt", f"{model}_curves.png", "choices.png",
    }  # fmt: skip
    first = run(*flags, "--out", "parts", "--minutes", "0")
    assert " epochs=1 " in first.splitlines()[-1]
    second = run(*flags, "--out", "parts", "--resume")
    assert "Epoch: 1/2" not in second
    assert second.splitlines()[-1].split(" words_per")[0] == line.split(" words_per")[0]


def test_it_begins_with_restored_vectors(script, run, tmp_path):
    (tmp_path / "book.txt").write_text(book(), encoding="utf-8")
    words = ["_UNK", "hello", "it3", "is3", "elsewhere", "new"]
    vectors = np.random.RandomState(0).randn(6, 32).astype(np.float32)
    ids = tl.layers.InputLayer((None,), torch.int64)
    net = tl.layers.EmbeddingInputlayer(ids, 6, 32, E_init=vectors)
    tl.files.save_npz(net, name="w.npz")
    tl.files.save_any_to_npy({"reverse_dictionary": dict(enumerate(words))}, "w.npy")
    tl.files.save_word2vec_format("w.bin", words, vectors, binary=True)
    for file in ("w.npz", "w.bin"):
        restored = script.restore_embedding(Path(file))
        assert restored[0] == words
        assert np.array_equal(restored[1], vectors)
    table, before = torch.nn.Parameter(torch.randn(4, 32)), None
    before = table.detach().clone()
    script.begin_with(table, words, vectors, {"_UNK": 0, "a": 1, "is3": 2, "it3": 3})
    scale = before.std() / vectors.std()
    torch.testing.assert_close(table.detach()[[0, 3, 2]], torch.from_numpy(vectors[[0, 2, 3]]) * scale)
    assert torch.equal(table[1], before[1])
    text = run("--smoke", "--data", "book.txt", "--embedding", "w.bin", "--epochs", "1", "--out", "out")
    assert "vectors of ['hello']: (1, 32)" in text
    assert "vectors of ['new']: (1, 32)" in text
    assert "3 of 82 words begin with a vector of the file" in text


@pytest.mark.parametrize(
    ("content", "flags", "error", "text"),
    [
        (b"", (), SystemExit, r"book.txt has 0 words, 0 of them for training, which takes 100 or more; give a longer"),
        (b"word", (), SystemExit, r"book.txt has 1 words, 0 of them for training"),
        (b"two words " * 50, ("--num-steps", "7"), SystemExit, r"100 words, 90 of them for training, which takes 160"),
        (b"two words " * 9, ("--batch-size", "1"), SystemExit, r"0 of them for validation, which takes 2 or more"),
        (b"a b\nc\xff d\n", (), tl.files.FileFormatError, r"book.txt' cannot be read: line 2 is not utf-8 text"),
        (b"a b\0c\n", (), tl.files.FileFormatError, r"book.txt' cannot be read: line 1 holds a NUL"),
        (b"\xff\xfea\0b\0", (), tl.files.FileFormatError, r"line 1 is not utf-8 text; it looks like UTF-16"),
        (b"a b ", ("--data", "nowhere"), SystemExit, r"nowhere is no text, and no folder with nietzsche.txt in it"),
        (b"a b ", ("--seed-words", "?)"), SystemExit, r"--seed-words has no words to go on from"),
        (b"a b c d " * 99, ("--embedding", "cut.bin"), tl.files.FileFormatError, r"cut.bin' cannot be read: .*cut off"),
        (b"a b c d " * 99, ("--embedding", "gap.npz"), SystemExit, r"gap.npy has no word for id 1 of the 3 in gap.npz"),
        (b"a b c d " * 99, ("--embedding", "w.txt"), SystemExit, r"has vectors of 2 numbers, the model of 32"),
    ],
)
def test_what_nothing_can_be_learnt_from_is_refused(content, flags, error, text, run, tmp_path):
    (tmp_path / "book.txt").write_bytes(content)
    (tmp_path / "cut.bin").write_bytes(b"2 2\na " + bytes(8) + b"b " + bytes(5))
    (tmp_path / "w.txt").write_bytes(b"1 2\na 1 2\n")
    tl.files.save_npz([np.ones((3, 2), np.float32)], name=tmp_path / "gap.npz")
    tl.files.save_any_to_npy({"reverse_dictionary": {0: "a", 2: "c"}}, tmp_path / "gap.npy")
    with pytest.raises(error, match=text):
        run("--smoke", "--data", "book.txt", *flags)


@pytest.mark.parametrize("change", [lambda b: b.replace(b" ", b"\r\n"), lambda b: b"\xef\xbb\xbf" + b])
def test_line_ends_and_a_byte_order_mark_are_no_part_of_words(change, script, tmp_path):
    (tmp_path / "book.txt").write_bytes(change(b"one two three two"))
    assert script.load_words(str(tmp_path / "book.txt"))[0] == ["one", "two", "three", "two"]


def test_nietzsche_is_found_where_data_lie(script, tmp_path, monkeypatch):
    (tmp_path / "nietzsche.txt").write_text("Suppose--that")
    assert script.load_words(str(tmp_path))[0] == ["suppose", "that"]
    monkeypatch.setenv("TORCHLAYER_DATA", str(tmp_path))
    assert script.load_words(None) == (["suppose", "that"], str(tmp_path))
