"""What each op with few rows of its own refuses, and what it says then: at least forty inputs for each."""

from __future__ import annotations

import math
import re
from collections import Counter

import pytest
import torch

from torchlayer import kernels
from torchlayer.kernels import FixedUnigram, LearnedUnigram, _library

pytestmark = [  # what torch has to say of the tensors that we refuse
    pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype"),
    pytest.mark.filterwarnings("ignore:.*Sparse .* tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor"),
    pytest.mark.filterwarnings("ignore:.*ComplexHalf"),
    pytest.mark.filterwarnings("ignore:.*discards the imaginary"),
]
compiled = pytest.mark.skipif(kernels.compiled().cpu.name != "cpu", reason="nothing was compiled")
MOST, LEAST = 2**63 - 1, -(2**63)
V, D, N = 9, 3, 4


def ids(*shape, below=V):
    return torch.arange(math.prod(shape)).view(shape) % below


def nested(x):
    return torch.nested.nested_tensor([x, x])


def quantised(x):
    return torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8)


def to(dtype):
    return lambda x: x.to(dtype)


def with_last(value):
    def put(x):
        x = x.clone()
        x.view(-1)[-1] = value
        return x

    return put


def always(value):
    return lambda _: value


def floats(*shape):
    return torch.linspace(-1, 1, math.prod(shape)).view(shape)


def sampler_of(name):
    """A sampler that has its weights already."""
    weighted = {
        "fixed_unigram_sampler": lambda: FixedUnigram(torch.ones(V)),
        "learned_unigram_sampler": lambda: LearnedUnigram(V),
    }
    if name not in weighted:
        return getattr(kernels, name)
    return lambda **arguments: getattr(kernels, name)(**arguments, unigram=weighted[name]())


SAMPLERS = ["uniform_sampler", "log_uniform_sampler", "fixed_unigram_sampler", "learned_unigram_sampler"]
SAMPLERS += ["all_candidate_sampler"]
GOOD = {
    "linear_cross_entropy": lambda: {
        "hidden": floats(N, D), "weight": floats(V, D), "target": ids(N), "bias": floats(V), "chunk_size": 2,
        "reduction": "mean", "ignore_index": None,
    },
    "lstm_step": lambda: {
        "x": floats(N, D), "h": floats(N, 2), "c": floats(N, 2), "weight_ih": floats(8, D), "weight_hh": floats(8, 2),
        "bias_ih": floats(8), "bias_hh": floats(8),
    },
    "draw_top_k": lambda: {"logits": floats(N, V), "noise": floats(N, 2).abs() + 0.1, "temperature": 0.5},
    "discounted_sum": lambda: {"rewards": floats(N, D), "gamma": 0.9, "reset": True},
    "skip_gram_": lambda: {
        "embeddings": floats(V, D), "weights": floats(V, D), "words": ids(N), "radius": ids(N, below=3),
        "negatives": ids(N, 2), "lr": 0.1, "window": 2, "group": 8, "limit": 4,
    },
    "adam_": lambda: {
        **{name: [floats(N, D), floats(D)] for name in ("params", "grads", "exp_avgs")},
        "exp_avg_sqs": [floats(N, D).abs(), floats(D).abs()], "steps": [torch.zeros(()), torch.zeros(())],
        "lr": torch.tensor(0.1), "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0, "decoupled": False,
    },
    **{
        name: lambda name=name: {
            "labels": ids(N), "n_sampled": V if name == "all_candidate_sampler" else 5, "n_classes": V,
            "unique": True, "seed": torch.tensor([1, 2]),
        }
        for name in SAMPLERS
    },
}  # fmt: skip
CALL = {name: sampler_of(name) if name in SAMPLERS else getattr(kernels, name) for name in GOOD}
ROWS: list[tuple] = []  # op, argument, what becomes of it, error, how the text goes on after the op's name


def rows(op, argument, error, text, *changes):
    ROWS.extend((op, argument, change, error, text) for change in changes)


def of_each_tensor(op, arguments, dense, device):
    for argument in arguments:
        rows(op, argument, TypeError, f"needs {argument} as a tensor, got list", torch.Tensor.tolist)
        rows(op, argument, TypeError, f"needs {argument} as a tensor, got ndarray", torch.Tensor.numpy)
        rows(op, argument, TypeError, dense(argument), nested, torch.Tensor.to_sparse)
        rows(op, argument, ValueError, device(argument), to("meta"))


NAME = "linear_cross_entropy"
of_each_tensor(
    NAME, ("hidden", "weight", "target", "bias"),
    lambda name: f"needs {name} as a dense tensor, got a (nested|torch.sparse_coo) one",
    lambda _: "needs all tensors on one device, got cpu and meta",
)  # fmt: skip
for _argument in ("hidden", "weight", "target"):
    rows(NAME, _argument, TypeError, f"needs {_argument} as a tensor, got NoneType", always(None))
for _argument in ("hidden", "weight", "bias"):
    _dtypes = (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn)
    rows(
        NAME, _argument, TypeError, "needs hidden, weight and bias in one floating dtype", *map(to, _dtypes), quantised
    )
for _dtype in (torch.float32, torch.bool, torch.complex64):
    rows(NAME, "target", TypeError, f"needs class ids of an integer type, got {_dtype}; call target.long", to(_dtype))
rows(NAME, "target", TypeError, "needs class ids of an integer type, got torch.quint8", quantised)
rows(NAME, "hidden", ValueError, r"needs one id for each row of hidden, got hidden \(", lambda x: x[0], lambda x: x[:0])
rows(
    NAME, "hidden", ValueError, r"needs hidden \(..., D\) and weight \(V, D\), got hidden \(4, 2\)", lambda x: x[:, :2]
)
rows(NAME, "weight", ValueError, r"needs hidden .*, weight \((3|1, 9, 3),?\)", lambda x: x[0], lambda x: x[None])
rows(NAME, "weight", ValueError, r"got hidden \(4, 3\), weight \(3, 9\); a DenseLayer's weight .* W.T", lambda x: x.T)
rows(NAME, "weight", ValueError, r"needs bias \(8,\), got \(9,\)", lambda x: x[:8])
rows(NAME, "weight", ValueError, r"needs at least one class and one feature, got weight \(0, 3\)", lambda x: x[:0])
rows(NAME, "target", ValueError, r"needs one id for each row .*, target \(3,\)", lambda x: x[:3])
rows(NAME, "bias", ValueError, r"needs bias \(9,\), got \(", lambda x: x[0], lambda x: x[None], lambda x: x[:8])
for _value in (-1, V, -100, 2**31, MOST, LEAST):
    rows(NAME, "target", IndexError, f"needs targets from 0 to 8, got {_value} in row 3", with_last(_value))
for _value in ("batch", None, 1):
    rows(NAME, "reduction", ValueError, f"needs reduction 'none', .* got {_value!r}", always(_value))
rows(NAME, "chunk_size", ValueError, "needs chunk_size of at least 1, got", always(0), always(-1))
for _argument in ("chunk_size", "ignore_index"):
    rows(NAME, _argument, TypeError, f"needs {_argument} as an int, got", always(1.5), always("4"), always(True))

NAME = "lstm_step"
_TENSORS = ("x", "h", "c", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
of_each_tensor(
    NAME, _TENSORS,
    lambda name: f"needs {name} as a dense tensor, got a (nested|torch.sparse_coo) one",
    lambda name: "needs .* on (cpu, where x is, got meta|meta, where x is, got cpu)",
)  # fmt: skip
for _dtype in (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn):
    rows(NAME, "x", TypeError, f"needs x in float32, float64, float16 or bfloat16, got {_dtype}; call", to(_dtype))
for _argument in _TENSORS[1:]:
    _text = f"needs {_argument} in x's dtype, torch.float32, got torch"
    rows(NAME, _argument, TypeError, _text, to(torch.float64), to(torch.int64))
    rows(NAME, _argument, RuntimeError, "has no gradient; call it in torch.no_grad", torch.nn.Parameter)
for _argument, _shape in (("c", "4, 2"), ("weight_ih", "8, 3"), ("weight_hh", "8, 2"), ("bias_ih", "8,")):
    rows(NAME, _argument, ValueError, rf"needs {_argument} \({_shape}\), got", lambda x: x[:-1], lambda x: x[None])
rows(NAME, "x", ValueError, r"needs x \(N, D\) and h \(N, H\), got \(4, 1, 3\) .* axis of time", lambda x: x[:, None])
rows(NAME, "h", ValueError, r"needs h \(4, 2\), got \(3, 2\)", lambda x: x[:3])

NAME = "draw_top_k"
of_each_tensor(
    NAME, ("logits", "noise"),
    lambda name: f"needs {name} as a dense tensor, got a (nested|torch.sparse_coo) one",
    lambda name: "needs noise on (cpu, where logits is, got meta|meta, where logits is, got cpu)",
)  # fmt: skip
for _argument in ("logits", "noise"):
    rows(NAME, _argument, TypeError, f"needs {_argument} as a tensor, got NoneType", always(None))
    for _dtype in (torch.int64, torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn):
        _text = f"needs floating-point {_argument}, got {_dtype}; call {_argument}.float"
        rows(NAME, _argument, TypeError, _text, to(_dtype))
    rows(NAME, _argument, ValueError, r"needs logits \(N, V\) and noise \(N, K\)", lambda x: x[:3], lambda x: x[None])
    rows(NAME, _argument, ValueError, r"needs noise \(N, K\) with K from 1 to V", lambda x: x[:, :0])
rows(NAME, "logits", TypeError, "needs noise in torch.float64 for logits in torch.float64", to(torch.float64))
rows(NAME, "noise", TypeError, "needs noise in torch.float32 for", to(torch.float64), to(torch.bfloat16))
rows(NAME, "noise", ValueError, r"with K from 1 to V, .* \(4, 9\) and \(4, 10\)", lambda x: x[:, :1].repeat(1, 10))
for _value in (0, -1.0, math.nan, -math.inf):
    rows(NAME, "temperature", ValueError, f"needs a temperature above 0, got {_value}", always(_value))
for _value in (None, "0.9", 1j, [0.9]):
    rows(NAME, "temperature", TypeError, f"needs temperature as a number, got {type(_value).__name__}", always(_value))

NAME = "discounted_sum"
rows(NAME, "rewards", TypeError, "needs a tensor of rewards, got", always([1.0]), always(None), torch.Tensor.numpy)
rows(NAME, "rewards", TypeError, "needs dense rewards, got a sparse or nested", nested, torch.Tensor.to_sparse)
rows(NAME, "rewards", TypeError, "needs dense rewards, got", torch.Tensor.to_sparse_csr, torch.Tensor.to_mkldnn)
for _dtype in (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32),
    *(torch.uint64, torch.complex32, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
):
    rows(NAME, "rewards", TypeError, f"needs floating-point rewards, got {_dtype}; call rewards.float", to(_dtype))
rows(NAME, "rewards", TypeError, "needs floating-point rewards, got torch.quint8", quantised)
rows(NAME, "rewards", ValueError, "needs rewards along a last axis, got a scalar", lambda x: x[0, 0])
for _value in (-0.1, -1e-300, 1.0000001, 1.5, 2, -1, math.nan, math.inf, -math.inf):
    rows(NAME, "gamma", ValueError, f"needs gamma between 0 and 1, got {_value}", always(_value))
rows(
    NAME,
    "gamma",
    ValueError,
    "needs gamma between 0 and 1, got",
    *map(always, (torch.tensor(1.5), torch.tensor(math.nan))),
)
for _value in (None, "0.9", 1j, [0.9], (0.9,), {}):
    rows(NAME, "gamma", TypeError, f"needs gamma as a number, got {type(_value).__name__}", always(_value))

NAME = "skip_gram_"
_TENSORS = ("embeddings", "weights", "words", "radius", "negatives")
of_each_tensor(
    NAME, _TENSORS,
    lambda name: f"needs {name} as a dense tensor, got a (nested|torch.sparse_coo) one",
    lambda name: "needs .* on (cpu, where embeddings is, got meta|meta, where embeddings is, got cpu)",
)  # fmt: skip
for _argument in _TENSORS:
    rows(NAME, _argument, TypeError, f"needs {_argument} as a tensor, got NoneType", always(None))
for _argument in ("embeddings", "weights"):
    _dtypes = (torch.float16, torch.bfloat16, torch.int64, torch.complex64)
    rows(NAME, _argument, TypeError, "needs both tables in float32 or both in float64", *map(to, _dtypes), quantised)
    rows(NAME, _argument, ValueError, "needs two tables of one shape", lambda x: x[0], lambda x: x[:0], lambda x: x[:5])
    rows(NAME, _argument, ValueError, f"needs {_argument} contiguous, got str", lambda x: x.T.contiguous().T)
    rows(NAME, _argument, RuntimeError, f"changes {_argument} in place and has no gradient", torch.nn.Parameter)
for _argument in ("words", "radius", "negatives"):
    for _dtype in (torch.int32, torch.uint8, torch.bool, torch.float32):
        rows(
            NAME,
            _argument,
            TypeError,
            f"needs {_argument} in torch.int64, got {_dtype}; call {_argument}.long",
            to(_dtype),
        )
rows(NAME, "words", ValueError, "needs words and radius of one shape", lambda x: x[:3], lambda x: x[None])
rows(NAME, "radius", ValueError, "needs words and radius of one shape", lambda x: x[:3], lambda x: x[0])
rows(NAME, "negatives", ValueError, r"needs negatives of shape \(4, K\)", lambda x: x[:3], lambda x: x[:, 0])
for _value in (-1, V, 2**31, MOST, LEAST):
    for _argument, _noun in (("words", "word"), ("negatives", "negative")):
        text = f"was given {_noun} {_value} at position 3, but there are 9 words"
        rows(NAME, _argument, IndexError, text, with_last(_value))
    rows(NAME, "radius", ValueError, "needs radius from 0 to window=2, got", with_last(3 if _value == V else _value))
for _argument in ("window", "group", "limit"):
    _bad = (0, -1, 1.5, None, True)
    rows(NAME, _argument, ValueError, f"needs {_argument} of 1 or more, got", *map(always, _bad))
rows(NAME, "lr", ValueError, "needs lr of 0 or more, got", *map(always, (-0.1, math.nan, torch.tensor(-0.5))))
rows(NAME, "lr", TypeError, "needs lr as a number or a tensor, got", always(None), always("0.1"))

NAME = "adam_"
_LISTS = ("params", "grads", "exp_avgs", "exp_avg_sqs", "steps")


def first(change):
    return lambda tensors: [change(tensors[0]), *tensors[1:]]


for _argument in _LISTS:
    _kind = f"Expected a value of type 'List.Tensor.' for argument '{_argument}'"
    rows(NAME, _argument, RuntimeError, _kind, always(None), first(torch.Tensor.tolist))
    rows(NAME, _argument, RuntimeError, "needs five lists of one length, got", lambda x: x[:1], always([]))
    rows(NAME, _argument, RuntimeError, "needs all tensors on one device, got cpu and meta", first(to("meta")))
    rows(NAME, _argument, TypeError, "needs dense tensors, got a quantised one; call its dequ", first(quantised))
    rows(NAME, _argument, TypeError, "needs dense tensors, got a torch.sparse", first(lambda x: x.to_sparse()))
for _argument in _LISTS[:4]:
    _layout = "(one dense layout, dtype and device|float32 .* parameters, got)"
    rows(
        NAME, _argument, RuntimeError, _layout, first(to(torch.float64)), first(to(torch.int64)), first(lambda x: x[:2])
    )
rows(NAME, "steps", RuntimeError, "needs steps as one float32 each", first(to(torch.int64)), first(to(torch.float64)))
rows(NAME, "lr", RuntimeError, "needs lr as one float32", to(torch.float64), lambda x: x.expand(2))
rows(NAME, "lr", RuntimeError, "Expected a value of type 'Tensor' for argument 'lr'", always(0.1))
rows(NAME, "lr", RuntimeError, "needs all tensors on one device, got cpu and meta", to("meta"))
for _argument in ("beta1", "beta2"):
    for _value in (-0.1, 1.0, 1.5, math.nan):
        rows(NAME, _argument, ValueError, rf"needs {_argument} in \[0, 1\), got {_value}", always(_value))
for _argument in ("eps", "weight_decay"):
    for _value in (-1e-8, math.inf, math.nan):
        rows(NAME, _argument, ValueError, f"needs {_argument} of 0 or more, got {_value}", always(_value))
for _argument in ("beta1", "beta2", "eps", "weight_decay"):
    rows(NAME, _argument, TypeError, f"needs {_argument} as a number, got", always(None), always("0.9"))

for NAME in SAMPLERS:
    rows(NAME, "labels", TypeError, "needs a tensor of labels, got", always([1, 2]), always(None), torch.Tensor.numpy)
    rows(NAME, "labels", TypeError, "needs dense labels, got a sparse or nested", nested, torch.Tensor.to_sparse)
    for _dtype in (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.bool,
        torch.complex64,
        torch.uint16,
    ):
        rows(NAME, "labels", TypeError, f"needs labels of an integer dtype, got {_dtype}; call labels.long", to(_dtype))
    rows(NAME, "labels", TypeError, "needs labels of an integer dtype, got torch.quint8", quantised)
    for _dtype in (torch.float8_e4m3fn, torch.uint32, torch.uint64):
        rows(NAME, "labels", TypeError, f"needs labels of an integer dtype, got {_dtype}", to(_dtype))
    for _value in (-1, V, 2**31, MOST, LEAST):
        rows(NAME, "labels", IndexError, rf"label {_value} at row 3 is outside \[0, 9\)", with_last(_value))
    rows(NAME, "labels", IndexError, r"label 9 at row \(3, 0\) is outside", lambda x: with_last(V)(x)[:, None])
    for _value in (0, -1):
        rows(NAME, "n_sampled", ValueError, f"needs n_sampled at least 1, got {_value}", always(_value))
    for _value in (V + 1, 2**63):
        rows(NAME, "n_sampled", ValueError, f"cannot draw {_value} distinct classes of 9; lower n_s", always(_value))
    for _value in (0, -1, 2**40 + 1, 2**63):
        rows(NAME, "n_classes", ValueError, rf"needs n_classes from 1 to 2\^40, got {_value}", always(_value))
    for _argument in ("n_sampled", "n_classes"):
        for _value in (2.0, None, "9", True, torch.tensor(9)):
            _text = f"needs {_argument} as an int, got {type(_value).__name__}"
            rows(NAME, _argument, TypeError, _text, always(_value))
    if NAME == "all_candidate_sampler":  # it draws nothing, and looks at no seed
        rows(NAME, "n_sampled", ValueError, "takes all 9 classes, got n_sampled 8; pass n_sampled=n_classes", always(8))
        continue
    for _value in (5, "a", [1, 2], torch.Generator()):
        rows(NAME, "seed", TypeError, f"needs a seed of two int64, .*, got {re.escape(repr(_value))}", always(_value))
    rows(NAME, "seed", TypeError, r"needs a seed of two int64, .*, got \(1,\)", lambda x: x[:1])
    rows(NAME, "seed", TypeError, r"needs a seed of two int64, .*, got \(1, 2\)", lambda x: x[None])
    for _dtype in (torch.int32, torch.float64, torch.bool):
        rows(NAME, "seed", TypeError, rf"needs a seed of two int64, .*, got \(2,\) {_dtype}", to(_dtype))
    rows(NAME, "seed", TypeError, "two int64, .*, got a sparse or nested tensor", nested, torch.Tensor.to_sparse)
    rows(NAME, "seed", ValueError, "needs labels and seed on one device, got cpu and meta", to("meta"))


def only_compiled(op, text):
    """The reference of Adam looks at less: it can address anything."""
    return op == "adam_" and any(words in text for words in ("layout", "as one float32", "dense tensors"))


PARAMETERS = [
    pytest.param(*row, id=f"{row[0]}-{row[1]}-{i}", marks=[compiled] if only_compiled(row[0], row[4]) else [])
    for i, row in enumerate(ROWS)
]


@pytest.mark.parametrize(("op", "argument", "change", "error", "text"), PARAMETERS)
def test_bad_input_says_what_to_do(op, argument, change, error, text):
    given = GOOD[op]()
    given[argument] = change(given[argument])
    with pytest.raises(error, match=rf"(^|, |::){op}\W.*{text}"):
        CALL[op](**given)


@pytest.mark.parametrize("op", GOOD)
def test_the_input_they_are_made_from_is_good_and_they_are_many(op):
    CALL[op](**GOOD[op]())
    assert Counter(row[0] for row in ROWS)[op] >= 40


MADE = [
    ({"weights": to("meta")}, TypeError, "weights as a dense tensor with data, got a meta one"),
    ({"weights": torch.Tensor.to_sparse}, TypeError, "weights as a dense .*, got a sparse or nested one"),
    ({"weights": nested}, TypeError, "weights as a dense .*, got a sparse or nested one"),
    ({"weights": quantised}, TypeError, "weights that are real numbers, got torch.quint8"),
    *(
        ({"distortion": always(value)}, TypeError, f"distortion as a number, got {type(value).__name__}")
        for value in (None, "1", 1j, [1.0])
    ),
]


@pytest.mark.parametrize(("changes", "error", "text"), MADE)
def test_bad_weights_of_classes_are_refused(changes, error, text):
    given = {"weights": torch.ones(3), "distortion": 1.0}
    given |= {name: change(given[name]) for name, change in changes.items()}
    with pytest.raises(error, match=f"^FixedUnigram needs {text}"):
        FixedUnigram(**given)


@compiled
@pytest.mark.parametrize("name", _library.OPS)
@pytest.mark.parametrize(
    ("change", "text"), [(torch.Tensor.to_sparse, "torch.sparse_coo one"), (quantised, "quantised one")]
)
def test_no_op_calls_itself_for_ever(name, change, text):
    """Where the kernel there is does not take a tensor's kind, the dispatcher comes back to plain PyTorch."""
    arguments = list(_library.OPS[name].example(torch.device("cpu")))
    if isinstance(arguments[0], list):
        arguments[0] = [change(arguments[0][0]), *arguments[0][1:]]
    else:
        arguments[0] = change(arguments[0])
    with pytest.raises(TypeError, match=rf"torchlayer::{name} needs dense tensors, got a {text}; call its"):
        _library.OPS[name].overload(*arguments)
