"""The samplers on a GPU: what a CPU draws, in any stream, in a replayed graph, and without waiting for anything."""

from __future__ import annotations

import pytest
import torch
from sampler_cases import (
    MANY,
    SAMPLERS,
    call,
    every_sampler,
    needs_cpu,
    needs_cuda,
    seeds,
    summed,
    unigram_samplers,
)

from torchlayer._waits import reporting_waits
from torchlayer.kernels._library import OPS
from torchlayer.kernels.samplers import FixedUnigram, LearnedUnigram, log_uniform_sampler

pytestmark = [needs_cuda, needs_cpu]

RANGES = ["uniform_sample", "log_uniform_sample"]
# one class, all classes, one block alone, a first round of many blocks, ids beyond 32 bits
SIZES = [
    (1, 1),
    (1, 2**33),
    (2, 2),
    (33, 33),
    (64, 50_000),
    (500, 500),
    (512, 40_000),
    (1024, 2**33),
    (1025, 1100),
    (1025, 2**33),
    (3000, 3000),
    (8192, 793_471),
    (8192, 2**40),
    (65_536, 10**6),
]


def table_of(op, n_classes):
    """The tables of an op with weights, in Zipf's manner."""
    if op == "learned_sample_":
        return summed(10**7 // torch.arange(1, n_classes + 1) + 1)
    fixed = FixedUnigram(1 / torch.arange(1, n_classes + 1), distortion=0.75)
    return fixed.probability, fixed._threshold_bits.view(torch.float64), fixed.alias


def assert_alike(gpu, cpu):
    assert torch.equal(gpu[0].cpu(), cpu[0])
    assert torch.equal(gpu[3].cpu(), cpu[3])
    for ours, theirs in zip(gpu[1:3], cpu[1:3]):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize(("n_sampled", "n_classes"), SIZES)
@pytest.mark.parametrize("op", RANGES)
def test_a_range_is_drawn_as_on_a_cpu(op, n_sampled, n_classes, unique):
    labels = torch.cat((torch.randint(0, n_classes, (299,)), torch.tensor([-1, n_classes, 2**62, -(2**63)])))
    for seed in seeds(20 if n_sampled < 3000 else 3, start=n_sampled):
        arguments = labels, seed, n_sampled, n_classes, unique, MANY
        assert_alike(call("cuda", op, *arguments), call("cpu", op, *arguments))


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize(
    ("n_sampled", "n_classes"), [(1, 1), (2, 2), (31, 31), (33, 33), (65, 1000), (1025, 1200), (4000, 70_001)]
)
@pytest.mark.parametrize("op", ["learned_sample_", "alias_sample"])
def test_weights_are_drawn_as_on_a_cpu(op, n_sampled, n_classes, unique):
    labels, tables = torch.randint(-3, n_classes + 3, (150, 2)), table_of(op, n_classes)
    for seed in seeds(10 if n_sampled < 1000 else 3, start=n_sampled):
        arguments = labels, seed, *tables, n_sampled, unique, MANY
        assert_alike(call("cuda", op, *arguments), call("cpu", op, *arguments))


def test_the_sums_of_a_million_weights_are_exact():
    weight = torch.randint(1, 2**20, (10**6 + 77,))
    arguments = torch.arange(50), seeds(1)[0], *summed(weight), 5000, False, MANY
    assert_alike(call("cuda", "learned_sample_", *arguments), call("cpu", "learned_sample_", *arguments))


def test_the_search_goes_on_where_a_first_round_does_not_suffice():
    weight = torch.ones(20_000, dtype=torch.int64)
    weight[7] = 10**6  # no law of Zipf's: 98 draws of 100 are in vain
    arguments = torch.arange(50), seeds(1)[0], *summed(weight), 1500, True, MANY
    cpu = call("cpu", "learned_sample_", *arguments)
    assert cpu[3] > 50_000
    assert_alike(call("cuda", "learned_sample_", *arguments), cpu)


@pytest.mark.parametrize("shape", [(), (0,), (0, 2), (4, 0), (5,), (7, 3), (1_000_003,)])
@pytest.mark.parametrize("n_sampled", [20, 1500])
def test_labels_of_any_shape_are_counted(shape, n_sampled):
    arguments = torch.randint(0, 2000, shape), seeds(1)[0], n_sampled, 2000, True, MANY
    assert_alike(call("cuda", "log_uniform_sample", *arguments), call("cpu", "log_uniform_sample", *arguments))


def test_strided_arguments_are_read_as_they_are():
    labels, seed = torch.randint(0, 500, (9, 4)), torch.tensor([5, -7])
    apart = [torch.stack((x, -x), -1).cuda()[..., 0] for x in (labels, seed)]
    assert not any(x.is_contiguous() for x in apart)
    gpu = OPS["log_uniform_sample"].overload(apart[0].t(), apart[1], 70, 500, True, MANY)
    assert_alike(gpu, call("cpu", "log_uniform_sample", labels.t(), seed, 70, 500, True, MANY))


@pytest.mark.parametrize(("n_sampled", "n_classes"), [(40, 50), (1100, 1300)])
def test_one_draw_too_few_makes_all_counts_nan(n_sampled, n_classes):
    arguments = torch.tensor([0]), seeds(1)[0], n_sampled, n_classes, True
    cpu = call("cpu", "uniform_sample", *arguments, MANY)
    n_tries = int(cpu[3])
    assert n_tries > n_sampled
    assert_alike(call("cuda", "uniform_sample", *arguments, n_tries), cpu)
    sampled, true_count, sampled_count, tries = call("cuda", "uniform_sample", *arguments, n_tries - 1)
    assert tries == -1
    assert sampled.tolist() == [*cpu[0][:-1].tolist(), 0]  # what was found, and a class that exists
    assert bool(true_count.isnan().all() & sampled_count.isnan().all())


@pytest.mark.parametrize("max_tries", [0, 1, 5000, 2**20])
def test_a_search_without_end_ends(max_tries):
    weight = torch.tensor([2**50, 1, 1])
    arguments = torch.tensor([0]), torch.tensor([1, 2]), *summed(weight), 2, True, max_tries
    sampled, true_count, sampled_count, tries = call("cuda", "learned_sample_", *arguments)
    assert (sampled.tolist(), tries.item()) == ([0, 0], -1)
    assert bool(true_count.isnan().all() & sampled_count.isnan().all())


def test_tables_that_name_no_class_harm_nobody():
    n = 1500
    alias = torch.tensor([2**45, -1, 5, 2**40, 7]).repeat(n // 5)
    p, threshold = torch.full((n,), 1 / n, dtype=torch.float64), torch.full((n,), 0.5, dtype=torch.float64)
    for n_sampled in (500, 1400):
        found = call("cuda", "alias_sample", torch.arange(9), seeds(1)[0], p, threshold, alias, n_sampled, True, 10**5)
        outside = (found[0] < 0) | (found[0] >= n)
        assert bool(outside.any())
        assert torch.equal(found[2].isnan(), outside)


@every_sampler
def test_a_gpu_draws_what_a_cpu_draws_and_waits_for_nothing(kind):
    labels, seed = torch.arange(40).view(20, 2), torch.tensor([3, 4])
    cpu = unigram_samplers(500)[kind](labels, 100, 500, seed=seed)
    modules = {"fixed": FixedUnigram(torch.arange(1, 501)).cuda(), "learned": LearnedUnigram(500).cuda()}
    gpu_sampler = modules.get(kind) or SAMPLERS[kind]
    labels, seed = labels.cuda(), seed.cuda()
    gpu_sampler(labels, 100, 500, seed=seed)
    if kind == "learned":
        modules["learned"].weight.fill_(1)
    with reporting_waits("error"):
        gpu = gpu_sampler(labels, 100, 500, seed=seed)
    assert torch.equal(gpu.sampled.cpu(), cpu.sampled)
    torch.testing.assert_close(gpu.true_expected_count.cpu(), cpu.true_expected_count)


@pytest.mark.parametrize(("n_sampled", "n_classes"), [(64, 50_000), (3000, 50_000)])
@pytest.mark.parametrize("op", [*RANGES, "learned_sample_", "alias_sample"])
def test_a_replayed_graph_reads_the_seed_anew(op, n_sampled, n_classes):
    labels, seed = torch.arange(10, device="cuda"), torch.tensor([1, 2], device="cuda")
    tables = () if op in RANGES else table_of(op, n_classes)
    rest = (n_sampled, n_classes, True, MANY) if op in RANGES else (n_sampled, True, MANY)
    on_gpu = [table.cuda() if isinstance(table, torch.Tensor) else table for table in tables]
    OPS[op].overload(labels, seed, *on_gpu, *rest)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = OPS[op].overload(labels, seed, *on_gpu, *rest)
    for new in seeds(5):
        seed.copy_(new)
        for output in found:
            output.fill_(77)  # nothing is left of the last replay
        graph.replay()
        assert_alike(found, call("cpu", op, labels.cpu(), new, *tables, *rest))


def test_a_replayed_graph_draws_afresh():
    labels = torch.arange(10, device="cuda")
    log_uniform_sampler(labels, 50, 10_000)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = log_uniform_sampler(labels, 50, 10_000)
    drawn = []
    for _ in range(3):
        graph.replay()
        drawn.append(tuple(found.sampled.tolist()))
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(("n_sampled", "n_classes"), [(64, 50_000), (8192, 793_471)])
def test_two_streams_draw_side_by_side(n_sampled, n_classes):
    streams = [torch.cuda.Stream() for _ in range(2)]
    labels = torch.arange(500, device="cuda")
    both = seeds(2)
    on_gpu = both.cuda()
    torch.cuda.synchronize()
    found = []
    for _ in range(20):
        for which, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                arguments = labels, on_gpu[which], n_sampled, n_classes, True, MANY
                found.append((which, OPS["log_uniform_sample"].overload(*arguments)))
    torch.cuda.synchronize()
    cpu = [call("cpu", "log_uniform_sample", labels.cpu(), s, n_sampled, n_classes, True, MANY) for s in both]
    for which, outputs in found:
        assert_alike(outputs, cpu[which])


def test_a_thousand_calls_give_the_same_bits():
    arguments = torch.arange(500, device="cuda"), seeds(1)[0].cuda(), 4000, 100_000, True, MANY
    first = OPS["log_uniform_sample"].overload(*arguments)
    differ = torch.zeros((), dtype=torch.int64, device="cuda")
    for _ in range(1000):
        for ours, theirs in zip(OPS["log_uniform_sample"].overload(*arguments), first):
            differ += (ours != theirs).sum()
    assert differ == 0
