from typing import NamedTuple

import pytest
import torch

import torchlayer as tl

L = tl.layers


def test_the_last_step_of_every_sequence_is_picked():
    x = torch.randn(3, 4, 2)
    y = L.advanced_indexing_op(x, torch.tensor([1, 4, 0], dtype=torch.int32))
    assert torch.equal(y, torch.stack([x[0, 0], x[1, 3], torch.zeros(2)]))


def test_picking_passes_gradients_to_the_picked_steps_alone():
    x = torch.randn(2, 3, 2, requires_grad=True)
    L.advanced_indexing_op(x, torch.tensor([2, 0])).sum().backward()
    expected = torch.zeros(2, 3, 2)
    expected[0, 1] = 1
    assert torch.equal(x.grad, expected)


LENGTHS = [  # the first two are outputs of the original
    (L.retrieve_seq_length_op, [[[1.0], [0.0], [3.0], [0.0]]], {}, [2]),
    (L.retrieve_seq_length_op2, [[1, 0, 3, 0], [-1, 2, 0, 0]], {}, [2, 1]),
    (L.retrieve_seq_length_op, [[[0.0, -2.0], [0.0, 0.0]]], {}, [1]),
    (L.retrieve_seq_length_op3, [[[1.0], [7.0], [7.0]]], {"pad_val": 7}, [1]),
    (L.retrieve_seq_length_op3, [[3, 9, 9]], {"pad_val": 9}, [1]),
    (L.target_mask_op, [[4, 0, 2, 0]], {}, [[1, 0, 1, 0]]),
    (L.target_mask_op, [[[0.0, 1.0], [0.0, 0.0]]], {}, [[1, 0]]),
]


@pytest.mark.parametrize(("op", "data", "args", "expected"), LENGTHS)
def test_lengths_and_masks(op, data, args, expected):
    assert op(torch.tensor(data), **args).tolist() == expected


def test_initial_states_keep_every_nesting():
    class Pair(NamedTuple):
        c: torch.Tensor
        h: torch.Tensor

    ones = torch.ones(2, 3, dtype=torch.float64)
    zeros = L.initialize_rnn_state({"lstm": (Pair(ones, ones), [ones])})
    assert isinstance(zeros["lstm"][0], Pair)
    assert zeros["lstm"][0].h.dtype == torch.float64
    assert not any(t.any() for t in (*zeros["lstm"][0], *zeros["lstm"][1]))


WRONG = [
    (
        lambda: L.advanced_indexing_op(torch.zeros(2, 3), torch.zeros(2)),
        r"takes \(N, T, D\) and N lengths, got \(2, 3\)",
    ),
    (lambda: L.advanced_indexing_op(torch.zeros(2, 3, 1), torch.zeros(3)), r"got \(2, 3, 1\) and \(3,\)"),
    (lambda: L.retrieve_seq_length_op(torch.zeros(2, 3)), "for ids use ..._op2"),
    (lambda: L.retrieve_seq_length_op2(torch.zeros(2, 3, 1)), "for vectors use ..._op"),
    (lambda: L.retrieve_seq_length_op3(torch.zeros(2)), r"takes \(N, T\) or \(N, T, D\), got \(2,\)"),
    (lambda: L.target_mask_op(torch.zeros(2)), r"takes \(N, T\) or \(N, T, D\), got \(2,\)"),
    (lambda: L.initialize_rnn_state("zero"), "a state is a tensor, or tuples, lists and dicts of tensors, got str"),
]


@pytest.mark.parametrize(("call", "text"), WRONG, ids=[text[:30] for _, text in WRONG])
def test_wrong_input_is_named(call, text):
    with pytest.raises((ValueError, TypeError), match=text):
        call()
