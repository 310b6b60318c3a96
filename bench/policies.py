"""What Cedar policies cost: none, some that are about other tools, five and a hundred about this one.

Measured as `bench.run` measures (`python -m bench.policies`): side by side in one run, CPU time of the gateway's
process, median round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import repeat
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from bench import subjects, traffic
from bench.cpu import cpu_seconds
from bench.issuer import serving
from bench.load import Load
from bench.subjects import FORBIDDEN_TOOL, SERVER, TOOL, Subject

CONNECTIONS: Final = 32
WARM_UP: Final = 300
_CONDITIONS: Final = (
    'context.arguments has path && context.arguments.path like "/etc/*"',
    'context has address && context.address.isInRange(ip("10.0.0.0/8"))',
    "context.hour > 24",
    'principal.groups.contains("contractors")',
    'context.device.contains("rooted")',
)


class Series(NamedTuple):
    """One subject, and what was measured of it, by round, in microseconds a call."""

    subject: Subject
    head: bytes
    cpu: list[float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="bench.policies", description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="measured calls per subject")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(arguments)
    uvloop.run(_measure(options.calls // options.rounds, options.rounds))
    return 0


def _policies(tool: str, count: int) -> str:
    action = f'Twogate::Action::"{SERVER}.{tool}"'
    chosen = (_CONDITIONS[number % len(_CONDITIONS)] for number in range(count))
    return "".join(f"forbid(principal, action == {action}, resource) when {{ {one} }};\n" for one in chosen)


def _with(directory: Path, text: str) -> Mapping[str, Any]:
    (directory / "rules.cedar").write_text(text)
    declared = {"arguments": {"path": "string"}}
    tools = {f"{SERVER}.{TOOL}": {"class": "read"}, f"{SERVER}.{FORBIDDEN_TOOL}": {"class": "configure"}}
    return {"tools": {name: tool | declared for name, tool in tools.items()}, "policies": {"files": ["rules.cedar"]}}


async def _measure(calls: int, rounds: int) -> None:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twogate-bench-")))
        issuer = await stack.enter_async_context(serving())
        upstream = await stack.enter_async_context(subjects.upstream())
        series: list[Series] = []
        for name, tool, count in (
            ("no policies", TOOL, 0), ("5 of other tools", FORBIDDEN_TOOL, 5), ("5 policies", TOOL, 5),
            ("100 policies", TOOL, 100),
        ):  # fmt: skip
            home = directory / name.replace(" ", "-")
            home.mkdir()
            more = _with(home, _policies(tool, count)) if count else {}
            limits = {"calls_per_agent": 1000}
            subject = await stack.enter_async_context(subjects.gateway(home, upstream, issuer, name, limits, more))
            token = issuer.token(f"http://127.0.0.1:{subject.port}{traffic.PATH}")
            series.append(Series(subject, traffic.head(subject.port, traffic.HANDSHAKE, token), []))
        for _ in range(rounds):
            for each in series:
                each.cpu.append(await _round(each, calls))
    print(f"{calls * rounds} calls each in {rounds} rounds; CPU microseconds a call: median, least, most")
    for each in series:
        print(f"{each.subject.name:<18}{statistics.median(each.cpu):>8.1f}{min(each.cpu):>8.1f}{max(each.cpu):>8.1f}")


async def _round(series: Series, calls: int) -> float:
    # Connections of its own: those that wait for the other subjects' turns would be closed as idle.
    callers = [traffic.caller(number, traffic.HANDSHAKE) for number in range(CONNECTIONS)]
    load = Load(series.subject.port, callers)
    await load.connect()
    try:
        # Every answer is compared byte for byte: a policy that refused would be noticed.
        await load.run(repeat(series.head), WARM_UP)
        before = cpu_seconds(series.subject.pid)
        await load.run(repeat(series.head), calls)
        return (cpu_seconds(series.subject.pid) - before) / calls * 1e6
    finally:
        await load.close()


if __name__ == "__main__":
    raise SystemExit(main())
