"""Which process serves over a state directory: the lock, the status, and what a reader believes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from processlab import PATIENCE, until
from twogate.adapters import serving
from twogate.adapters.serving import (
    LOCK,
    MAX_STATUS,
    STATUS,
    Problem,
    Reload,
    Serving,
    ServingError,
    Status,
    find_serving,
)

ME = Status(pid=4711, started=1_700_000_000, generation="abc", config="/etc/twogate.yaml")

# Takes the lock, publishes, says so, and waits to be killed.
HOLDER = """
import sys
from pathlib import Path
from twogate.adapters.serving import Serving, Status
held = Serving(Path(sys.argv[1]))
held.publish(Status(4711, 1, "abc", "/etc/twogate.yaml"))
print("held", flush=True)
sys.stdin.read()
"""


def test_who_serves_is_found_with_all_it_said(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    assert find_serving(directory) is None
    held = Serving(directory)
    assert find_serving(directory) is None  # it is still starting
    reload = Reload(3, "abc", "abc", "tls", "does not fit", (Problem("/etc/twogate.yaml", 4, "tls", "no"),))
    for status in (ME, msgspec.structs.replace(ME, begun=3, last=reload)):
        held.publish(status)
        assert find_serving(directory) == status
    held.close()
    assert find_serving(directory) is None
    assert sorted(path.name for path in directory.iterdir()) == [LOCK]


def test_the_files_are_this_users_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        held = Serving(tmp_path / "state")
        held.publish(ME)
    finally:
        os.umask(mask)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()} == {0o600}
    held.close()


def test_a_second_process_is_refused_and_told_who_was_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PATIENCE", 0.1)
    held = Serving(tmp_path)
    with pytest.raises(ServingError, match="another process serves over"):
        Serving(tmp_path)
    held.publish(ME)
    with pytest.raises(ServingError, match=r"process 4711 serves over .* already"):
        Serving(tmp_path)
    assert find_serving(tmp_path) == ME
    held.close()
    Serving(tmp_path).close()


def test_readers_never_keep_a_process_from_starting(tmp_path: Path) -> None:
    Serving(tmp_path).close()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            find_serving(tmp_path)

    readers = [threading.Thread(target=look) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(20):
            Serving(tmp_path).close()
    finally:
        over.set()
        for reader in readers:
            reader.join(PATIENCE)


def test_what_a_killed_process_left_is_not_believed_and_is_replaced(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        found = find_serving(tmp_path)
        assert found is not None
        assert found.pid == 4711
        holder.kill()
    until(lambda: find_serving(tmp_path) is None, "the lock outlived its process")
    assert (tmp_path / STATUS).exists()
    held = Serving(tmp_path)
    assert not (tmp_path / STATUS).exists()
    held.publish(ME)
    assert find_serving(tmp_path) == ME
    held.close()


def test_a_reader_sees_a_whole_status_however_often_it_changes(tmp_path: Path) -> None:
    held = Serving(tmp_path)
    statuses = [
        msgspec.structs.replace(ME, begun=n, last=Reload(n, "a", "b", "tls", f"{n} " * 5000)) for n in range(50)
    ]
    held.publish(statuses[0])
    seen: list[Status | None] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(find_serving(tmp_path))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for status in statuses:
            held.publish(status)
        until(lambda: bool(seen), "nothing was read")
    finally:
        over.set()
        reader.join(PATIENCE)
    assert all(status in statuses for status in seen)
    held.close()


def test_a_status_that_cannot_be_written_leaves_the_old_one_and_no_litter(tmp_path: Path) -> None:
    held = Serving(tmp_path)
    (tmp_path / STATUS).mkdir()
    with pytest.raises(OSError, match="directory"):
        held.publish(ME)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([LOCK, STATUS])
    (tmp_path / STATUS).rmdir()
    held.publish(ME)
    assert find_serving(tmp_path) == ME
    held.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"pid": "1", "started": 1, "generation": "a", "config": "b"}',
        b'{"pid": 0, "started": 1, "generation": "a", "config": "b"}',
        b'{"pid": -1, "started": 1, "generation": "a", "config": "b"}',
        msgspec.json.encode(ME) + b" " * MAX_STATUS,
        b"[" * 100_000,
    ],
)
def test_a_status_that_twogate_would_not_write_is_refused(tmp_path: Path, content: bytes) -> None:
    held = Serving(tmp_path)
    held.publish(ME)
    (tmp_path / STATUS).write_bytes(content)
    with pytest.raises(ServingError, match="is not what twogate serve writes"):
        find_serving(tmp_path)
    held.close()
