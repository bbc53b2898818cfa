"""The samplers with weights: their tables, what they count, and what a checkpoint keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchlayer.kernels.samplers import FixedUnigram, LearnedUnigram


def weights_with_extremes():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3000, generator=generator, dtype=torch.float64) ** 9


TABLES = {
    "extremes": weights_with_extremes(),
    "Zipf": 1 / torch.arange(1, 5001),
    "rising": torch.arange(1, 400),
    "alike": torch.full((49,), 3),
    "one": torch.tensor([2.0]),
    "one among none": torch.tensor([0.0, 0.0, 5.0, 0.0]),
    "one giant": torch.tensor([1.0] * 100 + [1e9]),
    "one dwarf": torch.tensor([1.0] * 100 + [1e-300]),
    "half none": torch.tensor([0.0, 1.0] * 50),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_table_holds_the_distribution(name):
    sampler = FixedUnigram(TABLES[name])
    n, p = len(sampler.alias), sampler.probability
    threshold = sampler._threshold_bits.view(torch.float64)
    assert bool(((threshold >= 0) & (threshold <= 1)).all())
    held = (threshold / n).index_add(0, sampler.alias, (1 - threshold) / n)
    torch.testing.assert_close(held, p, rtol=0, atol=1e-13)
    torch.testing.assert_close(p, TABLES[name].double() / TABLES[name].double().sum())
    assert bool((held[p == 0] == 0).all())


def test_lists_arrays_and_tensors_of_weights_are_alike():
    expected = FixedUnigram([1.0, 2.0, 5.0]).probability
    for weights in (
        np.array([1, 2, 5]),
        torch.tensor([1, 2, 5], dtype=torch.uint8),
        (1, 2, 5),
        torch.tensor([1.0, 2, 5]),
    ):
        assert torch.equal(FixedUnigram(weights).probability, expected)


def test_classes_without_weight_never_come():
    sampler = FixedUnigram(torch.tensor([0.0, 1.0, 0.0, 3.0]), n_reserved=2)
    drawn = sampler(torch.tensor([3]), 20_000, 6, unique=False).sampled
    assert drawn.unique().tolist() == [3, 5]
    assert torch.bincount(drawn)[5].item() / 20_000 == pytest.approx(0.75, abs=0.02)


def test_a_table_survives_half_precision_and_is_no_part_of_a_checkpoint():
    sampler = FixedUnigram(weights_with_extremes())
    before = sampler.probability.clone()
    assert torch.equal(sampler.half().probability, before)
    assert not sampler.state_dict()


def test_learned_counts_are_saved_and_only_training_counts():
    sampler, other = LearnedUnigram(5), LearnedUnigram(5)
    sampler(torch.tensor([[1, 1], [4, 1]]), 2, 5)
    assert sampler.weight.tolist() == [1, 4, 1, 1, 2]
    other.load_state_dict(sampler.state_dict())
    assert torch.equal(other.weight, sampler.weight)
    sampler.eval()(torch.tensor([1]), 2, 5)
    assert torch.equal(other.weight, sampler.weight)


def test_learned_counts_are_used_from_the_next_draw_on():
    sampler = LearnedUnigram(4)
    labels = torch.tensor([2] * 96)
    assert sampler(labels, 1, 4, unique=False).true_expected_count[0] == 0.25
    assert sampler(labels, 1, 4, unique=False).true_expected_count[0] == pytest.approx(0.97)


def test_samplers_describe_themselves():
    assert repr(FixedUnigram([1.0, 0.0, 2.0])) == "FixedUnigram(n_classes=3, n_drawable=2)"
    assert repr(LearnedUnigram(7)) == "LearnedUnigram(n_classes=7)"


def test_a_refused_call_counts_no_labels():
    sampler = LearnedUnigram(4)
    with pytest.raises(IndexError):
        sampler(torch.tensor([1, 4]), 2, 4)
    assert sampler.weight.tolist() == [1] * 4


def test_learned_weights_are_one_and_the_labels_seen():
    sampler = LearnedUnigram(10)
    assert sampler(torch.full((10,), 3), 1, 10, unique=False).true_expected_count[0] == pytest.approx(0.1)
    assert sampler.probability.tolist() == pytest.approx([0.05] * 3 + [0.55] + [0.05] * 6)
    sampler = LearnedUnigram(10)
    sampler(torch.tensor([i for i in range(10) for _ in range(i)]), 1, 10)
    assert sampler.probability.tolist() == pytest.approx([(i + 1) / 55 for i in range(10)])


def test_fixed_weights_to_a_power():
    sampler = FixedUnigram([2.0**i for i in range(9)], distortion=0.8)
    assert sampler.probability.tolist() == pytest.approx([2 ** (0.8 * i) / 197.05 for i in range(9)], rel=1e-4)
    reserved = FixedUnigram([2.0**i for i in range(9)], distortion=0.8, n_reserved=2)
    assert reserved.probability.tolist() == [0, 0, *sampler.probability.tolist()]
