"""Which backend runs and why, what happens where one is missing, and the builder."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from torchlayer import _info, kernels
from torchlayer.kernels import _build, _library, discounted_sum


def test_cuda_is_not_missed_where_there_is_none():
    if not torch.cuda.is_available() and not os.environ.get("TORCHLAYER_BACKEND"):
        assert kernels.compiled().cuda.name == "none"


SCRIPT = """
import sys, warnings, torch
warnings.simplefilter("error")
from torchlayer.kernels import _library, compiled, discounted_sum
assert not _library.load.cache_info().currsize, "importing looked for compiled kernels"
generator = torch.Generator().manual_seed(0)
rewards = torch.randn(3, 200, generator=generator)
rewards = (rewards * (rewards > 1)).requires_grad_()
sums = discounted_sum(rewards, 0.9)
sums.sum().backward()
print(compiled().cpu.name, compiled().cpu.reason)
torch.save([sums.detach(), rewards.grad], sys.argv[1])
"""


def test_plain_pytorch_gives_the_same_numbers_and_no_warning_when_asked_for(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "out.pt")]
    environment = {**os.environ, "TORCHLAYER_BACKEND": "python", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "python TORCHLAYER_BACKEND=python asked for it\n"
    sums, grad = torch.load(tmp_path / "out.pt")

    rewards = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    rewards = (rewards * (rewards > 1)).requires_grad_()
    ours = discounted_sum(rewards, 0.9)
    ours.sum().backward()
    torch.testing.assert_close(sums, ours.detach())
    torch.testing.assert_close(grad, rewards.grad)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """As if freshly installed where nothing could be built: no library, an empty cache, no compiler, no settings."""
    for variable in ("TORCHLAYER_BACKEND", "TORCHLAYER_BUILD", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS", "NVCC"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_build, "LIBRARIES", {"cpu": "_absent.so", "cuda": "_absent_cuda.so"})
    for cached in (_library.load, _library._warn_once):
        cached.cache_clear()
    yield monkeypatch
    for cached in (_library.load, _library._warn_once):
        cached.cache_clear()


@pytest.fixture
def plain_op(request):
    """An op nothing was compiled for."""
    name = f"test_only_{request.node.originalname}"
    overload = _library.define(
        f"{name}(Tensor x) -> Tensor", lambda x: 2 * x, torch.empty_like, lambda device: (torch.ones(2, device=device),)
    )
    yield overload
    del _library.OPS[name]


def test_without_a_compiler_one_warning_gives_the_reason(bare, plain_op):
    with pytest.warns(UserWarning, match="plain PyTorch for CPU tensors") as caught:
        results = [plain_op(torch.ones(2)) for _ in range(3)]
    assert len(caught) == 1
    assert "no C++ compiler found (looked for no-such-compiler); install g++ or set CXX" in str(caught[0].message)
    assert all(result.tolist() == [2, 2] for result in results)


def test_an_op_with_no_kernel_for_its_device_runs_its_reference(plain_op):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert plain_op(torch.ones(2)).tolist() == [2, 2]


def test_an_op_without_a_gradient_says_so(plain_op):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = plain_op(torch.ones(2, requires_grad=True))
    with pytest.raises(RuntimeError, match="has no gradient"):
        result.sum().backward()


def test_a_module_executed_again_finds_its_op():
    spec = importlib.util.find_spec("torchlayer.kernels.discounted_sum")
    again = importlib.util.module_from_spec(spec)  # beside the imported one: a reload would replace its functions
    spec.loader.exec_module(again)
    assert again.discounted_sum(torch.tensor([0.0, 1.0]), 0.5).tolist() == [0.5, 1.0]


REFUSALS = [
    (
        {"TORCHLAYER_BACKEND": "cpu"},
        "TORCHLAYER_BACKEND=cpu insists on compiled CPU kernels, but no C.. compiler found",
    ),
    ({"TORCHLAYER_BUILD": "require"}, "TORCHLAYER_BUILD=require insists on compiled CPU kernels, but no C.. compiler"),
]


@pytest.mark.parametrize(("settings", "text"), REFUSALS)
def test_a_setting_that_insists_raises_rather_than_fall_back(bare, settings, text):
    for variable, value in settings.items():
        bare.setenv(variable, value)
    with pytest.raises(RuntimeError, match=text):
        _library.load("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_insisting_on_cuda_without_a_gpu_raises_at_the_first_op(bare):
    bare.setenv("TORCHLAYER_BACKEND", "cuda")
    with pytest.raises(RuntimeError, match=r"TORCHLAYER_BACKEND=cuda insists on compiled CUDA kernels, but (this|no) "):
        _library.load("cpu")


MISSPELT = [
    ("TORCHLAYER_BACKEND", "gpu", "TORCHLAYER_BACKEND='gpu' is not a choice; set it to one of auto, cuda, cpu, python"),
    ("TORCHLAYER_BUILD", "yes", "TORCHLAYER_BUILD='yes' is not a choice; set it to one of auto, require, never"),
]


@pytest.mark.parametrize(("variable", "value", "text"), MISSPELT)
def test_a_misspelt_setting_names_the_choices(bare, variable, value, text):
    bare.setenv(variable, value)
    with pytest.raises(ValueError, match=text):
        _library.load("cpu")


def test_building_can_be_forbidden(bare, tmp_path):
    bare.setenv("CXX", compiler_script(tmp_path))
    bare.setenv("TORCHLAYER_BUILD", "never")
    assert _library.load("cpu") == ("python", "none was built at installation and TORCHLAYER_BUILD=never")
    assert not list(tmp_path.rglob("*.so"))


def test_a_cache_that_cannot_be_written_is_the_reason_given(bare, tmp_path):
    bare.setenv("CXX", compiler_script(tmp_path))
    bare.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    (tmp_path / "a-file").touch()
    backend = _library.load("cpu")
    assert backend.name == "python"
    assert "Not a directory" in backend.reason


def test_without_a_home_nothing_is_looked_for_in_the_current_folder(bare, tmp_path):
    """As for a container's user who has a number and no name."""
    bare.setenv("CXX", compiler_script(tmp_path))
    bare.delenv("XDG_CACHE_HOME")
    bare.setattr(os.path, "expanduser", lambda path: path)
    bare.chdir(tmp_path)
    reason = "there is no home folder to keep a library in; set HOME or XDG_CACHE_HOME"
    assert _library.load("cpu") == ("python", reason)
    assert dict(_info.report())["cache"] == f"none: {reason}"
    assert not (tmp_path / "~").exists()
    with pytest.raises(RuntimeError, match="there is no home folder"):
        kernels.compile_library("x", "cpu")


def test_a_library_that_does_not_load_is_the_reason_given(bare, tmp_path):
    bare.setenv("CXX", compiler_script(tmp_path))  # what it makes is no library
    assert _library.load("cpu").name == "python"
    assert "_absent-" in _library.load("cpu").reason


# The builder, with a compiler that takes no time


def compiler_script(folder, last_words=""):
    """A stand-in for g++: writes its output file and a line in a log, or fails with ``last_words``."""
    script = folder / "compiler"
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version) echo "compiler 1.0"; exit 0;; esac\n'
        f"echo \"$@\" >> '{folder}/log'\n"
        + (f"printf '{last_words}' >&2; exit 1\n" if last_words else "")
        + 'while [ "$1" != -o ]; do shift; done\necho made > "$2"\n'
    )
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def builder(bare, tmp_path):
    bare.setenv("CXX", compiler_script(tmp_path))
    return lambda: _build.Build("cpu", Path("/torch"))


def n_compiler_calls(folder):
    return len((folder / "log").read_text().splitlines())


def test_one_call_a_source_and_one_to_link_then_none(builder, tmp_path):
    library = builder().run(tmp_path / "cache")
    n_sources = len(list(_build.source_folder().glob("*.cpp")))
    assert library.read_bytes().startswith(b"made")
    assert n_compiler_calls(tmp_path) == n_sources + 1
    assert builder().run(tmp_path / "cache") == library
    assert n_compiler_calls(tmp_path) == n_sources + 1
    assert not list((tmp_path / "cache").glob("building-*"))


def test_ccache_is_used_where_it_is(builder, bare, tmp_path):
    script = tmp_path / "bin" / "ccache"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> \'{tmp_path}/ccache-log\'\nexec "$@"\n')
    script.chmod(0o755)
    bare.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    builder().run(tmp_path / "cache")
    assert all(" -c " in line for line in (tmp_path / "ccache-log").read_text().splitlines())


def test_what_a_killed_build_left_behind_blocks_nothing(builder, tmp_path):
    cache = tmp_path / "cache"
    for name in ("building-young", "building-old"):
        (cache / name).mkdir(parents=True)
        (cache / name / builder().name).write_text("half a libr")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(cache / "building-old", (long_ago, long_ago))
    assert builder().run(cache).read_bytes().startswith(b"made")
    assert [path.name for path in cache.glob("building-*")] == ["building-young"]


def test_a_library_cut_short_is_made_again(builder, tmp_path):
    library = builder().run(tmp_path / "cache")
    whole = library.read_bytes()
    for damaged in (whole[:-1], whole[:10], b"", b"x" + whole[1:]):
        library.write_bytes(damaged)
        assert not _build.is_whole(library)
        assert builder().run(tmp_path / "cache").read_bytes() == whole


def test_the_name_changes_with_compiler_source_and_flags(builder, bare, tmp_path):
    names = [builder().name]
    script = Path(os.environ["CXX"])
    script.write_text(script.read_text().replace("1.0", "2.0"))
    names.append(builder().name)
    bare.setattr(_build, "_FLAGS", [*_build._FLAGS, "-g"])
    names.append(builder().name)
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "a.cpp").write_text("1")
    bare.setattr(_build, "source_folder", lambda: sources)
    names.append(builder().name)
    (sources / "a.h").write_text("2")
    names.append(builder().name)
    bare.setenv("CXX", f"{script} -O0")
    names.append(builder().name)
    assert len(set(names)) == 6


def test_a_failing_compiler_is_quoted_by_its_first_error(bare, tmp_path):
    bare.setenv("CXX", compiler_script(tmp_path, r"In file x.h:\nx.cpp:3: error: no semicolon\nx.cpp:9: error: more\n"))
    with pytest.raises(_build.BuildError, match=r"^compiler failed: x.cpp:3: error: no semicolon$") as caught:
        _build.Build("cpu", Path("/torch")).run(tmp_path / "cache")
    assert "x.cpp:9" in caught.value.output
    assert not list((tmp_path / "cache").iterdir())


def test_an_nvcc_newer_than_the_driver_is_turned_down(bare, tmp_path):
    def driver_of_cuda_12(name):
        class Driver:
            @staticmethod
            def cuDriverGetVersion(version):
                version._obj.value = 12080

        return Driver

    script = tmp_path / "nvcc"
    script.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    script.chmod(0o755)
    bare.setattr(_build.ctypes, "CDLL", driver_of_cuda_12)
    with pytest.raises(_build.BuildError, match="nvcc is of CUDA 13, but the GPU's driver only knows CUDA 12"):
        _build._check_driver([str(script)])


@pytest.mark.parametrize("architectures", ["9", "sm_90", "8.0;9", "", "9.0+ptx"])
def test_an_architecture_nvcc_does_not_know_is_refused(architectures):
    with pytest.raises(ValueError, match=r"is not an architecture; write it like '8.0\+PTX;9.0a'"):
        _build.gencode_flags(architectures)


def test_architectures_may_be_spaced_as_torch_allows():
    assert _build.gencode_flags("8.0 9.0a") == _build.gencode_flags("8.0;9.0a") == _build.gencode_flags("8.0, 9.0a;")


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_max_jobs_must_be_a_number(builder, bare, tmp_path, value):
    bare.setenv("MAX_JOBS", value)
    with pytest.raises(ValueError, match=f"MAX_JOBS='{value}' is not a number of compilers"):
        builder().run(tmp_path / "cache")
