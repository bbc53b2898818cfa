"""The emulator of emulate_cuda.py finds what is planted for it. All kernels in it take minutes: run that file."""

import platform
from pathlib import Path

import emulate_cuda
import pytest

from torchlayer.kernels import _build


def test_planted_bugs_are_found(tmp_path):
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        pytest.skip("fibres are switched in x86-64's words")
    try:
        asked = [*_build.cxx_compiler(), "-print-file-name=libasan.so"]
    except _build.BuildError as error:
        pytest.skip(str(error))
    if not Path(_build._run(asked).strip()).is_absolute():
        pytest.skip("the compiler has no address sanitizer")
    assert {result for _, result in emulate_cuda.find_planted(tmp_path)} == {"found"}
