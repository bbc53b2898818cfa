"""Writing so that a file is whole or not there."""

from __future__ import annotations

import os
import stat

import pytest

from torchlayer.files.atomic import atomic_write, sweep, temporary_name

DEAD = 4194305  # beyond the kernel's largest pid


def write(path, content=b"new"):
    with atomic_write(path) as f:
        f.write(content)


def test_old_content_is_seen_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with atomic_write(path) as f:
        f.write(b"new")
        f.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def interrupted():
        with atomic_write(path) as f:
            f.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_umask_decides_the_mode_of_a_new_file(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_replaced_file_keeps_its_mode(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "a").chmod(0o600)
    write(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_link_keeps_pointing_and_its_target_changes(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="it is a folder, please give a file name"):
        write(tmp_path)


def test_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        write(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_missing_folder_is_the_usual_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "missing" / "a")


def test_only_the_temporaries_of_the_dead_are_swept(tmp_path):
    target = tmp_path / "a"
    mine = temporary_name(target)
    pid, token = f"-{os.getpid()}-", mine.name.split("-")[2]
    dead = mine.with_name(mine.name.replace(pid, f"-{DEAD}-"))
    parent = mine.with_name(mine.name.replace(pid, f"-{os.getppid()}-"))
    earlier_life = mine.with_name(mine.name.replace(token, "0" * len(token)))  # a restarted container: same pid
    other_machine = dead.with_name(dead.name.replace(dead.name.split(".")[2].split("-")[0], "0" * 8))
    other_file = temporary_name(tmp_path / "b").with_name(dead.name.replace(".a.", ".b."))
    alive = {mine, parent, other_machine, other_file}
    for path in {*alive, dead, earlier_life}:
        path.write_bytes(b"half")
    write(target)
    assert set(tmp_path.iterdir()) == {*alive, target}


def test_sweeping_where_there_is_no_folder_is_quiet(tmp_path):
    sweep(tmp_path / "missing" / "a")
