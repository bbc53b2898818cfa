"""Ops that users define: every tier of them, their default gradient and shape, and what goes wrong in plain words."""

from __future__ import annotations

import itertools
import os
import platform
import shutil
import subprocess
import sys

import pytest
import torch

from torchlayer.kernels import _build, _library
from torchlayer.kernels.custom import compile_library, define
from torchlayer.testing import check_op

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))) or bool(os.environ.get("TORCHLAYER_BACKEND")),
    reason="no C++ compiler, or TORCHLAYER_BACKEND is set",
)
COUNT = itertools.count()
# Some machines have no other libstdc++ to link with. Its symbols must not mix with those of torch's.
COMPILERS = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
STATIC = next((c for c in COMPILERS if c and shutil.which(c.split()[0])), "c++")
STATIC += " -static-libstdc++" if platform.system() == "Linux" else ""

SOURCE = r"""
#include <map.h>

struct Blend {
  template <typename T>
  TORCHLAYER_HOST_DEVICE T operator()(T a, T b) const {
    return a * a + 3 * b;
  }
};

torch::stable::Tensor blend(const torch::stable::Tensor& a, const torch::stable::Tensor& b) {
  return torchlayer::map("blend", Blend(), a, b);
}

STABLE_TORCH_LIBRARY_IMPL(test_custom, TORCHLAYER_DEVICE, m) { m.impl("blend", TORCH_BOX(&blend)); }
"""


def blend(a, b):
    return a * a + 3 * b


def fresh(reference=blend, arguments="Tensor a, Tensor b", result="Tensor", **settings):
    return define(f"test_custom::op{next(COUNT)}({arguments}) -> {result}", reference, **settings)


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    for variable in ("TORCHLAYER_BACKEND", "TORCHLAYER_BUILD", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS", "NVCC"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return monkeypatch


# --- compiled ---


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled into once for all tests that want the same binary."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "blend.cu").write_text(SOURCE)
    return folder


@needs_compiler
def test_a_compiled_op_keeps_every_promise(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("CXX", STATIC)
    calls = []

    def reference(a, b):
        calls.append(1)
        return blend(a, b)

    op = define("test_custom::blend(Tensor a, Tensor b) -> Tensor", reference, cpp=cache / "blend.cu")
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    samples = [(torch.randn(3, 5).to(dtype), torch.randn(3, 5).to(dtype)) for dtype in dtypes]
    samples += [(torch.ones(0, 2), torch.ones(0, 2)), (torch.tensor(2.0), torch.tensor(1.0))]
    errors = [
        ((torch.ones(2), torch.ones(3)), RuntimeError, "blend needs two tensors of one shape, dtype and device"),
        ((torch.ones(2).int(), torch.ones(2).int()), RuntimeError, "blend needs float32, float64, float16 or bfloat16"),
    ]
    checked = check_op(op, samples, blend, errors, devices=["cpu"])
    assert {"gradient", "reference", "layouts", "poison", "errors"} <= set(checked.ran)
    calls.clear()
    large = torch.randn(2, 100_000)  # several threads
    torch.testing.assert_close(op(*large), blend(*large))
    assert not calls  # the kernel ran, not the reference


@needs_compiler
def test_a_shipped_binary_is_used_where_there_is_no_compiler(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", STATIC)
    library = compile_library(cache / "blend.cu", folder=cache / "torchlayer")
    script = f"""
import torch
from torchlayer.kernels.custom import define
torch.ops.load_library({str(library)!r})
op = define("test_custom::blend(Tensor a, Tensor b) -> Tensor", lambda a, b: 1 / 0)
print(op(torch.ones(2), torch.ones(2)).tolist())
"""
    environment = {
        **os.environ,
        "CXX": "no-such-compiler",
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "[4.0, 4.0]\n", done.stderr
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_a_text_is_kept_beside_its_library(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    op = fresh(cpp="int nothing;\n")
    with pytest.raises(RuntimeError, match=r"registers no CPU kernel; end it with STABLE_TORCH_LIBRARY_IMPL\(test_cus"):
        op(torch.ones(2), torch.ones(2))
    assert sorted(path.suffix for path in (tmp_path / "torchlayer").iterdir()) == [".cpp", ".o", ".so"]
    assert [path.read_text() for path in tmp_path.rglob("*.cpp")] == ["int nothing;\n"]


@needs_compiler
def test_a_source_the_compiler_refuses_raises_with_its_words():
    op = fresh(cpp="#include <map.h>\nint nothing = nonsense;\n")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"does not compile: [^\n]*nonsense"):
            op(torch.ones(2), torch.ones(2))


def test_a_file_may_include_its_neighbours_and_changes_with_them(monkeypatch, tmp_path):
    script = tmp_path / "compiler"
    script.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo 1; exit 0; fi\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    (tmp_path / "op.cu").write_text('#include "own.h"\n')
    names = []
    for content in ("1", "2"):
        (tmp_path / "own.h").write_text(content)
        names.append(_build.Build("cpu", tmp_path, sources=[tmp_path / "op.cu"]).name)
    assert len(set(names)) == 2
    assert all(name.startswith("op-cpu-") for name in names)


# --- not compiled ---


def test_without_a_compiler_one_warning_names_the_op_and_the_reason(no_compiler):
    op = fresh(cpp=SOURCE)
    with pytest.warns(UserWarning, match="runs in plain PyTorch for CPU tensors") as caught:
        results = [op(torch.ones(2), torch.ones(2)) for _ in range(3)]
    assert len(caught) == 1
    assert f"without the compiled kernel of {op.name()}: no C++ compiler found" in str(caught[0].message)
    assert all(result.tolist() == [4, 4] for result in results)


def test_settings_hold_for_users_ops_too(no_compiler):
    no_compiler.setenv("TORCHLAYER_BACKEND", "python")
    assert fresh(cpp=SOURCE)(torch.ones(2), torch.ones(2)).tolist() == [4, 4]  # and no warning
    no_compiler.setenv("TORCHLAYER_BACKEND", "auto")
    no_compiler.setenv("TORCHLAYER_BUILD", "require")
    with pytest.raises(RuntimeError, match="TORCHLAYER_BUILD=require insists on compiled CPU kernels, but no C"):
        fresh(cpp=SOURCE)(torch.ones(2), torch.ones(2))


def test_an_op_without_source_is_its_reference_and_warns_of_nothing(no_compiler):
    assert fresh()(torch.ones(2), torch.ones(2)).tolist() == [4, 4]


def test_a_library_that_cannot_be_made_raises_with_the_reason(no_compiler):
    with pytest.raises(RuntimeError, match=r"no C\+\+ compiler found .looked for no-such-compiler.; install"):
        compile_library(SOURCE)


# --- gradient and shape, when only the reference says what they are ---


def test_the_gradient_is_the_references_twice_if_need_be():
    op = fresh()
    a, b = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(op, (a, b))
    assert torch.autograd.gradgradcheck(op, (a, b))
    assert torch.autograd.gradcheck(lambda a: op(a, a), (a,))
    assert torch.autograd.gradgradcheck(lambda a: op(a, a), (a,))
    assert torch.autograd.gradcheck(lambda b: op(a.detach(), b), (b,))


def test_several_outputs_and_arguments_that_are_no_tensors():
    op = fresh(lambda a, n, s: (a * n, (a * a).sum(s)), "Tensor a, float n, int[] s", "(Tensor, Tensor)")
    checked = check_op(op, [(torch.randn(2, 3), 1.5, [1])], lambda a, n, s: (a * n, (a * a).sum(s)))
    assert "gradient" in checked.ran
    a = torch.ones(2, 3, requires_grad=True)
    op(a, 1.5, [1])[1].sum().backward()  # the other output has no gradient
    assert a.grad.tolist() == [[2.0] * 3] * 2


def test_a_reference_that_is_constant_has_no_gradient():
    a = torch.ones(2, requires_grad=True)
    y = fresh(lambda a: torch.zeros_like(a), "Tensor a")(a)
    y.sum().backward()
    assert a.grad is None or a.grad.tolist() == [0, 0]


def test_lists_of_tensors_need_a_backward():
    op = fresh(lambda xs: torch.cat(xs), "Tensor[] xs")
    assert op([torch.ones(1), torch.ones(2)]).tolist() == [1, 1, 1]
    y = op([torch.ones(1, requires_grad=True)])
    with pytest.raises(RuntimeError, match="has a list of tensors and so no gradient; give define a backward"):
        y.sum().backward()


def test_own_backward_and_fake_are_used():
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    op = fresh(
        lambda a: a * a,
        "Tensor a",
        fake=torch.empty_like,
        backward=lambda ctx, grad: 20 * ctx.saved_tensors[0] * grad,  # wrong, so that it shows
        setup_context=setup_context,
    )
    a = torch.ones(2, requires_grad=True)
    op(a).sum().backward()
    assert a.grad.tolist() == [20, 20]
    assert op(torch.empty(3, 2, device="meta").t()).stride() == (1, 2)


def test_shapes_follow_the_reference_and_outputs_are_contiguous():
    op = fresh(lambda a: a.t() * 2, "Tensor a")
    assert op(torch.empty(3, 5, device="meta")).stride() == (3, 1)
    assert op(torch.ones(3, 5)).stride() == (3, 1)


def test_an_op_may_write_to_its_arguments():
    def add_(a, b):
        a.add_(b)

    op = fresh(add_, "Tensor(a!) a, Tensor b", "()")
    check_op(op, [(torch.ones(3), torch.ones(3))], add_)
    a = torch.ones(1)
    assert op(a, torch.ones(1)) is None
    assert a.tolist() == [2]


# --- defining ---


def test_defining_again_replaces_the_python_half():
    schema = f"test_custom::op{next(COUNT)}(Tensor a) -> Tensor"
    first = define(schema, lambda a: a + 1)
    second = define(schema, lambda a: a + 2)
    assert first is second
    assert first(torch.zeros(1)).tolist() == [2]


@pytest.mark.parametrize("change", [{"cpp": SOURCE}, {"schema": "(Tensor b) -> Tensor"}])
def test_defining_otherwise_asks_for_a_new_process(change):
    name = f"test_custom::op{next(COUNT)}"
    define(f"{name}(Tensor a) -> Tensor", torch.neg)
    with pytest.raises(ValueError, match="has another schema or source already; restart Python to change them"):
        define(name + change.pop("schema", "(Tensor a) -> Tensor"), torch.neg, **change)


WRONG = [
    (("neg(Tensor a) -> Tensor", torch.neg), "needs a namespace of your own: write 'mine::name"),
    (("torchlayer::neg(Tensor a) -> Tensor", torch.neg), "needs a namespace of your own"),
    (("a b::neg(Tensor a) -> Tensor", torch.neg), "needs a namespace of your own"),
    (("test_custom::(Tensor a) -> Tensor", torch.neg), "needs a namespace of your own"),
    (("test_custom::zeros(int n) -> Tensor", torch.zeros), "needs a tensor among its arguments"),
    (("test_custom::neg(Tensor a, *, float b) -> Tensor", torch.neg), "none of them keyword-only"),
    (("test_custom::neg(Tensor a) -> Tensor", torch.neg, "neg.cpp"), r"give a file as pathlib.Path\('neg.cpp'\)"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG)
def test_wrong_definitions_say_what_to_write(arguments, text):
    with pytest.raises(ValueError, match=text):
        define(*arguments)


def test_a_device_is_cpu_or_cuda():
    with pytest.raises(ValueError, match="device is 'gpu'; set it to 'cpu' or 'cuda'"):
        compile_library(SOURCE, "gpu")


def test_a_call_with_any_cuda_tensor_belongs_to_cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    assert _library._device_of((torch.ones(1), [torch.ones(1, device="cuda")])) == "cuda"
