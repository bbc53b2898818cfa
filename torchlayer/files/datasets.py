"""Data sets as NumPy arrays, from a folder, from ``$TORCHLAYER_DATA``, or from the network.

A folder is looked for in this order: the ``path`` given; ``$TORCHLAYER_DATA/<name>``; ``$TORCHLAYER_DATA``; the user's
cache, ``$XDG_CACHE_HOME/torchlayer/data/<name>``. What is nowhere is downloaded into ``path``, or else into the cache,
unless ``TORCHLAYER_OFFLINE=1``.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from .download import download
from .errors import FileFormatError
from .idx import read_idx
from .places import find_file, find_folder

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_MNIST = {  # name: (bytes, sha256) of the four original files
    "train-images-idx3-ubyte.gz": (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "train-labels-idx1-ubyte.gz": (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "t10k-images-idx3-ubyte.gz": (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "t10k-labels-idx1-ubyte.gz": (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}
_MNIST_MIRRORS = (  # yann.lecun.com no longer serves them
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_N_VALIDATION = 10_000


def load_mnist_dataset(shape: tuple[int, ...] = (-1, 784), path: str | os.PathLike[str] | None = None) -> Split:
    """MNIST: 50,000 training, 10,000 validation and 10,000 test images of handwritten digits.

    The validation images are the last 10,000 of the training file. Pixels are divided by 256, not 255, as in the
    original. Labels are int64, where the original has int32: torch's losses take nothing else.

    Args:
        shape: of the images, batch first: ``(-1, 784)``, ``(-1, 28, 28, 1)``, ``(-1, 1, 28, 28)`` …
        path: folder with the four ``*-ubyte.gz`` files (or the same without ``.gz``); see the head of this file.

    Shape:
        ``X_train, y_train, X_val, y_val, X_test, y_test``; images of ``shape``, float32 in [0, 0.99609375]; labels
        ``(N,)`` int64.

    Raises:
        FileFormatError: a file is damaged or is not MNIST's.
        FileNotFoundError: the files are nowhere and cannot be downloaded.
        ValueError: ``shape`` does not hold 784 pixels.

    Reference:
        LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition,
        http://yann.lecun.com/exdb/mnist/
    """
    check_shape(shape, 784, "load_mnist_dataset")
    folder = find_folder("mnist", tuple(_MNIST), path)
    for name, (size, sha256) in _MNIST.items():
        if find_file(folder, name) is None:
            download(name, folder, [mirror + name for mirror in _MNIST_MIRRORS], sha256, size)
    images, labels = _digits(folder, "train")
    if len(images) <= _N_VALIDATION:
        reason = f"it has {len(images)} images, and {_N_VALIDATION} of them are to be validation images"
        raise FileFormatError(folder / "train-images-idx3-ubyte.gz", reason)
    test_images, test_labels = _digits(folder, "t10k")
    X, X_test = (_pixels(x, 256, shape) for x in (images, test_images))
    return X[:-_N_VALIDATION], labels[:-_N_VALIDATION], X[-_N_VALIDATION:], labels[-_N_VALIDATION:], X_test, test_labels


def load_digits_dataset(shape: tuple[int, ...] = (-1, 64)) -> Split:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: real data without a network.

    They are 1,297 training, 200 validation and 300 test images, split after a shuffle that is always the same. (The
    shuffle puts the digits of one writer on both sides, so accuracies are higher than on digits of unknown writers.)
    Pixels are divided by 16, so they lie in [0, 1].

    Args:
        shape: of the images, batch first: ``(-1, 64)``, ``(-1, 8, 8, 1)`` …

    Shape:
        ``X_train, y_train, X_val, y_val, X_test, y_test``; images of ``shape``, float32; labels ``(N,)`` int64.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: ``shape`` does not hold 64 pixels.

    Reference:
        Alpaydin, Kaynak 1998, Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49
    """
    check_shape(shape, 64, "load_digits_dataset")
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise ImportError("load_digits_dataset needs scikit-learn: pip install scikit-learn") from e
    data, target = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(data))  # its stream never changes between NumPy versions
    X, y = _pixels(data[order], 16, shape), target[order].astype(np.int64)
    return X[:1297], y[:1297], X[1297:1497], y[1297:1497], X[1497:], y[1497:]


def _digits(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(N, 28, 28)`` uint8 and labels ``(N,)`` int64 of one half of MNIST."""
    image_path = find_file(folder, f"{part}-images-idx3-ubyte.gz") or folder
    label_path = find_file(folder, f"{part}-labels-idx1-ubyte.gz") or folder
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if images.shape[1:] != (28, 28):
        raise FileFormatError(image_path, f"its images are {images.shape[1:]}, not (28, 28)")
    if len(labels) != len(images):
        raise FileFormatError(label_path, f"it has {len(labels)} labels for {len(images)} images")
    if labels.max(initial=0) > 9:
        raise FileFormatError(label_path, f"label {labels.max()} is not a digit")
    return images, labels.astype(np.int64)


def _pixels(images: np.ndarray, scale: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.divide(images, scale, dtype=np.float32).reshape(shape)


def check_shape(shape: tuple[int, ...], n_pixels: int, function: str) -> None:
    if len(shape) < 2 or shape[0] != -1 or math.prod(shape[1:]) != n_pixels or min(shape[1:]) < 1:
        raise ValueError(f"{function}: shape must be -1 and then lengths whose product is {n_pixels}, got {shape}")
