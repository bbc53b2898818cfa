"""Downloads from a server on this machine that misbehaves on demand."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import http.client
import http.server
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from torchlayer import files
from torchlayer.files.download import _Https, _locked_part, download, maybe_download_and_extract

BODY = bytes(range(256)) * 1024  # 256 KiB: several reads of the client
SHA256, SIZE = hashlib.sha256(BODY).hexdigest(), len(BODY)


class Server(http.server.ThreadingHTTPServer):
    """Serves BODY at every path; ``faults`` maps a path to a function that answers instead, once or for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: dict = {}
        self.log: list[tuple[str, str | None]] = []
        self.body, self.etag = BODY, '"v1"'
        self.root = f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.log.append((self.path, self.headers.get("Range")))
        fault = self.server.faults.get(self.path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client may have heard enough
            if fault is None or fault(self):
                self.answer()

    def answer(self, ranges=True, length=None, stop=None, status=200, body=None):
        body, wanted = body or self.server.body, self.headers.get("Range")
        start = 0
        if ranges and wanted and self.headers.get("If-Range") in (None, self.server.etag):
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(body):
                return self.send_error(416)
        self.send_response(status)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(body) - start if length is None else length))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.wfile.write(body[start:stop])
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("TORCHLAYER_OFFLINE", raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server, folder, paths=("a.bin",), sha256: str | None = SHA256, size: int | None = SIZE):
    return download("a.bin", folder, [server.root + path for path in paths], sha256, size, timeout_seconds=5)


def leave_part(folder, content, tag=None):
    (folder / "a.bin.part").write_bytes(content)
    if tag is not None:
        (folder / "a.bin.part.tag").write_text(tag)


def test_file_arrives_whole_and_alone(server, tmp_path):
    path = fetch(server, tmp_path / "new" / "folder")
    assert path.read_bytes() == BODY
    assert os.listdir(path.parent) == ["a.bin"]


def test_present_file_is_not_asked_for_again(server, tmp_path):
    fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert len(server.log) == 1


def test_present_file_of_another_size_is_reported_and_kept(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(files.FileFormatError, match=r"a\.bin.*4 bytes, expected 262144; delete it"):
        fetch(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"


@pytest.mark.parametrize("length", [None, 262144], ids=["length unknown", "length known"])
def test_file_without_a_pinned_hash_is_trusted(server, tmp_path, length):
    assert fetch(server, tmp_path, sha256=None, size=length).read_bytes() == BODY


def cut(handler):
    """The first answer breaks off half way, the next is good."""
    handler.server.faults.clear()
    handler.answer(stop=100_000)


def nothing_more(handler):
    if handler.headers.get("Range"):
        handler.answer(stop=0)
    else:
        handler.answer(stop=100_000)


def test_broken_connection_is_resumed_where_it_broke(server, tmp_path):
    server.faults["/a.bin"] = cut
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert [wanted for _, wanted in server.log] == [None, "bytes=100000-"]


def test_server_that_sends_no_more_is_given_up_and_the_part_kept(server, tmp_path):
    server.faults["/a.bin"] = nothing_more
    with pytest.raises(
        FileNotFoundError, match=r"a\.bin.*broken off at 100000 of 262144 bytes.*put it into that folder"
    ):
        fetch(server, tmp_path)
    assert (tmp_path / "a.bin.part").read_bytes() == BODY[:100_000]
    server.faults.clear()
    assert fetch(server, tmp_path).read_bytes() == BODY  # and the next call goes on
    assert server.log[-1][1] == "bytes=100000-"


def test_part_without_a_tag_is_continued_because_the_hash_will_tell(server, tmp_path):
    leave_part(tmp_path, BODY[:1000])
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.log == [("/a.bin", "bytes=1000-")]


def test_part_without_a_tag_or_a_hash_is_not_trusted(server, tmp_path):
    leave_part(tmp_path, b"x" * 1000)
    assert fetch(server, tmp_path, sha256=None).read_bytes() == BODY
    assert server.log == [("/a.bin", None)]


def test_changed_file_is_fetched_from_the_start(server, tmp_path):
    leave_part(tmp_path, b"x" * 1000, f'{server.root}a.bin\n"v0"\n')  # of a version the server no longer has
    assert fetch(server, tmp_path, sha256=None).read_bytes() == BODY
    assert server.log == [("/a.bin", "bytes=1000-")]  # answered with 200 and everything


def test_server_that_ignores_ranges_is_read_from_the_start(server, tmp_path):
    leave_part(tmp_path, BODY[:1000])
    server.faults["/a.bin"] = lambda handler: handler.answer(ranges=False)
    assert fetch(server, tmp_path).read_bytes() == BODY


def test_rotten_part_is_thrown_away_after_the_hash_failed(server, tmp_path):
    leave_part(tmp_path, b"x" * 1000)
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert [wanted for _, wanted in server.log] == ["bytes=1000-", None]


def test_complete_part_needs_no_network(server, tmp_path):
    leave_part(tmp_path, BODY)
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.log == []


def test_too_long_part_is_thrown_away(server, tmp_path):
    leave_part(tmp_path, BODY + b"x")
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.log == [("/a.bin", None)]


def test_part_as_long_as_the_file_of_unknown_size_is_asked_for_and_refetched(server, tmp_path):
    leave_part(tmp_path, BODY, f'{server.root}a.bin\n"v1"\n')
    assert fetch(server, tmp_path, sha256=None, size=None).read_bytes() == BODY  # by way of 416
    assert [wanted for _, wanted in server.log] == [f"bytes={len(BODY)}-", None]


def respond(status, **headers):
    def fault(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return fault


def hang_up(handler):
    handler.close_connection = True


def wrong_bytes(handler):
    handler.answer(body=b"y" * len(BODY))


def shorter(handler):
    handler.answer(body=BODY[:-1])


def without_length_and_endless(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(BODY + b"more")


def wrong_range(handler):
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 5-{len(BODY) - 1}/{len(BODY)}")
    handler.send_header("Content-Length", str(len(BODY) - 5))
    handler.end_headers()
    handler.wfile.write(BODY[5:])


def raw(*pieces, pause=0.0):
    """Bytes past all that the server's library does."""

    def fault(handler):
        handler.close_connection = True
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(pause)

    return fault


def reset(handler):
    """Half of the body, then RST instead of FIN."""
    handler.answer(stop=100_000)
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

FAULTS = [
    ("error of the server", respond(500), "answered 500"),
    ("bad gateway", respond(502), "answered 502"),
    ("forbidden", respond(403), "answered 403"),
    ("gone", respond(410), "answered 410"),
    ("redirected to nowhere", respond(302), "answered 302"),
    ("redirected to ftp", respond(302, Location="ftp://127.0.0.1/a.bin"), "is refused"),
    ("a range that was not asked for at all", respond(206), "sent range '' when asked for 0"),
    ("continue for ever", raw(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * 50), "Remote end closed|status line"),
    ("no HTTP", raw(b"220 ready for mail\r\n\r\n"), "220 ready"),
    ("an endless header", raw(HEAD + b"X: " + b"y" * 70_000), "header line"),
    ("a thousand headers", raw(HEAD + b"X: y\r\n" * 1000), "more than 100 headers"),
    ("chunks without a number", raw(CHUNKED + b"zz\r\n"), "another sha256|IncompleteRead|broken off"),
    ("a chunk cut off", raw(CHUNKED + b"ffff\r\nabc"), "IncompleteRead|broken off|another sha256"),
    ("a negative length", raw(HEAD + b"Content-Length: -5\r\n\r\n"), "broken off at 0|another sha256"),
    ("two lengths", raw(HEAD + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\nhello"), "has 5 bytes"),
    ("a page of html", lambda h: h.answer(body=b"<html>Please log in</html>"), "has 26 bytes, expected 262144"),
    ("reset half way, always", reset, "reset|broken off"),
    ("not found", respond(404), "answered 404"),
    ("busy", respond(503), "answered 503"),
    ("too many", respond(429), "answered 429"),
    ("redirected to plain http", respond(302, Location="http://example.com/a.bin"), "redirect to .* is refused"),
    ("redirected to a file", respond(301, Location="file:///etc/passwd"), "'file:///etc/passwd' is not allowed"),
    ("redirected for ever", respond(302, Location="/bad"), "infinite loop"),
    ("packed", respond(200, Content_Encoding="gzip"), r"packed the file \(gzip\)"),
    ("no content", respond(204), "answered 204"),
    ("hangs up", hang_up, "Remote end closed connection"),
    ("wrong bytes", wrong_bytes, "another sha256"),
    ("wrong length", shorter, "has 262143 bytes, expected 262144"),
    ("goes on and on", without_length_and_endless, "more than the 262144 bytes"),
    ("a range nobody asked for", wrong_range, "sent range"),
]


@pytest.mark.parametrize(("fault", "text"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_bad_answer_is_named_and_leaves_nothing(server, tmp_path, fault, text):
    server.faults["/bad"] = fault
    with pytest.raises(FileNotFoundError, match=f"(?s)could not be downloaded.*/bad: .*{text}"):
        fetch(server, tmp_path, ["bad"])
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("fault", [row[1] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_next_mirror_makes_up_for_a_bad_one(server, tmp_path, fault):
    server.faults["/bad"] = fault
    assert fetch(server, tmp_path, ["bad", "good"]).read_bytes() == BODY
    assert os.listdir(tmp_path) == ["a.bin"]


DRIPS = [
    ("the head", raw(HEAD, *[b"X: y\r\n"] * 40, pause=0.05), "did not answer within 0.3 seconds"),
    ("the body", raw(HEAD + b"\r\n", *[b"x"] * 40, pause=0.05), r"sent \d bytes in 0 seconds"),
    ("nothing at all", lambda handler: time.sleep(1), "did not answer within 0.3|timed out"),
]


@pytest.mark.parametrize(("fault", "text"), [row[1:] for row in DRIPS], ids=[row[0] for row in DRIPS])
def test_server_that_drips_is_given_up(server, tmp_path, fault, text):
    """By itself a timeout is the time between two bytes, so a byte now and then would hold us for ever."""
    server.faults["/bad"] = fault
    with pytest.raises(FileNotFoundError, match=text):
        download("a.bin", tmp_path, [server.root + "bad"], timeout_seconds=0.3)
    assert download(
        "a.bin", tmp_path, [server.root + "bad", server.root + "good"], SHA256, timeout_seconds=0.3
    ).exists()


def test_server_that_sends_a_byte_at_each_request_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr("torchlayer.files.download._MOST_BREAKS", 5)

    def one_byte(handler):
        start = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        handler.answer(stop=start + 1)

    server.faults["/a.bin"] = one_byte
    with pytest.raises(FileNotFoundError, match="broken off at 6 of 262144 bytes"):
        fetch(server, tmp_path)
    assert len(server.log) == 6


def test_endless_file_of_unknown_size_ends(server, tmp_path, monkeypatch):
    monkeypatch.setattr("torchlayer.files.download._MOST_BYTES", 1_000_000)
    server.faults["/a.bin"] = raw(HEAD + b"\r\n", *[bytes(1 << 17)] * 50)
    with pytest.raises(FileNotFoundError, match="more than the 1000000 bytes"):
        fetch(server, tmp_path, sha256=None, size=None)


def change_and_ignore_if_range(**changes):
    """The first half of one version, then, whatever it was asked, the rest of another."""

    def fault(handler):
        if not handler.headers.get("Range"):
            return handler.answer(stop=100_000)
        for name, value in changes.items():
            setattr(handler.server, name, value)
        handler.headers.replace_header("If-Range", handler.server.etag)
        return handler.answer()

    return fault


CHANGES = [
    ({"body": b"y" * SIZE, "etag": '"v2"'}, "has changed since its first part was sent"),
    ({"body": b"y" * (SIZE + 9)}, f"had {SIZE} bytes and has {SIZE + 9} now"),
]


@pytest.mark.parametrize(("changes", "text"), CHANGES, ids=["tag", "length"])
def test_two_versions_are_never_mixed_even_without_a_hash(server, tmp_path, changes, text):
    server.faults["/a.bin"] = change_and_ignore_if_range(**changes)
    with pytest.raises(FileNotFoundError, match=text):
        fetch(server, tmp_path, sha256=None, size=None)
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_downloads_are_continued_and_never_wrong(server, tmp_path):
    server.body = BODY * 8
    whole = hashlib.sha256(server.body).hexdigest()

    def slowly(handler):
        handler.answer(stop=0)
        start = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        for at in range(start, len(server.body), 1 << 16):
            handler.wfile.write(server.body[at : at + (1 << 16)])
            time.sleep(0.002)

    server.faults["/a.bin"] = slowly
    parts = []
    for i in range(6):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                fetch(server, tmp_path, sha256=whole, size=len(server.body))
            os._exit(0)
        time.sleep(0.005 + 0.006 * i)
        os.kill(child, 9)
        os.waitpid(child, 0)
        part = tmp_path / "a.bin.part"
        parts.append(part.stat().st_size if part.exists() else 0)
        if (tmp_path / "a.bin").exists():
            break
    assert parts == sorted(parts) or (tmp_path / "a.bin").exists()
    assert fetch(server, tmp_path, sha256=whole, size=len(server.body)).read_bytes() == server.body
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_meanwhile_keeps_nobody_waiting(tmp_path):
    import fcntl

    part = tmp_path / "a.bin.part"
    with _locked_part(tmp_path / "a.bin") as f:
        f.write(b"a piece")
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        with open(part, "rb") as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


ATTACKED = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import kill_downloads
print(kill_downloads.attack(pathlib.Path(sys.argv[2]), 12, 2)._asdict())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_crowd_downloads_once_and_outlives_the_one_that_does(tmp_path, monkeypatch):
    """A small number of what attacks/kill_downloads.py does."""
    root = Path(files.__file__).parents[2]
    monkeypatch.delenv("TORCHLAYER_OFFLINE", raising=False)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "ignore", "-c", ATTACKED, str(root / "attacks"), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    found = ast.literal_eval(run.stdout)
    assert found["wrong"] == []
    assert found["kills"] >= 12
    assert found["requests"] == found["crowds"] == 2


def test_mirror_goes_on_with_what_another_one_began(server, tmp_path):
    server.faults["/bad"] = nothing_more
    assert fetch(server, tmp_path, ["bad", "good"]).read_bytes() == BODY
    assert server.log[-1] == ("/good", "bytes=100000-")


def test_unreachable_server_is_named(tmp_path, server):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{s.getsockname()[1]}/a.bin"
        with pytest.raises(FileNotFoundError, match="refused"):
            download("a.bin", tmp_path, [url])


def test_redirect_is_followed(server, tmp_path):
    server.faults["/moved"] = respond(302, Location="/a.bin")
    assert fetch(server, tmp_path, ["moved"]).read_bytes() == BODY


@pytest.mark.parametrize("place", ["http://example.com/a.bin", "{root}a.bin"], ids=["outside", "this machine"])
def test_https_is_never_redirected_to_http(server, tmp_path, monkeypatch, place):
    """An https address, answered by our plain server in place of a real one, sends us on to http."""

    def plain(self, request):
        host = server.root.split("/")[2]
        return self.do_open(lambda _, **options: http.client.HTTPConnection(host, timeout=5), request)

    monkeypatch.setattr(_Https, "https_open", plain)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url = "https://example.org/moved"
    server.faults["/moved"] = respond(302, Location=place.format(root=server.root))
    with pytest.raises(FileNotFoundError, match=r"redirect to 'http://.* is refused: only https"):
        download("a.bin", tmp_path, [url], SHA256, len(BODY))
    assert [path for path, _ in server.log] == ["/moved"]
    server.faults.clear()
    assert download("a.bin", tmp_path, [url], SHA256, len(BODY)).read_bytes() == BODY  # the stand-in works


@pytest.mark.parametrize(
    "url", ["http://example.com/a", "ftp://example.com/a", "file:///etc/passwd", "https:///a", "a"]
)
def test_insecure_address_is_refused_before_anything_happens(tmp_path, url):
    with pytest.raises(ValueError, match="refused: only https"):
        download("a.bin", tmp_path / "new", [url])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a"])
def test_name_must_be_a_plain_name(tmp_path, name):
    with pytest.raises(ValueError, match="not a plain file name"):
        download(name, tmp_path, ["https://example.com/a"])


def test_offline_says_what_to_fetch_and_where_to_put_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHLAYER_OFFLINE", "1")
    with pytest.raises(FileNotFoundError) as error:
        fetch(server, tmp_path)
    for part in ("a.bin", str(tmp_path), "TORCHLAYER_OFFLINE", server.root, "put it into that folder"):
        assert part in str(error.value)
    assert server.log == []


def test_offline_is_happy_with_a_present_file(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHLAYER_OFFLINE", "1")
    (tmp_path / "a.bin").write_bytes(BODY)
    assert fetch(server, tmp_path).read_bytes() == BODY


def test_full_disk_is_found_before_the_download(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="262144 bytes are needed and 1 are free"):
        fetch(server, tmp_path, ["a.bin", "another"])
    assert [path for path, _ in server.log] == ["/a.bin"]  # another mirror would not help
    assert os.listdir(tmp_path) == []


def test_interrupt_leaves_a_part_that_is_continued(server, tmp_path, monkeypatch):
    from torchlayer.files.download import tqdm

    def interrupted(bar, n):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tqdm, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path)
    done = (tmp_path / "a.bin.part").stat().st_size
    assert 0 < done < len(BODY)
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.log[-1] == ("/a.bin", f"bytes={done}-")


def test_progress_is_silent_where_nobody_watches(server, tmp_path, capfd):
    fetch(server, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_four_threads_download_once(server, tmp_path):
    threads = [threading.Thread(target=fetch, args=(server, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert len(server.log) == 1
    assert os.listdir(tmp_path) == ["a.bin"]


def test_waiting_process_takes_over_when_the_first_one_fails(server, tmp_path):
    """The one that fails removes its part while others wait for the lock on it."""
    failures = iter([True, True, True])

    def fails_three_times(handler):
        if next(failures, False):
            handler.send_error(503)
            return False
        return True

    server.faults["/a.bin"] = fails_three_times
    errors = []

    def attempt():
        try:
            fetch(server, tmp_path)
        except FileNotFoundError as e:
            errors.append(e)

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert len(errors) == 3
    assert os.listdir(tmp_path) == ["a.bin"]


def test_original_name_joins_address_and_file_name(server, tmp_path):
    path = maybe_download_and_extract("a.bin", str(tmp_path), server.root + "sub/", expected_bytes=len(BODY))
    assert path == str(tmp_path / "a.bin")
    assert server.log == [("/sub/a.bin", None)]


def test_original_name_unpacks_an_archive_that_was_there_before(server, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("sub/b.txt", "text")
    maybe_download_and_extract("a.zip", tmp_path, server.root, extract=True)
    assert (tmp_path / "sub" / "b.txt").read_text() == "text"
    assert server.log == []
