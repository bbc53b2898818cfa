from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import vectors
from torchlayer import iterate
from torchlayer.iterate import minibatches, ptb_iterator, seq_minibatches, seq_minibatches2

X, Y = np.arange(7) * 10, np.arange(7)


def listed(batches):
    return [tuple(np.asarray(part).tolist() for part in batch) for batch in batches]


@pytest.mark.parametrize(("function", "args", "kwargs", "expected"), vectors.BATCHES)
@pytest.mark.parametrize("kind", ["array", "tensor", "list"])
def test_agrees_with_the_original_for_arrays_tensors_and_lists(function, args, kwargs, expected, kind):
    convert = {"array": np.array, "tensor": torch.tensor, "list": list}[kind]
    args = [convert(np.asarray(arg)) if isinstance(arg, (np.ndarray, range)) else arg for arg in args]
    batches = getattr(iterate, function)(*args, **kwargs)
    assert len(batches) == len(expected)
    assert listed(batches) == expected


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: minibatches(X, Y, 3), np.ndarray),
        (lambda: minibatches(X, Y, 3, shuffle=True), np.ndarray),
        (lambda: minibatches(torch.tensor(X), torch.tensor(Y), 3, shuffle=True), torch.Tensor),
        (lambda: minibatches(list(X), list(Y), 3, shuffle=True), list),
        (lambda: seq_minibatches(X, Y, 2, 2), np.ndarray),
        (lambda: seq_minibatches(torch.tensor(X), torch.tensor(Y), 2, 2), torch.Tensor),
        (lambda: seq_minibatches2(X, Y, 2, 2), np.ndarray),
        (lambda: seq_minibatches2(torch.tensor(X), torch.tensor(Y), 2, 2), torch.Tensor),
        (lambda: ptb_iterator(Y, 2, 2), np.ndarray),
        (lambda: ptb_iterator(torch.tensor(Y), 2, 2), torch.Tensor),
        (lambda: ptb_iterator(Y, 2, 2, device="cpu"), torch.Tensor),
    ],
)
def test_yields_the_kind_it_was_given(make, kind):
    assert all(isinstance(part, kind) for batch in make() for part in batch)


def test_a_pass_ends_for_good():
    batches = minibatches(X, Y, 3)
    assert len(list(batches)) == 2
    assert list(batches) == []
    assert len(batches) == 2


# minibatches ---------------------------------------------------------------------------------------------------------


def test_shuffling_follows_the_global_numpy_stream_as_the_original_did():
    np.random.seed(0)
    found = listed(minibatches(X, Y, 3, shuffle=True))
    assert found == [([60, 20, 10], [6, 2, 1]), ([30, 0, 50], [3, 0, 5])]


def test_shuffling_tensors_follows_torchs_global_generator():
    torch.manual_seed(0)
    order = torch.randperm(7).tolist()
    torch.manual_seed(0)
    batches = minibatches(torch.tensor(Y), None, 7, shuffle=True)
    assert next(batches).tolist() == order


@pytest.mark.parametrize("convert", [np.array, torch.tensor, list])
def test_every_row_comes_once_with_its_target(convert):
    check_rows_and_targets(minibatches(convert(X), convert(Y), 3, shuffle=True, drop_last=False, rng=1))


@pytest.mark.parametrize("shuffle_at_once", [0, 2**24])
def test_shuffling_at_once_changes_no_batch(monkeypatch, shuffle_at_once):
    monkeypatch.setattr(iterate, "_SHUFFLE_AT_ONCE_ON_CPU", shuffle_at_once)
    batches = list(minibatches(torch.tensor(X), torch.tensor(Y), 3, shuffle=True, drop_last=False, rng=1))
    check_rows_and_targets(batches)
    assert [y.tolist() for _, y in batches] == [y.tolist() for _, y in minibatches(X, Y, 3, True, False, rng=1)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shuffle_at_once", [0, 2**30])
def test_every_row_comes_once_with_its_target_on_a_gpu(monkeypatch, shuffle_at_once):
    monkeypatch.setattr(iterate, "_SHUFFLE_AT_ONCE", shuffle_at_once)
    x, y = torch.tensor(X).cuda(), torch.tensor(Y).cuda()
    batches = list(minibatches(x, y, 3, shuffle=True, drop_last=False, rng=1))
    assert all(part.is_cuda for batch in batches for part in batch)
    check_rows_and_targets([tuple(part.cpu() for part in batch) for batch in batches])


def check_rows_and_targets(batches):
    batches = listed(batches)
    assert [len(x) for x, _ in batches] == [3, 3, 1]
    rows = [(x, y) for xs, ys in batches for x, y in zip(xs, ys)]
    assert sorted(rows) == [(10 * i, i) for i in range(7)]
    assert rows != sorted(rows)


@pytest.mark.parametrize(
    "rng",
    [
        lambda: 5,
        lambda: np.int64(5),
        lambda: np.random.default_rng(5),
        lambda: np.random.RandomState(5),
        lambda: torch.Generator().manual_seed(5),
    ],
)
def test_a_seed_gives_arrays_and_tensors_the_same_order(rng):
    array = listed(minibatches(X, Y, 3, shuffle=True, rng=rng()))
    assert array == listed(minibatches(torch.tensor(X), torch.tensor(Y), 3, shuffle=True, rng=rng()))
    assert array == listed(minibatches(X, Y, 3, shuffle=True, rng=rng()))


def test_a_generator_walks_on_and_the_global_streams_stay_untouched():
    rng = np.random.default_rng(0)
    before, torch_before = np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index,union-attr]
    first = listed(minibatches(np.arange(50), np.arange(50), 10, shuffle=True, rng=rng))
    assert first != listed(minibatches(np.arange(50), np.arange(50), 10, shuffle=True, rng=rng))
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index,union-attr]
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_unshuffled_batches_are_views_and_shuffled_ones_copies():
    for data in (np.zeros(6), torch.zeros(6)):
        for batch in minibatches(data, None, 3, shuffle=True):
            batch += 1
        assert data.sum() == 0
        for batch in minibatches(data, None, 3):
            batch += 1
        assert data.sum() == 6


def test_rows_keep_their_shape_and_dtype():
    images = np.zeros((5, 4, 3, 2), dtype=np.uint8)
    for data in (images, torch.from_numpy(images)):
        batch = next(minibatches(data, batch_size=2, shuffle=True))
        assert tuple(batch.shape) == (2, 4, 3, 2)
        assert batch.dtype == data.dtype


def test_arrays_and_tensors_may_be_paired():
    x, y = next(minibatches(X, torch.tensor(Y), 7, shuffle=True, rng=0))
    assert (x // 10).tolist() == y.tolist()


def test_a_memory_mapped_array_is_read_batch_by_batch(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert sorted(np.concatenate(list(minibatches(mapped, None, 7, shuffle=True)))) == X.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_data_on_a_gpu_stays_there():
    x, y = torch.tensor(X).cuda(), torch.tensor(Y).cuda()
    for function, args in [
        (minibatches, (x, y, 3, True)),
        (seq_minibatches, (x, y, 2, 2)),
        (seq_minibatches2, (x, y, 2, 2)),
        (ptb_iterator, (y, 2, 2)),
        (ptb_iterator, (Y, 2, 2, "cuda")),
    ]:
        assert all(part.is_cuda for batch in function(*args) for part in batch)


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        (
            (X, Y, 8),
            {},
            ValueError,
            "no batch of 8 can be made of 7 rows; pass drop_last=False or a smaller batch_size",
        ),
        ((X[:0], Y[:0], 8), {"drop_last": False}, ValueError, "of 0 rows; there is nothing to iterate over"),
        ((X, Y[:6], 3), {}, ValueError, "minibatches needs one target a row, got 7 inputs and 6 targets"),
        ((X, Y, 0), {}, ValueError, "batch_size must be at least 1, got 0"),
        ((X, Y), {}, TypeError, "batch_size must be an integer, got None"),
        ((X, Y, 2.5), {}, TypeError, "batch_size must be an integer, got 2.5"),
        ((X, Y, True), {}, TypeError, "batch_size must be an integer, got True"),
        ((torch.tensor(1), None, 1), {}, ValueError, "inputs has no rows, it is a scalar"),
        (({"x": 1}, None, 1), {}, TypeError, "inputs must be a tensor, an array or a list, got dict; convert it"),
        ((X, "abcdefg", 1), {}, TypeError, "targets must be a tensor, an array or a list, got str"),
        ((X, Y, 3, True), {"rng": "0"}, TypeError, "rng must be None, an int, a NumPy Generator or RandomState, or a"),
        ((X, Y, 3, True), {"rng": True}, TypeError, "rng must be None, an int"),
    ],
)
def test_minibatches_explains_a_wrong_argument_at_the_call(args, kwargs, error, message):
    with pytest.raises(error, match=message):
        minibatches(*args, **kwargs)


# seq_minibatches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.array, torch.tensor])
def test_windows_keep_trailing_axes_and_dtypes(convert):
    data = np.arange(10 * 6, dtype=np.int16).reshape(10, 3, 2)
    x, y = next(seq_minibatches(convert(data), convert(np.arange(10.0)), 2, 3, 2))
    assert tuple(x.shape) == (6, 3, 2)
    assert x.dtype == convert(data).dtype
    assert x.tolist() == data[[0, 1, 2, 2, 3, 4]].tolist()
    assert y.tolist() == [0, 1, 2, 2, 3, 4]


def test_the_last_target_of_each_window_is_the_last_column():
    found = [y.reshape(-1, 2)[:, -1].tolist() for _, y in seq_minibatches(Y, Y, 2, 2)]
    assert found == [[1, 2], [3, 4], [5, 6]]


def test_a_stride_longer_than_the_window_skips_rows():
    assert listed(seq_minibatches(np.arange(9), np.arange(9), 2, 1, 3)) == [([0, 3], [0, 3])]


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((Y, Y, 4, 5), ValueError, "4 windows of 5 rows with stride 1 cover 8 rows, got 7; decrease batch_size"),
        ((Y, Y[:6], 2, 2), ValueError, "seq_minibatches needs one target a row, got 7 inputs and 6 targets"),
        ((Y, Y, 2, 0), ValueError, "seq_length must be at least 1, got 0"),
        ((Y, Y, 2, 2, 0), ValueError, "stride must be at least 1, got 0"),
    ],
)
def test_seq_minibatches_explains_a_wrong_argument_at_the_call(args, error, message):
    with pytest.raises(error, match=message):
        seq_minibatches(*args)


# seq_minibatches2 and ptb_iterator -----------------------------------------------------------------------------------


def test_targets_keep_their_dtype_and_trailing_axes():
    targets = np.arange(40, dtype=np.int16).reshape(20, 2)
    _, y = next(seq_minibatches2(np.arange(20), targets, 2, 3))
    assert y.dtype == np.int16
    assert y.tolist() == [targets[:3].tolist(), targets[10:13].tolist()]


def test_the_last_step_can_be_kept():
    data = np.arange(12)
    assert len(seq_minibatches2(data, data, 2, 3)) == 1
    assert listed(seq_minibatches2(data, data, 2, 3, drop_last_step=False))[1][0] == [[3, 4, 5], [9, 10, 11]]


@pytest.mark.parametrize(
    ("n", "batch_size", "num_steps", "n_batches"),
    [(929_589, 20, 20, 2323), (929_589, 20, 35, 1327), (73_760, 20, 20, 184), (73_760, 20, 35, 105), (21, 2, 5, 1)],
)
def test_the_penn_treebank_has_its_known_number_of_batches(n, batch_size, num_steps, n_batches):
    assert len(ptb_iterator(np.zeros(n, dtype=np.int32), batch_size, num_steps)) == n_batches


def test_ids_are_int32_arrays_or_int64_tensors():
    assert next(ptb_iterator(list(range(20)), 2, 3))[0].dtype == np.int32
    assert next(ptb_iterator(list(range(20)), 2, 3, device="cpu"))[0].dtype == torch.int64
    assert next(ptb_iterator(torch.arange(20, dtype=torch.int32), 2, 3))[1].dtype == torch.int64


def test_the_callers_ids_are_not_shared():
    ids = np.arange(20, dtype=np.int32)
    next(ptb_iterator(ids, 2, 3))[0][:] = -1
    assert ids.tolist() == list(range(20))


@pytest.mark.parametrize("function", [lambda x, *args: seq_minibatches2(x, x, *args), ptb_iterator])
@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((2, 10), ValueError, r"epoch_size == 0, decrease batch_size or num_steps; the rows have 9 usable steps"),
        ((21, 1), ValueError, r"epoch_size == 0, decrease batch_size or num_steps; the rows have 0 usable steps"),
        ((0, 1), ValueError, "batch_size must be at least 1, got 0"),
        ((2, 0), ValueError, "num_steps must be at least 1, got 0"),
    ],
)
def test_too_few_ids_are_an_error_at_the_call(function, args, error, message):
    with pytest.raises(error, match=message):
        function(np.arange(20), *args)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.arange(20.0), TypeError, "ptb_iterator takes integer ids, got float64"),
        (torch.arange(20.0), TypeError, r"ptb_iterator takes integer ids, got torch\.float32"),
        (["a", "b"], TypeError, "ptb_iterator takes integer ids, got <U1; look the words up in a vocabulary first"),
        (np.zeros((4, 5), dtype=int), ValueError, r"one sequence of ids, got shape \(4, 5\); flatten it first"),
    ],
)
def test_ptb_iterator_takes_one_sequence_of_integers(ids, error, message):
    with pytest.raises(error, match=message):
        ptb_iterator(ids, 1, 1)
