"""Losses, modules, data parallelism and checkpoints on two and on four processes that talk through gloo.

One group of four is started for all tests of this file; those of two use its first half.
"""

from __future__ import annotations

import class_parallel_tasks as losses
import distributed_tasks as tasks
import pytest
import torch
import torch.distributed as dist
from ranks import SECONDS, Processes

import torchlayer as tl

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo"
)
both_losses = pytest.mark.parametrize("loss", ["sampled_softmax_loss", "nce_loss"])
numbers_of_ranks = pytest.mark.parametrize("n", [2, 4])


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    with Processes(4, tmp_path_factory.mktemp("group")) as processes:
        yield processes


def close(a, b, limit=1e-12):
    assert len(a) == len(b)
    assert max(abs(x - y) for x, y in zip(a, b)) <= limit


# The losses ----------------------------------------------------------------------


@numbers_of_ranks
def test_losses_and_gradients_are_those_of_one_process(ranks, n):
    seeds = range(5 * len(losses.KINDS))
    found = ranks.run(tasks.some_differences, seeds, n)[:n]
    assert [seed for of_rank in found for seed, worst in zip(seeds, of_rank) if not max(worst) <= 1e-12] == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_losses_and_gradients_through_nccl_are_those_of_one_process(tmp_path):
    cases = [losses.draw(seed) for seed in range(5 * len(losses.KINDS))]
    with Processes(2, tmp_path, "cuda") as gpus:
        found = gpus.run(losses.all_differences, cases, 2, "cuda")
    assert max(max(worst) for of_rank in found for worst in of_rank) <= 1e-12


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float16, 2**-10), (torch.bfloat16, 2**-6)])
def test_other_dtypes_are_as_near_as_they_go(ranks, dtype, limit):
    found = ranks.run(tasks.some_differences, range(2 * len(losses.KINDS)), 2, dtype)[:2]
    assert max(max(worst) for of_rank in found for worst in of_rank) <= limit


@both_losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_traffic_is_a_few_numbers_a_row_and_the_gradient_of_hidden(ranks, loss, dtype):
    n_rows, n_features, size = 10, 7, dtype.itemsize
    a_row = 3 if loss == "sampled_softmax_loss" else 1
    for n_sampled, n_classes in ((3, 20), (300, 20), (3, 5000)):
        for sent in ranks.run(tasks.bytes_of_a_step, loss, n_rows, n_sampled, n_classes, n_features, dtype):
            same_batch, *rest = sent.pop("all_reduce")
            assert sent == {}  # nothing else is sent
            assert same_batch == 64  # whether all have the same batch: eight int64, which only a CPU asks each time
            assert sum(rest) == size * (a_row * n_rows + n_rows * n_features)


@both_losses
@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("rows", "needs the same number of rows on every rank, got {} on rank {}, and from 3 to 4 on all 4"),
        ("labels", "needs the same labels (by their sum) on every rank, got "),
        ("samples", "needs the same samples (by their sum) on every rank, got "),
    ],
)
def test_different_batches_are_refused_on_every_rank(ranks, loss, what, text):
    for rank, told in enumerate(ranks.run(tasks.different_batches, loss, what)):
        assert told.startswith(f"ValueError: class_parallel_{loss} " + text.format(3 if rank == 1 else 4, rank))


@both_losses
def test_wrong_arguments_are_refused_on_every_rank(ranks, loss):
    for rank, told in enumerate(ranks.run(tasks.wrong_part, loss)):
        first = 3 * rank
        assert told == (
            f"ValueError: class_parallel_{loss} needs the 3 rows of classes {first} to {first + 2} on rank {rank} of "
            "4, got weight (12, 3); see own_classes"
        )
    told = f"IndexError: class_parallel_{loss} needs labels from 0 to 11, got 12 in row 2"
    assert ranks.run(tasks.bad_label, loss) == [told] * 4


def test_rows_are_gathered_only_if_all_have_as_many(ranks):
    for rank, told in enumerate(ranks.run(tasks.different_rows_in_gather)):
        assert told == (
            f"ValueError: gather_rows needs the same number of rows on every rank, got {3 if rank == 1 else 2} on rank "
            f"{rank}, and from 2 to 3 on all 4"
        )


# The modules ---------------------------------------------------------------------


@both_losses
def test_all_ranks_draw_the_same_classes_and_the_first_ones_seed_rules(ranks, loss):
    alone = tasks.drawn(loss, 1, [7])
    assert alone[0] != alone[1]
    assert ranks.run(tasks.drawn, loss, 4, [7, 8, 9, 10]) == [alone] * 4
    assert ranks.run(tasks.drawn, loss, 4, [8, 8, 8, 8])[0] != alone


@both_losses
@pytest.mark.parametrize("sparse", [False, True])
def test_training_and_eval_are_the_same_on_any_number_of_ranks(ranks, loss, sparse):
    alone = tasks.trained(loss, 1, 0, 4, None, None, sparse)
    for n in (2, 4):
        for of_rank in ranks.run(tasks.trained, loss, n, 0, 4, None, None, sparse)[:n]:
            close(of_rank, alone)


# Checkpoints ---------------------------------------------------------------------


@both_losses
def test_a_checkpoint_of_two_goes_on_on_four_and_on_one(ranks, loss, tmp_path):
    path = str(tmp_path / "run.ckpt")
    straight = tasks.trained(loss, 1, 0, 6)
    ranks.run(tasks.trained, loss, 2, 0, 3, path)
    for of_rank in ranks.run(tasks.trained, loss, 4, 3, 6, path + ".4", path):
        close(of_rank, straight[3:])
    close(tasks.trained(loss, 1, 3, 6, None, path), straight[3:])
    state = tl.checkpoint.load(path + ".4")
    assert state["model"]["loss.weight"].shape == (tasks.V, tasks.D)
    one = tasks.ONE_PROCESS[loss](
        tasks.D, tasks.V, tasks.K, dtype=torch.float64
    )  # the loss of one process takes it, too
    one.load_state_dict({key[5:]: value for key, value in state["model"].items() if key.startswith("loss.")})
    trunk = torch.nn.functional.linear(tasks.data(99)[0], *(state["model"][f"trunk.{k}"] for k in ("weight", "bias")))
    close([float(one.eval()(trunk.tanh(), tasks.data(99)[1]).detach())], straight[6:7])


@pytest.mark.parametrize("resume_on", [2, 4])
def test_generators_go_on_on_as_many_ranks_and_differ_on_others(ranks, resume_on, tmp_path):
    path = str(tmp_path / "run.ckpt")
    before = ranks.run(tasks.generators_after, 2, path, True)[:2]
    after = ranks.run(tasks.generators_after, resume_on, path, False)[:resume_on]
    assert after[0] == before[0]
    assert len(set(after)) == resume_on
    assert (after == before) == (resume_on == 2)


def test_torchs_own_distributed_checkpoints_hold_the_whole_table(ranks, tmp_path):
    saved = [row for rows in ranks.run(tasks.stored, str(tmp_path), 2, True)[:2] for row in rows]
    assert len(saved) == tasks.V
    for n in (2, 4):
        assert [row for rows in ranks.run(tasks.stored, str(tmp_path), n, False)[:n] for row in rows] == saved


def test_what_cannot_be_saved_is_told_on_every_rank(ranks, tmp_path):
    (tmp_path / "file").write_text("")
    first, *others = ranks.run(tasks.cannot_write, str(tmp_path / "file" / "run.ckpt"))
    assert "NotADirectoryError" in first
    assert all(
        told.startswith("OSError: the first rank could not write") and "NotADirectoryError" in told for told in others
    )
    for told in ranks.run(tasks.different_optimizers, str(tmp_path / "a.ckpt")):
        assert "RuntimeError: ranks 0 and 1 hold different things, so they cannot be saved: ['optimizer." in told
    for told in ranks.run(tasks.forgotten_module, str(tmp_path / "a.ckpt")):
        assert (
            "optimizer trains 2 parameters of no module that goes with it (the first is group 0 param 2); pass" in told
        )
    for told in ranks.run(tasks.plain_save, str(tmp_path / "b.ckpt")):
        assert "model['loss.weight'] is divided among processes; let all of them call tl.distributed.save" in told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


# Data parallelism ----------------------------------------------------------------


@numbers_of_ranks
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_network_of_layers_trains_as_on_one_process(ranks, kind, n):
    alone = tasks.data_parallel(kind, 1)
    for of_rank in ranks.run(tasks.data_parallel, kind, n)[:n]:
        for a, b in zip(of_rank, alone):
            close(a, b)


def test_a_checkpoint_of_fully_shard_goes_on_anywhere(ranks, tmp_path):
    path = str(tmp_path / "run.ckpt")
    alone = tasks.fsdp_saved(1, None)
    ranks.run(tasks.fsdp_saved, 2, path, None, 2)
    for found in (*ranks.run(tasks.fsdp_saved, 4, None, path), tasks.fsdp_saved(1, None, path)):
        for a, b in zip(found, alone):
            close(a, b)


@both_losses
def test_a_trunk_in_ddp_under_a_class_parallel_loss(ranks, loss):
    alone = tasks.trunk_in_ddp(loss, 1)
    for n in (2, 4):
        for of_rank in ranks.run(tasks.trunk_in_ddp, loss, n)[:n]:
            for a, b in zip(of_rank, alone):
                close(a, b)


@both_losses
def test_a_sampled_loss_in_ddp_keeps_the_ranks_alike(ranks, loss):
    first, *others = ranks.run(tasks.sampled_loss_in_ddp, loss)
    assert all(other == first for other in others)


# Faults; the last test leaves a group of three -------------------------------------


def test_nobody_waits_longer_than_the_timeout(ranks):
    for answer in ranks.run(tasks.one_stays_away, 2):
        if answer is not None:
            seconds, told = answer
            assert seconds < SECONDS
            assert "timed out" in told.lower() or "connection closed" in told.lower(), told


def test_a_killed_rank_ends_the_others_with_an_error_and_leaves_the_checkpoint_whole(ranks, tmp_path):
    path = str(tmp_path / "run.ckpt")
    found = ranks.run_last(2, tasks.train_until_it_breaks, path, 2)
    for answer in found:
        seconds, told = answer
        assert seconds < SECONDS
        assert "RuntimeError" in told or "DistBackendError" in told
    state = tl.checkpoint.load(path)
    assert state["position"] == 3
    alone = tasks.Model("sampled_softmax_loss", None)
    optimizer = torch.optim.Adam(alone.parameters())
    assert tl.checkpoint.restore(state, model=alone, optimizer=optimizer) == 3
