"""Files are read and never obeyed: no call in the source could run one, and reading them all asks for nothing odd."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import torchlayer

PACKAGE = Path(torchlayer.__file__).parent
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "yaml", "joblib", "pickletools"}
CALLS = {"eval", "exec", "compile", "__import__", "input"}
METHODS = {
    "os": {"system", "popen", "execv", "execve", "execvp", "spawnl", "spawnv", "startfile"},
    "subprocess": {"getoutput", "getstatusoutput"},
    "torch": set(),
}
ANYWHERE = {"extractall", "unpack_archive", "unsafe_load", "find_class"}


def forbidden(source: str, allowed: frozenset[str] = frozenset()) -> list[str]:
    """What in a module could make a program of data, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            root = (node.module or "").partition(".")[0]
            names = [root] if root in MODULES and not node.level else []
            names += [f"{root}.{a.name}" for a in node.names if a.name in METHODS.get(root, ())]
        elif isinstance(node, ast.Call):
            called, owner = node.func, ""
            if isinstance(called, ast.Name) and called.id in CALLS:
                names = [called.id]
            elif isinstance(called, ast.Attribute):
                owner = called.value.id if isinstance(called.value, ast.Name) else ""
                if called.attr in METHODS.get(owner, ()) or called.attr in ANYWHERE:
                    names = [f"{owner}.{called.attr}"]
            options = {k.arg: k.value for k in node.keywords if k.arg}
            for option, bad in (("allow_pickle", True), ("shell", True), ("weights_only", False)):
                given = options.get(option)
                if given is not None and not (isinstance(given, ast.Constant) and given.value is not bad):
                    names.append(f"{option}={ast.unparse(given)}")
            if owner == "torch" and isinstance(called, ast.Attribute) and called.attr == "load":
                names += [] if "weights_only" in options else ["torch.load without weights_only"]
        found += [f"{name} in line {node.lineno}" for name in names if name not in allowed]  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_source_has_nothing_that_could_execute_a_file(file):
    assert forbidden(file.read_text(encoding="utf-8")) == []


PLANTED = [
    ("import pickle", "pickle in line 1"),
    ("from pickle import loads", "pickle in line 1"),
    ("from os import system", "os.system in line 1"),
    ("x = 1\neval(x)", "eval in line 2"),
    ("exec(open(p).read())", "exec in line 1"),
    ("os.system('mv')", "os.system in line 1"),
    ("subprocess.run(c, shell=True)", "shell=True in line 1"),
    ("subprocess.run(c, shell=chosen)", "shell=chosen in line 1"),
    ("np.load(p, allow_pickle=True)", "allow_pickle=True in line 1"),
    ("torch.load(p)", "torch.load without weights_only in line 1"),
    ("torch.load(p, weights_only=False)", "weights_only=False in line 1"),
    ("tarfile.open(p).extractall(d)", ".extractall in line 1"),
    ("yaml.load(f)\nimport yaml", "yaml in line 2"),
]


@pytest.mark.parametrize(("source", "text"), PLANTED)
def test_what_is_forbidden_would_be_found(source, text):
    assert forbidden(source) == [text]


READING = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import pathlib, contextlib, io, fuzz
import torchlayer as tl
folder = pathlib.Path(sys.argv[2])
inputs = []
for name, target in fuzz.TARGETS.items():
    for i, seed in enumerate(target.seeds()):
        place = folder / f"{name} {i}"
        place.mkdir()
        (place / target.name).write_bytes(target.wrap(seed))
        inputs.append((target.parse, place / target.name))
def read_all():
    with contextlib.redirect_stdout(io.StringIO()):
        for parse, path in inputs:
            with contextlib.suppress(tl.files.FileFormatError):
                parse(path)
read_all()  # once for what is imported at first use
asked, listening = set(), [True]
FOREIGN = ("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "subprocess", "socket", "urllib", "ctypes",
           "import", "exec", "webbrowser", "shutil.unpack", "code.__new__")
def watch(event, arguments):
    if listening[0]:
        if event.startswith(FOREIGN) and event != "socket.gethostname":  # is in the names of temporary files
            asked.add(f"{event} {str(arguments)[:60]}")
        if event == "pickle.find_class":
            asked.add(".".join(map(str, arguments)))
        if event == "open" and not str(arguments[0]).startswith((str(folder), "/proc", "/sys")):
            if isinstance(arguments[0], str) and os.path.isabs(arguments[0]):  # others are relative to an open folder
                asked.add(f"open {arguments[0]}")
sys.addaudithook(watch)
read_all()
tl.ops.exit_torch()
with contextlib.suppress(NotImplementedError):
    tl.ops.empty_trash()
listening[0] = False
print(json.dumps([len(inputs), sorted(asked)]))
"""


def test_reading_a_file_of_every_kind_asks_the_system_for_nothing_else(tmp_path):
    """No process, no connection, no import, no code object, no name looked up for a pickle, no other file."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-W", "ignore", "-c", READING, str(PACKAGE.parent / "attacks"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    n_inputs, asked = json.loads(done.stdout.splitlines()[-1])
    assert n_inputs > 40
    assert asked == []


ATTACKED = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import fuzz, hostile_files
print(json.dumps({name: fuzz.fuzz(name, 200, 7, pathlib.Path(sys.argv[2])) for name in fuzz.TARGETS}))
sys.exit(hostile_files.main())
"""


def test_mutated_and_hostile_files_raise_the_one_error_and_ask_for_nothing(tmp_path):
    """A small number of what attacks/fuzz.py does a million times, and all of attacks/hostile_files.py."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", ATTACKED, str(PACKAGE.parent / "attacks"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr + "\n".join(line for line in lines if line.startswith("WRONG"))
    assert lines[-1].startswith("34 hostile files, 0 not refused")
    found = json.loads(lines[0])
    assert len(found) == 34
    for name, (accepted, refused, *_, faults) in found.items():
        assert (name, faults) == (name, {})
        assert accepted + refused == 200
        assert refused > 15, name
