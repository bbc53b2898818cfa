"""Take disk, memory and working system calls away from `checkpoint.save` and `checkpoint.load`, one after the other.

    python attacks/starve.py            # all that this machine permits
    python attacks/starve.py memory     # one of: disk, calls, memory, forks

disk     a file system that is full after every possible number of blocks (a small tmpfs, for root), and a limit on the
         size of files, at every 512 bytes
calls    each write, fsync, rename, link and creation within a save fails in its turn, once or from then on, with EIO,
         ENOSPC and EDQUOT (needs a C compiler)
memory   a limit of memory, higher and higher until a save and a load succeed
forks    children forked at random instants while another thread saves without a pause, as data workers are

Whatever happens, the error is an OSError or a MemoryError, what `load` returns is the last state that was saved or the
one being saved, no file is left over, and the same process saves again as soon as it may.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import functools
import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from torchlayer import checkpoint

FAILING_CALLS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/types.h>
static int turn, code, lasting, n_calls;
void arm(int turn_, int code_, int lasting_) { turn = turn_, code = code_, lasting = lasting_, n_calls = 0; }
int calls(void) { return n_calls; }
static int fails(void) {
    if (!turn) return 0;
    ++n_calls;
    if (n_calls != turn && !(lasting && n_calls > turn)) return 0;
    errno = code;
    return 1;
}
#define REAL(name) static __typeof__(name)* real; if (!real) real = dlsym(RTLD_NEXT, #name)
ssize_t write(int fd, const void* data, size_t n) { REAL(write); return fails() ? -1 : real(fd, data, n); }
int fsync(int fd) { REAL(fsync); return fails() ? -1 : real(fd); }
int rename(const char* a, const char* b) { REAL(rename); return fails() ? -1 : real(a, b); }
int link(const char* a, const char* b) { REAL(link); return fails() ? -1 : real(a, b); }
#define OPEN(name) \
    int name(const char* path, int flags, ...) { \
        REAL(name); \
        va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
        return flags & O_CREAT && fails() ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
"""


class Broken(Exception):
    """A promise was not kept."""


class Run:
    """A network, saved with a number that counts, and the last number known to be on the disk."""

    def __init__(self, folder: Path, n_units: int = 40) -> None:
        self.path, self.net = folder / "a.ckpt", nn.Sequential(nn.Linear(n_units, n_units), nn.Linear(n_units, 3))
        self.saved, self.said = 0, Counter[str]()
        for self.saved in (1, 2):
            self.save()

    def save(self) -> None:
        checkpoint.save(self.path, model=self.net, position=self.saved, keep=2)

    def attempt(self, limit: Callable[[], contextlib.AbstractContextManager[object]]) -> bool:
        """Save under a limit, then look whether all promises were kept. True if the save succeeded."""
        before, self.saved = self.saved, self.saved + 1
        succeeded = False
        try:
            with limit():
                self.save()
            succeeded = True
        except (OSError, MemoryError) as e:
            self.said[f"{type(e).__name__} {errno.errorcode.get(getattr(e, 'errno', None) or 0, '')}".strip()] += 1
        except Exception as e:
            raise Broken(f"a save raised {type(e).__name__}: {e}") from e
        self.look(before, succeeded)
        return succeeded

    def look(self, before: int, succeeded: bool) -> None:
        found = checkpoint.load(self.path)["position"]
        if found != self.saved and (succeeded or found != before):
            state = "saved" if succeeded else "begun"
            raise Broken(f"{found} was loaded, where {before} had been saved and {self.saved} was {state}")
        older = checkpoint.load(self.path.with_name("a.ckpt.1"))["position"]
        if older > found or older < before - 2:
            raise Broken(f"the older checkpoint is {older} beside {found}")
        self.said["times the older one is the newest again"] += older == found
        strays = set(os.listdir(self.path.parent)) - {"a.ckpt", "a.ckpt.1", "full"}
        if strays:
            raise Broken(f"left over: {sorted(strays)}, after {self.said}")
        self.saved = found


def disk(folder: Path) -> str:
    parts = []
    run, n_bytes = Run(folder), 0
    while not run.attempt(functools.partial(limited, resource.RLIMIT_FSIZE, n_bytes)):
        n_bytes += 512
    parts.append(f"{n_bytes // 512 + 1} limits of a file's size: {said(run)}")
    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(small)], capture_output=True)
    if mounted.returncode:
        return "; ".join([*parts, "no full file system: it takes root to mount one"])
    try:
        run, n_free = Run(small), []
        for n_blocks in range(60):
            filler = small / "full"
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as f:
                while f.write(bytes(4096)):
                    pass
            os.truncate(filler, max(filler.stat().st_size - 4096 * n_blocks, 0))
            n_free.append(run.attempt(contextlib.nullcontext))
            filler.unlink()
        if all(n_free) or not any(n_free):
            raise Broken("the disk was never full, or always")
        run.attempt(contextlib.nullcontext)
        return "; ".join([*parts, f"a file system with 0 to 59 free blocks: {said(run)}"])
    finally:
        subprocess.run(["umount", str(small)], check=True)


def calls(folder: Path) -> str:
    """In a process of its own, beneath the library whose calls fail."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "not run: no C compiler"
    with tempfile.TemporaryDirectory() as scratch:
        source, library = Path(scratch, "failing.c"), Path(scratch, "failing.so")
        source.write_text(FAILING_CALLS)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"], check=True)
        command = [sys.executable, __file__, "--beneath", str(library), str(folder)]
        done = subprocess.run(command, env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True, text=True)
    if done.returncode:
        raise Broken((done.stderr or done.stdout).strip().splitlines()[-1])
    return done.stdout.strip()


def beneath(library: str, folder: Path) -> str:
    failing, run, n_failed = ctypes.CDLL(library), Run(folder), 0
    for code in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
        for lasting in (0, 1):
            for turn in itertools.count(1):
                n_calls: list[int] = []
                run.attempt(functools.partial(armed, failing, turn, code, lasting, n_calls))
                if n_calls[0] < turn:
                    break
                n_failed += 1
    return f"{n_failed} failing calls: {said(run)}"


@contextlib.contextmanager
def armed(failing: ctypes.CDLL, turn: int, code: int, lasting: int, n_calls: list[int]) -> Iterator[None]:
    failing.arm(turn, code, lasting)
    try:
        yield
    finally:
        n_calls.append(failing.calls())
        failing.arm(0, 0, 0)


def memory(folder: Path) -> str:
    run = Run(folder, n_units=3000)  # 36 MB: beyond what malloc keeps for itself
    now, n_saves, n_loads, kinds = 0, 0, 0, Counter[str]()
    while not run.attempt(functools.partial(limited, resource.RLIMIT_AS, in_use() + now)) or n_saves < 20:
        now, n_saves = now + (256 << 10), n_saves + 1
    now = in_a_row = 0
    while in_a_row < 20:
        try:
            with limited(resource.RLIMIT_AS, in_use() + now):
                loaded = checkpoint.load(run.path)["position"]
            if loaded != run.saved:
                raise Broken(f"a load short of memory gave {loaded}, an older checkpoint, in place of {run.saved}")
            in_a_row += 1
        except MemoryError:
            kinds["MemoryError"] += 1
            in_a_row = 0
        except Broken:
            raise
        except Exception as e:
            raise Broken(f"a load raised {type(e).__name__}: {e}") from e
        now, n_loads = now + (256 << 10), n_loads + 1
    return f"{n_saves} saves: {said(run)}; {n_loads} loads: {dict(kinds)}"


def forks(folder: Path, n_forks: int = 500) -> str:
    run, rng, over = Run(folder), random.Random(0), threading.Event()
    n_saves, broken = 0, []

    def save_for_ever() -> None:
        nonlocal n_saves
        try:
            while not over.is_set():
                if not run.attempt(contextlib.nullcontext):
                    raise Broken(f"a save failed: {said(run)}")
                n_saves += 1
        except Exception as e:
            broken.append(e)

    thread = threading.Thread(target=save_for_ever)
    thread.start()
    try:
        for _ in range(n_forks):
            time.sleep(0.004 * rng.random())
            child = os.fork()
            if child == 0:
                time.sleep(0.002)
                os._exit(0)
            os.waitpid(child, 0)
    finally:
        over.set()
        thread.join()
    if broken:
        raise broken[0]
    return f"{n_forks} forks during {n_saves} saves"


def said(run: Run) -> str:
    return ", ".join(f"{n} {what}" for what, n in sorted(run.said.items()) if n) or "none failed"


def in_use() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@contextlib.contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


ATTACKS = {"disk": disk, "calls": calls, "memory": memory, "forks": forks}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(ATTACKS)}; default: all")
    parser.add_argument("--beneath", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.beneath:
        print(beneath(args.beneath[0], Path(args.beneath[1])))
        return 0
    n_broken = 0
    for name in args.attacks or ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(f"{name}: {ATTACKS[name](Path(folder))}", flush=True)
            except Broken as e:
                print(f"WRONG {name}: {e}", flush=True)
                n_broken += 1
    return 1 if n_broken else 0


if __name__ == "__main__":
    sys.exit(main())
