"""The sequence-to-sequence layers: what they compute, their states, their lengths, and what they refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchlayer as tl

L = tl.layers
LAYERS = [L.Seq2Seq, L.PeekySeq2Seq, L.AttentionSeq2Seq]
layers = pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
cells = pytest.mark.parametrize(
    "cell", [L.BasicLSTMCell, L.GRUCell, L.CudnnCompatibleGRUCell], ids=lambda cell: cell.__name__
)


def pair(n=3, n_read=5, n_written=4):
    return torch.randn(n, n_read, 3), torch.randn(n, n_written, 2)


# What they compute -------------------------------------------------------------------------------


def test_seq2seq_is_an_encoder_whose_end_the_decoder_begins_at():
    layer = L.Seq2Seq(cell_fn=L.BasicLSTMCell, cell_init_args={"forget_bias": 0.0}, n_hidden=4, n_layer=2)
    x, y = pair()
    found = layer(x, y)
    encoder, decoder = nn.LSTM(3, 4, 2, batch_first=True), nn.LSTM(2, 4, 2, batch_first=True)
    for module, part in ((encoder, layer.encode), (decoder, layer.decode)):
        for name, values in module.named_parameters():
            kind, _, i = name.rpartition("_l")
            nn.init.zeros_(values)
            if kind != "bias_hh":
                values.data.copy_(getattr(part.cells[int(i)], kind).data)
    expected, _ = decoder(y, encoder(x)[1])
    torch.testing.assert_close(found, expected)


def test_a_peeky_decoder_reads_the_encoders_last_output_at_every_step():
    layer = L.PeekySeq2Seq(cell_fn=L.GRUCell, n_hidden=4)
    x, y = pair()
    lengths = torch.tensor([5, 2, 3])
    found = layer(x, y, lengths)
    outputs, end = layer.encode.step(x, lengths)
    summary = torch.stack([outputs[n, length - 1] for n, length in enumerate(lengths)])
    both = torch.cat([y, summary[:, None].expand(-1, 4, -1)], 2)
    expected, _ = layer.decode.step(both, torch.full((3,), 4), end)
    torch.testing.assert_close(found, expected)
    assert layer.decode.cells[0].weight_ih.shape == (12, 2 + 4)


@cells
def test_an_attentive_decoder_is_that_of_the_translation_model(cell):
    model = L.EmbeddingAttentionSeq2Seq(9, 9, 6, 2, num_samples=0, projection=True, cell_fn=cell).eval()
    layer = L.AttentionSeq2Seq(cell_fn=cell, n_hidden=6, n_layer=2)
    source, target = torch.randint(1, 9, (3, 5)), torch.randint(1, 9, (3, 4))
    x, y = F.embedding(source.flip(1), model.source_embeddings), F.embedding(target, model.target_embeddings)
    layer(x, y)
    layer.encode.cells.load_state_dict(model.encoder.fw.state_dict())
    layer.decode.load_state_dict(model.decoder.state_dict())
    outputs = layer(x, y, torch.full((3,), 5), torch.full((3,), 4))
    torch.testing.assert_close(F.linear(outputs, model.proj_w, model.proj_b), model(source, target))


def test_the_initializer_reaches_encoder_and_decoder():
    for cls in LAYERS:
        layer = cls(cell_fn=L.BasicLSTMCell, n_hidden=4, initializer=tl.initializers.constant(0.25))
        layer(*pair())
        weights = [p for name, p in layer.named_parameters() if p.dim() == 2]
        assert len(weights) >= 4
        assert all((p == 0.25).all() for p in weights)


def test_all_that_both_sides_hold_belongs_to_the_network():
    asked, told = (L.InputLayer((None, None), torch.int64, name=name) for name in ("asked", "told"))
    encode_in = L.DropoutLayer(L.EmbeddingInputlayer(asked, 9, 3, name="read"), keep=0.6, name="drop_read")
    decode_in = L.DropoutLayer(L.EmbeddingInputlayer(told, 9, 3, name="written"), keep=0.7, name="drop_written")
    net = L.Seq2Seq(encode_in, decode_in, L.BasicLSTMCell, None, 4, return_seq_2d=True, name="s2s")
    owners = {name.partition(".")[0] for name, _ in net.named_parameters()}
    assert owners == {"read", "written", "s2s"}
    assert len(net.all_params) == 2 + 6
    assert net.all_drop == {"drop_read": 0.6, "drop_written": 0.7}
    assert net(torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)).shape == (10, 4)


@layers
def test_dropout_is_of_training_alone(cls):
    layer = cls(cell_fn=L.GRUCell, n_hidden=4, dropout=(0.5, 0.9))
    x, y = pair()
    assert not torch.equal(layer(x, y), layer(x, y))
    layer.eval()
    assert torch.equal(layer(x, y), layer(x, y))


# States ------------------------------------------------------------------------------------------


@layers
@cells
def test_one_step_at_a_time_is_all_steps_at_once(cls, cell):
    nets = [L.InputLayer((None, None, 3), name="x"), L.InputLayer((None, None, 2), name="y")]
    net = cls(*nets, cell_fn=cell, n_hidden=4, n_layer=2, name="s2s")
    x, y = pair()
    state, outputs = None, []
    for t in range(4):
        # once there is a state the encoder is not run: what it is given does not matter
        output, state = net.step(x if t == 0 else x * torch.nan, y[:, t : t + 1], state=state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), net(x, y))
    assert isinstance(state["s2s"], L.Seq2SeqState)


@layers
def test_states_may_be_given(cls):
    encoder = L.DynamicRNNLayer(cell_fn=L.GRUCell, n_hidden=4)
    x, y = pair()
    _, end = encoder.step(x)
    torch.manual_seed(1)
    plain = cls(cell_fn=L.GRUCell, n_hidden=4)
    torch.manual_seed(1)
    begun = cls(cell_fn=L.GRUCell, n_hidden=4, initial_state=end, initial_state_decode=end)
    assert not torch.allclose(plain(x, y), begun(x, y))
    _, state = begun.step(x, y)
    _, expected = begun.encode.step(x, state=end)
    torch.testing.assert_close(state.encode, expected)
    begun.initial_state_decode = expected  # which is where it would begin
    now = begun(x, y)
    begun.initial_state_decode = None
    torch.testing.assert_close(now, begun(x, y))


# Lengths -----------------------------------------------------------------------------------------


@layers
@cells
def test_padding_changes_nothing_and_nothing_is_written_behind_the_end(cls, cell):
    layer = cls(cell_fn=cell, n_hidden=4)
    x, y = pair()
    read, written = torch.tensor([5, 1, 3]), torch.tensor([2, 4, 0])
    found = layer(x, y, read, written)
    for n in range(3):
        assert found[n, written[n] :].count_nonzero() == 0
        if written[n]:
            alone = layer(x[n : n + 1, : read[n]], y[n : n + 1, : written[n]])
            torch.testing.assert_close(found[n : n + 1, : written[n]], alone)


@layers
@pytest.mark.parametrize("given", [(False, False), (True, False), (False, True), (True, True)])
def test_networks_of_lengths_are_told_apart(cls, given):
    x, y = L.InputLayer((None, 5, 3), name="x"), L.InputLayer((None, 4, 2), name="y")
    values = pair()
    values[0][0, 4:], values[1][1, 2:] = 0, 0
    lengths = [
        L.LambdaLayer(net, fn=L.retrieve_seq_length_op, name=f"{name}_lengths") if wanted else None
        for net, name, wanted in zip((x, y), "ab", given)
    ]
    torch.manual_seed(2)
    net = cls(x, y, L.GRUCell, None, 4, tl.initializers.random_uniform(-0.5, 0.5), *lengths, name="s2s")
    torch.manual_seed(2)
    alone = cls([x, y], cell_fn=L.GRUCell, n_hidden=4, initializer=tl.initializers.random_uniform(-0.5, 0.5))
    torch.testing.assert_close(net(*values), alone(*values))
    assert net.outputs.shape == (None, 4, 4)


@layers
def test_an_empty_sequence_is_read_and_written(cls):
    layer = cls(cell_fn=L.GRUCell, n_hidden=4)
    y = layer(*pair(), torch.tensor([0, 5, 5]), torch.tensor([4, 0, 4]))
    y.square().sum().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


# What is refused -----------------------------------------------------------------------------------

X = torch.zeros(2, 3, 3)
NET = L.InputLayer((None, 3, 3), name="x")
GRU = {"cell_fn": L.GRUCell, "n_hidden": 4}
REFUSED = [
    (lambda cls: cls(**{**GRU, "cell_fn": None}), ValueError, "needs a cell_fn"),
    (lambda cls: cls(n_layer=0, **GRU), ValueError, "at least 1, got 0"),
    (lambda cls: cls(dropout=1.5, **GRU), ValueError, "probability of keeping"),
    (lambda cls: cls(NET, **GRU), TypeError, "network as net_encode_in but NoneType as net_decode_in; give it both"),
    (lambda cls: cls(None, NET, **GRU), TypeError, "network as net_decode_in but NoneType as net_encode_in"),
    (lambda cls: cls(NET, X, **GRU), TypeError, "but Tensor as net_decode_in"),
    (lambda cls: cls(X, X, **GRU), TypeError, "net_encode_in is a network, got Tensor; make the layer alone"),
    (lambda cls: cls(**GRU, **{cls.length_names[1]: X}), TypeError, "_sequence_length is a network, got Tensor"),
    (lambda cls: cls(unknown=1, **GRU), TypeError, "unexpected keyword argument 'unknown'"),
    (lambda cls: cls(**GRU)(X), TypeError, r"takes two inputs, .* got 1; write \w+\(net_encode_in, net_decode_in"),
    (lambda cls: cls(**GRU)(X, X[0]), ValueError, r"reads sequences \(N, T, D\), got \(3, 3\)"),
    (lambda cls: cls(**GRU)(X[0], X), ValueError, r"reads sequences \(N, T, D\), got \(3, 3\)"),
    (lambda cls: cls(**GRU)(X, X.long()), TypeError, "torch.int64"),
    (lambda cls: cls(**GRU)(X.long(), X), TypeError, "torch.int64"),
    (lambda cls: cls(**GRU)(X, X[:1]), ValueError, "got 2 for the encoder and 1 for the decoder"),
    (lambda cls: cls(**GRU)(X, X, torch.tensor([4, 1])), ValueError, r"lie in \[0, 3\], got 4 for sequence 0"),
    (lambda cls: cls(**GRU)(X, X, None, torch.tensor([-1, 1])), ValueError, "got -1 for sequence 0"),
    (lambda cls: cls(**GRU)(X, X, torch.ones(2)), TypeError, "lengths of an integer dtype, got torch.float32"),
    (lambda cls: cls(**GRU)(X, X, torch.ones(3).long()), ValueError, r"each of 2 sequences, got .* \(3,\)"),
]


@layers
@pytest.mark.parametrize(("make", "error", "text"), REFUSED)
def test_it_is_refused(cls, make, error, text):
    with pytest.raises(error, match=text):
        make(cls)


@layers
def test_a_sized_layer_refuses_another_width(cls):
    layer = cls(**GRU)
    layer(X, X)
    for wrong in ((X[..., :2], X), (X, X[..., :2])):
        with pytest.raises(ValueError, match="sized for inputs of width"):
            layer(*wrong)


def test_lengths_are_called_as_in_the_original():
    assert L.Seq2Seq.length_names == ("encode_sequence_length", "decode_sequence_length")
    assert (
        L.PeekySeq2Seq.length_names == L.AttentionSeq2Seq.length_names == ("in_sequence_length", "out_sequence_length")
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@layers
@cells
@pytest.mark.usefixtures("without_tf32")
def test_cuda_equals_cpu_with_lengths(cls, cell):
    layer = cls(cell_fn=cell, n_hidden=4, n_layer=2)
    given = (*pair(), torch.tensor([5, 1, 3]), torch.tensor([2, 4, 1]))
    expected = layer(*given)
    found = layer.cuda()(*(x.cuda() for x in given))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
