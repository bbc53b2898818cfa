"""What the samplers refuse, and what they say then."""

from __future__ import annotations

import math

import pytest
import torch
from sampler_cases import (
    MANY,
    needs_cpu,
    summed,
)

from torchlayer.kernels._library import OPS
from torchlayer.kernels.samplers import (
    FixedUnigram,
    LearnedUnigram,
    all_candidate_sampler,
    fixed_unigram_sampler,
    learned_unigram_sampler,
    log_uniform_sampler,
    uniform_sampler,
)

GOOD = torch.tensor([1, 2])
SEED = torch.tensor([1, 2])


def log_uniform(labels=GOOD, n_sampled=3, n_classes=10, **kwargs):
    return log_uniform_sampler(labels, n_sampled, n_classes, **kwargs)


def fixed(labels=GOOD, n_sampled=2, n_classes=5, weights=(0.0, 1.0, 1.0, 0.0), **kwargs):
    return FixedUnigram(list(weights), n_reserved=1)(labels, n_sampled, n_classes, **kwargs)


BAD = [
    (log_uniform, {"labels": [1, 2]}, TypeError, "log_uniform_sampler needs a tensor of labels, got list; use torch."),
    (log_uniform, {"labels": None}, TypeError, "a tensor of labels, got NoneType"),
    (log_uniform, {"labels": torch.ones(2)}, TypeError, "labels of an integer dtype, got torch.float32; call labels"),
    (log_uniform, {"labels": torch.ones(2).half()}, TypeError, "labels of an integer dtype, got torch.float16"),
    (log_uniform, {"labels": torch.ones(2).bool()}, TypeError, "labels of an integer dtype, got torch.bool"),
    (log_uniform, {"labels": torch.ones(2).cfloat()}, TypeError, "labels of an integer dtype, got torch.complex64"),
    (log_uniform, {"labels": GOOD.to_sparse()}, TypeError, "needs dense labels, got a sparse or nested tensor"),
    (log_uniform, {"labels": torch.tensor([1, -1])}, IndexError, r"label -1 at row 1 is outside \[0, 10\)"),
    (log_uniform, {"labels": torch.tensor([10, 1])}, IndexError, r"label 10 at row 0 is outside \[0, 10\)"),
    (log_uniform, {"labels": torch.tensor(10)}, IndexError, r"label 10 at row 0 is outside \[0, 10\)"),
    (log_uniform, {"labels": torch.tensor([[1, 2], [3, 99]])}, IndexError, r"label 99 at row \(1, 1\) is outside"),
    (log_uniform, {"labels": torch.tensor([2**63 - 1])}, IndexError, "label 9223372036854775807 at row 0 is outside"),
    (log_uniform, {"labels": torch.tensor([-(2**63)])}, IndexError, "label -9223372036854775808 at row 0 is outside"),
    (log_uniform, {"labels": torch.tensor([2**31])}, IndexError, "label 2147483648 at row 0 is outside"),
    (log_uniform, {"n_sampled": 0}, ValueError, "log_uniform_sampler needs n_sampled at least 1, got 0"),
    (log_uniform, {"n_sampled": -3}, ValueError, "needs n_sampled at least 1, got -3"),
    (log_uniform, {"n_sampled": 2.0}, TypeError, "needs n_sampled as an int, got float"),
    (log_uniform, {"n_sampled": True}, TypeError, "needs n_sampled as an int, got bool"),
    (log_uniform, {"n_sampled": torch.tensor(3)}, TypeError, "needs n_sampled as an int, got Tensor"),
    (
        log_uniform,
        {"n_sampled": 11},
        ValueError,
        "cannot draw 11 distinct classes of 10; lower n_sampled or pass uniqu",
    ),
    (log_uniform, {"n_classes": 0}, ValueError, r"needs n_classes from 1 to 2\^40, got 0"),
    (log_uniform, {"n_classes": -1}, ValueError, r"needs n_classes from 1 to 2\^40, got -1"),
    (log_uniform, {"n_classes": 2**40 + 1}, ValueError, r"needs n_classes from 1 to 2\^40, got 1099511627777"),
    (log_uniform, {"n_classes": "10"}, TypeError, "needs n_classes as an int, got str"),
    (log_uniform, {"seed": 5}, TypeError, r"needs a seed of two int64, like torch.tensor\(\[1, 2\]\), got 5"),
    (log_uniform, {"seed": torch.tensor([1])}, TypeError, r"a seed of two int64, .*, got \(1,\) torch.int64"),
    (log_uniform, {"seed": torch.tensor([[1, 2]])}, TypeError, r"a seed of two int64, .*, got \(1, 2\) torch.int64"),
    (log_uniform, {"seed": torch.tensor([1.0, 2.0])}, TypeError, r"a seed of two int64, .*, got \(2,\) torch.float32"),
    (log_uniform, {"seed": SEED.int()}, TypeError, r"a seed of two int64, .*, got \(2,\) torch.int32"),
    (log_uniform, {"seed": SEED.to("meta")}, ValueError, "needs labels and seed on one device, got cpu and meta"),
    (uniform_sampler, {"labels": GOOD, "n_sampled": 3, "n_classes": 2}, ValueError, "uniform_sampler cannot draw 3"),
    (
        uniform_sampler,
        {"labels": GOOD, "n_sampled": 1, "n_classes": 2},
        IndexError,
        "uniform_sampler: label 2 at row 1",
    ),
    (
        all_candidate_sampler,
        {"labels": GOOD, "n_sampled": 3, "n_classes": 5},
        ValueError,
        "takes all 5 classes, got n_s",
    ),
    (
        all_candidate_sampler,
        {"labels": GOOD, "n_sampled": 2, "n_classes": 2},
        IndexError,
        "label 2 at row 1 is outside",
    ),
    (all_candidate_sampler, {"labels": [1], "n_sampled": 2, "n_classes": 2}, TypeError, "needs a tensor of labels"),
    (FixedUnigram, {"weights": [1.0, -1.0]}, ValueError, "finite and not negative, got -1.0 at 1"),
    (FixedUnigram, {"weights": [1.0, math.nan]}, ValueError, "finite and not negative, got nan at 1"),
    (FixedUnigram, {"weights": [math.inf, 1.0]}, ValueError, "finite and not negative, got inf at 0"),
    (FixedUnigram, {"weights": [0.0, 0.0]}, ValueError, "a sum above zero and finite, got 0.0 for 2 weights"),
    (FixedUnigram, {"weights": []}, ValueError, "a sum above zero and finite, got 0.0 for 0 weights"),
    (FixedUnigram, {"weights": [1e200, 1.0], "distortion": 2.0}, ValueError, "a sum above zero and finite, got inf"),
    (FixedUnigram, {"weights": [0.0, 1.0], "distortion": -1.0}, ValueError, "a sum above zero and finite, got inf"),
    (FixedUnigram, {"weights": ["a", "b"]}, TypeError, "FixedUnigram needs weights that are real numbers: "),
    (FixedUnigram, {"weights": [1.0, [2.0]]}, TypeError, "FixedUnigram needs weights that are real numbers: "),
    (FixedUnigram, {"weights": None}, TypeError, "FixedUnigram needs weights that are real numbers: "),
    (FixedUnigram, {"weights": [[1.0]]}, ValueError, r"one weight a class, a 1-D tensor, got shape \(1, 1\)"),
    (FixedUnigram, {"weights": torch.tensor(1.0)}, ValueError, r"one weight a class, a 1-D tensor, got shape \(\)"),
    (FixedUnigram, {"weights": torch.ones(2).bool()}, TypeError, "weights that are real numbers, got torch.bool"),
    (
        FixedUnigram,
        {"weights": torch.ones(2).cfloat()},
        TypeError,
        "weights that are real numbers, got torch.complex64",
    ),
    (FixedUnigram, {"weights": [1.0], "distortion": math.nan}, ValueError, "a finite distortion, got nan"),
    (FixedUnigram, {"weights": [1.0], "n_reserved": -1}, ValueError, "n_reserved of 0 or more, got -1"),
    (FixedUnigram, {"weights": [1.0], "n_reserved": 1.5}, ValueError, "n_reserved of 0 or more, got 1.5"),
    (
        fixed,
        {"labels": torch.tensor([2, 0])},
        ValueError,
        "label 0 at row 1 is reserved or has weight zero, so it is n",
    ),
    (
        fixed,
        {"labels": torch.tensor([[4], [2]])},
        ValueError,
        r"label 4 at row \(0, 0\) is reserved or has weight zero",
    ),
    (
        fixed,
        {"labels": torch.tensor([2, 5])},
        IndexError,
        r"fixed_unigram_sampler: label 5 at row 1 is outside \[0, 5\)",
    ),
    (
        fixed,
        {"n_sampled": 3},
        ValueError,
        "cannot draw 3 distinct classes: only 2 of 5 have a weight above zero; lower",
    ),
    (fixed, {"n_classes": 6}, ValueError, "fixed_unigram_sampler has weights for 5 classes, got n_classes 6"),
    (fixed, {"labels": GOOD.to("meta")}, ValueError, r"has its weights on cpu, got labels on meta; call .to\(device\)"),
    (LearnedUnigram, {"n_classes": 0}, ValueError, r"LearnedUnigram needs n_classes from 1 to 2\^40, got 0"),
    (LearnedUnigram, {"n_classes": 2.5}, TypeError, "LearnedUnigram needs n_classes as an int, got float"),
    (LearnedUnigram(4), {"labels": GOOD, "n_sampled": 2, "n_classes": 5}, ValueError, "has weights for 4 classes, got"),
    (LearnedUnigram(4), {"labels": GOOD, "n_sampled": 5, "n_classes": 4}, ValueError, "cannot draw 5 distinct classes"),
    (LearnedUnigram(4), {"labels": -GOOD, "n_sampled": 2, "n_classes": 4}, IndexError, "label -1 at row 0 is outside"),
    (
        fixed_unigram_sampler,
        {"labels": GOOD, "n_sampled": 1, "n_classes": 2, "unigram": torch.ones(2)},
        TypeError,
        r"fixed_unigram_sampler needs unigram=FixedUnigram\(weights\), got Tensor",
    ),
    (
        learned_unigram_sampler,
        {"labels": GOOD, "n_sampled": 1, "n_classes": 2, "unigram": None},
        TypeError,
        r"learned_unigram_sampler needs unigram=LearnedUnigram\(n_classes\), got NoneType",
    ),
]


@pytest.mark.parametrize(("function", "arguments", "error", "text"), BAD)
def test_bad_input_says_what_to_do(function, arguments, error, text):
    with pytest.raises(error, match=text):
        function(**arguments)


ONE = torch.ones(5, dtype=torch.float64)
WEIGHT = torch.ones(5, dtype=torch.int64)
EVERY_OTHER = torch.ones(10, dtype=torch.int64)[::2]
SUMS = summed(WEIGHT)[1]

NATIVE_BAD = [
    ("uniform_sample", (GOOD.int(), SEED, 2, 5, True, MANY), "uniform_sample needs int64 labels, got Int"),
    ("uniform_sample", (GOOD, SEED.int(), 2, 5, True, MANY), "needs a seed of two int64"),
    ("uniform_sample", (GOOD, SEED[:1], 2, 5, True, MANY), "needs a seed of two int64"),
    ("log_uniform_sample", (GOOD, SEED, 2, 0, True, MANY), r"needs 1 to 2\^40 classes, got 0"),
    ("log_uniform_sample", (GOOD, SEED, 2, 2**40 + 1, True, MANY), r"needs 1 to 2\^40 classes, got 1099511627777"),
    ("log_uniform_sample", (GOOD, SEED, 6, 5, True, MANY), "cannot draw 6 distinct classes of 5"),
    ("log_uniform_sample", (GOOD, SEED, 0, 5, False, MANY), "cannot draw 0 classes of 5"),
    ("alias_sample", (GOOD, SEED, ONE[:4], ONE, WEIGHT, 2, True, MANY), "needs probability as one Double a class"),
    ("alias_sample", (GOOD, SEED, ONE, ONE.float(), WEIGHT, 2, True, MANY), "needs threshold as one Double a class"),
    ("alias_sample", (GOOD, SEED, ONE, ONE, WEIGHT.int(), 2, True, MANY), "needs alias as one Long a class"),
    ("learned_sample_", (GOOD, SEED, ONE, SUMS, True, 2, True, MANY), "needs weight as one Long a class"),
    ("learned_sample_", (GOOD, SEED, WEIGHT[:, None], SUMS, True, 2, True, MANY), "needs weight as one Long a class"),
    ("learned_sample_", (GOOD, SEED, EVERY_OTHER, SUMS, True, 2, True, MANY), "needs contiguous weight and sums"),
    ("learned_sample_", (GOOD, SEED, WEIGHT, SUMS[:-1], True, 2, True, MANY), "needs 16 int64 sums for 5 weights"),
    ("learned_sample_", (GOOD, SEED, WEIGHT, SUMS.double(), True, 2, True, MANY), "needs 16 int64 sums for 5 weights"),
]


@needs_cpu
@pytest.mark.parametrize(("op", "arguments", "text"), NATIVE_BAD)
def test_compiled_ops_check_their_own_arguments(op, arguments, text):
    with pytest.raises(RuntimeError, match=text):
        OPS[op].overload(*arguments)
