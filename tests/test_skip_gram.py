"""Word vectors from windows, compiled and as reference, against a loop in float64."""

import math

import pytest
import torch

from torchlayer import kernels
from torchlayer.kernels import _library
from torchlayer.kernels.skip_gram import skip_gram_

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
compiled = pytest.mark.skipif(kernels.compiled().cpu.name != "cpu", reason="nothing was compiled")
DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]
LR = 0.05


def arguments(n=40, n_rows=12, width=20, n_negatives=3, window=3, group=7, limit=5, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    embeddings, weights = (torch.randn(n_rows, width, dtype=dtype, generator=generator) for _ in range(2))
    words = torch.randint(n_rows, (n,), generator=generator)
    radius = torch.randint(0, window + 1, (n,), generator=generator)
    negatives = torch.randint(n_rows, (n, n_negatives), generator=generator)
    given = {"embeddings": embeddings, "weights": weights, "words": words, "radius": radius, "negatives": negatives}
    given = {name: tensor.to(device) for name, tensor in given.items()}
    return {**given, "lr": LR, "window": window, "group": group, "limit": limit}


def copied(args):
    return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in args.items()}


def loop(args):
    """The definition, number by number; returns both tables and the losses."""
    x, y = (args[name].double().cpu().tolist() for name in ("embeddings", "weights"))
    words, radius, negatives = (args[name].tolist() for name in ("words", "radius", "negatives"))
    losses = []
    for first in range(0, len(words), args["group"]):
        changes, n_windows = [], {}
        for i in range(first, min(first + args["group"], len(words))):
            loss, outputs = 0.0, [words[i], *negatives[i]]
            places = [i + d for d in range(-radius[i], radius[i] + 1) if d and 0 <= i + d < len(words)]
            for key in [("x", words[j]) for j in places] + [("y", k) for k in outputs]:
                n_windows[key] = n_windows.get(key, 0) + 1
            for j in places:
                a = x[words[j]]
                for k, out in enumerate(outputs):
                    if k and out == words[i]:
                        continue
                    sign = 1 if k else -1
                    logit = sign * sum(p * q for p, q in zip(a, y[out]))
                    loss += math.log1p(math.exp(logit))
                    step = -LR * sign / (1 + math.exp(-logit))
                    changes.append((("x", words[j]), [step * q for q in y[out]]))
                    changes.append((("y", out), [step * p for p in a]))
            losses.append(loss)
        for (table, row), change in changes:
            scale = min(1.0, args["limit"] / n_windows[table, row])
            into = (x if table == "x" else y)[row]
            into[:] = [old + scale * c for old, c in zip(into, change)]
    return tuple(torch.tensor(numbers, dtype=torch.float64) for numbers in (x, y, losses))


CASES = {
    "as it comes": {},
    "one window at a time": {"group": 1, "limit": 1},
    "all windows at once": {"group": 1000, "limit": 1000},
    "groups of several pieces": {"n": 300, "group": 200, "n_rows": 50},
    "frequent words are held back": {"n": 100, "group": 100, "n_rows": 3, "limit": 2},
    "one number a row": {"width": 1},
    "rows of odd lengths": {"width": 23},
    "no negatives": {"n_negatives": 0},
    "many negatives": {"n_negatives": 11},
    "a window wider than the text": {"n": 3, "window": 9},
    "one word": {"n": 1},
    "no words": {"n": 0},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tier", ["reference", "op"])
@pytest.mark.parametrize("case", CASES)
def test_tables_and_losses_are_those_of_the_loop(case, tier, device):
    args = arguments(**CASES[case], device=device)
    x, y, losses = loop(args)
    if tier == "op":
        result = skip_gram_(**args)
    else:
        rate = torch.tensor(LR, dtype=torch.float64, device=device)
        result = _library.OPS["skip_gram_"].reference(*{**args, "lr": rate}.values())
    torch.testing.assert_close(args["embeddings"].cpu(), x)
    torch.testing.assert_close(args["weights"].cpu(), y)
    torch.testing.assert_close(result.cpu(), losses)


@pytest.mark.parametrize("device", DEVICES)
def test_float32_is_as_exact_as_its_rounding(device):
    args = arguments(n=200, n_rows=40, width=100, group=50, dtype=torch.float32, device=device)
    x, y, losses = loop(args)
    result = skip_gram_(**args)
    torch.testing.assert_close(args["embeddings"].cpu(), x.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(args["weights"].cpu(), y.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.cpu(), losses.float(), rtol=1e-4, atol=1e-4)


@compiled
def test_any_number_of_threads_gives_the_same_bits():
    before, results = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            args = arguments(n=2000, n_rows=60, width=30, group=700, dtype=torch.float32)
            losses = skip_gram_(**args)
            results.append((args["embeddings"], args["weights"], losses))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@cuda
def test_a_gpu_told_to_be_deterministic_repeats_itself():
    before, results = torch.are_deterministic_algorithms_enabled(), []
    try:
        torch.use_deterministic_algorithms(True)
        for _ in range(2):
            args = arguments(n=2000, n_rows=60, width=30, group=700, dtype=torch.float32, device="cuda")
            results.append((skip_gram_(**args), args["embeddings"], args["weights"]))
    finally:
        torch.use_deterministic_algorithms(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("device", DEVICES)
def test_words_and_neighbours_come_to_agree(device):
    args = arguments(n=4000, n_rows=40, width=8, group=64, limit=8, dtype=torch.float32, device=device)
    args["words"] = torch.arange(4000, device=device) % 40  # a word's neighbours are the same ones always
    args["embeddings"] /= 8
    args["weights"].zero_()
    losses = [skip_gram_(**args) for _ in range(5)]
    assert float(losses[-1].mean()) < 0.7 * float(losses[0].mean())


def test_the_tables_are_marked_as_changed():
    args = arguments()
    skip_gram_(**args)
    assert args["embeddings"]._version == args["weights"]._version == 1


@cuda
def test_on_a_gpu_an_id_out_of_range_turns_its_window_into_nan():
    args = arguments(n_rows=12, device="cuda", group=1)
    args["words"][10] = 12
    assert bool(skip_gram_(**args)[10].isnan())


WRONG = {
    "ids beyond the tables": ({"words": [0, 12]}, IndexError, "word 12 at position 1, but there are 12 words"),
    "negative ids": ({"negatives": [[0], [-1]]}, IndexError, "negative -1 at position 1, but there are 12 words"),
    "a radius beyond the window": ({"radius": [0, 4]}, ValueError, "radius from 0 to window=3, got 4 at position 1"),
    "a radius below 0": ({"radius": [0, -1]}, ValueError, "radius from 0 to window=3, got -1 at position 1"),
    "radius of another length": ({"radius": [0, 0, 0]}, ValueError, r"one shape \(N,\), got \(2,\) and \(3,\)"),
    "flat negatives": ({"negatives": [0, 1]}, ValueError, r"negatives of shape \(2, K\), got \(2,\)"),
    "words that are no ids": ({"words": [0.5, 1.0]}, TypeError, "words in torch.int64, got torch.float64"),
    "a rate below 0": ({"lr": -1.0}, ValueError, "needs lr of 0 or more, got -1"),
    "no window": ({"window": 0}, ValueError, "needs window of 1 or more, got 0"),
    "no group": ({"group": 0}, ValueError, "needs group of 1 or more, got 0"),
    "no limit": ({"limit": True}, ValueError, "needs limit of 1 or more, got True"),
    "no tensor": ({"words": "ab"}, TypeError, "needs words as a tensor, got str"),
}


@pytest.mark.parametrize("tier", ["reference", pytest.param("op", marks=compiled)])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused_before_anything_changes(case, tier):
    changed, error, text = WRONG[case]
    args = arguments(n=2, n_negatives=1)
    for name, value in changed.items():
        dtype = torch.float64 if value == [0.5, 1.0] else torch.int64
        args[name] = torch.tensor(value, dtype=dtype) if isinstance(value, list) else value
    before = copied(args)
    call = skip_gram_
    if tier == "reference":
        args["lr"] = torch.tensor(args["lr"], dtype=torch.float64)
        call = _library.OPS["skip_gram_"].reference
    with pytest.raises(error, match=text):
        call(*args.values())
    assert torch.equal(args["embeddings"], before["embeddings"])
    assert torch.equal(args["weights"], before["weights"])


TABLES = {
    "half": (lambda x: x.half(), TypeError, "float32 or both in float64"),
    "one axis": (lambda x: x[:, 0], ValueError, r"two tables of one shape \(V, D\)"),
    "fewer rows": (lambda x: x[:5], ValueError, r"two tables of one shape \(V, D\), got weights \(5, 20\)"),
    "strided": (lambda x: torch.cat([x, x], 1)[:, ::2], ValueError, "needs weights contiguous"),
    "trained": (lambda x: x.requires_grad_(), RuntimeError, "call it under torch.no_grad"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_of_another_kind_are_refused(case):
    change, error, text = TABLES[case]
    args = arguments()
    args["weights"] = change(args["weights"])
    with pytest.raises(error, match=text):
        skip_gram_(**args)


@pytest.mark.parametrize("tier", ["reference", pytest.param("op", marks=compiled)])
def test_one_table_for_both_is_refused(tier):
    args = arguments()
    args["weights"] = args["embeddings"]
    rate = torch.tensor(LR, dtype=torch.float64)
    op = _library.OPS["skip_gram_"]
    call = op.reference if tier == "reference" else op.overload
    with pytest.raises(ValueError, match="in memory of their own, but they overlap"):
        call(*{**args, "lr": rate}.values())


def test_it_traces_without_data():
    args = arguments(device="meta")
    assert skip_gram_(**args).shape == (40,)
