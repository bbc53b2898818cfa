"""Images turned, scaled and moved by affine maps that a network predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..activation import identity
from ..network import Network, Shape
from ._bilinear import Corners, blend, pixel, positions
from ._two_inputs import _TwoInputLayer
from .base import Activation, fill, shown
from .padding import pair

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def transformer(U: Tensor, theta: Tensor, out_size: int | Sequence[int]) -> Tensor:
    """Each image read through an affine map of its own, bilinear, zero outside.

    Target pixels have coordinates from -1 to 1 on both axes, and ``theta`` is a 2 x 3 matrix, row by row, that maps
    target ``(x, y, 1)`` to source ``(x, y)``. A source ``x`` in [-1, 1] lies at pixel ``(x + 1) * W / 2``.

    This is the arithmetic of TensorFlow's ``spatial_transformer``, not of ``F.grid_sample``, where -1 and 1 are the
    middles of the first and last pixels (``(x + 1) * (W - 1) / 2``, ``align_corners=True``) or the edges of the image
    (``(x + 1) * W / 2 - 0.5``). Here 1 is one pixel past the last, and what lies at the last pixel or past it is
    already outside: the identity at the image's own size reads it in steps of ``W / (W - 1)`` pixels and makes the last
    row and column zero.

    Shape:
        U ``(N, H, W, C)``, theta ``(N, 6)`` or ``(N, 2, 3)``; returns ``(N, *out_size, C)``.

    Raises:
        TypeError: U or theta is not floating point.
        ValueError: the shapes do not fit, or an image has no pixels.

    Reference:
        Jaderberg et al. 2015, "Spatial Transformer Networks", arXiv:1506.02025.

    >>> import torch
    >>> image = torch.arange(16.0).view(1, 4, 4, 1)
    >>> half = torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.5, 0.0]])
    >>> transformer(image, half, out_size=(3, 3)).squeeze()
    tensor([[ 5.,  6.,  0.],
            [ 9., 10.,  0.],
            [ 0.,  0.,  0.]])
    """
    if theta.shape not in ((U.shape[0], 6), (U.shape[0], 2, 3)):
        raise ValueError(
            f"theta has shape (N, 6) or (N, 2, 3) with one map for each image, got {tuple(theta.shape)} for images of "
            f"shape {tuple(U.shape)}; batch_transformer takes several maps for each"
        )
    return batch_transformer(U, theta.reshape(-1, 1, 6), out_size)


def batch_transformer(U: Tensor, thetas: Tensor, out_size: int | Sequence[int]) -> Tensor:
    """Each image read through several affine maps: :func:`transformer` with ``M`` maps an image.

    Shape:
        U ``(N, H, W, C)``, thetas ``(N, M, 6)``; returns ``(N * M, *out_size, C)``, an image's maps side by side.

    Raises:
        TypeError: U or thetas is not floating point.
        ValueError: the shapes do not fit, or an image has no pixels.

    >>> import torch
    >>> batch_transformer(torch.rand(2, 8, 8, 3), torch.rand(2, 5, 6), out_size=4).shape
    torch.Size([10, 4, 4, 3])
    """
    _check_images(tuple(U.shape))
    if thetas.dim() != 3 or thetas.shape[0] != U.shape[0] or thetas.shape[2] != 6:
        raise ValueError(
            f"thetas has shape (N, M, 6), M maps for each image, got {tuple(thetas.shape)} for images of shape "
            f"{tuple(U.shape)}"
        )
    if not U.is_floating_point() or not thetas.is_floating_point():
        raise TypeError(
            f"images and maps are floating point, got {U.dtype} and {thetas.dtype}; convert them with .float()"
        )
    height, width = pair(out_size, "out_size")
    maps = positions(thetas)[..., None, None]  # (N, M, 6, 1, 1)
    y, x = _coordinates(height, maps).view(-1, 1), _coordinates(width, maps)
    # Products and sums, not a matrix product: autocast would round the positions to bfloat16
    at_x = maps[:, :, 0] * x + maps[:, :, 1] * y + maps[:, :, 2]  # (N, M, height, width)
    at_y = maps[:, :, 3] * x + maps[:, :, 4] * y + maps[:, :, 5]
    n_rows, n_columns = U.shape[1:3]
    rows, columns = _corners((at_y + 1) * n_rows / 2, n_rows), _corners((at_x + 1) * n_columns / 2, n_columns)
    return blend(U, rows, columns).flatten(0, 1)


class SpatialTransformer2dAffineLayer(_TwoInputLayer):
    """Transforms images by the affine maps that a second network predicts for them.

    ``SpatialTransformer2dAffineLayer(net, theta_net, ...)`` stacks on both networks; the layer alone is called as
    ``layer(x, features)``. The features, flattened, become six numbers, ``theta = act(features @ W + b)``, with which
    :func:`transformer` reads the image. ``W`` begins at zero and ``b`` at the identity map, so training begins with
    the image itself.

    Args:
        theta_layer: the localisation network: features of any shape. This layer turns them into the six numbers.
        out_size: ``(height, width)`` of the result, 40 x 40 unless given.
        act: applied to the six numbers; ``torch.tanh`` is TensorLayer 1.11's, which begins by enlarging the middle of
            the image, ``tanh(1) = 0.76``, and never lets a number reach 1.

    Shape:
        ``(N, H, W, C)`` and features ``(N, ...)`` ``-> (N, *out_size, C)``; parameters ``W`` ``(n_features, 6)`` and
        ``b`` ``(6,)``.

    Raises:
        TypeError: an input is not floating point, or there is no second network.
        ValueError: the images are not 4-D, or the two differ in N, or the features are not as many as they were.

    Reference:
        Jaderberg et al. 2015, "Spatial Transformer Networks", arXiv:1506.02025.

    >>> import torch, torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 28, 28, 1))
    >>> where = tl.layers.DenseLayer(tl.layers.FlattenLayer(net), n_units=20, act=torch.tanh, name="where")
    >>> net = SpatialTransformer2dAffineLayer(net, where, out_size=(20, 20), name="looked_at")
    >>> net.outputs.shape, net.looked_at.b.tolist()
    ((None, 20, 20, 1), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    """

    second_input = "theta_layer"

    def __init__(
        self,
        layer: None = None,
        theta_layer: Network | None = None,
        out_size: int | Sequence[int] | None = None,
        name: str | None = None,
        *,
        act: Activation | None = None,
    ):
        super().__init__(theta_layer, name)
        self.out_size = pair((40, 40) if out_size is None else out_size, "out_size")
        self.act = act or identity
        self.W = nn.UninitializedParameter()
        self.b = nn.Parameter(torch.tensor(_IDENTITY))

    def build(self, *shapes: Shape) -> None:
        _check_images(shapes[0])
        fill(self.W, (_n_features(shapes[1]), 6), 0.0)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        return transformer(x, self.theta(features), self.out_size)

    def theta(self, features: Tensor) -> Tensor:
        """The maps ``(N, 6)`` for a batch of features."""
        if not features.is_floating_point():
            raise TypeError(f"features are floating point, got {features.dtype}; convert them with .float()")
        if _n_features(tuple(features.shape)) != self.W.shape[0]:
            raise ValueError(
                f"this layer was sized for {self.W.shape[0]} features of each image, got {tuple(features.shape)}"
            )
        # Not a matrix product, which autocast would round to bfloat16: six columns are as cheap this way
        return self.act((positions(features.flatten(1)).unsqueeze(2) * self.W).sum(1) + self.b)

    def extra_repr(self) -> str:
        n_features = "?" if is_lazy(self.W) else self.W.shape[0]
        return f"n_features={n_features}, out_size={self.out_size}, act={shown(self.act)}"


def _coordinates(n: int, like: Tensor) -> Tensor:
    """``n`` numbers from -1 to 1; TensorFlow's ``linspace`` counts from below, torch's from both ends."""
    return torch.arange(n, device=like.device, dtype=like.dtype) * (2 / max(n - 1, 1)) - 1


def _corners(at: Tensor, n: int) -> Corners:
    """What each position reads on an axis of length ``n``, as the original has it.

    The corners are clipped to the image before they give the weights. So outside, and past the last pixel's index, both
    are one pixel and their weights cancel; saying 0 spares the rounding.
    """
    before = at.floor()
    before, after = before.clamp(0, n - 1), (before + 1).clamp(0, n - 1)
    outside = before == after
    weights = (after - at).masked_fill(outside, 0), (at - before).masked_fill(outside, 0)
    return (pixel(before, n), pixel(after, n)), weights


def _check_images(shape: Shape) -> None:
    if len(shape) != 4:
        raise ValueError(f"a spatial transformer needs images (N, H, W, C), got {shape}; stack a ReshapeLayer first")
    if 0 in shape[1:3]:
        raise ValueError(f"the images have no pixels, got {shape}")


def _n_features(shape: Shape) -> int:
    known = [n for n in shape[1:] if n is not None]
    if len(known) < len(shape) - 1:
        raise ValueError(
            f"the localisation network's features need a known size, got {shape}; stack a global pooling layer on it"
        )
    if not known or 0 in known:
        raise ValueError(f"the localisation network needs features of each image, (N, n_features), got {shape}")
    return math.prod(known)
