"""Images whose pixels are made uncorrelated: whitening by zero-phase component analysis (ZCA)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._images import T, as_tensor, float_dtype

_EPSILON = 1e-6  # added to eigenvalues, as TensorLayer does


class PrincipalComponents(NamedTuple):
    """The leading directions of images, and what whitening multiplies each by.

    Shape:
        vectors ``(D, n_components)``, scales ``(n_components,)``, with ``D = H * W * C``.
    """

    vectors: Any
    scales: Any


def get_zca_whitening_principal_components_img(X: Any, *, n_components: int | None = None) -> Any:
    """The matrix that whitens images like ``X``: ``U diag(1 / sqrt(S + 1e-6)) U^T`` of ``X^T X / N = U diag(S) U^T``.

    Nothing is subtracted from the pixels: centre them first, with :func:`featurewise_norm`.

    Args:
        n_components: keep so many directions, those of the greatest variance, and drop what lies in others. Then the
            result is :class:`~torchlayer.prepro.whitening.PrincipalComponents`, of ``D * n_components`` numbers where
            the matrix has ``D * D``: for 2,000 components of images of 224 x 224 x 3, 1.2 GB instead of 91.
    Shape:
        X ``(N, H, W, C)``; returns ``(D, D)`` with ``D = H * W * C``, an array or a tensor as X is, floating point
        (float32 for integers; computed in float64).
    Raises:
        ValueError: X is not a batch, or has not so many components.
    Reference:
        Bell and Sejnowski 1997, The "independent components" of natural scenes are edge filters,
        https://doi.org/10.1016/S0042-6989(97)00121-1.

    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(500, 2, 2, 1))
    >>> W = get_zca_whitening_principal_components_img(X)
    >>> flat = X.reshape(500, 4) @ W
    >>> np.allclose(flat.T @ flat / 500, np.eye(4), atol=1e-5)
    True
    """
    is_array = isinstance(X, np.ndarray)
    if not isinstance(X, (np.ndarray, Tensor)) or X.ndim != 4 or 0 in X.shape:
        raise ValueError(
            "get_zca_whitening_principal_components_img takes a batch (N, H, W, C), an array or a tensor, got "
            f"{tuple(X.shape) if hasattr(X, 'shape') else type(X).__name__}"
        )
    images: Any = as_tensor("get_zca_whitening_principal_components_img", X) if is_array else X
    dtype = float_dtype(images.dtype)
    flat = images.reshape(len(images), -1).double()  # (N, D)
    n, size = flat.shape
    if n_components is not None and not 1 <= n_components <= min(n, size):
        raise ValueError(
            f"get_zca_whitening_principal_components_img: {n} images of {size} numbers have at most {min(n, size)} "
            f"components, got n_components={n_components!r}"
        )
    if n < size:  # the products of images with images have the same eigenvalues, and are fewer
        _, sizes, rows = torch.linalg.svd(flat, full_matrices=False)
        values, vectors = sizes.square() / n, rows.mT
    else:
        values, vectors = torch.linalg.eigh(flat.mT @ flat / n)
        values, vectors = values.clamp_min(0).flip(0), vectors.flip(1)  # the greatest first
    scales = (values + _EPSILON).rsqrt()
    if n_components is not None:
        parts = (vectors[:, :n_components].to(dtype).contiguous(), scales[:n_components].to(dtype))
        return PrincipalComponents(*(part.numpy() if is_array else part for part in parts))
    rest = _EPSILON**-0.5  # of directions in which the images are 0
    matrix = (vectors * (scales - rest)) @ vectors.mT + rest * torch.eye(size, dtype=flat.dtype, device=flat.device)
    matrix = matrix.to(dtype)
    return matrix.numpy() if is_array else matrix


def zca_whitening(x: T, principal_components: Any) -> T:
    """Images whitened by what :func:`get_zca_whitening_principal_components_img` gave.

    Args:
        principal_components: a matrix or ``PrincipalComponents``, arrays or tensors.
    Shape:
        x ``(H, W, C)`` or ``(N, H, W, C)`` and the same out, floating point (integers become float32).
    Raises:
        ValueError: the images are not of the size for which the components are.

    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(500, 2, 2, 1))
    >>> Y = zca_whitening(X, get_zca_whitening_principal_components_img(X))
    >>> np.allclose(np.cov(Y.reshape(500, 4).T), np.eye(4), atol=0.02)
    True
    """
    if not isinstance(x, (np.ndarray, Tensor)) or x.ndim not in (3, 4):
        shape = tuple(x.shape) if hasattr(x, "shape") else type(x).__name__
        raise ValueError(f"zca_whitening takes an image (H, W, C) or a batch (N, H, W, C), got {shape}")
    images: Any = as_tensor("zca_whitening", x) if isinstance(x, np.ndarray) else x
    flat = images.reshape(len(images) if images.dim() == 4 else 1, -1).to(float_dtype(images.dtype))
    parts = principal_components if isinstance(principal_components, PrincipalComponents) else (principal_components,)
    parts = [torch.as_tensor(part, dtype=flat.dtype, device=flat.device) for part in parts]
    if len(parts[0]) != flat.shape[1]:
        raise ValueError(
            f"zca_whitening: the components are for images of {len(parts[0])} numbers, got images of "
            f"{tuple(images.shape[-3:])}, {flat.shape[1]} numbers"
        )
    y = flat @ parts[0] if len(parts) == 1 else ((flat @ parts[0]) * parts[1]) @ parts[0].T
    y = y.reshape(images.shape)
    return y.numpy() if isinstance(x, np.ndarray) else y
