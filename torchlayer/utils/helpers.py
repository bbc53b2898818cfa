"""The small functions of ``tl.utils``: scores of a classifier, over-sampling, lists, seeds."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..iterate import Rng, permutation

__all__ = [
    "Generators",
    "class_balancing_oversample",
    "dict_to_one",
    "evaluation",
    "flatten_list",
    "set_seed",
]

T = TypeVar("T")
Labels = Tensor | np.ndarray | Sequence[int]


def evaluation(
    y_test: Labels, y_predict: Labels, n_classes: int | None = None, labels: Iterable[int] | None = None
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Print and return the confusion matrix, the F1 score of each class, the accuracy and the macro F1 score.

    Args:
        y_test: the true class ids.
        y_predict: the predicted ones.
        n_classes: one more than the largest id unless given.
        labels: the classes that the macro score averages. By default those that occur in either argument;
            ``range(n_classes)`` counts absent ones as 0.
    Shape:
        y_test and y_predict ``(N,)`` integers; returns ``(n_classes, n_classes)`` with a row for each true class,
        ``(n_classes,)`` and two floats.

    >>> scores = evaluation([0, 1, 2, 2], [0, 2, 2, 1], 3)
    confusion matrix:
     [[1 0 0]
     [0 0 1]
     [0 1 1]]
    f1-score: [1. 0. 0.5]
    f1-score(macro): 0.5
    accuracy-score: 0.5
    """
    true, predicted = _class_ids("y_test", y_test), _class_ids("y_predict", y_predict)
    if true.shape != predicted.shape or not len(true):
        raise ValueError(
            f"evaluation needs one prediction for each of one or more labels, got {len(predicted)} and {len(true)}"
        )
    largest = int(max(true.max(), predicted.max()))
    n = largest + 1 if n_classes is None else n_classes
    if min(true.min(), predicted.min()) < 0 or largest >= n:
        raise ValueError(
            f"evaluation: class ids must lie in [0, {n}), got {int(min(true.min(), predicted.min()))} to {largest}; "
            "pass a larger n_classes"
        )
    c_mat = np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)
    hits, occurrences = c_mat.diagonal(), c_mat.sum(0) + c_mat.sum(1)
    f1 = 2 * hits / np.maximum(occurrences, 1)
    chosen = np.flatnonzero(occurrences) if labels is None else np.asarray(list(labels), dtype=np.int64)
    f1_macro = float(f1[chosen].mean())
    acc = float(hits.sum() / len(true))
    print("confusion matrix: \n", c_mat)
    print("f1-score:", f1)
    print("f1-score(macro):", f1_macro)
    print("accuracy-score:", acc)
    return c_mat, f1, acc, f1_macro


def dict_to_one(dp_dict: dict[Any, Any]) -> dict[Any, int]:
    """The same keys, every value 1: keep everything. A network needs no such feed, ``net.eval()`` switches noise off.

    >>> dict_to_one({"drop1": 0.8, "drop2": 0.5})
    {'drop1': 1, 'drop2': 1}
    """
    return dict.fromkeys(dp_dict, 1)


def flatten_list(list_of_list: Iterable[Iterable[T]]) -> list[T]:
    """The items of several lists in one list.

    >>> flatten_list([[1, 2, 3], [4, 5], [6]])
    [1, 2, 3, 4, 5, 6]
    """
    return list(itertools.chain.from_iterable(list_of_list))


def class_balancing_oversample(
    X_train: Tensor | np.ndarray | Sequence[Any],
    y_train: Labels,
    printable: bool = True,
    shuffle: bool = False,
    rng: Rng = None,
) -> tuple[Any, Any]:
    """Repeat the examples of the rarer classes until every class is as large as the largest.

    The examples come out class by class, the most frequent first, unless ``shuffle``. To draw balanced batches without
    copying anything, see :class:`torch.utils.data.WeightedRandomSampler`.

    Args:
        rng: where the shuffled order comes from, as in :func:`torchlayer.iterate.minibatches`.
    Shape:
        X_train ``(n, ...)``, y_train ``(n,)``; returns ``(n_classes * largest, ...)`` and ``(n_classes * largest,)``,
        of the types given (lists become arrays).

    >>> X, y = class_balancing_oversample(np.arange(6).reshape(3, 2), np.array([0, 0, 1]), printable=False)
    >>> X.tolist(), y.tolist()
    ([[0, 1], [2, 3], [4, 5], [4, 5]], [0, 0, 1, 1])
    """
    X = X_train if isinstance(X_train, Tensor) else np.asarray(X_train)
    y = y_train if isinstance(y_train, Tensor) else np.asarray(y_train)
    labels = y.cpu().numpy() if isinstance(y, Tensor) else y
    if labels.ndim != 1 or not len(labels) or len(X) != len(labels):
        raise ValueError(
            f"class_balancing_oversample needs one label for each of one or more examples, got X {tuple(X.shape)} and "
            f"y {tuple(y.shape)}; for one-hot rows pass y.argmax(-1)"
        )
    counts = Counter(labels.tolist()).most_common()
    largest = counts[0][1]
    index = np.concatenate([np.resize(np.flatnonzero(labels == label), largest) for label, _ in counts])
    if shuffle:
        index = index[permutation(len(index), rng, for_tensor=isinstance(X, Tensor))]
    if printable:
        print("Classes balancing for training examples...")
        print(f"the occurrence number of each stage: {counts}")
        print(f"most num is {largest}, all classes tend to be this num")
    return _rows(X, index), _rows(y, index)


class Generators(NamedTuple):
    """Fresh random generators, independent of each other and of the global streams."""

    python: random.Random
    numpy: np.random.Generator
    torch: torch.Generator


def set_seed(seed: int, deterministic: bool = False) -> Generators:
    """Seed the global streams of Python, NumPy and torch (every device), and return generators seeded from ``seed``.

    The global streams drive what takes no generator, such as weight initialisation and dropout; hand the returned ones
    to what does: ``minibatches(..., rng=generators.numpy)``, ``DataLoader(..., generator=generators.torch)``, whose
    workers then derive theirs.

    Args:
        deterministic: also make torch refuse operations whose result depends on scheduling, for the whole program: sets
            ``torch.use_deterministic_algorithms``, stops cuDNN from choosing by timing, and gives cuBLAS the fixed
            workspace it needs (``CUBLAS_WORKSPACE_CONFIG``, unless it is set; too late once cuBLAS has started).
    Raises:
        ValueError: the seed is not in [0, 2**32), the range that NumPy's stream takes.

    >>> a = set_seed(7).numpy.random()
    >>> a == set_seed(7).numpy.random()
    True
    """
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    seed = int(seed)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), got {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # every CUDA device too, at once or when CUDA starts
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    # A generator seeded with the same number would repeat the global stream, number for number.
    own = [
        int(child.generate_state(1, np.uint64)[0] >> np.uint64(1)) for child in np.random.SeedSequence(seed).spawn(3)
    ]
    return Generators(random.Random(own[0]), np.random.default_rng(own[1]), torch.Generator().manual_seed(own[2]))


def _class_ids(name: str, ids: Labels) -> np.ndarray:
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(
            f"evaluation: {name} must hold one class id an example, got shape {array.shape}; call argmax(-1)"
        )
    if len(array) and array.dtype.kind not in "iub":
        raise TypeError(f"evaluation: {name} must hold integer class ids, got {array.dtype}; call argmax(-1) on scores")
    return array.astype(np.int64)


def _rows(data: Tensor | np.ndarray, index: np.ndarray) -> Any:
    if isinstance(data, Tensor):
        return data.index_select(0, torch.from_numpy(index).to(data.device))
    return data[index]
