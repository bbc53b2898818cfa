"""Inputs and results of the original, TensorLayer 1.3.11, for the modules that need no network.

A row is ``(function, args, kwargs, expected)``. Nested lists stand for tensors. A ``>`` behind the name calls the
function with the first argument and its result with the second.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import torch

import torchlayer

Row = tuple[str, tuple[Any, ...], dict[str, Any], Any]

_LOGITS = [[2.0, 1.0, 0.1], [0.5, 2.5, 0.3]]
_SEQUENCE_LOGITS = [*_LOGITS, [0.0, 0.0, 0.0], [1.0, -1.0, 3.0]]
_W = [[3.0, -4.0], [0.0, 0.0], [1.0, 2.0]]
_OUTPUT = [[0.9, 0.8, 0.1, 0.2], [0.7, 0.3, 0.6, 0.4]]
_MASK = [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0]]

# Printed by the original under TensorFlow, to a tolerance of 2e-6.
SAME_AS_ORIGINAL: list[Row] = [
    ("activation.ramp", ([-1.0, 0.5, 2.0],), {}, [0.0, 0.5, 1.0]),
    ("activation.ramp", ([-1.0, 0.5, 2.0, 9.0],), {"v_min": 0, "v_max": 6}, [0.0, 0.5, 2.0, 6.0]),
    ("activation.leaky_relu", ([-2.0, 0.0, 3.0],), {}, [-0.2, 0.0, 3.0]),
    ("activation.leaky_relu", ([-2.0, 3.0],), {"alpha": 0.2}, [-0.4, 3.0]),
    ("activation.leaky_relu", ([-2.0, 3.0],), {"alpha": 1.5}, [-2.0, 4.5]),
    (
        "activation.pixel_wise_softmax",
        ([[[[0.0, 1.0], [2.0, 2.0]]]],),
        {},
        [[[[0.26894143, 0.7310586], [0.5, 0.5]]]],
    ),
    ("cost.cross_entropy", (_LOGITS, [0, 2]), {"name": "v1"}, 1.4185398),
    ("cost.sigmoid_cross_entropy", ([[0.0, 2.0], [-1.0, 3.0]], [[1.0, 0.0], [0.0, 1.0]]), {}, 0.7954811),
    ("cost.binary_cross_entropy", ([[0.9, 0.2], [0.6, 0.4]], [[1.0, 0.0], [1.0, 0.0]]), {}, 0.3375388),
    ("cost.binary_cross_entropy", ([0.0], [1.0]), {}, 18.420681),
    ("cost.binary_cross_entropy", ([1.0], [1.0]), {}, 0.0),
    ("cost.mean_squared_error", ([[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]), {}, 15.0),
    (
        "cost.mean_squared_error",
        ([[[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]]], [[[[0.0] * 2] * 2] * 2]),
        {},
        35.0,
    ),
    ("cost.cosine_similarity", ([[1.0, 0.0], [1.0, 2.0]], [[1.0, 1.0], [2.0, 4.0]]), {}, [0.70710677, 1.0]),
    ("cost.dice_coe", (_OUTPUT, _MASK), {}, 0.8484849),
    ("cost.dice_coe", (_MASK, _MASK), {"epsilon": 1e-5}, 0.99999),
    ("cost.dice_hard_coe", (_OUTPUT, _MASK), {}, 0.75),
    ("cost.iou_coe", (_OUTPUT, _MASK), {}, 0.6),
    ("cost.iou_coe", (_OUTPUT, _MASK), {"threshold": 0.65}, 0.75),
    ("regularizers.li_regularizer>", (0.1, _W), {}, 0.7236068),
    ("regularizers.lo_regularizer>", (0.1, _W), {}, 0.7634414),
    ("regularizers.maxnorm_regularizer>", (1.0, _W), {}, 4.0),
    ("regularizers.maxnorm_regularizer>", (0.5, _W), {}, 2.0),
    ("regularizers.maxnorm_i_regularizer>", (0.1, _W), {}, 0.6),
    ("utils.flatten_list", ([[1, 2, 3], [4, 5], [6]],), {}, [1, 2, 3, 4, 5, 6]),
]

# The original raises or is wrong here; computed with NumPy.
FIXED: list[Row] = [
    ("cost.cross_entropy_seq", (_SEQUENCE_LOGITS, [[0, 2], [1, 2]]), {}, 2.0393119),
    ("cost.cross_entropy_seq_with_mask", (_SEQUENCE_LOGITS, [[0, 2], [1, 2]], [[1, 1], [1, 0]]), {}, 1.3118974),
    ("regularizers.maxnorm_o_regularizer>", (0.1, _W), {}, 0.7),
]

# Printed by the original, exact. X row i carries the value i.
BATCHES: list[Row] = [
    ("minibatches", (np.arange(7) * 10, np.arange(7), 3), {}, [([0, 10, 20], [0, 1, 2]), ([30, 40, 50], [3, 4, 5])]),
    (
        "seq_minibatches",
        (np.arange(6), np.arange(6), 2, 2, 1),
        {},
        [([0, 1, 1, 2], [0, 1, 1, 2]), ([2, 3, 3, 4], [2, 3, 3, 4])],
    ),
    (
        "seq_minibatches",
        (np.arange(7), np.arange(7), 2, 3, 1),
        {},
        [([0, 1, 2, 1, 2, 3], [0, 1, 2, 1, 2, 3]), ([2, 3, 4, 3, 4, 5], [2, 3, 4, 3, 4, 5])],
    ),
    (
        "seq_minibatches",
        (np.arange(10), np.arange(10), 2, 3, 2),
        {},
        [([0, 1, 2, 2, 3, 4], [0, 1, 2, 2, 3, 4]), ([4, 5, 6, 6, 7, 8], [4, 5, 6, 6, 7, 8])],
    ),
    (
        "seq_minibatches",
        (np.arange(9), np.arange(9), 1, 3, 3),
        {},
        [([0, 1, 2], [0, 1, 2]), ([3, 4, 5], [3, 4, 5]), ([6, 7, 8], [6, 7, 8])],
    ),
    (
        "seq_minibatches2",
        (np.arange(20), np.arange(20, 40), 2, 3),
        {},
        [
            ([[0, 1, 2], [10, 11, 12]], [[20, 21, 22], [30, 31, 32]]),
            ([[3, 4, 5], [13, 14, 15]], [[23, 24, 25], [33, 34, 35]]),
            ([[6, 7, 8], [16, 17, 18]], [[26, 27, 28], [36, 37, 38]]),
        ],
    ),
    (
        "ptb_iterator",
        (range(20), 2, 3),
        {},
        [
            ([[0, 1, 2], [10, 11, 12]], [[1, 2, 3], [11, 12, 13]]),
            ([[3, 4, 5], [13, 14, 15]], [[4, 5, 6], [14, 15, 16]]),
            ([[6, 7, 8], [16, 17, 18]], [[7, 8, 9], [17, 18, 19]]),
        ],
    ),
]


def of(module: str) -> list[Row]:
    """The rows about one module."""
    return [row for row in SAME_AS_ORIGINAL + FIXED if row[0].startswith(module + ".")]


def call(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function that a row names, its lists made tensors."""
    found: Any = reduce(getattr, function.removesuffix(">").split("."), torchlayer)
    tensors = [torch.tensor(arg) if isinstance(arg, list) else arg for arg in args]
    return found(tensors[0])(*tensors[1:]) if function.endswith(">") else found(*tensors, **kwargs)
