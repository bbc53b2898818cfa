"""Every Python block of the README and of the documentation runs, so that none of it rots.

The blocks of a page run in order in one namespace, in an empty folder. A block opened with "```python notest", or right
after the comment ``<!-- no test -->``, is left out.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [
    page for page in PAGES if "_build" not in page.relative_to(ROOT).parts and "python\n" in page.read_text("utf-8")
]

FENCE = re.compile(r"\s*(?P<fence>`{3,}|~{3,})(?P<info>.*)")


class Block(NamedTuple):
    line: int  # of its first line of code, from 1
    code: str


def blocks_of(text: str) -> list[Block]:
    """The Python blocks of a Markdown text that are to be run."""
    blocks: list[Block] = []
    fence, before, wanted = "", "", False  # the open fence; the last line that was not blank; whether its block runs
    start, lines = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        found = FENCE.fullmatch(line)
        if fence:
            # A longer fence of the same kind, and nothing after it, closes: shorter ones are the block's own text.
            if found and found["fence"].startswith(fence) and not found["info"].strip():
                if wanted:
                    blocks.append(Block(start, textwrap.dedent("\n".join(lines))))
                fence, before = "", line
            else:
                lines.append(line)
        elif found and "`" not in found["info"]:
            fence, start, lines = found["fence"], number + 1, []
            info = found["info"].split()
            wanted = info[:1] == ["python"] and "notest" not in info and before.strip() != "<!-- no test -->"
        elif line.strip():
            before = line
    if fence:
        raise ValueError(f"the block that starts at line {start} is never closed")
    return blocks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_runs(page, tmp_path, monkeypatch):
    run(blocks_of(page.read_text(encoding="utf-8")), page, tmp_path, monkeypatch)


def run(blocks, page, folder, monkeypatch):
    module = ModuleType("page_" + re.sub(r"\W", "_", page.stem))
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses and pickle look their module up
    monkeypatch.chdir(folder)
    numpy_state, dtype = np.random.get_state(), torch.get_default_dtype()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            np.random.seed(0)
            for block in blocks:
                # Blank lines in front make a traceback's line numbers, and so its quotations, the page's own.
                code = compile("\n" * (block.line - 1) + block.code, str(page), "exec", dont_inherit=True)
                exec(code, module.__dict__)
    finally:
        np.random.set_state(numpy_state)
        torch.set_default_dtype(dtype)


# --- the collector itself ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("words\n\n```python\na = 1\n```\n", [(4, "a = 1")]),
        ("```python\na = 1\n```\n\n```python\nb = a\n\nc = b\n```", [(2, "a = 1"), (6, "b = a\n\nc = b")]),
        ("```python\r\na = 1\r\n```\r\n", [(2, "a = 1")]),
        ("~~~python\na = '''\n```\n'''\n~~~", [(2, "a = '''\n```\n'''")]),
        ("* item\n\n  ```python\n  if a:\n      b\n  ```\n", [(4, "if a:\n    b")]),
        ("```python notest\na = 1\n```", []),
        ("<!-- no test -->\n```python\na = 1\n```", []),
        ("<!-- no test -->\n\n```python\na = 1\n```\n```python\nb = 1\n```", [(7, "b = 1")]),
        ("<!-- no test -->\nwords\n```python\na = 1\n```", [(4, "a = 1")]),
        ("```\na = 1\n```\n```bash\nls\n```\n```pycon\n>>> a\n```\n```python3\na\n```", []),
        ("````md\n```python\na = 1\n```\n````", []),
        ("```text\n```python\n```", []),
        ("inline ```python``` code\n\n```python```\n", []),
    ],
)
def test_blocks_are_found(text, expected):
    assert blocks_of(text) == expected


def test_block_left_open_is_an_error():
    with pytest.raises(ValueError, match="block that starts at line 2 is never closed"):
        blocks_of("```python\na = 1\n")


def test_failure_is_told_with_the_pages_line(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\na = 1\n```\n\nwords\n\n```python\nb = a + 1\nb / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run(blocks_of(page.read_text()), page, tmp_path, monkeypatch)
    last = caught.traceback[-1]
    assert (Path(last.path), last.lineno + 1) == (page, 11)


def test_blocks_share_names_but_leave_the_process_alone(tmp_path, monkeypatch):
    before = (
        torch.random.get_rng_state().tolist(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
        torch.get_default_dtype(),
    )
    code = """import dataclasses, pickle, pathlib, numpy, torch
@dataclasses.dataclass
class Point:
    x: "int" = 0
pathlib.Path("file").write_text("x")"""
    more = "assert pickle.loads(pickle.dumps(Point(3))).x == 3\ntorch.rand(3), numpy.random.rand(3)"
    run(
        [Block(1, code), Block(9, more + "\ntorch.set_default_dtype(torch.float64)")],
        Path("a-b.md"),
        tmp_path,
        monkeypatch,
    )
    assert (tmp_path / "file").exists()
    after = (
        torch.random.get_rng_state().tolist(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
        torch.get_default_dtype(),
    )
    assert after == before
