"""What benchmarks/translate.py compares is the same function."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "translate.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_translate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("two_ways", "layers", "tied"), [(True, 1, True), (False, 2, False)])
def test_the_model_by_hand_is_ours(two_ways, layers, tied, script):
    torch.manual_seed(0)
    sizes = script.Sizes(vocabulary=30, size=6, embedding=5, layers=layers, batch=4, source=7, target=5)
    ours = script.same_function(sizes, two_ways, 1.0, tied)
    hand = script.ByHand(sizes, two_ways, 1.0, tied)
    script.copy_weights(ours, hand)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in hand.parameters())
    data = script.batch(sizes, "cpu")
    both = ours.loss(*data), hand(*data)
    torch.testing.assert_close(*both)
    mine = ours.source_embeddings, ours.proj_w, ours.decoder.attention.v, ours.decoder.W_input
    its = hand.source.weight, hand.softmax.weight, hand.score.weight, hand.enter.weight
    for got, want in zip(torch.autograd.grad(both[0], mine), torch.autograd.grad(both[1], its)):
        torch.testing.assert_close(got, want.T.reshape(got.shape) if got.shape != want.shape else want)


def test_a_small_comparison_prints_its_tables(script, monkeypatch, capsys):
    small = script.Sizes(vocabulary=600, size=8, embedding=8, layers=1, batch=2, source=3, target=4)
    monkeypatch.setattr(script, "CASES", {"recipe": (small, small), "page": (small, small)})
    args = type("Args", (), {"whole": False, "device": "cpu", "rounds": 1})
    script.compare_steps(args)
    script.compare_decoding(args)
    said = capsys.readouterr().out
    assert said.count("| by hand, full softmax | ") == 2
    assert "| ours as TensorLayer: its cells, sampled | " in said
    assert "full / sampled: " in said
    assert "| 5 | " in said
