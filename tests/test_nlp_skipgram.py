from __future__ import annotations

import random
from collections import Counter, deque

import numpy as np
import pytest
import torch

from torchlayer.nlp import generate_skip_gram_batch, skip_gram_batches
from torchlayer.nlp import skipgram as module

TEXT = list(range(1, 12))


def original(data, batch_size, num_skips, skip_window, data_index=0):
    """The published algorithm of the word2vec tutorial, a window that slides, from its description."""
    words, neighbours, window = [], [], deque(maxlen=2 * skip_window + 1)

    def slide():
        nonlocal data_index
        window.append(data[data_index])
        data_index = (data_index + 1) % len(data)

    for _ in range(2 * skip_window + 1):
        slide()
    for _ in range(batch_size // num_skips):
        used = {skip_window}
        for _ in range(num_skips):
            place = random.randint(0, 2 * skip_window)
            while place in used:
                place = random.randint(0, 2 * skip_window)
            used.add(place)
            words.append(window[skip_window])
            neighbours.append(window[place])
        slide()
    return words, neighbours, data_index


def all_pairs(text, window):
    """Every word with every other one at most ``window`` away, in order."""
    return [
        (text[i], text[j])
        for i in range(len(text))
        for j in range(max(0, i - window), min(len(text), i + window + 1))
        if j != i
    ]


def pairs_of(batches):
    return [(int(w), int(n)) for words, neighbours in batches for w, n in zip(words, neighbours)]


# generate_skip_gram_batch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "centres", "after"),
    [  # printed by the original, TensorLayer 1.3.11
        (0, [2, 3, 4, 5], 7),
        (7, [9, 10, 11, 1], 3),
        (3, [5, 6, 7, 8], 10),
        (10, [1, 2, 3, 4], 6),
        (6, [8, 9, 10, 11], 2),
    ],
)
@pytest.mark.parametrize("convert", [list, np.array, torch.tensor])
def test_batch_has_the_originals_words_and_index(index, centres, after, convert):
    words, neighbours, found = generate_skip_gram_batch(convert(TEXT), 8, 2, 1, index)
    assert words.tolist() == [c for c in centres for _ in range(2)]
    ring = {c: {TEXT[(c - 2) % 11], TEXT[c % 11]} for c in centres}
    assert [set(neighbours[i : i + 2, 0].tolist()) for i in range(0, 8, 2)] == [ring[c] for c in centres]
    assert found == after
    assert (words.shape, neighbours.shape, words.dtype, neighbours.dtype) == ((8,), (8, 1), np.int32, np.int32)


@pytest.mark.parametrize(("size", "skips", "window"), [(8, 2, 1), (20, 10, 5), (6, 3, 3), (7, 1, 2)])
def test_batches_draw_from_pythons_stream_as_the_original(size, skips, window):
    random.seed(3)
    expected, index = [], 0
    for _ in range(5):
        expected.append(original(TEXT, size, skips, window, index))
        index = expected[-1][2]
    random.seed(3)
    index = 0
    for words, neighbours, after in expected:
        found = generate_skip_gram_batch(TEXT, size, skips, window, index)
        index = found[2]
        assert (found[0].tolist(), found[1][:, 0].tolist(), index) == (words, neighbours, after)


def test_a_stream_of_ones_own_gives_the_same_draws():
    a = generate_skip_gram_batch(TEXT, 8, 2, 1)
    b = generate_skip_gram_batch(TEXT, 8, 2, 1, rng=random.Random(0))  # as the fixture seeds the global one
    assert a[1].tolist() == b[1].tolist() == [[1], [3], [4], [2], [5], [3], [4], [6]]


def test_overlap_skips_no_word():
    seen, index = Counter(), 0
    for _ in range(11):
        words, _, index = generate_skip_gram_batch(TEXT, 4, 4, 2, index, overlap=True)
        seen.update(words.tolist())
    assert seen == dict.fromkeys(TEXT, 4)
    assert index == 0


@pytest.mark.parametrize("rng", [5, np.random.default_rng(5), np.random.RandomState(5)])
def test_drawn_at_once_neighbours_are_distinct_and_fair(rng):
    words, neighbours, index = generate_skip_gram_batch(range(100), 9000, 3, 2, rng=rng)
    offsets = ((neighbours[:, 0] - words + 50) % 100 - 50).reshape(-1, 3)
    assert index == (3000 + 5) % 100
    assert all(len(set(row)) == 3 for row in offsets.tolist())
    counts = Counter(offsets[:, 0].tolist())
    assert set(counts) == {-2, -1, 1, 2}
    assert all(abs(n - 750) < 120 for n in counts.values())  # five standard deviations


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "text"),
    [
        ((TEXT, 9, 2, 1), {}, ValueError, r"batch_size must be a multiple of num_skips, got 9 and 2"),
        ((TEXT, 9, 3, 1), {}, ValueError, r"num_skips=3 neighbours are more than the 2 within skip_window=1"),
        ((TEXT, 8, 2, 6), {}, ValueError, r"skip_window=6 needs a text of 13 words or more, got 11"),
        (([], 8, 2, 1), {}, ValueError, r"needs a text of 3 words or more, got 0"),
        (([7], 8, 2, 1), {}, ValueError, r"needs a text of 3 words or more, got 1"),
        ((TEXT, 8, 2, 1, 11), {}, ValueError, r"data_index=11 lies outside the text of 11 words"),
        ((TEXT, 8, 2, 1, -1), {}, ValueError, r"data_index=-1 lies outside"),
        ((TEXT, 0, 2, 1), {}, ValueError, r"batch_size must be at least 1, got 0"),
        ((TEXT, 8.0, 2, 1), {}, TypeError, r"batch_size must be an integer, got 8.0"),
        ((["a"] * 9, 8, 2, 1), {}, TypeError, r"integer ids, got <U1; look the words up in a vocabulary first"),
        (([2**40] * 9, 8, 2, 1), {}, ValueError, r"yields int32, and the text has ids beyond it"),
        ((TEXT, 8, 2, 1), {"rng": "x"}, TypeError, r"rng must be None, a random.Random, an int"),
    ],
)
def test_bad_batch_is_refused(args, kwargs, error, text):
    with pytest.raises(error, match=text):
        generate_skip_gram_batch(*args, **kwargs)


# skip_gram_batches ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=[2**15, 7], ids=["one block", "many blocks"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", request.param)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("n", [2, 3, 11, 100])
@pytest.mark.parametrize("window", [1, 2, 40])
@pytest.mark.parametrize("size", [1, 8, 1000])
def test_in_order_yields_every_pair_once_in_order(n, window, size):
    text = np.random.randint(0, 50, n)
    batches = skip_gram_batches(text, size, window)
    expected = all_pairs(text.tolist(), window)
    sizes = [len(expected) - i if len(expected) - i < size else size for i in range(0, len(expected), size)]
    assert (batches.n_pairs, len(batches)) == (len(expected), len(sizes))
    found = list(batches)
    assert [len(words) for words, _ in found] == sizes
    assert pairs_of(found) == expected


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("n", [2, 3, 11, 300])
@pytest.mark.parametrize("window", [1, 2, 5, 40])
def test_shuffled_yields_every_pair_once(n, window):
    text = np.random.permutation(n)
    for seed in range(2):
        found = pairs_of(skip_gram_batches(text, 64, window, shuffle=True, rng=seed))
        assert sorted(found) == sorted(all_pairs(text.tolist(), window))


def test_shuffled_order_is_random_over_the_whole_text():
    n, window = 20_000, 2
    batches = skip_gram_batches(range(n), 4000, window, shuffle=True, rng=1)
    words, neighbours = next(batches)
    # 4000 of 80,000 pairs: in each tenth of the text and at each offset, the binomial number within 5 deviations.
    assert all(abs(c - 400) < 5 * 19 for c in np.bincount(words // 2000, minlength=10))
    assert all(abs((neighbours - words == d).sum() - 1000) < 5 * 28 for d in (-2, -1, 1, 2))
    assert abs(np.corrcoef(words[:-1], words[1:])[0, 1]) < 5 / 4000**0.5
    other, _ = next(skip_gram_batches(range(n), 4000, window, shuffle=True, rng=2))
    assert abs(np.corrcoef(words, other)[0, 1]) < 5 / 4000**0.5


@pytest.mark.parametrize("n", [3, 12])
def test_every_pair_may_come_first(n):
    first = Counter(pairs_of([next(skip_gram_batches(range(n), 1, 1, shuffle=True, rng=s))])[0] for s in range(600))
    expected = 600 / len(all_pairs(range(n), 1))
    assert set(first) == set(all_pairs(range(n), 1))
    assert all(abs(c - expected) < 6 * expected**0.5 for c in first.values())


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("shuffle", [False, True])
def test_dynamic_window_keeps_near_pairs_and_some_far_ones(shuffle):
    n, window = 400, 4
    batches = skip_gram_batches(range(n), 100, window, dynamic_window=True, shuffle=shuffle, rng=0)
    n_pairs, n_batches = batches.n_pairs, len(batches)
    found = list(batches)
    pairs = Counter(pairs_of(found))
    assert (sum(pairs.values()), len(found)) == (n_pairs, n_batches)
    assert set(pairs.values()) == {1}
    for i in range(n):  # a window is whole: both sides as far as its radius
        radius = max(abs(i - j) for j in range(n) if (i, j) in pairs)
        assert {j for j in range(n) if (i, j) in pairs} == {
            j for j in range(i - radius, i + radius + 1) if j != i and 0 <= j < n
        }
    distances = Counter(abs(i - j) for i, j in pairs)
    assert [round(distances[d] / (2 * n) * 4) for d in (1, 2, 3, 4)] == [4, 3, 2, 1]


def test_subsampling_keeps_words_as_the_paper_says():
    text = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [60_000, 30_000, 10_000]))
    threshold = 0.05
    batches = skip_gram_batches(text, 1000, 1, subsample=threshold, rng=0)
    counts = np.bincount(np.concatenate([words for words, _ in batches]), minlength=3) / 2  # two pairs a word
    expected = np.array([60_000, 30_000, 10_000]) * np.sqrt(threshold / np.array([0.6, 0.3, 0.1]))
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
    assert batches.n_words == 100_000


def test_subsampling_moves_neighbours_together():
    batches = skip_gram_batches([1, 0] * 500, 10, 1, subsample=0.05, rng=0)
    assert any(w == n for w, n in pairs_of(batches))  # the other word between two equal ones was taken out


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(
    "options", [{}, {"shuffle": True}, {"shuffle": True, "dynamic_window": True, "subsample": 0.01}]
)
def test_a_pass_goes_on_from_any_index(options):
    text = np.random.randint(0, 20, 300)

    def start(index=0):
        return skip_gram_batches(text, 16, 3, rng=4, start=index, **options)

    batches, indices, found = start(), [], []
    for batch in batches:
        found.append(pairs_of([batch]))
        indices.append(batches.index)
    for k in (0, 1, len(found) // 2, len(found) - 2):
        assert [pairs_of([batch]) for batch in start(indices[k])] == found[k + 1 :]
    assert list(start(indices[-1])) == []
    assert start(indices[3]).index == indices[3]


def test_progress_is_told_in_words():
    batches = skip_gram_batches(range(10_000), 500, 5)
    told = [batches.words_done]
    for _ in batches:
        told.append(batches.words_done)
    assert told == sorted(told)
    assert (told[0], told[-1], batches.n_words) == (0, 10_000, 10_000)
    assert abs(told[100] - 5000) < 5


def test_drop_last_leaves_out_the_short_batch():
    batches = skip_gram_batches(range(10), 4, 1, drop_last=True)  # 18 pairs
    assert len(batches) == 4
    assert [len(words) for words, _ in batches] == [4, 4, 4, 4]
    assert next(batches, None) is None


@pytest.mark.parametrize(
    ("data", "kwargs", "kind", "dtype"),
    [
        (TEXT, {}, np.ndarray, np.int32),
        (np.array(TEXT, np.uint8), {}, np.ndarray, np.int32),
        (torch.tensor(TEXT), {}, torch.Tensor, torch.int64),
        (torch.tensor(TEXT, dtype=torch.int32), {}, torch.Tensor, torch.int32),
        (torch.tensor(TEXT, dtype=torch.int16), {}, torch.Tensor, torch.int64),
        (TEXT, {"device": "cpu"}, torch.Tensor, torch.int64),
    ],
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_arrays_give_arrays_and_tensors_tensors(data, kwargs, kind, dtype, shuffle):
    batches = list(skip_gram_batches(data, 4, 2, shuffle=shuffle, rng=0, **kwargs))
    assert all(isinstance(x, kind) and x.dtype == dtype for batch in batches for x in batch)
    assert pairs_of(batches) == pairs_of(skip_gram_batches(TEXT, 4, 2, shuffle=shuffle, rng=0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_works_where_the_ids_are():
    text = np.random.randint(0, 50, 1000)
    batches = list(skip_gram_batches(text, 64, 3, shuffle=True, dynamic_window=True, rng=0, device="cuda"))
    assert batches[0][0].is_cuda
    assert set(pairs_of(batches)) <= set(all_pairs(text.tolist(), 3))
    assert sorted(pairs_of(skip_gram_batches(text, 64, 3, shuffle=True, device="cuda"))) == sorted(
        all_pairs(text.tolist(), 3)
    )


def test_batches_share_no_memory_with_the_text_or_each_other():
    text = np.array(TEXT, np.int32)
    batches = skip_gram_batches(text, 4, 1)
    words, _ = next(batches)
    words[:] = 99
    assert text.tolist() == TEXT
    assert 99 not in [w for pair in pairs_of(batches) for w in pair]


@pytest.mark.parametrize("make", [lambda: None, lambda: np.random.default_rng(1), lambda: np.random.RandomState(1)])
def test_rng_gives_another_order_each_time_it_is_used(make):
    rng = make()
    a, b = (pairs_of(skip_gram_batches(range(50), 10, 2, shuffle=True, rng=rng)) for _ in range(2))
    assert a != b
    assert sorted(a) == sorted(b)


def test_seeding_decides_the_order():
    for seed, data in ((np.random.seed, TEXT), (torch.manual_seed, torch.tensor(TEXT))):
        seed(1)
        a = pairs_of(skip_gram_batches(data, 3, 1, shuffle=True))
        seed(1)
        assert pairs_of(skip_gram_batches(data, 3, 1, shuffle=True)) == a
    generator = torch.Generator().manual_seed(1)
    a = pairs_of(skip_gram_batches(TEXT, 3, 1, shuffle=True, rng=generator))
    assert pairs_of(skip_gram_batches(TEXT, 3, 1, shuffle=True, rng=generator.manual_seed(1))) == a


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "text"),
    [
        (([], 8, 2), {}, ValueError, r"needs a text of two words or more, got 0; there is no pair in it"),
        (([5], 8, 2), {}, ValueError, r"needs a text of two words or more, got 1"),
        (([5] * 9, 8, 2), {"subsample": 1e-12}, ValueError, r"got 0 is left of 9 by subsample=1e-12"),
        ((TEXT, 8, 0), {}, ValueError, r"skip_window must be at least 1, got 0"),
        ((TEXT, True, 1), {}, TypeError, r"batch_size must be an integer, got True"),
        (([3, -1, 2], 8, 1), {}, ValueError, r"the id at position 1 is -1, outside 0 … 2147483647"),
        ((torch.tensor([3, 9]), 8, 1), {"vocabulary_size": 9}, ValueError, r"position 1 is 9, outside 0 … 8"),
        (([1.0, 2.0], 8, 1), {}, TypeError, r"takes integer ids, got float64; look the words up"),
        ((torch.ones(4), 8, 1), {}, TypeError, r"takes integer ids, got torch.float32"),
        ((["a", "b"], 8, 1), {}, TypeError, r"takes integer ids, got <U1"),
        (([[1, 2]], 8, 1), {}, ValueError, r"one sequence of ids, got shape \(1, 2\); flatten it first"),
        ((TEXT, 8, 1), {"start": 23}, ValueError, r"start=23 lies outside the pass, 0 … 22"),
        ((TEXT, 8, 1), {"subsample": 0}, ValueError, r"subsample must be a positive share of the text such as 1e-4"),
        (([2**30, 1], 8, 1), {"subsample": 1.0}, ValueError, r"id 1073741824 is no id of a word"),
        (
            (TEXT, 8, 1),
            {"rng": 0.5},
            TypeError,
            r"rng must be None, an int, a NumPy Generator or RandomState, or a tor",
        ),
    ],
)
def test_bad_pass_is_refused_at_once(args, kwargs, error, text):
    with pytest.raises(error, match=text):
        skip_gram_batches(*args, **kwargs)
