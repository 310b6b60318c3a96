"""Stdio servers that try to leave their sandbox: as Twogate's own user, and as a tenant's account where we are root.

Under root, "its own user" is a root without capabilities: more than `twogate serve` allows, so the harder case.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from processlab import descendants, living
from stdio_servers.harness import (
    ALICE,
    BOB,
    HERE,
    OTHER_TENANT,
    Client,
    StepClock,
    alive,
    content,
    is_gone,
    of_proc,
    supervisor_of,
    until,
)
from twogate.adapters.upstream.stdio import StdioLimits, StdioUpstream
from twogate.adapters.upstream.stdio_plan import Account, SandboxPlan
from twogate.config.references_sandbox import python_directories
from twogate.config.sandbox import HIDDEN
from twogate.core.errors import ErrorCode, GateError

SECRET = "the-signing-key-of-twogate"
MODES = ("own user", "account")
NOBODY = pwd.getpwnam("nobody")

Make = Callable[..., Client]


class Place:
    """What surrounds a sandbox: Twogate's state, and what the server may read and write."""

    def __init__(self, directory: Path, mode: str) -> None:
        self.state, self.repository, self.papers = (directory / name for name in ("state", "repository", "papers"))
        for path in (self.state, self.repository, self.papers):
            path.mkdir()
        directory.chmod(0o755)
        self.key = self.state / "signing.key"
        self.key.write_text(SECRET)
        # Open to everybody, so that nothing but the sandbox protects it.
        self.key.chmod(0o644)
        (self.papers / "a.txt").write_text("read me")
        accounts = None
        if mode == "account":
            accounts = {"acme": Account(NOBODY.pw_uid, NOBODY.pw_gid)}
            os.chown(self.repository, NOBODY.pw_uid, NOBODY.pw_gid)
        self.plan = SandboxPlan(
            network=False,
            hidden=(self.state, *(path.resolve() for path in HIDDEN)),
            readable=(self.papers, HERE, *python_directories()),
            writable=(self.repository,),
            accounts=accounts,
            memory=512 * 1024 * 1024,
            processes=8,
            open_files=64,
        )


@pytest.fixture(params=MODES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "account" and os.geteuid() != 0:
        pytest.skip("only root can give a server another user")
    made = Place(tmp_path.resolve(), request.param)
    if sys.platform != "linux" or (failed := made.plan.probe("acme", None)) is not None:
        pytest.skip(
            f"THIS SYSTEM HAS NO SANDBOX FOR STDIO SERVERS: {failed if sys.platform == 'linux' else 'no Linux'}"
        )
    return made


@pytest.fixture
async def make(place: Place) -> AsyncIterator[Make]:
    made: list[Client] = []

    def intruder(**changes: Any) -> Client:
        logged: list[tuple[str, str]] = []
        clock = StepClock()
        upstream = StdioUpstream(
            (sys.executable, "-I", "-B", str(HERE / "intruder.py")),
            cwd=None,
            environment={"CONFIGURED": "yes"},
            limits=StdioLimits(grace=0.2),
            clock=clock,
            log=lambda name, line: logged.append((name, line)),
            sandbox=msgspec.structs.replace(place.plan, **changes),
        )
        made.append(Client(upstream, clock, logged))
        return made[-1]

    yield intruder
    for client in made:
        await client.upstream.aclose()


async def done(client: Client, trick: str, owner: Any = ALICE, **arguments: Any) -> Any:
    answer = await client.call(trick, arguments=arguments, owner=owner)
    assert "done" in answer, answer
    return answer["done"]


def pid_of(client: Client) -> int:
    """The launcher of the only server."""
    (slot,) = client.upstream._slots.values()
    channel = slot.link._channel  # type: ignore[union-attr]  # it runs
    return int(channel.pid)  # type: ignore[union-attr]  # a process


# -- What it is


async def test_it_has_the_tenants_user_no_capability_and_no_group_of_ours(place: Place, make: Make) -> None:
    client = make()
    who = await done(client, "who")
    uid, gid = (NOBODY.pw_uid, NOBODY.pw_gid) if place.plan.accounts else (os.geteuid(), os.getegid())
    assert (who["uid"], who["gid"]) == ([uid] * 3, [gid] * 3)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(who["status"][name], 16) == 0
    assert who["status"]["NoNewPrivs"] == "1"
    if place.plan.accounts:
        assert who["status"]["Groups"].split() == []
    # As seen from outside too.
    below = [of_proc(pid, "status") for pid, _ in descendants(pid_of(client))]
    assert len(below) == 2, "process 1 and the server"
    assert {status.split("Uid:\t")[1].split()[0] for status in below} == {str(uid)}
    assert who["cwd"] == "/tmp"
    environment = await done(client, "environment")
    assert set(environment) == {"PATH", "LANG", "HOME", "TMPDIR", "CONFIGURED"}
    # Nothing is inherited; the fourth lists the directory.
    assert len(await done(client, "descriptors")) == 4


async def test_a_tenant_without_an_account_gets_no_process(place: Place, make: Make) -> None:
    client = make()
    if place.plan.accounts is None:
        assert (await done(client, "who", owner=OTHER_TENANT))["pid"] > 1
        return
    with pytest.raises(GateError) as caught:
        await client.call("who", owner=OTHER_TENANT)
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE


# -- What it sees


async def test_proc_shows_nothing_of_ours(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", SECRET)
    client = make()
    mine = (await done(client, "who"))["pid"]
    seen = await done(client, "look_around")
    # Process 1 is our own code, and hidden; all the others would be there if the namespace were not its own.
    assert set(seen) == {str(mine)}
    assert SECRET not in str(seen)
    assert "stdio_sandbox" not in str(seen)
    assert str(os.getpid()) not in seen


async def test_keys_and_store_cannot_be_read_by_any_way(place: Place, make: Make) -> None:
    assert place.key.read_text() == SECRET
    client = make()
    found = await done(client, "uncover", paths=[str(place.key)])
    assert SECRET not in str(found)
    assert "ok" not in found["tried"].split()
    assert await done(client, "listing", path=str(place.state)) == []


async def test_what_hides_a_directory_can_be_read_without_the_sandbox(place: Place, make: Make) -> None:
    """The test above can fail."""
    client = make(hidden=HIDDEN, readable=(*place.plan.readable, place.state))
    found = await done(client, "uncover", paths=[str(place.key)])
    assert found[str(place.key)] == SECRET


async def test_a_secret_below_what_may_be_read_stays_hidden(place: Place, make: Make) -> None:
    client = make(readable=(*place.plan.readable, place.state.parent))
    assert await done(client, "listing", path=str(place.state.parent)) == ["papers", "repository", "state"]
    assert await done(client, "listing", path=str(place.state)) == []


async def test_what_is_named_above_proc_does_not_uncover_the_real_one(place: Place, make: Make) -> None:
    client = make(readable=(*place.plan.readable, Path("/"), Path("/proc")))
    mine = (await done(client, "who"))["pid"]
    assert set(await done(client, "look_around")) == {str(mine)}
    names = await done(client, "listing", path="/../proc")
    assert [name for name in names if name.isdigit()] == [str(mine)]
    assert str(os.getpid()) not in await done(client, "listing", path="/../proc")
    assert SECRET not in str(await done(client, "uncover", paths=[str(place.key), f"/..{place.key}"]))


async def test_devices_sockets_and_other_peoples_files_are_out_of_sight(make: Make) -> None:
    client = make()
    assert set(await done(client, "listing", path="/dev")) == {
        *("null", "zero", "full", "random", "urandom"),
        *("fd", "stdin", "stdout", "stderr", "shm"),
    }
    assert await done(client, "listing", path="/sys") == []
    assert await done(client, "listing", path="/run") == []


async def test_only_what_is_named_can_be_written(place: Place, make: Make) -> None:
    client = make()
    inside, outside = place.repository / "new.txt", place.papers / "new.txt"
    # What is given works, devices included.
    assert set((await done(client, "write", paths=[str(inside), "/tmp/x", "/dev/shm/x", "/dev/null"])).values()) == {
        "ok"
    }
    assert inside.read_text() == "x"
    refused = [
        outside,
        place.state / "x",
        "/etc/x",
        "/dev/x",
        "/x",
        "/proc/sys/kernel/core_pattern",
        HERE / "x",
        "/run/x",
    ]
    refused += ["/proc/self/oom_score_adj", Path(sys.prefix) / "x", "/sys/x", "/var/tmp/x"]
    results = await done(client, "write", paths=[str(path) for path in refused])
    assert "ok" not in results.values()
    assert not outside.exists()


async def test_what_a_server_writes_to_tmp_is_seen_by_no_other_and_gone_with_it(make: Make) -> None:
    client = make()
    name = f"/tmp/left-by-{os.getpid()}"
    await done(client, "write", owner=ALICE, paths=[name])
    assert Path(name).name in await done(client, "listing", owner=ALICE, path="/tmp")
    assert Path(name).name not in await done(client, "listing", owner=BOB, path="/tmp")
    assert is_gone(name)


async def test_a_link_that_a_server_plants_is_not_followed_at_the_next_start(place: Place) -> None:
    inner = place.repository / "inner"
    inner.symlink_to(place.state)
    failed = msgspec.structs.replace(place.plan, writable=(place.repository, inner)).probe("acme", None)
    assert failed is not None
    assert str(inner) in failed


# -- What it reaches


async def test_no_socket_leads_anywhere(place: Place, make: Make) -> None:
    name = f"twogate-{os.getpid()}"
    path = place.papers / "socket"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        port = listener.getsockname()[1]
        arguments = {"port": port, "abstract": name, "path": str(place.state / "socket")}
        closed = await done(make(), "connect", **arguments)
        # And with `network: host` they do, so this test can fail.
        open_to = await done(make(network=True), "connect", **arguments)
    assert set(closed.values()) - {"lo"} <= {"OSError", "ConnectionRefusedError", "FileNotFoundError"}
    assert (open_to["loopback"], open_to["abstract"]) == ("ok", "ok")
    assert not path.exists()


async def test_it_can_neither_signal_nor_trace_us(make: Make) -> None:
    client = make()
    await done(client, "who")
    server = pid_of(client)
    ours = [os.getpid(), os.getppid(), supervisor_of(server), server]
    results = await done(client, "attack", pids=ours)
    # Outside numbers name nobody in there.
    assert {results[f"{what} {pid}"] for pid in ours for what in ("signal", "trace")} == {"ProcessLookupError"}
    # The kernel takes no SIGKILL for process 1 from within.
    assert results["trace 1"] == "PermissionError"
    (life,) = client.upstream._lives
    with pytest.raises(GateError):
        await done(client, "kill_everybody")
    # Everybody was the server itself, and the supervisor saw to the rest.
    await until(life.done, "SIGKILL for everybody did not end the server")
    assert alive(os.getpid())


@pytest.mark.parametrize("end", ["close", "exit", "supervisor killed", "launcher killed"])
async def test_no_process_is_left_however_it_ends(make: Make, end: str) -> None:
    client = make()
    before = descendants(os.getpid())
    await done(client, "daemons", count=3)
    launcher = pid_of(client)
    started = descendants(os.getpid()) - before
    started |= descendants(launcher)
    assert len(living(started)) >= 5
    match end:
        case "close":
            await client.upstream.aclose()
        case "exit":
            with pytest.raises(GateError):
                await client.call("exit", owner=ALICE, arguments={})
        case "supervisor killed":
            os.kill(supervisor_of(launcher), signal.SIGKILL)
        case _:
            os.kill(launcher, signal.SIGKILL)
    await until(lambda: not living(started), "something is left")


# -- What it takes


async def test_it_cannot_exceed_its_memory_processes_and_files(place: Place, make: Make) -> None:
    client = make()
    results = await done(client, "grab", size=place.plan.memory)
    assert results["private"] == "MemoryError"
    assert results["shared"] in ("OSError", "MemoryError")
    assert (results["tmp"], results["shm"]) == ("OSError", "OSError")
    assert results["raise"] == "ValueError"
    assert await done(client, "open_files") == [place.plan.open_files] * 2
    if place.plan.accounts is None and os.geteuid() == 0:
        return  # the kernel counts no processes of root's, which is why Twogate under root wants an account
    # One of them is the server itself.
    assert await done(client, "multiply", most=100) == place.plan.processes - 1
    # The limit is of this sandbox, not of all that its user runs.
    assert await done(client, "multiply", owner=BOB, most=100) == place.plan.processes - 1


async def test_a_server_that_cannot_be_started_says_why(place: Place) -> None:
    logged: list[tuple[str, str]] = []
    clock = StepClock()
    upstream = StdioUpstream(
        ("no-such-program",),
        cwd=None,
        environment={},
        limits=StdioLimits(grace=0.2),
        clock=clock,
        log=lambda name, line: logged.append((name, line)),
        sandbox=place.plan,
    )
    client = Client(upstream, clock, logged)
    with pytest.raises(GateError) as caught:
        await client.call("x")
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    await upstream.aclose()
    assert logged[-1][1] == "twogate sandbox: no-such-program: No such file or directory"


async def test_a_server_is_asked_to_end_before_it_is_killed(place: Place, make: Make) -> None:
    client = make()
    told = place.repository / "told"
    await done(client, "linger", path=str(told))
    await client.upstream.aclose()
    assert content(told) == str(int(signal.SIGTERM))
