"""Helpers for sequences, against the original's own results; and the work of threads."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from torchlayer import prepro

S = [[4, 3, 5, 3, 2, 2, 2, 2], [5, 3, 9, 4, 9, 2, 2, 3]]


@pytest.mark.parametrize(
    ("sequences", "options", "expected"),
    [
        ([[1] * 5, [2] * 3, [3] * 2], {}, [[1, 1, 1, 1, 1], [2, 2, 2, 0, 0], [3, 3, 0, 0, 0]]),
        ([[1, 2, 3, 4, 5], [6, 7, 8], [9]], {"maxlen": 4}, [[2, 3, 4, 5], [6, 7, 8, 0], [9, 0, 0, 0]]),
        (
            [[1, 2, 3, 4, 5], [6, 7, 8], [9]],
            {"maxlen": 4, "padding": "pre", "truncating": "post"},
            [[1, 2, 3, 4], [0, 6, 7, 8], [0, 0, 0, 9]],
        ),
        ([[1], []], {"maxlen": 2, "value": -1}, [[1, -1], [-1, -1]]),
        ([[1.5, 2.7]], {"maxlen": 3, "value": 0.5}, [[1, 2, 0]]),
        ([[1.5, 2.7]], {"maxlen": 3, "value": 0.5, "dtype": "float64"}, [[1.5, 2.7, 0.5]]),
        ([[[1, 2], [3, 4]], [[5, 6]]], {}, [[[1, 2], [3, 4]], [[5, 6], [0, 0]]]),
        ([[1, 2], [3]], {"maxlen": 0}, [[], []]),
        ([[], []], {}, [[], []]),
        ([np.array([1, 2]), torch.tensor([3])], {}, [[1, 2], [3, 0]]),
    ],
)
def test_pad_sequences(sequences, options, expected):
    y = prepro.pad_sequences(sequences, **options)
    assert y.dtype == options.get("dtype", "int32")
    assert y.tolist() == expected


@pytest.mark.parametrize(
    ("sequences", "options", "expected"),
    [
        (S, {"end_id": 2}, [[4, 3, 5, 3, 0], [5, 3, 9, 4, 9]]),
        (S, {"end_id": 2, "remain_end_id": True}, [[4, 3, 5, 3, 2, 0], [5, 3, 9, 4, 9, 2]]),
        (S, {"end_id": 2, "is_shorten": False}, [[4, 3, 5, 3, 0, 0, 0, 0], [5, 3, 9, 4, 9, 0, 0, 0]]),
        (S, {"end_id": 2, "pad_val": -1}, [[4, 3, 5, 3, -1], [5, 3, 9, 4, 9]]),
        ([[4, 3, 2, 1], [5, 6, 7, 8]], {"end_id": 2}, [[4, 3, 0, 0], [5, 6, 7, 8]]),  # the original cut the second
        ([[4, 3], [5, 6]], {"end_id": 2}, [[4, 3], [5, 6]]),  # the original emptied both
        ([[4, 3], [5, 6]], {"end_id": 2, "remain_end_id": True}, [[4, 3], [5, 6]]),
        ([[2, 5, 6]], {"end_id": 2}, [[]]),
        ([[2, 5, 6]], {"end_id": 2, "remain_end_id": True}, [[2]]),
    ],
)
def test_process_sequences(sequences, options, expected):
    before = [list(sequence) for sequence in sequences]
    assert prepro.process_sequences(sequences, **options) == expected
    assert sequences == before
    for kind in (np.array, torch.tensor):
        rows = kind(sequences)
        y = prepro.process_sequences(rows, **options)
        assert isinstance(y, type(rows))
        assert y.dtype == rows.dtype
        assert y.tolist() == expected


def test_process_sequences_of_different_lengths():
    assert prepro.process_sequences([[4, 3, 5, 6, 7], [5, 2]], end_id=2) == [[4, 3, 5, 6, 7], [5, 0]]
    assert prepro.process_sequences([[4, 2, 5, 6, 7], [5, 9]], end_id=2) == [[4, 0], [5, 9]]
    assert prepro.process_sequences([]) == []


@pytest.mark.parametrize(
    ("sequences", "remove_last", "expected"),
    [
        ([[4, 3], [5]], False, [[2, 4, 3], [2, 5]]),
        ([[4, 3], [5]], True, [[2, 4], [2]]),
        ([[], [5]], True, [[2], [2]]),
        ([np.array([4, 3]), np.array([5])], False, [[2, 4, 3], [2, 5]]),  # the original added 2
    ],
)
def test_sequences_add_start_id(sequences, remove_last, expected):
    assert prepro.sequences_add_start_id(sequences, 2, remove_last) == expected


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_sequences_add_start_id_to_rows(kind):
    rows = kind([[4, 3], [5, 3]])
    for remove_last, expected in ((False, [[2, 4, 3], [2, 5, 3]]), (True, [[2, 4], [2, 5]])):
        y = prepro.sequences_add_start_id(rows, 2, remove_last)
        assert isinstance(y, type(rows))
        assert y.dtype == rows.dtype
        assert y.tolist() == expected


@pytest.mark.parametrize(
    ("sequences", "pad_val", "expected"),
    [
        ([[4, 0, 5, 3, 0, 0], [5, 3, 9, 4, 9, 0]], 0, [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]),
        ([[0, 0, 0], [1, 0, 0]], 0, [[0, 0, 0], [1, 0, 0]]),
        ([[4, 1, 1]], 1, [[1, 0, 0]]),
    ],
)
def test_sequences_get_mask(sequences, pad_val, expected):
    for rows in (sequences, np.array(sequences), torch.tensor(sequences)):
        mask = prepro.sequences_get_mask(rows, pad_val)
        assert isinstance(mask, torch.Tensor if isinstance(rows, torch.Tensor) else np.ndarray)
        assert str(mask.dtype).endswith("int64")
        assert mask.tolist() == expected


# --- threading_data -----------------------------------------------------------------

IMAGES = np.random.default_rng(0).random((12, 8, 8, 3)).astype(np.float32)


def cut_and_turn(x, rng):
    return prepro.rotation(prepro.crop(x, 6, 6, True, rng=rng), 30, True, rng=rng)


def test_results_do_not_depend_on_the_number_of_threads_or_on_who_is_first():
    with ThreadPoolExecutor(1) as pool:
        alone = prepro.threading_data(IMAGES, cut_and_turn, rng=0, executor=pool)
    gate, turns = threading.Event(), []

    def last_first(x, rng):  # the first item is done last
        if np.shares_memory(x, IMAGES[:1]):
            gate.wait(20)
        turns.append(len(turns))
        if len(turns) == len(IMAGES) - 1:
            gate.set()
        return cut_and_turn(x, rng)

    with ThreadPoolExecutor(4) as pool:
        together = prepro.threading_data(IMAGES, last_first, rng=0, executor=pool)
    np.testing.assert_array_equal(alone, together)
    assert len({y.tobytes() for y in together}) == 12
    assert (prepro.threading_data(IMAGES, cut_and_turn, rng=1) != together).any()


class OtherMemory(ThreadPoolExecutor):
    """Hands work on as a pool of processes does: as bytes."""

    def submit(self, fn, /, *args, **kwargs):
        fn, args, kwargs = pickle.loads(pickle.dumps((fn, args, kwargs)))
        return super().submit(fn, *args, **kwargs)


def test_work_can_be_sent_to_other_processes():
    here = prepro.threading_data(IMAGES[:3], cut_and_turn, rng=0)
    with OtherMemory(2) as pool:
        there = prepro.threading_data(IMAGES[:3], cut_and_turn, rng=0, executor=pool)
        np.testing.assert_array_equal(here, there)
        assert pool.submit(len, [1]).result() == 1  # it is the caller's, and goes on


@pytest.mark.parametrize(
    "make", [lambda s: s, np.random.default_rng, np.random.RandomState, lambda s: torch.Generator().manual_seed(s)]
)
def test_any_generator_is_a_source(make):
    first, again = (prepro.threading_data(IMAGES, cut_and_turn, rng=make(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (prepro.threading_data(IMAGES, cut_and_turn, rng=make(4)) != first).any()


def test_without_rng_the_global_stream_decides():
    np.random.seed(0)
    first = prepro.threading_data(IMAGES, cut_and_turn)
    second = prepro.threading_data(IMAGES, cut_and_turn)
    np.random.seed(0)
    np.testing.assert_array_equal(prepro.threading_data(IMAGES, cut_and_turn), first)
    assert (first != second).any()


def test_pairs_share_their_draws():
    y = prepro.threading_data(zip(IMAGES, IMAGES), prepro.zoom_multi, zoom_range=(0.5, 1), is_random=True, rng=0)
    assert y.shape == (12, 2, 8, 8, 3)
    np.testing.assert_array_equal(y[:, 0], y[:, 1])


def test_results_come_in_order_as_an_array_or_a_list():
    assert prepro.threading_data([3, 1, 2], lambda x, times: x * times, times=10).tolist() == [30, 10, 20]
    assert prepro.threading_data([3, 1], np.zeros)[0].shape == (3,)  # shapes that differ
    assert prepro.threading_data([3, 1], lambda x: x, as_array=False) == [3, 1]
    assert prepro.threading_data([], lambda x: x).tolist() == []
    assert prepro.threading_data([torch.ones(2)], lambda x: x + 1).tolist() == [[2, 2]]


def test_an_exception_in_a_thread_is_raised_here():
    with pytest.raises(ZeroDivisionError):  # the original returned [6, None, 2]
        prepro.threading_data([1, 0, 3], lambda d: 6 // d)


WRONG = [
    (lambda: prepro.pad_sequences([]), ValueError, "pad_sequences got no sequences"),
    (lambda: prepro.pad_sequences([[1]], padding="left"), ValueError, "padding is 'pre' or 'post', got 'left'"),
    (lambda: prepro.pad_sequences([[1]], truncating="x"), ValueError, "truncating is 'pre' or 'post', got 'x'"),
    (
        lambda: prepro.pad_sequences([[[1, 2]], [[1]]]),
        ValueError,
        r"items of sequence 1 have shape \(1,\), those before \(2,\)",
    ),
    (lambda: prepro.pad_sequences([[1]], maxlen=-1), ValueError, "maxlen is at least 0, got -1"),
    (lambda: prepro.pad_sequences([[1]], maxlen=1.5), TypeError, "maxlen is a number of items, an integer, got 1.5"),
    (
        lambda: prepro.sequences_get_mask([[1], [1, 2]]),
        ValueError,
        r"different lengths, \[1, 2\]; pad them with pad_sequences",
    ),
    (lambda: prepro.process_sequences(np.zeros(3)), ValueError, r"an array or a tensor \(n, T\), got shape \(3,\)"),
    (lambda: prepro.threading_data(None, len), TypeError, "needs data and a function of one item, got data=NoneType"),
    (lambda: prepro.threading_data([1]), TypeError, "needs data and a function of one item, got data=list and fn=None"),
    (
        lambda: prepro.threading_data([[1]], len, rng=0),
        TypeError,
        "threading_data: len takes no argument rng; give it one",
    ),
    (
        lambda: prepro.threading_data(IMAGES, prepro.crop, rng="a", wrg=1, hrg=1),
        TypeError,
        "rng must be None, an int, .* got 'a'",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
def test_what_is_wrong_is_said(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
