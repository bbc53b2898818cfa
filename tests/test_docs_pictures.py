"""The pictures of the documentation can be drawn again, and what they are drawn from is right."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import torchlayer as tl

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'torchlayer[vis]'")
DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("torchlayer_docs_pictures", DOCS / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_picture_on_a_page_is_drawn_and_kept(pictures, tmp_path):
    files = pictures.write_all(tmp_path)
    for file in files:
        ElementTree.parse(file)
    drawn = {file.name for file in files}
    shown = {name for page in DOCS.rglob("*.md") for name in re.findall(r"_static/(\S+\.svg)", page.read_text("utf-8"))}
    assert drawn == shown == {file.name for file in (DOCS / "_static").glob("*.svg")}


def test_a_picture_drawn_twice_is_the_same_file(pictures, tmp_path):
    once, again = tmp_path / "once", tmp_path / "again"
    for folder in (once, again):
        folder.mkdir()
    names = [file.name for file in pictures.write_all(once)]
    pictures.write_all(again)
    assert [name for name in names if (once / name).read_bytes() != (again / name).read_bytes()] == []


@pytest.mark.parametrize(
    ("kernel", "stride", "n", "padding", "starts"),
    [
        (3, 1, 4, "SAME", [-1, 0, 1, 2]),
        (2, 1, 4, "SAME", [0, 1, 2, 3]),
        (3, 2, 6, "SAME", [0, 2, 4]),
        (3, 2, 7, "SAME", [-1, 1, 3, 5]),
        (3, 2, 6, "VALID", [0, 2]),
        (3, 2, 6, "torch", [-1, 1, 3]),
        (2, 1, 3, "torch", [-1, 0, 1, 2]),
    ],
)
def test_windows_are_where_the_definition_puts_them(pictures, kernel, stride, n, padding, starts):
    torch_too = padding == "torch"
    layer = pictures.torch_padded(kernel, stride) if torch_too else pictures.same_or_valid(kernel, stride, padding)
    assert pictures.windows(layer, n, kernel) == [range(start, start + kernel) for start in starts]


def test_a_ramp_tells_where_it_is_read(pictures):
    assert pictures.source_positions(3, 2) == [0, 0.5, 1, 1.5, 2, 2]
    assert pictures.source_positions(3, 2, half_pixel_centers=True) == [0, 0.25, 0.75, 1.25, 1.75, 2]


def test_values_that_share_statistics_are_found(pictures):
    shape, cell = (2, 3, 1, 4), (0, 1, 0, 2)
    expected = torch.zeros(shape, dtype=torch.bool)
    expected[0, :, :, 2:] = True  # one example's second group of channels
    assert torch.equal(pictures.shared_with(tl.layers.GroupNormLayer(groups=2), shape, cell), expected)
