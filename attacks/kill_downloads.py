"""Kill downloads at random instants, and let a crowd of processes ask for one file; the server is on this machine.

    python attacks/kill_downloads.py                      # 200 kills, 50 crowds of 8
    python attacks/kill_downloads.py --kills 50 --crowds 10

After each kill the file must be absent or right. The next process goes on where the killed one stood, so the server
must send little more than the file; in a crowd one downloads and the others wait, and where that one is killed another
takes over. In the end nothing but the file may be left.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.server
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torchlayer.files.download import download

BODY = random.Random(0).randbytes(2 << 20)
SHA256 = hashlib.sha256(BODY).hexdigest()
N_CROWD = 8


class Result(NamedTuple):
    kills: int
    caught: int  # kills that left a part
    files: int  # times the whole file came
    sent: float  # bytes of the server for each byte of these files
    crowds: int
    requests: int  # of undisturbed crowds; one each
    wrong: list[str]


class Server(NamedTuple):
    url: str
    counts: mmap.mmap

    def requests_and_bytes(self) -> tuple[int, int]:
        return struct.unpack("qq", self.counts[:])


class Handler(http.server.BaseHTTPRequestHandler):
    counts: mmap.mmap

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.count(1, 0)
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(BODY) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for at in range(start, len(BODY), 1 << 16):
                self.count(0, self.wfile.write(BODY[at : at + (1 << 16)]))
                time.sleep(0.002)

    def count(self, requests: int, n_bytes: int) -> None:
        before = struct.unpack("qq", self.counts[:])  # by several threads; a lost count matters to no check
        self.counts[:] = struct.pack("qq", before[0] + requests, before[1] + n_bytes)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server in a process of its own: one with threads is not to be forked."""
    Handler.counts = mmap.mmap(-1, 16)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.request_queue_size = 64
    child = os.fork()
    if child == 0:
        server.serve_forever()
    server.server_close()
    try:
        yield Server(f"http://127.0.0.1:{server.server_address[1]}/a.bin", Handler.counts)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def start(server: Server, folder: Path) -> int:
    """A process that downloads; its pid."""
    child = os.fork()
    if child:
        return child
    status = 1
    with contextlib.suppress(BaseException):
        download("a.bin", folder, [server.url], SHA256, len(BODY), timeout_seconds=10)
        status = 0
    os._exit(status)


def attack(folder: Path, n_kills: int, n_crowds: int, seed: int = 0) -> Result:
    rng, target, part, wrong = random.Random(seed), folder / "a.bin", folder / "a.bin.part", list[str]()

    def finished() -> bool:
        """Whether the file is there; if so it is looked at, and removed for the next round."""
        if not target.exists():
            return False
        if target.read_bytes() != BODY:
            wrong.append("a file that is not the right one")
        if strays := sorted(set(os.listdir(folder)) - {"a.bin"}):
            wrong.append(f"left over beside the file: {strays}")
        target.unlink()
        return True

    kills = caught = n_files = 0
    with serving() as server:
        while kills < n_kills:
            pids = [start(server, folder) for _ in range(rng.choice((1, 1, N_CROWD)))]
            time.sleep(0.08 * rng.random())
            victims = rng.sample(pids, rng.randint(1, len(pids)))
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            kills += len(victims)
            statuses = {pid: os.waitpid(pid, 0)[1] for pid in pids}
            ended = [statuses[pid] for pid in pids if pid not in victims]
            wrong += [f"a process left alone ended with {status}" for status in ended if status]
            caught += part.exists()
            if ended and not target.exists():
                wrong.append("no file, though processes were left alone")
            n_files += finished()
        if os.waitpid(start(server, folder), 0)[1]:
            wrong.append("the last download failed")
        n_files += finished()
        _, n_bytes = server.requests_and_bytes()
    with serving() as server:
        for _ in range(n_crowds):
            pids = [start(server, folder) for _ in range(N_CROWD)]
            wrong += [f"one of a crowd ended with {s}" for s in (os.waitpid(pid, 0)[1] for pid in pids) if s]
            if not finished():
                wrong.append("no file from a crowd")
        requests, _ = server.requests_and_bytes()
    if requests != n_crowds:
        wrong.append(f"{requests} requests from {n_crowds} crowds")
    return Result(kills, caught, n_files, n_bytes / n_files / len(BODY), n_crowds, requests, wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--crowds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.pop("TORCHLAYER_OFFLINE", None)
    with tempfile.TemporaryDirectory() as folder:
        found = attack(Path(folder), args.kills, args.crowds, args.seed)
    print(f"{found.kills} kills, {found.caught} times a part was left; {found.files} files came of it", end=", ")
    print(f"of which the server sent {found.sent:.2f} times the bytes")
    print(f"{found.crowds} crowds of {N_CROWD}: {found.requests} requests")
    print(f"wrong: {'; '.join(sorted(set(found.wrong))) or 'nothing'}")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
