"""A function applied to every item, in threads, with results that do not depend on who was first."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np

from ._random import Rng, children


def threading_data(
    data: Iterable[Any] | None = None,
    fn: Callable[..., Any] | None = None,
    *,
    executor: Executor | None = None,
    as_array: bool = True,
    rng: Rng = None,
    **kwargs: Any,
) -> Any:
    """``fn(item, **kwargs)`` for every item, in order, by a pool of threads.

    A batch on a GPU, or an array ``(N, H, W, C)``, is better given to the functions of this module as it is: they work
    on batches. This is for functions of one item; for a whole data set see ``torch.utils.data.DataLoader``.

    If ``fn`` takes an argument ``rng``, every item gets a generator of its own, all derived from ``rng``: the same
    results whatever the number of threads and whichever is first. (TensorLayer's threads all drew from NumPy's global
    stream, in an order that changed from run to run.)

    Args:
        data: items; for several that share their draws, ``zip(X, Y)`` and a function that ends in ``_multi``.
        fn: called with an item; an exception in it is raised here. (TensorLayer lost it, and returned ``None``.)
        executor: a pool to use: ``ThreadPoolExecutor(8)``, or a ``ProcessPoolExecutor``, which helps where ``fn`` is
            much Python. By default as many threads as cores, for this call.
        as_array: the results as one array. Otherwise, and where their shapes differ, as a list.
        rng: what the items' generators are derived from: ``None`` is NumPy's global stream, an int a seed.
        kwargs: handed to ``fn``.
    Raises:
        TypeError: there are no data or no function; ``rng`` was given, but ``fn`` takes none.

    >>> from torchlayer.prepro import crop
    >>> images = np.zeros((100, 32, 32, 3), np.uint8)
    >>> threading_data(images, crop, wrg=28, hrg=28, is_random=True, rng=0).shape
    (100, 28, 28, 3)
    """
    if data is None or not callable(fn):
        raise TypeError(
            f"threading_data needs data and a function of one item, got data={type(data).__name__} and fn={fn!r}"
        )
    items = list(data)
    takes_rng = _takes_rng(fn)
    if rng is not None and not takes_rng:
        name = getattr(fn, "__name__", repr(fn))
        raise TypeError(f"threading_data: {name} takes no argument rng; give it one, and draw from it")
    own: list[dict[str, Any]] = (
        [{"rng": child} for child in children(rng, len(items))] if takes_rng else [{}] * len(items)
    )
    pool = ThreadPoolExecutor(os.cpu_count()) if executor is None else nullcontext(executor)
    with pool as workers:
        futures = [workers.submit(fn, item, **kwargs, **options) for item, options in zip(items, own)]
        try:
            results = [future.result() for future in futures]
        except BaseException:  # Ctrl-C, too: what has not begun is not begun
            for future in futures:
                future.cancel()
            raise
    return _array(results) if as_array else results


def _takes_rng(fn: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):  # of a builtin
        return False
    return "rng" in parameters


def _array(results: list[Any]) -> Any:
    arrays = [
        np.asarray(result) if not hasattr(result, "detach") else result.detach().cpu().numpy() for result in results
    ]
    if len({array.shape for array in arrays}) > 1:
        return results
    return np.stack(arrays) if arrays else np.array([])
