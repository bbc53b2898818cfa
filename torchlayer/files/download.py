"""Files from the network: verified before they get their name, resumed after a break.

``TORCHLAYER_OFFLINE=1`` forbids the network.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import ipaddress
import os
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

from .._version import __version__
from .archive import extract as extract_archive
from .atomic import DISK_ERRORS, sync_folder
from .errors import FileFormatError

try:
    import fcntl
except ImportError:  # not a POSIX system: two processes may then both download
    fcntl = None

_CHUNK = 1 << 16
_SLOWEST = 1 << 10  # bytes a second, below which a server counts as silent
_MOST_BREAKS = 100  # of one address; a server that breaks off again and again must come to an end, too
_MOST_BYTES = 20 * 10**9  # of a file whose size nobody told


def download(
    name: str,
    folder: str | os.PathLike[str],
    urls: Sequence[str],
    sha256: str | None = None,
    size: int | None = None,
    *,
    timeout_seconds: float = 30.0,
) -> Path:
    """Make sure that ``folder`` holds the file ``name``, downloading it if it does not, and return its path.

    The bytes go to ``name.part``. Size and hash are checked there, and only then does the file get its name; so a file
    under that name is complete. A ``.part`` left by a break or Ctrl-C is continued. Several processes that want the
    same file download it once.

    Args:
        name: the file's name.
        folder: where it goes; made if missing.
        urls: addresses of the file, tried in order. Only https, and http from this machine itself.
        sha256: hexadecimal digest the file must have; ``None`` trusts the server.
        size: bytes the file must have; ``None`` trusts the server.
        timeout_seconds: how long a server may be silent, or send less than a kilobyte a second.

    Raises:
        FileNotFoundError: no address gave the file, or the network is forbidden; the text says where to put it.
        FileFormatError: a file of that name is there and has another size.
        OSError: the disk is full or cannot be written.
    """
    if name in ("", "..") or Path(name).name != name:
        raise ValueError(f"'{name}' is not a plain file name")
    for url in urls:
        if not _allowed(url):
            raise ValueError(f"'{url}' is refused: only https, so that nobody on the way can change the file")
    target = Path(folder).expanduser() / name
    if target.exists():
        if size is not None and target.stat().st_size != size:
            reason = f"it has {target.stat().st_size} bytes, expected {size}; delete it to download it again"
            raise FileFormatError(target, reason)
        return target
    if offline():
        raise _missing(target, "TORCHLAYER_OFFLINE is set, so nothing was downloaded", urls)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked_part(target) as part:
        if part is not None:
            _first_good(part, target, urls, sha256, size, timeout_seconds)
    return target


def maybe_download_and_extract(
    filename: str,
    working_directory: str | os.PathLike[str],
    url_source: str,
    extract: bool = False,
    expected_bytes: int | None = None,
    sha256: str | None = None,
) -> str:
    """Download ``url_source + filename`` into a folder unless it is there, unpack it if asked, and return its path.

    Args:
        filename: the file's name.
        working_directory: where it goes, and where its members go.
        url_source: address of the folder on the server; it ends in ``/``.
        extract: unpack the tar or zip; members that are there already stay as they are.
        expected_bytes: size the file must have.
        sha256: hexadecimal digest the file must have.

    Raises:
        FileNotFoundError: as `download` says.
        FileFormatError: as `download` and `extract` say.
        OSError: as both say.
    """
    path = download(filename, working_directory, [url_source + filename], sha256, expected_bytes)
    if extract:
        extract_archive(path, working_directory)
    return str(path)


def offline() -> bool:
    """True where the environment forbids the network."""
    return os.environ.get("TORCHLAYER_OFFLINE", "") not in ("", "0")


def _missing(target: Path, why: str, urls: Sequence[str]) -> FileNotFoundError:
    return FileNotFoundError(
        f"'{target.name}' is not in '{target.parent}', and {why}. "
        f"Please fetch it from {' or '.join(urls)} and put it into that folder"
    )


@contextlib.contextmanager
def _locked_part(target: Path) -> Iterator[BinaryIO | None]:
    """Open ``target``'s ``.part`` for this process alone, or give ``None`` if another one has just finished."""
    path = target.with_name(target.name + ".part")
    while True:
        with open(path, "a+b") as part:
            if fcntl is not None:
                fcntl.flock(part, fcntl.LOCK_EX)  # the kernel drops it when the holder dies
                if not _is_open_at(part, path) and not target.exists():
                    continue  # the holder we waited for gave up and removed the name we hold
            try:
                yield None if target.exists() else part
            finally:
                part.flush()
                if _is_open_at(part, path) and os.path.getsize(path) == 0:
                    path.unlink()
                    _tag_of(path).unlink(missing_ok=True)
                if fcntl is not None:
                    fcntl.flock(part, fcntl.LOCK_UN)  # closing is not enough: a forked process may have it open, too
        return


def _tag_of(part: Path) -> Path:
    """Where it is kept which version of the file the part is of."""
    return part.with_name(part.name + ".tag")


def _is_open_at(f: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(f.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _first_good(
    part: BinaryIO, target: Path, urls: Sequence[str], sha256: str | None, size: int | None, timeout_seconds: float
) -> None:
    """Fill ``part`` from the first address that serves the right file, and give it its name."""
    tag = _tag_of(Path(part.name))
    problems: list[str] = []
    for url in urls:
        source = _Source(url, part, tag, target.name, sha256, size, timeout_seconds)
        for _ in range(2):
            try:
                continued = source.fetch()
            except (OSError, http.client.HTTPException) as e:
                if isinstance(e, OSError) and e.errno in DISK_ERRORS:
                    raise  # another mirror cannot help
                problems.append(f"{url}: {_said(e)}")
                break
            if sha256 is None or _digest(part) == sha256:
                part.flush()
                os.fsync(part.fileno())
                os.replace(part.name, target)
                tag.unlink(missing_ok=True)
                sync_folder(target.parent)
                return
            part.truncate(0)
            problems.append(f"{url}: the file has another sha256 than {sha256}")
            if not continued:
                break  # else the old part may have been the wrong one: once more from the start
    raise _missing(target, "could not be downloaded (" + "; ".join(problems or ["no address given"]) + ")", urls)


class _Source:
    """One address of the file, and the part that it fills."""

    def __init__(
        self,
        url: str,
        part: BinaryIO,
        tag: Path,
        label: str,
        sha256: str | None,
        size: int | None,
        timeout_seconds: float,
    ) -> None:
        self.url, self.part, self.tag, self.label = url, part, tag, label
        self.sha256, self.size, self.timeout_seconds = sha256, size, timeout_seconds
        handlers = [_Redirects, _Http, _Https, *([_no_proxy()] if _is_loopback(url) else [])]
        self.opener = urllib.request.build_opener(*handlers)

    def fetch(self) -> bool:
        """Bring the part to its full length. True if bytes were used that lay there before."""
        before = self._length()
        if before and not self._may_continue(before):
            self.part.truncate(0)
            before = 0
        continued, n_breaks, known = before > 0, 0, None
        while not (self.size is not None and self._length() == self.size):
            start = self._length()
            with self._ask(start) as response:
                if start and response.status == 200:  # no ranges here, or the file has changed
                    self.part.truncate(0)
                    start, continued = 0, False
                total = self._total(response, start)
                if start and known not in (None, total):
                    raise ConnectionError(f"the file there had {known} bytes and has {total} now")
                known = total
                _check_space(Path(self.tag).parent, total, start)
                if start == 0:
                    self._remember(response)
                broken = self._copy(response, start, total)
            if broken is None:
                break
            n_breaks += 1
            if self._length() == start or n_breaks > _MOST_BREAKS:
                raise broken  # not one byte more, or a byte at a time: asking again would never end
        return continued

    def _length(self) -> int:
        return self.part.seek(0, os.SEEK_END)

    def _may_continue(self, length: int) -> bool:
        """Old bytes are used if the server can be asked whether the file is still the same, or if a hash will tell."""
        if self.size is not None and length > self.size:
            return False
        return self.sha256 is not None or self._validator() is not None

    def _ask(self, start: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": f"torchlayer/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if validator := self._validator():
                headers["If-Range"] = validator
        try:
            return self.opener.open(urllib.request.Request(self.url, headers=headers), timeout=self.timeout_seconds)
        except urllib.error.HTTPError as e:
            e.close()
            if e.code != 416 or not start:
                raise
        self.part.truncate(0)  # 416: the file there is not longer than what we have
        return self._ask(0)

    def _total(self, response: http.client.HTTPResponse, start: int) -> int | None:
        """Length of the whole file, and a check that the answer is what was asked for."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise ConnectionError(f"the server packed the file ({response.headers['Content-Encoding']})")
        total: int | None = None
        if response.status == 206:
            answer = response.headers.get("Content-Range", "")
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer)
            if match is None or int(match[1]) != start or not start:
                raise ConnectionError(f"the server sent range '{answer}' when asked for {start} and beyond")
            total, tag, validator = int(match[2]), response.headers.get("ETag"), self._validator() or ""
            if tag is not None and validator.startswith('"') and tag != validator:
                raise ConnectionError("the file there has changed since its first part was sent")
        elif response.status == 200:
            announced = response.headers.get("Content-Length", "")
            total = int(announced) if announced.isdecimal() else None
        else:
            raise ConnectionError(f"the server answered {response.status}")
        if total is not None and self.size is not None and total != self.size:
            raise ConnectionError(f"the file there has {total} bytes, expected {self.size}")
        return self.size if total is None else total

    def _copy(self, response: http.client.HTTPResponse, start: int, total: int | None) -> Exception | None:
        """Append the body. Returns what broke it off, ``None`` if it came whole."""
        n_bytes = start
        most = min(_MOST_BYTES, int(0.9 * shutil.disk_usage(self.tag.parent).free) + start) if total is None else total
        since, n_since = time.monotonic(), start
        with tqdm(
            total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024, desc=self.label, disable=None
        ) as bar:
            while True:
                try:
                    chunk = response.read1(_CHUNK)  # what has arrived; read() would wait for all of it
                except (OSError, http.client.HTTPException) as e:
                    return e
                if not chunk:
                    break
                n_bytes += len(chunk)
                if n_bytes > most:
                    raise ConnectionError(f"the server sent more than the {most} bytes expected")
                self.part.write(chunk)
                bar.update(len(chunk))
                seconds = time.monotonic() - since
                if seconds > self.timeout_seconds:
                    if n_bytes - n_since < _SLOWEST * seconds:
                        raise TimeoutError(f"the server sent {n_bytes - n_since} bytes in {seconds:.0f} seconds")
                    since, n_since = time.monotonic(), n_bytes
        return (
            None if n_bytes == total or total is None else ConnectionError(f"broken off at {n_bytes} of {total} bytes")
        )

    def _remember(self, response: http.client.HTTPResponse) -> None:
        """Keep what identifies this version of the file on this server, for If-Range."""
        etag = response.headers.get("ETag", "")
        validator = (
            etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        )  # a weak tag may not serve
        self.tag.write_text(f"{self.url}\n{validator}\n", encoding="utf-8")

    def _validator(self) -> str | None:
        try:
            url, validator, *_ = self.tag.read_text(encoding="utf-8").split("\n")
        except (FileNotFoundError, ValueError):
            return None
        return validator or None if url == self.url else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else, nor from outside to this machine."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not _allowed(newurl) or (_is_loopback(newurl) and not _is_loopback(req.full_url)):
            fp.close()
            raise ConnectionError(f"the redirect to '{newurl}' is refused: only https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Punctual(http.client.HTTPConnection):
    """The head of an answer comes within the timeout, or not at all; by itself that is the time between two bytes."""

    def getresponse(self) -> http.client.HTTPResponse:
        late = threading.Event()

        def hang_up(sock: socket.socket) -> None:
            late.set()
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # an SSL socket's own method is not for two threads

        timer = threading.Timer(self.timeout or 0, hang_up, (self.sock,))
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()
        except (OSError, http.client.HTTPException):
            if not late.is_set():
                raise
        finally:
            timer.cancel()
        if late.is_set():  # what was read of the head looks whole
            raise TimeoutError(f"the server did not answer within {self.timeout:g} seconds")
        return response


class _PunctualHttps(http.client.HTTPSConnection, _Punctual):
    pass


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Punctual, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PunctualHttps, req)


def _allowed(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(url)))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _no_proxy() -> urllib.request.ProxyHandler:
    return urllib.request.ProxyHandler({})


def _check_space(folder: Path, total: int | None, start: int) -> None:
    free = shutil.disk_usage(folder).free
    if total is not None and free < total - start:
        raise OSError(errno.ENOSPC, f"{total - start} bytes are needed and {free} are free", str(folder))


def _digest(part: BinaryIO) -> str:
    part.seek(0)
    digest = hashlib.sha256()
    while chunk := part.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _said(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
