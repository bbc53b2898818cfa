"""How long the sequences of a padded batch are, and what stands at their ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..network import map_state


def advanced_indexing_op(input: Tensor, index: Tensor) -> Tensor:
    """The last valid step of every sequence; zeros where a length is 0.

    Shape:
        input ``(N, T, D)``, index ``(N,)`` lengths in ``[0, T]``; returns ``(N, D)``.

    Raises:
        ValueError: ranks or batch sizes do not fit.

    >>> x = torch.arange(6.0).view(1, 3, 2)
    >>> advanced_indexing_op(x, torch.tensor([2]))
    tensor([[2., 3.]])
    """
    if input.dim() != 3 or index.shape != input.shape[:1]:
        raise ValueError(
            f"advanced_indexing_op takes (N, T, D) and N lengths, got {tuple(input.shape)} and {tuple(index.shape)}"
        )
    index = index.to(input.device, torch.int64)
    last = (index - 1).clamp(min=0)[:, None, None].expand(-1, 1, input.shape[2])
    picked = input.gather(1, last).squeeze(1)
    return torch.where((index > 0)[:, None], picked, torch.zeros_like(picked))


def retrieve_seq_length_op(data: Tensor) -> Tensor:
    """The number of steps that are not all zero: the lengths of a batch padded with zero vectors.

    A zero step in the middle is not counted, and embeddings of a padding id are not zero: for ids use
    :func:`retrieve_seq_length_op2`.

    Shape:
        data ``(N, T, D)``; returns ``(N,)`` int64.

    >>> retrieve_seq_length_op(torch.tensor([[[1.0], [0.0], [3.0], [0.0]]]))
    tensor([2])
    """
    if data.dim() != 3:
        raise ValueError(f"retrieve_seq_length_op takes (N, T, D), got {tuple(data.shape)}; for ids use ..._op2")
    return data.any(2).sum(1)


def retrieve_seq_length_op2(data: Tensor) -> Tensor:
    """The number of ids greater than 0: the lengths of a batch of ids padded with 0.

    Shape:
        data ``(N, T)`` integers; returns ``(N,)`` int64.

    >>> retrieve_seq_length_op2(torch.tensor([[1, 0, 3, 0], [-1, 2, 0, 0]]))
    tensor([2, 1])
    """
    if data.dim() != 2:
        raise ValueError(
            f"retrieve_seq_length_op2 takes ids of shape (N, T), got {tuple(data.shape)}; for vectors use ..._op"
        )
    return (data > 0).sum(1)


def retrieve_seq_length_op3(data: Tensor, pad_val: int = 0) -> Tensor:
    """The number of entries other than ``pad_val``: ids ``(N, T)``, or vectors ``(N, T, D)`` that are not all of it.

    Shape:
        data ``(N, T)`` or ``(N, T, D)``; returns ``(N,)`` int64.

    >>> retrieve_seq_length_op3(torch.tensor([[0, 5, -1, -1]]), pad_val=-1)
    tensor([2])
    """
    return _valid("retrieve_seq_length_op3", data, pad_val).sum(1)


def target_mask_op(data: Tensor, pad_val: int = 0) -> Tensor:
    """1 where there is something, 0 where there is padding: the ``input_mask`` of sequence losses.

    Shape:
        data ``(N, T)`` or ``(N, T, D)``; returns ``(N, T)`` int64.

    >>> target_mask_op(torch.tensor([[4, 2, 0]]))
    tensor([[1, 1, 0]])
    """
    return _valid("target_mask_op", data, pad_val).long()


def initialize_rnn_state(state: Any) -> Any:
    """Zeros with the nesting, shapes, dtypes and devices of a state: what an epoch starts from.

    >>> initialize_rnn_state((torch.ones(1, 2), [torch.ones(1)]))
    (tensor([[0., 0.]]), [tensor([0.])])
    """
    if not isinstance(state, Tensor | dict | list | tuple):
        raise TypeError(f"a state is a tensor, or tuples, lists and dicts of tensors, got {type(state).__name__}")
    return map_state(torch.zeros_like, state)


def _valid(owner: str, data: Tensor, pad_val: int) -> Tensor:
    if data.dim() not in (2, 3):
        raise ValueError(f"{owner} takes (N, T) or (N, T, D), got {tuple(data.shape)}")
    valid = data != pad_val
    return valid.any(2) if data.dim() == 3 else valid
