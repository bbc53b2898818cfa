"""Every tier against a sampler in Python's integers, TensorFlow's own tests, and its numbers."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from decimal import Decimal, localcontext
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from sampler_cases import (
    MANY,
    SAMPLERS,
    call,
    every_sampler,
    every_tier,
    needs_cpu,
    seeds,
    summed,
    unigram_samplers,
)

from torchlayer.kernels import _philox, _sampler_ops
from torchlayer.kernels._library import OPS
from torchlayer.kernels.samplers import (
    FixedUnigram,
    LearnedUnigram,
    SampledValues,
    all_candidate_sampler,
    log_uniform_sampler,
    uniform_sampler,
)

REFERENCE = Path(__file__).parent / "reference"


# A sampler in Python's integers and its own exp, one draw after the other.

WORD = 2**32


def python_philox(counter, key):
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, WORD)
        high1, low1 = divmod(0xCD9E8D57 * c2, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return c0, c1, c2, c3


def python_uniforms(seed, draw):
    key, above = (word % 2**64 for word in seed.tolist())
    words = python_philox((draw % WORD, draw // WORD, above % WORD, above // WORD), (key % WORD, key // WORD))
    return tuple(((words[i + 1] * WORD + words[i]) >> 11) / 2**53 for i in (0, 2))


def python_sample(seed, n_sampled, unique, pick):
    found, draw = [], 0
    while len(found) < n_sampled:
        k = pick(*python_uniforms(seed, draw))
        draw += 1
        if not unique or k not in found:
            found.append(k)
    return found, draw


def case_uniform(n):
    return "uniform_sample", (), (n,), lambda u, _: math.floor(u * n), lambda k: 1 / n


def case_log_uniform(n):
    def pick(u, _):
        return int(math.exp(u * math.log1p(n))) - 1

    return "log_uniform_sample", (), (n,), pick, lambda k: math.log((k + 2) / (k + 1)) / math.log(n + 1)


def case_alias(n):
    probability = torch.arange(1, n + 1).double()
    probability /= probability.sum()
    threshold = torch.linspace(0.2, 0.8, n, dtype=torch.float64)
    alias = torch.arange(n).flip(0)

    def pick(u, v):
        column = math.floor(u * n)
        return column if v < threshold[column] else int(alias[column])

    return "alias_sample", (probability, threshold, alias), (), pick, lambda k: float(probability[k])


def case_weighted(n):
    weight = torch.arange(n) % 7 + 1
    sums = list(accumulate(weight.tolist()))

    def pick(u, _):
        return bisect_right(sums, math.floor(u * sums[-1]))

    return "learned_sample_", summed(weight), (), pick, lambda k: int(weight[k]) / sums[-1]


CASES = [
    pytest.param(make(n), n_sampled, unique, id=f"{make.__name__[5:]}-{n}-{n_sampled}-{unique}")
    for make in (case_uniform, case_log_uniform, case_alias, case_weighted)
    for n, n_sampled, unique in [
        (1, 1, True),
        (1, 3, False),
        (2, 2, True),
        (31, 20, True),
        (32, 32, True),
        (33, 90, False),
        (1000, 65, True),
    ]
]


def python_count(p, n_sampled, n_tries):
    if n_tries == n_sampled:
        return p * n_sampled
    return float(1 - (1 - Decimal(p)) ** n_tries)


@every_tier
@pytest.mark.parametrize(("case", "n_sampled", "unique"), CASES)
def test_draws_are_those_of_one_draw_after_the_other(tier, case, n_sampled, unique):
    op, tables, sizes, pick, probability = case
    n = sizes[0] if sizes else len(tables[0])
    labels = torch.arange(n)[-4:, None]
    for seed in seeds(3):
        expected, n_tries = python_sample(seed, n_sampled, unique, pick)
        sampled, true_count, sampled_count, tries = call(
            tier, op, labels, seed, *tables, n_sampled, *sizes, unique, MANY
        )
        assert sampled.tolist() == expected
        assert (tries.tolist(), tries.dtype, tries.shape) == (n_tries, torch.int64, ())
        for counts, ids in ((true_count, labels), (sampled_count, sampled)):
            want = [python_count(probability(k), n_sampled, n_tries) for k in ids.flatten().tolist()]
            assert (counts.dtype, counts.shape) == (torch.float32, ids.shape)
            np.testing.assert_allclose(counts.flatten().numpy(), want, rtol=1e-6)


LARGE = [
    ("log_uniform_sample", 8192, 793471, True),
    ("log_uniform_sample", 3000, 3000, True),
    ("log_uniform_sample", 4000, 2**32 + 1, True),
    ("log_uniform_sample", 5000, 2**40, False),
    ("uniform_sample", 2000, 2000, True),
    ("uniform_sample", 4000, 2**31, True),
    ("uniform_sample", 5000, 2**40, False),
]


@needs_cpu
@pytest.mark.parametrize(("op", "n_sampled", "n_classes", "unique"), LARGE)
def test_compiled_and_plain_draws_are_the_same_bits(op, n_sampled, n_classes, unique):
    labels = torch.randint(0, n_classes, (50, 3))
    for seed in seeds(3, start=1):
        arguments = labels, seed, n_sampled, n_classes, unique, MANY
        ours, plain = call("cpu", op, *arguments), call("reference", op, *arguments)
        assert torch.equal(ours[0], plain[0])
        assert torch.equal(ours[3], plain[3])
        torch.testing.assert_close(ours[1:3], plain[1:3], rtol=3e-7, atol=0)
        assert bool((ours[0] >= 0).all() & (ours[0] < n_classes).all())
        assert not unique or len(ours[0].unique()) == n_sampled


@needs_cpu
def test_the_number_of_threads_makes_no_difference():
    arguments = torch.arange(5000), seeds(1)[0], 9000, 100_000, True, MANY
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = call("cpu", "log_uniform_sample", *arguments)
        torch.set_num_threads(4)
        together = call("cpu", "log_uniform_sample", *arguments)
    finally:
        torch.set_num_threads(n_threads)
    assert all(torch.equal(a, b) for a, b in zip(alone, together))


# Random bits

# Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, words.
KNOWN_ANSWERS = [
    ((0,) * 4, (0,) * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((WORD - 1,) * 4, (WORD - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, words):
    found = _philox.philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert " ".join(f"{int(word):08x}" for word in found) == words
    assert " ".join(f"{word:08x}" for word in python_philox(counter, key)) == words


@every_tier
def test_a_draw_shows_the_known_answer(tier):
    # among 2^40 classes a draw is its first two words' upper 40 bits, the second word in front
    sampled, *_ = call(tier, "uniform_sample", torch.tensor([0]), torch.tensor([0, 0]), 1, 2**40, False, MANY)
    assert f"{int(sampled):010x}" == "e169c58d66"


def test_exponential_is_exact_to_two_ulps():
    x = torch.cat((torch.linspace(0, 28, 500, dtype=torch.float64), torch.tensor([1e-300, 1e-17, math.log(2), 699.0])))
    with localcontext() as context:
        context.prec = 40
        for value, found in zip(x.tolist(), _philox.exponential(x).tolist()):
            exact = Decimal(value).exp()
            assert abs(Decimal(found) - exact) <= exact * Decimal(2) ** -51
    assert _philox.exponential(torch.zeros(1, dtype=torch.float64)).item() == 1


# Rounds without a look, and their bound

every_tier_that_may_look = pytest.mark.parametrize("tier", ["reference", pytest.param("cpu", marks=needs_cpu)])

BLIND = [(64, 50_000), (10, 10), (1, 1), (200, 1000), (1000, 10**6)]


@pytest.mark.parametrize(("n_sampled", "n_classes"), BLIND)
def test_rounds_that_may_not_look_draw_the_same(n_sampled, n_classes):
    classes = _sampler_ops._log_uniform(n_classes)
    for seed in seeds(3):
        looking, blind = (
            _sampler_ops._draw_distinct("op", classes, seed, n_sampled, MANY, may_look) for may_look in (True, False)
        )
        assert torch.equal(looking[0], blind[0])
        assert torch.equal(looking[1], blind[1])


def test_rounds_that_may_not_look_say_by_nan_that_they_did_not_suffice():
    classes, seed = _sampler_ops._weighted(torch.tensor([2**40, 1, 1])), torch.tensor([1, 2])
    sampled, n_tries = _sampler_ops._draw_distinct("op", classes, seed, 3, MANY, False)
    assert sampled.tolist() == [0, 0, 0]  # classes that exist, so that nothing is read where nothing is
    assert n_tries == -1
    assert bool(_sampler_ops._expected_count(torch.tensor([0.5, 0.1]), 3, n_tries).isnan().all())


@every_tier_that_may_look
def test_a_search_without_end_ends(tier):
    labels, seed, weight = torch.tensor([0]), torch.tensor([1, 2]), torch.tensor([2**50, 1, 1])
    with pytest.raises(RuntimeError, match=r"learned_sample_ needs more than 5000 draws to find 2 distinct classes of"):
        call(tier, "learned_sample_", labels, seed, *summed(weight), 2, True, 5000)


@every_tier_that_may_look
def test_the_bound_on_draws_is_exact(tier):
    arguments = torch.tensor([0]), seeds(1)[0], 40, 50, True
    n_tries = int(call(tier, "uniform_sample", *arguments, MANY)[3])
    assert n_tries > 40
    assert call(tier, "uniform_sample", *arguments, n_tries)[3] == n_tries
    with pytest.raises(RuntimeError, match=f"more than {n_tries - 1} draws to find 40 distinct classes of 50; lower"):
        call(tier, "uniform_sample", *arguments, n_tries - 1)


# TensorFlow's numbers

FILES = sorted(REFERENCE.glob("sampler_*.npz"))


def z_of_chi_square(found, expected, variance):
    """Wilson and Hilferty's normal deviate of the sum of squares of independent deviates."""
    n = len(found) - 1
    statistic = float((((found - expected) ** 2) / variance).sum())
    return ((statistic / n) ** (1 / 3) - (1 - 2 / (9 * n))) / math.sqrt(2 / (9 * n))


def test_all_of_tensorflows_files_are_here():
    assert len(FILES) == 8


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_expected_counts_are_tensorflows(file):
    case = np.load(file)
    about = json.loads(str(case["about"]))
    n_classes, n_sampled = about["V"], about["S"]
    probability = {
        "uniform": lambda k: np.full(len(k), 1 / n_classes),
        "log_uniform": lambda k: np.log((k + 2) / (k + 1)) / np.log(n_classes + 1),
    }[about["kind"]](case["one_sample"])
    if not about["unique"]:
        labels = torch.from_numpy(case["one_sample"])
        found = SAMPLERS[about["kind"]](labels, n_sampled, n_classes, unique=False)
        np.testing.assert_allclose(found.true_expected_count.numpy(), case["one_sample_expected"], rtol=1e-5)
        return
    # TensorFlow does not say how many draws it took; one number has to explain all counts
    tries = [n for n in range(n_sampled, 20 * n_sampled) if explains(n, probability, n_sampled, case)]
    assert len(tries) == 1
    ours = _sampler_ops._expected_count(torch.from_numpy(probability), n_sampled, torch.tensor(tries[0]))
    np.testing.assert_allclose(ours.numpy(), case["one_sample_expected"], rtol=1e-5)


def explains(n_tries, probability, n_sampled, case):
    count = probability * n_sampled if n_tries == n_sampled else 1 - (1 - probability) ** n_tries
    return np.allclose(count, case["one_sample_expected"], rtol=1e-4)


@pytest.mark.parametrize("file", [file for file in FILES if "repeat" in file.stem], ids=lambda file: file.stem)
def test_frequencies_with_repeats_are_tensorflows(file):
    case = np.load(file)
    about = json.loads(str(case["about"]))
    n = about["draws"] * about["S"]
    sampled = SAMPLERS[about["kind"]](torch.tensor([0]), n, about["V"], unique=False).sampled
    ours, theirs = torch.bincount(sampled, minlength=about["V"]).numpy(), case["frequency"]
    assert ours.sum() == theirs.sum()
    often = ours + theirs >= 10
    z = z_of_chi_square(ours[often], theirs[often], (ours + theirs)[often])
    assert abs(z) < 4


@needs_cpu
@pytest.mark.parametrize("file", [file for file in FILES if "unique" in file.stem], ids=lambda file: file.stem)
def test_frequencies_and_counts_of_distinct_classes_are_tensorflows(file):
    case = np.load(file)
    about = json.loads(str(case["about"]))
    labels = torch.from_numpy(case["labels"])
    samples = [
        SAMPLERS[about["kind"]](labels, about["S"], about["V"], seed=seed) for seed in seeds(about["draws"], start=3)
    ]
    ours = torch.bincount(torch.cat([s.sampled for s in samples]), minlength=about["V"]).numpy()
    theirs, n = case["frequency"], about["draws"]
    assert ours.sum() == theirs.sum()
    share = (ours + theirs) / (2 * n)
    often = (share * n >= 5) & (share < 1)
    z = z_of_chi_square(ours[often], theirs[often], (2 * n * share * (1 - share))[often])
    assert abs(z) < 4
    mean = torch.stack([s.true_expected_count for s in samples]).mean(0)
    np.testing.assert_allclose(mean[0].numpy(), case["mean_true_expected_count"], rtol=0.01)


@needs_cpu
@pytest.mark.parametrize(("n_classes", "n_sampled", "slack"), [(100, 50, 0.02), (1000, 20, 0.1)])
def test_expected_counts_are_the_frequencies_of_distinct_classes(n_classes, n_sampled, slack):
    everything, n = torch.arange(n_classes), 2000
    samples = [log_uniform_sampler(everything, n_sampled, n_classes, seed=seed) for seed in seeds(n, start=4)]
    share = torch.bincount(torch.cat([s.sampled for s in samples]), minlength=n_classes) / n
    expected = torch.stack([s.true_expected_count for s in samples]).mean(0)
    # TensorFlow's count takes the number of draws as if it had been given beforehand, which the first classes feel
    assert bool(((share - expected).abs() <= slack + 4 * (expected * (1 - expected).clamp(0) / n).sqrt()).all())
    rare = slice(n_classes // 4, None)
    assert share[rare].sum().item() == pytest.approx(expected[rare].sum().item(), rel=0.03)


# TensorFlow's own tests: candidate_sampler_ops_test.py and range_sampler_test.cc


def test_all_candidates_and_their_log_counts():
    found = all_candidate_sampler(torch.tensor([[1, 2], [0, 4], [3, 3]]), 5, 5)
    assert found.sampled.tolist() == [0, 1, 2, 3, 4]
    assert found.true_expected_count.log().tolist() == [[0.0, 0.0]] * 3
    assert found.sampled_expected_count.log().tolist() == [0.0] * 5


@every_sampler
def test_one_seed_one_sample_and_no_seed_other_samples(kind):
    labels, sampler = torch.tensor([[1, 2], [0, 4], [3, 3]]), unigram_samplers(1000)[kind]
    first, second = (
        unigram_samplers(1000)[kind](labels, 10, 1000, seed=torch.tensor([7, 8])).sampled for _ in range(2)
    )
    assert torch.equal(first, second)
    samples = [sampler(labels, 10, 1000).sampled for _ in range(10)]
    assert sum(torch.equal(samples[0], other) for other in samples[1:]) == 0


@every_sampler
def test_torchs_seed_rules(kind):
    labels = torch.tensor([1])
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(unigram_samplers(1000)[kind](labels, 10, 1000).sampled)
    assert torch.equal(*drawn)


@every_sampler
@pytest.mark.parametrize("unique", [True, False])
def test_one_class_is_drawn_with_count_one(kind, unique):
    found = unigram_samplers(1)[kind](torch.tensor([[0]]), 1, 1, unique)
    assert [values.tolist() for values in found] == [[0], [[1.0]], [1.0]]


@pytest.mark.parametrize("sampler", [uniform_sampler, log_uniform_sampler])
@pytest.mark.parametrize("n_classes", [2**31 - 1, 2**31, 2**32 + 1, 2**40])
def test_a_range_beyond_32_bits(sampler, n_classes):
    found = sampler(torch.tensor([0, n_classes - 1]), 1000, n_classes)
    assert bool(((found.sampled >= 0) & (found.sampled < n_classes)).all())
    assert int(found.sampled.max()) > n_classes // 2
    assert all(bool(((counts > 0) & counts.isfinite()).all()) for counts in found[1:])


@every_sampler
def test_probabilities_sum_to_one(kind):
    counts = unigram_samplers(500)[kind](torch.arange(500), 1, 500, unique=False).true_expected_count
    assert counts.double().sum().item() == pytest.approx(1, abs=1e-5)


def test_half_as_frequent_at_twice_the_rank():
    ids = torch.tensor([2**i for i in range(5, 20)])
    counts = log_uniform_sampler(torch.stack((ids, ids // 2)), 1, 10**6, unique=False).true_expected_count
    assert bool(((counts[0] / counts[1] - 0.5).abs() < 0.1).all())


@every_sampler
def test_a_thousand_draws_show_the_probabilities(kind):
    sampler = unigram_samplers(10)[kind]
    expected = sampler(torch.arange(10), 1000, 10, unique=False).true_expected_count
    drawn = unigram_samplers(10)[kind](torch.arange(10), 100_000, 10, unique=False).sampled
    assert bool(((torch.bincount(drawn, minlength=10) / 100 - expected).abs() < 0.05 * 1000 * 0.2).all())
    z = z_of_chi_square(torch.bincount(drawn, minlength=10).numpy(), 100 * expected.numpy(), 100 * expected.numpy())
    assert abs(z) < 4


# What other ports get wrong


def test_the_first_classes_are_drawn_as_often_as_expected():
    # PyTorch_GBW_LM rounds exp(U log V) to the nearest, so class 0 comes at 0.585 of its probability, class 1 at 1.26.
    n_classes, n = 10_000, 400_000
    found = log_uniform_sampler(torch.tensor([0, 1, 2]), n, n_classes, unique=False)
    ratio = torch.bincount(found.sampled, minlength=3)[:3] / found.true_expected_count
    assert bool(((ratio - 1).abs() < 0.02).all())
    rounded = torch.exp(torch.rand(n).double() * math.log(n_classes)).round().long() - 1
    wrong = torch.bincount(rounded, minlength=3)[:3] / found.true_expected_count
    assert wrong[0] < 0.7
    assert wrong[1] > 1.2


def test_as_many_classes_as_asked_for_at_every_draw():
    # Transformer-XL's torch.multinomial(p, 2 n, True).unique() has another length every time.
    lengths = {len(log_uniform_sampler(torch.tensor([0]), 100, 1000, seed=seed).sampled) for seed in seeds(20)}
    assert lengths == {100}
    p = log_uniform_sampler(torch.arange(1000), 1, 1000, unique=False).true_expected_count
    assert len({len(torch.multinomial(p, 200, True).unique()) for _ in range(20)}) > 1


def test_rare_classes_are_drawn_too():
    # Transformers4Rec keeps the first n of a sorted unique(): above id 27,900 of 50,000 nothing is ever drawn.
    n_classes, n_sampled = 50_000, 1024
    largest = [log_uniform_sampler(torch.tensor([0]), n_sampled, n_classes, seed=s).sampled.max() for s in seeds(20)]
    assert float(torch.stack(largest).double().mean()) > 0.98 * n_classes
    p = log_uniform_sampler(torch.arange(n_classes), 1, n_classes, unique=False).true_expected_count
    cut = [torch.multinomial(p, 2 * n_sampled, True).unique()[:n_sampled].max() for _ in range(20)]
    assert float(torch.stack(cut).double().mean()) < 0.9 * n_classes


def test_a_draw_without_a_repeat_takes_tensorflows_other_formula():
    for seed in seeds(200):
        *_, count, n_tries = OPS["uniform_sample"].overload(torch.tensor([0]), seed, 8, 60, True, MANY)
        expected = 8 / 60 if n_tries == 8 else 1 - (59 / 60) ** int(n_tries)
        assert count[0].item() == pytest.approx(expected, rel=1e-6)


def test_double_precision_reaches_every_class():
    # with 24 random bits 58 % of the classes in the upper half of ten millions could never come
    odd = log_uniform_sampler(torch.tensor([0]), 100_000, 10**7, unique=False).sampled
    high = odd[odd > 5_000_000]
    assert len(high) > 3000
    step = torch.exp(torch.arange(2**24 - 2**21, 2**24, 97).double() / 2**24 * math.log1p(10**7)).long() - 1
    reachable = set(step.tolist())
    assert sum(k in reachable for k in high.tolist()) < len(high) / 10


# Labels of every kind

LABELS = {
    "a scalar": (torch.tensor(3), ()),
    "none": (torch.zeros(0, dtype=torch.int64), (0,)),
    "no rows of two": (torch.zeros(0, 2, dtype=torch.int64), (0, 2)),
    "rows of none": (torch.zeros(4, 0, dtype=torch.int64), (4, 0)),
    "one a row": (torch.tensor([1, 2]), (2,)),
    "two a row": (torch.tensor([[1, 2], [0, 4]]), (2, 2)),
    "int32": (torch.tensor([1, 2], dtype=torch.int32), (2,)),
    "int16": (torch.tensor([1, 2], dtype=torch.int16), (2,)),
    "int8": (torch.tensor([1, 2], dtype=torch.int8), (2,)),
    "uint8": (torch.tensor([1, 2], dtype=torch.uint8), (2,)),
    "transposed": (torch.tensor([[1, 2, 3], [0, 4, 9]]).t(), (3, 2)),
    "every other one": (torch.arange(8)[::2], (4,)),
    "expanded": (torch.tensor([[7]]).expand(5, 2), (5, 2)),
    "a slice with an offset": (torch.arange(9)[3:6], (3,)),
}


@every_sampler
@pytest.mark.parametrize("name", LABELS)
def test_any_labels_give_counts_of_their_shape(kind, name):
    labels, shape = LABELS[name]
    seed = torch.tensor([1, 2])
    found = unigram_samplers(10)[kind](labels, 4, 10, seed=seed)
    assert isinstance(found, SampledValues)
    assert found.sampled.shape == found.sampled_expected_count.shape == (4,)
    assert found.true_expected_count.shape == shape
    table = unigram_samplers(10)[kind](torch.arange(10), 4, 10, seed=seed).true_expected_count
    torch.testing.assert_close(found.true_expected_count, table[labels.long()])


@every_tier
@pytest.mark.parametrize("op", ["uniform_sample", "log_uniform_sample"])
def test_a_label_nobody_looked_at_has_no_count(tier, op):
    labels = torch.tensor([[-1, 3], [10, 9], [2**62, -(2**63)]])
    _, counts, others, _ = call(tier, op, labels, torch.tensor([1, 2]), 4, 10, True, MANY)
    assert counts.isnan().tolist() == [[True, False], [True, False], [True, True]]
    assert bool(others.isfinite().all())


@every_tier
def test_a_label_never_drawn_has_no_count(tier):
    table = FixedUnigram([0.0, 1.0, 2.0], n_reserved=1)
    columns = table.probability, table._threshold_bits.view(torch.float64), table.alias
    _, counts, others, _ = call(
        tier, "alias_sample", torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2]), *columns, 2, True, MANY
    )
    assert counts.isnan().tolist() == [True, True, False, False]
    assert bool((others > 0).all())


# As ops


@pytest.mark.parametrize("op", ["uniform_sample", "log_uniform_sample", "alias_sample", "learned_sample_"])
def test_opcheck(op):
    example = OPS[op].example(torch.device("cpu"))
    torch.library.opcheck(OPS[op].overload, example, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("op", ["uniform_sample", "log_uniform_sample", "alias_sample", "learned_sample_"])
def test_the_reference_reads_nothing_back_and_no_shape_depends_on_data(op, unique):
    # meta tensors have no data: whatever asked for some would raise
    example = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in OPS[op].example(torch.device("cpu"))]
    sampled, *counts, n_tries = OPS[op].reference(*example[:-2], unique, MANY)
    assert [tuple(x.shape) for x in (sampled, *counts, n_tries)] == [(256,), (128, 1), (256,), ()]


@pytest.mark.parametrize("kind", ["uniform", "log_uniform", "fixed", "learned"])
def test_compiles_without_a_graph_break(kind):
    labels, seed = torch.tensor([[1], [4]]), torch.tensor([3, 4])
    eager, inside = (unigram_samplers(50)[kind] for _ in range(2))
    compiled = torch.compile(lambda x, s: inside(x, 6, 50, seed=s), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(compiled(labels, seed), eager(labels, 6, 50, seed=seed)))


@every_sampler
def test_meta_tensors_know_their_shape(kind):
    sampler = {
        "uniform": uniform_sampler,
        "log_uniform": log_uniform_sampler,
        "fixed": FixedUnigram(torch.ones(50)).to("meta"),
        "learned": LearnedUnigram(50).to("meta"),
    }[kind]
    found = sampler(torch.empty(3, 2, dtype=torch.int64, device="meta"), 6, 50)
    assert [tuple(values.shape) for values in found] == [(6,), (3, 2), (6,)]
