"""Draws from the largest logits: which they are, how often each comes, and what draws nothing."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch

import torchlayer as tl
from torchlayer.kernels import _library, draw_top_k
from torchlayer.nlp import sample_logits, sampling

MODULE = importlib.import_module("torchlayer.kernels.draw_top_k")
has_kernels = torch.cuda.is_available() and tl.kernels.compiled().cuda.name == "cuda"
needs_cuda = pytest.mark.skipif(not has_kernels, reason="no CUDA kernels")
every_tier = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def noise_of(n, k, device="cpu", seed=0):
    return torch.empty(n, k).exponential_(generator=torch.Generator().manual_seed(seed)).to(device)


def by_sorting(logits, noise, temperature):
    """One row after the other, in float64: sorted by value, then by place."""
    drawn = []
    for row, e in zip(logits.double().cpu().tolist(), noise.double().cpu().tolist()):
        if not all(x < math.inf for x in row) or max(row) == -math.inf:
            drawn.append(-1)
            continue
        best = sorted(range(len(row)), key=lambda i: (-row[i], i))[: len(e)]
        drawn.append(max(zip(best, e), key=lambda pair: row[pair[0]] / temperature - math.log(pair[1]))[0])
    return drawn


def logits_of(kind, n, v, dtype, seed=0):
    x = torch.randn(n, v, generator=torch.Generator().manual_seed(seed)) * 3
    return {"apart": x, "tied": x.round(), "equal": x * 0, "with none": x.masked_fill(x < 0, -math.inf)}[kind].to(dtype)


@every_tier
@pytest.mark.parametrize("kind", ["apart", "tied", "equal", "with none"])
@pytest.mark.parametrize(("v", "k"), [(1, 1), (2, 2), (33, 10), (1025, 7), (2000, 300)])
def test_the_largest_are_drawn_from_and_of_equal_ones_the_first(device, kind, v, k):
    for dtype in DTYPES:
        logits, noise = logits_of(kind, 4, v, dtype).to(device), noise_of(4, k, device)
        assert draw_top_k(logits, noise, 0.7).tolist() == by_sorting(logits, noise, 0.7)


@needs_cuda
@pytest.mark.parametrize("kind", ["apart", "tied", "equal", "with none"])
@pytest.mark.parametrize("v", [1000, 1024, 8191, 10_000, 65_536])
def test_long_rows_equal_the_reference(kind, v):
    for dtype in DTYPES:
        for k in (1, 10, 100, 1000):
            logits, noise = logits_of(kind, 3, v, dtype).cuda(), noise_of(3, k, "cuda")
            assert torch.equal(draw_top_k(logits, noise, 1.3), MODULE._reference(logits, noise, 1.3))


@every_tier
@pytest.mark.parametrize("layout", [lambda x: x[:, ::2], lambda x: x.t().contiguous().t(), lambda x: x[:, 1:]])
def test_any_layout_will_do(device, layout):
    logits, noise = layout(logits_of("apart", 5, 40, torch.float32).to(device)), noise_of(5, 6, device)
    assert torch.equal(draw_top_k(logits, noise), draw_top_k(logits.contiguous(), noise))


@every_tier
def test_rows_that_are_no_distribution_draw_minus_one(device):
    logits = torch.zeros(7, 30)
    logits[0, 3], logits[1, 29], logits[2], logits[3, 5], logits[4, 1] = torch.nan, math.inf, -math.inf, -math.nan, 9.0
    logits[5, :29] = -math.inf
    drawn = draw_top_k(logits.to(device), torch.ones(7, 4, device=device)).tolist()
    assert drawn == [-1, -1, -1, -1, 1, 29, 0]
    assert draw_top_k(torch.zeros(0, 3, device=device), torch.zeros(0, 2, device=device)).shape == (0,)


@every_tier
@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e300])
def test_any_temperature_above_zero(device, temperature):
    logits = torch.tensor([[-1e30, 1e30, -torch.inf, 1e30]], device=device)
    expected = {1} if temperature < 1 else {0, 1, 3}
    drawn = {draw_top_k(logits, noise_of(1, 4, device, i), temperature).item() for i in range(50)}
    assert drawn == expected or (temperature < 1 and drawn <= {1, 3})


@every_tier
def test_frequencies(device):
    p = torch.tensor([0.05, 0.1, 0.15, 0.3, 0.4])
    logits = p.log().expand(30_000, 5).to(device)
    drawn = draw_top_k(logits, noise_of(30_000, 3, device), 0.5).cpu()
    expected = (p**2 / p[2:].square().sum())[2:].numpy() * 30_000
    counts = np.bincount(drawn, minlength=5)
    assert counts[:2].tolist() == [0, 0]
    assert ((counts[2:] - expected) ** 2 / expected).sum() < 18.4  # 1 in 10,000 right samples passes it


def test_what_an_op_owes():
    samples = [
        (logits_of("apart", 3, 20, torch.float32), noise_of(3, 5), 0.8),
        (logits_of("tied", 2, 9, torch.bfloat16), noise_of(2, 9), 2.0),
    ]
    tl.testing.check_op("torchlayer::draw_top_k", samples, gradients=False)


def test_ids_have_no_gradient():
    logits = torch.randn(2, 5, requires_grad=True)
    assert not draw_top_k(logits, noise_of(2, 2)).requires_grad


# sample_logits

CASES = {
    "the ten likeliest": ({}, True),
    "float64": ({"logits": torch.zeros(2, 20, dtype=torch.float64)}, False),
    "a long row": ({"logits": torch.zeros(1, 2**16 + 1)}, False),
    "no rows": ({"logits": torch.zeros(0, 20)}, False),
    "all": ({"top_k": None}, False),
    "more than a block has threads": ({"logits": torch.zeros(1, 2000), "top_k": 1025}, False),
    "more than there are": ({"top_k": 1025}, True),
    "a nucleus": ({"top_p": 0.5}, False),
    "a top_k for each row": ({"top_k": torch.tensor([1, 2])}, False),
    "a temperature for each row": ({"temperature": torch.ones(2)}, False),
    "the largest": ({"temperature": 0}, False),
    "no kernels": ({"backend": "python"}, False),
}


@pytest.mark.parametrize("name", CASES)
def test_when_sample_logits_takes_the_kernel(name, monkeypatch):
    changes, expected = CASES[name]
    case = {"logits": torch.zeros(2, 20), "temperature": 1.0, "top_k": 10, "top_p": None, "backend": "cuda", **changes}
    monkeypatch.setattr(sampling._library, "load", lambda device: _library.Backend(case.pop("backend"), device))
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert sampling._draws_by_kernel(*(case[key] for key in ("logits", "temperature", "top_k", "top_p"))) == expected


@every_tier
def test_a_seed_draws_with_the_kernel_what_torch_draws(device):
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).to(device)
    drawn = sampling._drawn_by_kernel(logits, 0.9, 10, 3)
    assert torch.equal(drawn, sampling._drawn(logits, 0.9, 10, None, 3))
    assert drawn.shape == (2, 3)


def test_bad_settings_are_refused_before_any_kernel(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    for settings, text in [({"top_k": 0}, "top_k must be at least 1"), ({"temperature": -1}, "temperature must be 0")]:
        with pytest.raises(ValueError, match=text):
            sample_logits(torch.zeros(2, 20), **{"top_k": 10, **settings})


@needs_cuda
def test_a_graph_draws_afresh_and_a_generator_reproduces_it():
    logits = torch.zeros(1000, 50, device="cuda")
    generator = torch.Generator("cuda").manual_seed(1)
    eager = sample_logits(logits, top_k=20, rng=generator)
    assert torch.equal(sample_logits(logits, top_k=20, rng=1), eager)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        drawn = sample_logits(logits, top_k=20, rng=generator)
    graph.replay()
    first = drawn.clone()
    graph.replay()
    assert not torch.equal(drawn, first)
    assert set(drawn.tolist()) == set(range(20))
