from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch

from tests import vectors
from torchlayer import utils
from torchlayer.utils import helpers


def test_flatten_list_agrees_with_the_original():
    ((_, args, _, expected),) = vectors.of("utils")
    assert utils.flatten_list(*args) == expected
    assert utils.flatten_list([]) == []


def test_dict_to_one_sets_every_value_to_one():
    assert utils.dict_to_one({"drop1": 0.5, "drop2": 0.8}) == {"drop1": 1, "drop2": 1}


# evaluation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [list, np.array, torch.tensor])
def test_evaluation_agrees_with_the_original(convert, capsys):
    c_mat, f1, acc, f1_macro = utils.evaluation(convert([0, 1, 2, 2]), convert([0, 2, 2, 1]), 3)
    assert c_mat.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert f1.tolist() == [1, 0, 0.5]
    assert (acc, f1_macro) == (0.5, 0.5)
    assert capsys.readouterr().out.splitlines() == [
        "confusion matrix: ",
        " [[1 0 0]",
        " [0 0 1]",
        " [0 1 1]]",
        "f1-score: [1.  0.  0.5]",
        "f1-score(macro): 0.5",
        "accuracy-score: 0.5",
    ]


def test_the_macro_score_averages_present_classes_unless_told():
    truth, predicted = [0, 0, 2, 2], [0, 2, 2, 2]
    _, f1, _, f1_macro = utils.evaluation(truth, predicted, 3)
    assert f1.round(4).tolist() == [0.6667, 0, 0.8]
    assert round(f1_macro, 4) == 0.7333
    assert round(utils.evaluation(truth, predicted, 3, labels=range(3))[3], 4) == 0.4889
    assert round(utils.evaluation(truth, predicted, 3, labels=[0])[3], 4) == 0.6667


def test_evaluation_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, predicted = rng.integers(6, size=(2, 8))
        c_mat, f1, acc, f1_macro = utils.evaluation(truth, predicted, 6)
        assert c_mat.tolist() == metrics.confusion_matrix(truth, predicted, labels=range(6)).tolist()
        expected = metrics.f1_score(truth, predicted, average=None, labels=range(6), zero_division=0)
        np.testing.assert_allclose(f1, expected)
        assert f1_macro == pytest.approx(metrics.f1_score(truth, predicted, average="macro", zero_division=0))
        assert acc == metrics.accuracy_score(truth, predicted)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (([0, 1], [0], 2), ValueError, "one prediction for each of one or more labels, got 1 and 2"),
        (([], [], 2), ValueError, "one or more labels, got 0 and 0"),
        (([0, 3], [0, 1], 3), ValueError, r"class ids must lie in \[0, 3\), got 0 to 3; pass a larger n_classes"),
        (([0, -1], [0, 1]), ValueError, r"class ids must lie in \[0, 2\), got -1 to 1"),
        (
            ([0, 1], [[0.1, 0.9], [0.5, 0.5]]),
            ValueError,
            r"y_predict must hold one class id an example, got shape \(2, 2",
        ),
        (([0, 1], [0.0, 1.0]), TypeError, r"y_predict must hold integer class ids, got float64; call argmax\(-1\)"),
    ],
)
def test_evaluation_explains_a_wrong_input(args, error, message):
    with pytest.raises(error, match=message):
        utils.evaluation(*args)


# class_balancing_oversample ------------------------------------------------------------------------------------------

X, Y = np.arange(12, dtype=np.int16).reshape(6, 2), [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("convert", [np.array, torch.tensor])
def test_every_class_becomes_as_large_as_the_largest(convert):
    data = convert(X)
    x, y = utils.class_balancing_oversample(data, convert(Y), printable=False)
    assert x.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [6, 7], [10, 11], [10, 11], [10, 11]]
    assert y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert (x.dtype, y.dtype) == (data.dtype, convert(Y).dtype)


def test_classes_need_neither_a_zero_nor_two_axes():
    x, y = utils.class_balancing_oversample(np.arange(4 * 6).reshape(4, 3, 2, 1), ["b", "a", "b", "b"], printable=False)
    assert x[:, 0, 0, 0].tolist() == [0, 12, 18, 6, 6, 6]
    assert y.tolist() == ["b"] * 3 + ["a"] * 3


def test_balanced_examples_can_be_shuffled():
    x, y = utils.class_balancing_oversample(X, Y, printable=False, shuffle=True, rng=0)
    same_x, same_y = utils.class_balancing_oversample(X, Y, printable=False, shuffle=True, rng=0)
    assert (x.tolist(), y.tolist()) == (same_x.tolist(), same_y.tolist())
    assert y.tolist() != sorted(y)
    assert sorted(y) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all(Y[row[0] // 2] == label for row, label in zip(x, y))


def test_nothing_is_printed_unless_wanted(capsys):
    utils.class_balancing_oversample(X, Y, printable=False)
    assert capsys.readouterr().out == ""
    utils.class_balancing_oversample(X, Y)
    assert "the occurrence number of each stage: [(0, 3), (1, 2), (2, 1)]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y[:5], r"one label for each of one or more examples, got X \(6, 2\) and y \(5,\)"),
        (X[:0], [], r"got X \(0, 2\) and y \(0,\)"),
        (X, np.eye(6), r"y \(6, 6\); for one-hot rows pass y.argmax\(-1\)"),
    ],
)
def test_oversampling_explains_a_wrong_input(x, y, message):
    with pytest.raises(ValueError, match=message):
        utils.class_balancing_oversample(x, y)


# set_seed ------------------------------------------------------------------------------------------------------------


def draws(generators):
    own = generators.python.random(), generators.numpy.random(), torch.rand(1, generator=generators.torch).item()
    return *own, random.random(), np.random.random(), torch.rand(1).item()


def test_a_seed_repeats_every_stream():
    first = draws(utils.set_seed(1))
    assert draws(utils.set_seed(1)) == first
    assert all(a != b for a, b in zip(draws(utils.set_seed(2)), first))


def test_the_generators_do_not_repeat_the_global_streams():
    assert len(set(draws(utils.set_seed(np.int64(3))))) == 6


def test_nothing_but_the_streams_is_touched(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, torch.get_default_dtype()
    utils.set_seed(0)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert before == (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.get_default_dtype(),
    )


def test_deterministic_asks_torch_for_it(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "kept")
    utils.set_seed(0, deterministic=True)
    assert asked == [True]
    assert torch.backends.cudnn.benchmark is False
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == "kept"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    utils.set_seed(0, deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, r"seed must be in \[0, 2\*\*32\), got -1"),
        (2**32, ValueError, r"seed must be in \[0, 2\*\*32\), got 4294967296"),
        (1.5, TypeError, "seed must be an integer, got 1.5"),
        (True, TypeError, "seed must be an integer, got True"),
    ],
)
def test_a_seed_is_a_small_natural_number(seed, error, message):
    with pytest.raises(error, match=message):
        helpers.set_seed(seed)
