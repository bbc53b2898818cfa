"""The sampler that learns its weights: the sums it keeps, who may write to the weights, and what notices."""

from __future__ import annotations

import contextlib
import copy
import io

import pytest
import torch
from sampler_cases import MANY, call, every_tier, needs_cpu, needs_cuda, seeds, summed

from torchlayer import kernels
from torchlayer._waits import reporting_waits
from torchlayer.kernels import LearnedUnigram, _library
from torchlayer.kernels._sampler_ops import weight_sums

OP = _library.OPS["learned_sample_"]
# one group, not full; groups that are full, or by one not; one, two and three levels; four
SIZES = [1, 5, 8, 9, 64, 65, 2048, 8192, 8193, 65_536, 65_537, 140_001, 524_289, 2_000_003]
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])


def alike(ours, theirs):
    """Two samples: ids the same, counts up to the library's logarithms."""
    same = torch.equal(ours[0].cpu(), theirs[0].cpu())
    return same and all(
        torch.allclose(a.cpu(), b.cpu(), rtol=1e-6, equal_nan=True) for a, b in zip(ours[1:], theirs[1:])
    )


def reference(labels, seed, weight, *rest):
    """What a module that begins with these weights draws, in plain PyTorch."""
    return OP.reference(labels, seed, *summed(weight.cpu().clone()), *rest)[:3]


@needs_cpu
@every_device
@pytest.mark.parametrize("n_classes", SIZES)
def test_kept_sums_lead_to_the_classes_that_weights_do(device, n_classes):
    generator = torch.Generator().manual_seed(n_classes)
    weight = torch.randint(1, 2**20, (n_classes,), generator=generator)
    weight[n_classes // 2] = 2**41  # the total is beyond 32 bits
    ours, plain = ((weight.clone(), weight_sums(weight)) for _ in range(2))
    ours = [x.to(device) for x in ours]
    for i, seed in enumerate(seeds(4, start=n_classes)):
        labels = torch.randint(n_classes, (150, 2), generator=generator)
        labels[::50, i % 2] = torch.tensor([-3, n_classes, n_classes + 2])
        unique, n_sampled = i % 2 == 0 and n_classes > 2000, 2000 if i == 3 else min(n_classes, 40)
        if unique:
            plain[0][n_classes // 2] = ours[0][n_classes // 2] = 7
            plain[1].copy_(weight_sums(plain[0]))
            ours[1].copy_(weight_sums(ours[0]))
        rest = True, n_sampled, unique, MANY
        expected = OP.reference(labels, seed, *plain, *rest)
        assert alike(OP.overload(labels.to(device), seed.to(device), *ours, *rest), expected)
        assert torch.equal(ours[0].cpu(), plain[0])
        assert torch.equal(ours[1].cpu(), plain[1])
        assert torch.equal(plain[1], weight_sums(plain[0]))
        with pytest.raises(IndexError) if device == "cuda" else contextlib.nullcontext():
            kernels.check_ids()


@every_tier
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (7, 3), (5000,)])
def test_labels_of_any_shape_are_counted(tier, shape):
    labels = torch.randint(300, shape, generator=torch.Generator().manual_seed(0))
    device = "cuda" if tier == "cuda" else "cpu"
    weight, sums, _ = (x.to(device) if isinstance(x, torch.Tensor) else x for x in summed(torch.ones(300).long()))
    call(tier, "learned_sample_", labels, seeds(1)[0], weight, sums, True, 20, True, MANY)
    assert torch.equal(weight.cpu(), 1 + torch.bincount(labels.flatten(), minlength=300))
    assert torch.equal(sums, weight_sums(weight))


def write_in_place(sampler, weight):
    sampler.weight.copy_(weight)


def write_through_a_view(sampler, weight):
    for part, new in zip(sampler.weight.split(100), weight.split(100)):
        part.copy_(new)


def assign(sampler, weight):
    sampler.weight = weight.clone().to(sampler.weight.device)


def load(sampler, weight):
    sampler.load_state_dict({"weight": weight})


def load_and_assign(sampler, weight):
    sampler.load_state_dict({"weight": weight.clone().to(sampler.weight.device)}, assign=True)


def hide_and_refresh(sampler, weight):
    sampler.weight.data.copy_(weight)
    sampler.refresh()


WAYS = [write_in_place, write_through_a_view, assign, load, load_and_assign, hide_and_refresh]


@every_device
@pytest.mark.parametrize("write", WAYS)
def test_whoever_writes_to_the_weights_changes_the_next_draw(device, write):
    sampler, labels, seed = LearnedUnigram(3000).to(device), torch.arange(40), seeds(1)[0]
    weight = torch.arange(3000) ** 2 + 1
    sampler(labels.to(device), 50, 3000)
    write(sampler, weight)
    found = sampler(labels.to(device), 50, 3000, seed=seed.to(device))
    assert alike(found, reference(labels, seed, weight, 50, True, MANY))
    assert sampler.weight.tolist() == (weight + (torch.arange(3000) < 40)).tolist()
    assert torch.equal(sampler._sums, weight_sums(sampler.weight))


def copied(sampler):
    return copy.deepcopy(sampler)


def pickled(sampler):
    file = io.BytesIO()
    torch.save(sampler, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_device
@pytest.mark.parametrize("is_stale", [False, True])
@pytest.mark.parametrize("make", [copied, pickled, lambda sampler: sampler.to("cpu")], ids=["copy", "file", "move"])
def test_a_copy_draws_by_its_own_weights(device, make, is_stale):
    sampler, labels, seed = LearnedUnigram(500).to(device), torch.arange(40, device=device), seeds(1)[0].to(device)
    sampler(labels, 50, 500)
    if is_stale:
        sampler.weight.add_(torch.arange(500, device=device))
    other = make(sampler)
    device = other.weight.device
    expected = reference(labels.cpu(), seed.cpu(), other.weight, 50, True, MANY)
    assert alike(other(labels.to(device), 50, 500, seed=seed.to(device)), expected)


def test_weights_made_in_inference_mode_are_counted():
    with torch.inference_mode():
        sampler = LearnedUnigram(10)
        for n in (1, 2):
            sampler(torch.tensor([3]), 2, 10)
            assert sampler.weight[3] == 1 + n
        sampler.weight.fill_(5)
        assert sampler(torch.tensor([3]), 1, 10, unique=False).true_expected_count[0] == pytest.approx(0.1)


def test_sums_are_no_part_of_a_checkpoint():
    assert list(LearnedUnigram(10).state_dict()) == ["weight"]


def test_evaluation_writes_nothing():
    sampler = LearnedUnigram(10).eval()
    before = sampler._sums.clone()
    sampler(torch.tensor([3]), 2, 10)
    assert torch.equal(sampler.weight, torch.ones(10).long())
    assert torch.equal(sampler._sums, before)


@needs_cpu
def test_a_cpu_draw_notices_what_nobody_else_saw():
    sampler = LearnedUnigram(3000)
    sampler.weight.data.fill_(3)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"learned_sample_ keeps sums of its weights, .*; call refresh\(\)"):
            sampler(torch.tensor([3]), 2, 3000)
    assert sampler.weight[3] == 3
    sampler.refresh()
    sampler(torch.tensor([3]), 2, 3000)
    assert sampler.weight[3] == 4


@needs_cpu
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("written", [0, 1], ids=["weight", "sums"])
@pytest.mark.parametrize("junk", [0, -1, 2**40, 2**62, -(2**62)])
@pytest.mark.parametrize("n_classes", [1, 9, 500, 16_385, 140_001])
def test_sums_of_nothing_lead_to_classes_that_exist(device, junk, n_classes, written):
    weight_and_sums = summed(torch.ones(n_classes, dtype=torch.int64))[:2]
    noise = torch.randint(-5, 1, weight_and_sums[written].shape, generator=torch.Generator().manual_seed(0))
    weight_and_sums[written].copy_(junk + noise)
    labels, both, *weight_and_sums = (x.to(device) for x in (torch.arange(1), seeds(5), *weight_and_sums))
    for seed in both:
        if device == "cuda":
            with contextlib.suppress(RuntimeError):  # of the call before
                found = OP.overload(labels, seed, *weight_and_sums, False, 3000, False, MANY)[0]
                assert bool(((found >= 0) & (found < n_classes)).all())
        else:
            with pytest.raises(RuntimeError, match="call refresh"):
                OP.overload(labels, seed, *weight_and_sums, False, 3000, False, MANY)
    if device == "cuda":
        with contextlib.suppress(RuntimeError):
            kernels.check_ids()
        OP.overload(labels, seed, *weight_and_sums, False, 3000, False, MANY)
        with pytest.raises(RuntimeError, match="call refresh"):
            kernels.check_ids()


def test_a_compiled_draw_counts_and_notices():
    torch.compiler.reset()
    sampler, labels, seed = LearnedUnigram(300), torch.arange(9), seeds(1)[0]
    compiled = torch.compile(lambda x, s: sampler(x, 20, 300, seed=s), fullgraph=True, backend="aot_eager")
    for n in range(3):
        expected = reference(labels, seed, sampler.weight, 20, True, MANY)
        assert alike(compiled(labels, seed), expected)
        assert sampler.weight[:10].tolist() == [2 + n] * 9 + [1]
    assert torch.equal(sampler._sums, weight_sums(sampler.weight))
    sampler.load_state_dict({"weight": torch.arange(1, 301)})
    expected = reference(labels, seed, sampler.weight, 20, True, MANY)
    assert alike(compiled(labels, seed), expected)


# On a GPU


@needs_cuda
@pytest.mark.parametrize(
    ("n_sampled", "n_classes", "n_labels", "unique"),
    [(64, 50_000, 128, True), (64, 50_000, 5000, True), (3000, 140_001, 700, True), (500, 3000, 1000, False)],
)
def test_a_replayed_graph_learns(n_sampled, n_classes, n_labels, unique):
    sampler = LearnedUnigram(n_classes).cuda()
    plain = [x.cpu() for x in summed(torch.ones(n_classes, dtype=torch.int64))[:2]]
    labels, seed = torch.zeros(n_labels, dtype=torch.int64, device="cuda"), torch.tensor([1, 2], device="cuda")
    sampler(labels, n_sampled, n_classes, unique, seed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = sampler(labels, n_sampled, n_classes, unique, seed)
    sampler.weight.fill_(1)
    sampler.refresh()
    for i, new in enumerate(seeds(6)):
        seed.copy_(new)
        labels.copy_((torch.rand(n_labels, generator=torch.Generator().manual_seed(i)) ** 4 * n_classes).long())
        graph.replay()
        expected = OP.reference(labels.cpu(), new, *plain, True, n_sampled, unique, MANY)
        assert alike(found, expected[:3])
    assert torch.equal(sampler.weight.cpu(), plain[0])
    assert torch.equal(sampler._sums.cpu(), plain[1])
    assert torch.equal(plain[1], weight_sums(plain[0]))


@needs_cuda
def test_calls_that_follow_at_once_learn_from_each_other():
    labels = (torch.rand(128, generator=torch.Generator().manual_seed(0)) ** 4 * 50_000).long()
    sampler, seed = LearnedUnigram(50_000).cuda(), seeds(1)[0]
    arguments = labels.cuda(), 64, 50_000, True, seed.cuda()
    sampler(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = [sampler(*arguments) for _ in range(20)]
    sampler.weight.fill_(1)
    sampler.refresh()
    graph.replay()
    plain = summed(torch.ones(50_000, dtype=torch.int64))[:2]
    for sample in found:
        assert alike(sample, OP.reference(labels, seed, *plain, True, 64, True, MANY)[:3])
    assert torch.equal(sampler.weight.cpu(), plain[0])
    assert torch.equal(sampler._sums.cpu(), plain[1])


@needs_cuda
def test_a_replayed_graph_notices_that_somebody_wrote():
    sampler, labels = LearnedUnigram(50_000).cuda(), torch.arange(128, device="cuda")
    sampler(labels, 64, 50_000)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = sampler(labels, 64, 50_000)
    graph.replay()
    assert bool(found.true_expected_count.isfinite().all())
    sampler.weight.fill_(7)
    graph.replay()
    assert bool(found.true_expected_count.isnan().all() & found.sampled_expected_count.isnan().all())
    assert bool(((found.sampled >= 0) & (found.sampled < 50_000)).all())
    with pytest.raises(RuntimeError, match=r"call refresh\(\) \(of an earlier call; all its expected counts are NaN"):
        kernels.check_ids()
    sampler.refresh()
    graph.replay()
    assert bool(found.true_expected_count.isfinite().all())
    kernels.check_ids()


@needs_cuda
def test_a_draw_waits_for_nothing_whoever_wrote():
    sampler, labels = LearnedUnigram(50_000).cuda(), torch.arange(128, device="cuda")
    sampler(labels, 64, 50_000)
    with reporting_waits("error"):
        sampler(labels, 64, 50_000)
        sampler.weight.fill_(2)
        sampler(labels, 64, 50_000)


@needs_cuda
def test_weights_at_odd_addresses_are_read():
    weight = torch.arange(1, 50_001)
    apart = torch.cat((torch.zeros(1, dtype=torch.int64), weight)).cuda()[1:]
    assert apart.data_ptr() % 16 == 8
    sums, labels, seed = weight_sums(apart), torch.arange(128), seeds(1)[0]
    found = OP.overload(labels.cuda(), seed.cuda(), apart, sums, True, 64, True, MANY)
    assert alike(found[:3], reference(labels, seed, weight, 64, True, MANY))
    assert torch.equal(sums, weight_sums(apart))


@needs_cuda
def test_labels_out_of_range_are_told_and_not_counted():
    sampler = LearnedUnigram(100).cuda()
    found = sampler(torch.tensor([[3], [100], [-1], [2**62], [3]], device="cuda"), 10, 100)
    assert found.true_expected_count.isnan().flatten().tolist() == [False, True, True, True, False]
    assert sampler.weight.sum() == 102
    assert torch.equal(sampler._sums, weight_sums(sampler.weight))
    with pytest.raises(IndexError, match="learned_sample_ needs labels from 0 to 99"):
        kernels.check_ids()
