"""The benchmark: CPU time per call of Twogate and of a plain proxy, interleaved in one run (`make bench`).

Every subject has the same upstream and gets the same calls over the same number of keep-alive connections. A round
runs each of them in turn, so that whatever else the machine does falls on all alike; the figure is the median round.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import uvloop

from bench import subjects, traffic
from bench.cpu import cpu_seconds
from bench.issuer import Issuer, serving
from bench.load import Load
from bench.subjects import FORBIDDEN_TOOL, TOOL, Subject

CONNECTIONS: Final = 32
CALLS: Final = 20_000
ROUNDS: Final = 10
WARM_UP: Final = 300
"""Unmeasured calls before each measured stretch: caches, pools and branch predictors are warm."""
QUICK_CALLS: Final = 128
QUICK_ROUNDS: Final = 2
OUT: Final = Path(__file__).parent / "out" / "latest.json"


class Series(NamedTuple):
    """One kind of call to one subject, and what was measured of it, by round."""

    name: str
    subject: Subject
    load: Load
    heads: Iterator[bytes]
    cpu_us: list[float]
    wall_us: list[float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS, help="measured calls per subject")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="very few calls: shows that it works, measures nothing")
    parser.add_argument("--out", type=Path, default=OUT, help="where the JSON goes")
    options = parser.parse_args(arguments)
    calls, rounds = (QUICK_CALLS, QUICK_ROUNDS) if options.quick else (options.calls, options.rounds)
    if not options.quick:
        subjects.install_nginx()
    report = uvloop.run(_measure(calls // rounds, rounds))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    _print(report)
    print(f"Written to {options.out}.")
    return 0


async def _measure(calls: int, rounds: int) -> dict[str, Any]:
    skipped: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twogate-bench-")))
        issuer = await stack.enter_async_context(serving())
        upstream_port = await stack.enter_async_context(subjects.upstream())
        gateway = await stack.enter_async_context(subjects.gateway(directory, upstream_port, issuer))
        tested = [gateway]
        binary = subjects.find_nginx()
        if binary is None:
            skipped["nginx_plain"] = "nginx is not installed, and installing it needs root and apt-get"
        else:
            tested.append(await stack.enter_async_context(subjects.nginx(directory, upstream_port, binary)))
        series = _series(tested, issuer, (calls + WARM_UP) * rounds)
        for each in series:
            await _check(each.subject, issuer)
            await each.load.connect()
            stack.push_async_callback(each.load.close)
        for _ in range(rounds):
            for each in series:
                await _round(each, calls)
        gateway_calls = sum(each.subject is gateway for each in series) * (calls + WARM_UP) * rounds
        _check_audit(directory / "state" / "audit", gateway_calls)
    return _report(series, tested, skipped, calls, rounds)


def _series(tested: Sequence[Subject], issuer: Issuer, fresh: int) -> list[Series]:
    made: list[Series] = []
    for subject in tested:
        kinds = {subject.name: (traffic.HANDSHAKE, 1)}
        if subject.name == "gateway":
            kinds |= {"gateway_2026_07_28": (traffic.MODERN, 1), "gateway_fresh_token": (traffic.HANDSHAKE, fresh)}
        for name, (version, tokens) in kinds.items():
            heads = [traffic.head(subject.port, version, issuer.token(_audience(subject))) for _ in range(tokens)]
            load = Load(subject.port, [traffic.caller(number, version) for number in range(CONNECTIONS)])
            made.append(Series(name, subject, load, repeat(heads[0]) if tokens == 1 else iter(heads), [], []))
    return made


async def _round(series: Series, calls: int) -> None:
    await series.load.run(series.heads, WARM_UP)
    before = cpu_seconds(series.subject.pid)
    wall = await series.load.run(series.heads, calls)
    used = cpu_seconds(series.subject.pid) - before
    series.cpu_us.append(used / calls * 1e6)
    series.wall_us.append(wall / calls * 1e6)


async def _check(subject: Subject, issuer: Issuer) -> None:
    """The right answers first: a subject that lets everything through, or nothing, would be fast too.

    Raises:
        RuntimeError: it is not what is to be measured.
    """
    good = issuer.token(_audience(subject))
    for version in (traffic.HANDSHAKE, traffic.MODERN):
        cases: list[tuple[str, str | None, str, int]] = [("an authorized call", good, TOOL, 200)]
        if subject.name == "gateway":
            cases += [("a call without token", None, TOOL, 401), ("a forbidden tool", good, FORBIDDEN_TOOL, 403)]
        for what, token, tool, expected in cases:
            caller = traffic.caller(1, version, tool)
            head = traffic.head(subject.port, version, token, tool)
            status, body = await asyncio.to_thread(_post, subject.port, head, caller.tail)
            if status != expected or (expected == 200 and body != caller.answer):
                raise RuntimeError(f"{subject.name}: {what} gave {status} {body[:300]!r}, not {expected}")


def _post(port: int, head: bytes, tail: bytes) -> tuple[int, bytes]:
    lines = [line.split(": ", 1) for line in head.decode().splitlines()[1:]]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", traffic.PATH, tail.partition(b"\r\n\r\n")[2], dict(lines))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _check_audit(directory: Path, calls: int) -> None:
    """Every call must stand on the audit trail, with intent and outcome.

    Raises:
        RuntimeError: some do not.
    """
    trail = b"".join(path.read_bytes() for path in directory.glob("*.jsonl"))
    for kind in (b'"call.intent"', b'"call.outcome"'):
        if trail.count(kind) < calls:
            raise RuntimeError(f"{calls} calls, but {trail.count(kind)} {kind.decode()} events on the audit trail")


def _report(
    series: Sequence[Series], tested: Sequence[Subject], skipped: dict[str, str], calls: int, rounds: int
) -> dict[str, Any]:
    cpu = {each.name: round(statistics.median(each.cpu_us), 2) for each in series}
    ratio = {peer: round(cpu["gateway"] / cpu[peer], 2) for peer in ("nginx_plain",) if peer in cpu}
    return {
        "cpu_us": cpu,
        "ratio": ratio,
        "fresh_token_ratio": round(cpu["gateway_fresh_token"] / cpu["gateway"], 2),
        "cpu_us_rounds": {each.name: [round(value, 2) for value in each.cpu_us] for each in series},
        "wall_us": {each.name: round(statistics.median(each.wall_us), 2) for each in series},
        "skipped": skipped,
        "calls": calls * rounds,
        "rounds": rounds,
        "connections": CONNECTIONS,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),  # noqa: TID251 - no flow of ours
        "machine": {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()},
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "versions": {subject.name: subject.version for subject in tested},
    }


def _print(report: dict[str, Any]) -> None:
    print("{calls} calls each in {rounds} rounds, {connections} connections; CPU microseconds a call".format(**report))
    print(f"{'subject':<22}{'median':>8}{'least':>8}{'most':>8}{'wall':>8}")
    for name, median in report["cpu_us"].items():
        values = report["cpu_us_rounds"][name]
        print(f"{name:<22}{median:>8.1f}{min(values):>8.1f}{max(values):>8.1f}{report['wall_us'][name]:>8.1f}")
    for peer, ratio in report["ratio"].items():
        print(f"gateway / {peer}: {ratio:.2f}")
    print(f"gateway_fresh_token / gateway: {report['fresh_token_ratio']:.2f}")
    for name, reason in report["skipped"].items():
        _warn(f"{name} WAS NOT MEASURED: {reason}")


def _warn(text: str) -> None:
    print(f"*** bench: {text} ***", file=sys.stderr, flush=True)


def _audience(subject: Subject) -> str:
    return f"http://127.0.0.1:{subject.port}{traffic.PATH}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
