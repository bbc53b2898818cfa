"""Mini-batches of arrays and tensors held in memory.

Arrays come back as arrays, tensors as tensors on the device where they are, so data already on a GPU never leaves it.
Every function checks its arguments at once and returns an iterator whose ``len`` is its number of batches.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batches", "minibatches", "ptb_iterator", "seq_minibatches", "seq_minibatches2"]

Rows = Tensor | np.ndarray | Sequence[Any]
Rng = int | np.random.Generator | np.random.RandomState | torch.Generator | None

# On a GPU, shuffling once an epoch and slicing takes 8 us a step where a gather a step takes 27 (MNIST, batches of 100,
# an H200). Beyond this many bytes the copy could crowd out the network.
_SHUFFLE_AT_ONCE = 2**30
# On a CPU it pays while the copy stays in the cache: 4 us a step against 10 at 6 MB, but 597 against 127 at 157 MB.
_SHUFFLE_AT_ONCE_ON_CPU = 2**24


class Batches(Iterator[Any]):
    """One pass over some batches; ``len`` is how many the whole pass has."""

    def __init__(self, n_batches: int, batch: Callable[[int], Any]):
        self._n_batches = n_batches
        self._batch = batch
        self._next = 0

    def __len__(self) -> int:
        return self._n_batches

    def __next__(self) -> Any:
        if self._next >= self._n_batches:
            raise StopIteration
        self._next += 1
        return self._batch(self._next - 1)


def minibatches(
    inputs: Rows,
    targets: Rows | None = None,
    batch_size: int | None = None,
    shuffle: bool = False,
    drop_last: bool = True,
    rng: Rng = None,
) -> Batches:
    """Yield ``(inputs, targets)`` in batches; without targets, the batches of ``inputs`` alone.

    The rows left over by the last full batch are dropped, other ones at each shuffle: to evaluate, pass
    ``drop_last=False``.

    Unshuffled batches are views: editing one in place edits the data set. Shuffled ones are copies:
    slices of one shuffled copy of the whole, if it is small (1 GiB on a GPU, 16 MiB on a CPU), else gathered batch by
    batch.

    Args:
        inputs: a tensor, an array, or a list or tuple of examples, whose batches are lists.
        rng: where the order comes from. ``None`` is the global NumPy stream for arrays and lists, as in TensorLayer,
            and torch's global CPU generator for tensors. An int gives one order, the same at every call, for arrays and
            tensors alike; to walk on from epoch to epoch, pass a generator.
    Shape:
        inputs and targets ``(n, ...)`` each; yields ``(batch_size, ...)`` each.
    Raises:
        ValueError: there would be no batch at all.

    >>> for x, y in minibatches(np.arange(7) * 10, np.arange(7), 3):
    ...     print(x, y)
    [ 0 10 20] [0 1 2]
    [30 40 50] [3 4 5]
    """
    size = _at_least_one("batch_size", batch_size)
    n = _n_rows("minibatches", inputs, targets)
    n_batches = n // size if drop_last else -(-n // size)
    if n_batches == 0:
        cure = "pass drop_last=False or a smaller batch_size" if n else "there is nothing to iterate over"
        raise ValueError(f"minibatches: no batch of {size} can be made of {n} rows; {cure}")
    order = permutation(n, rng, for_tensor=isinstance(inputs, Tensor)) if shuffle else None
    parts = [_reader(data, order) for data in (inputs, targets) if data is not None]

    def batch(i: int) -> Any:
        rows = slice(i * size, (i + 1) * size)
        return parts[0](rows) if targets is None else (parts[0](rows), parts[1](rows))

    return Batches(n_batches, batch)


def seq_minibatches(inputs: Rows, targets: Rows, batch_size: int, seq_length: int, stride: int = 1) -> Batches:
    """Yield sliding windows over the rows, flattened window after window.

    Window ``b`` of a batch starts ``b * stride`` rows after its first, the next batch ``batch_size * stride`` rows
    later. Trailing rows that do not fill a batch are dropped. For one target a window, reshape the targets to
    ``(batch_size, seq_length)`` and keep the last column.

    Shape:
        inputs and targets ``(n, ...)``; yields ``(batch_size * seq_length, ...)`` each.
    Raises:
        ValueError: there are too few rows for one batch.

    >>> for x, _ in seq_minibatches(np.arange(6), np.arange(6), batch_size=2, seq_length=2):
    ...     print(x)
    [0 1 1 2]
    [2 3 3 4]
    """
    size, length = _at_least_one("batch_size", batch_size), _at_least_one("seq_length", seq_length)
    step = _at_least_one("stride", stride)
    n = _n_rows("seq_minibatches", inputs, targets)
    span = size * step + length - step  # rows that one batch covers
    if n < span:
        raise ValueError(
            f"seq_minibatches: {size} windows of {length} rows with stride {step} cover {span} rows, got {n}; "
            "decrease batch_size, seq_length or stride"
        )
    rows = (np.arange(size)[:, None] * step + np.arange(length)).reshape(-1)
    data = [_as_array(inputs), _as_array(targets)]
    indices = [torch.from_numpy(rows).to(x.device) if isinstance(x, Tensor) else rows for x in data]

    def batch(i: int) -> tuple[Any, Any]:
        start = i * size * step
        x, y = (_take(whole[start : start + span], index) for whole, index in zip(data, indices))
        return x, y

    return Batches((n - span) // (size * step) + 1, batch)


def seq_minibatches2(
    inputs: Rows, targets: Rows, batch_size: int, num_steps: int, drop_last_step: bool = True
) -> Batches:
    """Cut inputs and targets into ``batch_size`` long rows and yield ``num_steps`` columns at a time.

    Row ``i`` of the next batch goes on where row ``i`` of this one ended, as a carried recurrent state needs it. The
    targets are not shifted. Batches are views of the data.

    Args:
        drop_last_step: leave out the last column of the rows, as TensorLayer does. (:func:`ptb_iterator` needs it for
            its shifted targets, here it is only lost.)
    Shape:
        inputs and targets ``(n, ...)``; yields ``(batch_size, num_steps, ...)`` each.
    Raises:
        ValueError: there are too few rows for one batch.

    >>> next(seq_minibatches2(list(range(20)), list(range(20, 40)), batch_size=2, num_steps=3))
    (array([[ 0,  1,  2], [10, 11, 12]]), array([[20, 21, 22], [30, 31, 32]]))
    """
    _n_rows("seq_minibatches2", inputs, targets)
    x, y = _long_rows(_as_array(inputs), batch_size), _long_rows(_as_array(targets), batch_size)
    n_batches = _n_column_batches("seq_minibatches2", x.shape[1] - bool(drop_last_step), num_steps)

    def batch(i: int) -> tuple[Any, Any]:
        columns = slice(i * num_steps, (i + 1) * num_steps)
        return x[:, columns], y[:, columns]

    return Batches(n_batches, batch)


def ptb_iterator(
    raw_data: Rows, batch_size: int, num_steps: int, device: torch.device | str | int | None = None
) -> Batches:
    """Cut one sequence of ids into ``batch_size`` long rows and yield ``(x, y)``, ``y`` being ``x`` one step later.

    Row ``i`` of the next batch goes on where row ``i`` of this one ended. Batches are views of the cut sequence.

    Args:
        device: yield int64 tensors there; the ids are uploaded once. Without it a tensor stays where it is, and
            anything else comes back as int32 arrays.
    Shape:
        raw_data ``(n,)`` integers; yields ``(batch_size, num_steps)`` twice.
    Raises:
        ValueError: there are too few ids for one batch.
        TypeError: the ids are not integers.

    >>> next(ptb_iterator(range(20), batch_size=2, num_steps=3))
    (array([[ 0,  1,  2], [10, 11, 12]], dtype=int32), array([[ 1,  2,  3], [11, 12, 13]], dtype=int32))
    """
    ids = _as_array(raw_data)
    if ids.ndim != 1:
        raise ValueError(f"ptb_iterator takes one sequence of ids, got shape {tuple(ids.shape)}; flatten it first")
    is_integer = not _is_inexact(ids) if isinstance(ids, Tensor) else ids.dtype.kind in "iu"
    if not is_integer and len(ids):
        raise TypeError(f"ptb_iterator takes integer ids, got {ids.dtype}; look the words up in a vocabulary first")
    if isinstance(ids, Tensor) or device is not None:
        ids = torch.as_tensor(ids, dtype=torch.int64, device=device)
    else:
        ids = ids.astype(np.int32)
    rows = _long_rows(ids, batch_size)
    n_batches = _n_column_batches("ptb_iterator", rows.shape[1] - 1, num_steps)

    def batch(i: int) -> tuple[Any, Any]:
        start, stop = i * num_steps, (i + 1) * num_steps
        return rows[:, start:stop], rows[:, start + 1 : stop + 1]

    return Batches(n_batches, batch)


def permutation(n: int, rng: Rng = None, for_tensor: bool = False) -> np.ndarray:
    """An order of ``n`` things, drawn from ``rng``; see :func:`minibatches` for what it may be.

    Shape:
        Returns ``(n,)`` int64.
    """
    if rng is None and not for_tensor:
        return np.random.permutation(n)
    if rng is None:
        return torch.randperm(n).numpy()
    if isinstance(rng, torch.Generator):
        return torch.randperm(n, generator=rng, device=rng.device).cpu().numpy()
    if isinstance(rng, (np.random.Generator, np.random.RandomState)):
        return rng.permutation(n)
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        return np.random.default_rng(int(rng)).permutation(n)
    raise TypeError(f"rng must be None, an int, a NumPy Generator or RandomState, or a torch.Generator, got {rng!r}")


def _reader(data: Rows, order: np.ndarray | None) -> Callable[[slice], Any]:
    """A function from a range of places in the epoch to the rows that go there."""
    if order is None:
        return data.__getitem__
    if not isinstance(data, Tensor):
        return lambda places: _take(data, order[places])
    index = torch.from_numpy(order).to(data.device)
    limit = _SHUFFLE_AT_ONCE_ON_CPU if data.device.type == "cpu" else _SHUFFLE_AT_ONCE
    if data.numel() * data.element_size() <= limit:
        return data.index_select(0, index).__getitem__
    return lambda places: data.index_select(0, index[places])


def _take(data: Rows, index: Any) -> Any:
    if isinstance(data, Tensor):
        return data.index_select(0, index)
    return data[index] if isinstance(data, np.ndarray) else [data[i] for i in index]


def _long_rows(data: Tensor | np.ndarray, batch_size: int) -> Any:
    size = _at_least_one("batch_size", batch_size)
    length = data.shape[0] // size
    return data[: size * length].reshape(size, length, *data.shape[1:])  # (batch_size, length, ...)


def _n_column_batches(owner: str, n_columns: int, num_steps: int) -> int:
    n_batches = n_columns // _at_least_one("num_steps", num_steps)
    if n_batches < 1:  # -1 columns where there are fewer rows than batch_size
        raise ValueError(
            f"{owner}: epoch_size == 0, decrease batch_size or num_steps; the rows have {max(n_columns, 0)} usable "
            f"steps, num_steps is {num_steps}"
        )
    return n_batches


def _n_rows(owner: str, inputs: Rows, targets: Rows | None) -> int:
    for name, data in (("inputs", inputs), ("targets", targets)):
        if not isinstance(data, (Tensor, np.ndarray, list, tuple, range, type(None))):
            raise TypeError(
                f"{owner}: {name} must be a tensor, an array or a list, got {type(data).__name__}; convert it"
            )
        if isinstance(data, (Tensor, np.ndarray)) and data.ndim == 0:
            raise ValueError(f"{owner}: {name} has no rows, it is a scalar; give it a first axis")
    if targets is not None and len(inputs) != len(targets):
        raise ValueError(f"{owner} needs one target a row, got {len(inputs)} inputs and {len(targets)} targets")
    return len(inputs)


def _at_least_one(name: str, value: Any) -> int:
    if value is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def _as_array(data: Rows) -> Any:
    return data if isinstance(data, Tensor) else np.asarray(data)


def _is_inexact(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex() or x.dtype == torch.bool
