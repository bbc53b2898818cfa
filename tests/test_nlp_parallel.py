"""Pairs of sentences: read strictly, counted aloud, batched by length."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import torchlayer as tl
from torchlayer.files import FileFormatError
from torchlayer.nlp import TokenBatches, create_vocabulary, data_to_token_ids, read_data

BUCKETS = [(5, 10), (10, 15), (20, 25), (40, 50)]


def write(folder, lengths):
    """Two files of ids, of these lengths, the target's without its end."""
    for side, name in enumerate(("en", "fr")):
        text = "".join(" ".join(["7"] * pair[side]) + "\n" for pair in lengths)
        (folder / name).write_text(text)
    return folder / "en", folder / "fr"


@pytest.mark.parametrize(
    ("lengths", "bucket"),  # computed by hand from the original's rule: lengths are below the bucket's, the end counted
    [
        ((3, 5), 0),
        ((4, 8), 0),
        ((4, 9), 1),
        ((5, 6), 1),
        ((8, 18), 2),
        ((39, 48), 3),
        ((39, 49), None),
        ((40, 5), None),
    ],
)
def test_a_pair_goes_into_the_first_bucket_that_is_larger(lengths, bucket, tmp_path, capsys):
    data = read_data(*write(tmp_path, [lengths]), BUCKETS)
    expected = [[] for _ in BUCKETS]
    if bucket is not None:
        expected[bucket] = [([7] * lengths[0], [7] * lengths[1] + [2])]
    assert data == expected
    said = "1 pairs, 0 with an empty side and {} longer than every bucket left out; unknown words: 0.0 % and 0.0 %"
    assert capsys.readouterr().out.strip() == said.format(int(bucket is None))


def test_empty_sides_and_unknown_words_are_counted(tmp_path, capsys):
    (tmp_path / "en").write_text("4 3\n\n5\n6 6 6 6 6 6\n")
    (tmp_path / "fr").write_text("3\n4\n \n7\n")
    assert read_data(tmp_path / "en", tmp_path / "fr", [(5, 5)]) == [[([4, 3], [3, 2])]]
    out = capsys.readouterr().out
    assert "4 pairs, 2 with an empty side and 1 longer than every bucket left out; " in out
    assert "unknown words: 11.1 % and 33.3 %" in out


def test_max_size_stops_before_files_can_disagree(tmp_path, capsys):
    write(tmp_path, [(1, 1)] * 5)
    (tmp_path / "fr").write_text("8\n8\n8\n")
    assert len(read_data(tmp_path / "en", tmp_path / "fr", BUCKETS, max_size=3)[0]) == 3
    assert capsys.readouterr().out.startswith("  3 pairs")


def test_long_files_tell_how_far_they_are(tmp_path, capsys):
    write(tmp_path, [(1, 1)] * 100_001)
    data = read_data(tmp_path / "en", tmp_path / "fr", BUCKETS)
    assert [*map(len, data)] == [100_001, 0, 0, 0]
    assert capsys.readouterr().out.startswith("  reading data line 100000\n")


@pytest.mark.parametrize(
    ("en", "fr", "error"),
    [
        ("4\n5\n", "4\n", r"en' cannot be read: it goes on after line 1, where '.*fr' ends; make both"),
        (
            "4\n",
            "4\n5\n6",
            r"fr' cannot be read: it goes on after line 1, where '.*en' ends; make both",
        ),
        ("4\n", "", r"en' cannot be read: it goes on after line 0, where '.*fr' ends"),
        ("4\n5 x\n", "4\n5\n", r"en' cannot be read: line 2 is no line of ids: b'5 x'; data_to_token_ids makes them"),
        ("4\n", "-4\n", r"fr' cannot be read: line 1 is no line of ids: b'-4'"),
    ],
)
def test_files_that_are_no_pair_are_refused(en, fr, error, tmp_path):
    (tmp_path / "en").write_text(en)
    (tmp_path / "fr").write_text(fr)
    with pytest.raises(FileFormatError, match=error):
        read_data(tmp_path / "en", tmp_path / "fr", BUCKETS)


@pytest.mark.parametrize("buckets", [[], [(5, 10), (5, 12)], [(10, 10), (5, 12)], [(1, 10)]])
def test_buckets_must_grow(buckets, tmp_path):
    message = re.escape(f"both growing from one to the next, got {buckets}")
    with pytest.raises(ValueError, match=message):
        read_data(tmp_path / "en", tmp_path / "fr", buckets)


def test_words_come_back_through_files_and_buckets(tmp_path, capsys):
    (tmp_path / "text").write_text("a b c\nb a d e\n")
    create_vocabulary(tmp_path / "vocab", tmp_path / "text", 7)
    data_to_token_ids(tmp_path / "text", tmp_path / "ids", tmp_path / "vocab")
    (pairs,) = read_data(tmp_path / "ids", tmp_path / "ids", [(9, 9)])
    assert pairs == [([4, 5, 6], [4, 5, 6, 2]), ([5, 4, 3, 3], [5, 4, 3, 3, 2])]  # d and e are beyond the seventh
    assert "unknown words: 28.6 % and 28.6 %" in capsys.readouterr().out


# Batches ---------------------------------------------------------------------------


@pytest.fixture
def pairs():
    source = np.random.RandomState(0)
    lengths = source.randint(1, 30, (400, 2))
    return [(source.randint(4, 99, n).tolist(), [*source.randint(4, 99, m).tolist(), 2]) for n, m in lengths]


def sentences(batch):
    source, lengths, target = batch
    for row, n, out in zip(source.tolist(), lengths.tolist(), target.tolist()):
        assert row[n:] == [0] * (len(row) - n)
        m = out.index(2) + 1 if 2 in out else 0
        assert out[m:] == [0] * (len(out) - m)
        yield tuple(row[:n]), tuple(out[:m])


@pytest.mark.parametrize(("multiple_of", "fill"), [(1, False), (8, False), (8, True)])
def test_an_epoch_has_every_pair_once(pairs, multiple_of, fill):
    batches = TokenBatches(pairs, 600, multiple_of=multiple_of, fill=fill)
    passed = [*batches.epoch(rng=0)]
    assert len(passed) == len(batches)
    found = [pair for batch in passed for pair in sentences(batch)]
    filled = [pair for pair in found if not pair[1]]
    assert sorted(pair for pair in found if pair[1]) == sorted((tuple(s), tuple(t)) for s, t in pairs)
    assert all(source == (0,) for source, _ in filled)
    assert bool(filled) == fill
    assert batches.n_words == sum(len(s) + len(t) for s, t in pairs)
    for source, lengths, target in passed:
        assert len(source) * (source.shape[1] + target.shape[1]) <= 600
        assert source.shape[1] % multiple_of == target.shape[1] % multiple_of == 0
        assert lengths.dtype == source.dtype == target.dtype == torch.int64


def test_filled_batches_have_few_shapes(pairs):
    batches = TokenBatches(pairs, 600, multiple_of=8, fill=True)
    shapes = {(tuple(source.shape), tuple(target.shape)) for source, _, target in batches.epoch(rng=0)}
    widths = {(s[1], t[1]) for s, t in shapes}
    assert len(shapes) == len(widths) <= 16
    assert all(s[0] == t[0] == 600 // (s[1] + t[1]) for s, t in shapes)


def test_rows_that_fill_a_batch_up_change_no_loss(pairs):
    torch.manual_seed(0)
    model = tl.layers.EmbeddingAttentionSeq2Seq(99, 99, 8, num_samples=0, projection=True, mask_attention=True)
    batches = TokenBatches(pairs, 600, multiple_of=8, fill=True)
    source, lengths, target = next(b for b in batches.epoch(rng=0) if (b[2] == 0).all(1).any())
    real = target[:, 0] != 0
    losses = [model.loss(source, target, lengths), model.loss(source[real], target[real], lengths[real])]
    torch.testing.assert_close(*losses)
    grads = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]) for loss in losses]
    torch.testing.assert_close(*grads)


def test_passes_differ_by_their_seed_and_are_repeated_by_it(pairs):
    batches = TokenBatches(pairs, 600)

    def ids(rng):
        return [source.tolist() for source, _, _ in batches.epoch(rng)]

    assert ids(1) == ids(1) != ids(2)
    assert ids(torch.Generator().manual_seed(1)) == ids(torch.Generator().manual_seed(1))


def test_of_translations_little_is_padding(pairs):
    alike = [(source, source[: i % 4] + source) for i, (source, _) in enumerate(pairs * 10)]
    batches = TokenBatches(alike, 2000)
    padded = sum(source.numel() + target.numel() for source, _, target in batches.epoch(rng=0))
    assert padded < 1.1 * batches.n_words


@pytest.mark.parametrize(
    ("pairs", "flags", "error"),
    [
        ([], {}, "TokenBatches needs at least one pair, got none"),
        ([([4], [2]), ([], [2])], {}, "pair 1 has an empty side; leave it out"),
        ([([4], [2]), ([4] * 9, [2])], {}, "pair 1 has 9 and 1 tokens, padded 10, which is more than n_tokens=8"),
        ([([4], [2])], {"multiple_of": 8}, "pair 0 has 1 and 1 tokens, padded 16, which is more than n_tokens=8"),
        ([([4], [2])], {"multiple_of": 0}, "multiple_of must be at least 1, got 0"),
    ],
)
def test_pairs_that_cannot_be_batched_are_refused(pairs, flags, error):
    with pytest.raises(ValueError, match=error):
        TokenBatches(pairs, 8, **flags)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_are_those_of_the_cpu(pairs):
    here, there = TokenBatches(pairs, 600), TokenBatches(pairs, 600, device="cuda")
    for a, b in zip(here.epoch(0), there.epoch(0)):
        assert all(x.is_cuda and torch.equal(x.cpu(), y) for x, y in zip(b, a))
