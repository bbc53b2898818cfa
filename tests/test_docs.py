"""The reference has a page for each module and shows all of its names; what the other pages name exists."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import torchlayer as tl

ROOT = Path(__file__).resolve().parent.parent
API = ROOT / "docs" / "api"
PACKAGE = Path(tl.__file__).parent
GUIDE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "layers").glob("*.md"))]

DIRECTIVE = re.compile(r"^\.\. (auto|current)(\w+):: (\S+)((?:\n   :.*)*)", re.MULTILINE)


def public_modules() -> dict[str, Path]:
    """Every module without an underscore in its path, and the page it should have."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE)
        parts = path.parent.parts if path.name == "__init__.py" else path.with_suffix("").parts
        page = path.with_name("index.md") if path.name == "__init__.py" else path.with_suffix(".md")
        if not any(part.startswith("_") for part in parts):
            found[".".join(("torchlayer", *parts))] = API / page
    return found


MODULES = public_modules()


def names_of(module: str) -> list[set[str]]:
    """For each documented function and class of a module, the paths under which it may be shown."""
    found = []
    for name, value in vars(importlib.import_module(module)).items():
        if name.startswith("_") or not (inspect.isfunction(value) or inspect.isclass(value)) or not value.__doc__:
            continue
        home = value.__module__
        if any(part.startswith("_") for part in home.split(".")):
            home = home.partition("._")[0]  # what a package takes from a private file is its own
        if home == module:
            exported = {f"{p}.{name}" for p in MODULES if p != module and exports(p, name, value)}
            found.append(exported or {f"{module}.{name}"})
    return found


def exports(package: str, name: str, value: object) -> bool:
    return MODULES[package].name == "index.md" and getattr(importlib.import_module(package), name, None) is value


def shown_on(page: Path) -> set[str]:
    """Full paths of what a page's directives document, ``x.`` for a module (one may share a function's path), ``x.*``
    for a module with its members."""
    current, shown = "", set()
    for kind, what, name, options in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
        if what == "module":
            current = name
        if kind == "auto" and what == "module":
            shown.add(f"{name}." if ":no-members:" in options else f"{name}.*")
        elif kind == "auto":
            shown.add(f"{current}.{name}")
    return shown


def test_every_module_has_its_page_and_every_page_its_module():
    pages = set(API.rglob("*.md"))
    assert {module for module, page in MODULES.items() if page not in pages} == set()
    assert pages - set(MODULES.values()) == set()


@pytest.mark.parametrize("module", MODULES)
def test_page_shows_its_module_and_every_name_as_users_write_it(module):
    shown = shown_on(MODULES[module])
    assert shown & {f"{module}.", f"{module}.*"}, f"write '.. automodule:: {module}'"
    missing = [paths for paths in names_of(module) if not paths & shown and f"{module}.*" not in shown]
    assert not missing, f"write .. autofunction:: or .. autoclass:: for {missing}"


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.name)
def test_every_name_on_a_page_exists(page):
    for path in sorted(set(re.findall(r"\btl((?:\.[A-Za-z_]\w*)+)", page.read_text(encoding="utf-8")))):
        value = tl
        for name in path[1:].split("."):
            assert hasattr(value, name), f"tl{path} does not exist"
            value = getattr(value, name)


def test_every_file_that_the_architecture_names_exists():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = {
        str(file.relative_to(ROOT))
        for folder in ("torchlayer", "csrc", "tests")
        for file in ROOT.glob(f"{folder}/**/*")
    }
    named = set(re.findall(r"[\w/]+\.(?:py|cpp|cu|cuh|h)\b", text))
    assert len(named) > 20
    assert {name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)} == {"setup.py"}
