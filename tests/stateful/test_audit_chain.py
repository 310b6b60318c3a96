"""Any history of appends, stops, kills, torn writes and rotations verifies; any tampering with it does not."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from twogate.adapters.audit_files import find_segments, verify_directory
from twogate.adapters.audit_log import AuditLog
from twogate.adapters.audit_tail import tail
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.core.audit.record import AuditEvent, EventKind


class AuditTrail(RuleBasedStateMachine):
    """Up to three processes write to one directory. The model: what was acknowledged, and tips as seen before."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.logs: list[AuditLog] = []
        self.acknowledged: list[str] = []
        self.started = 0

    @precondition(lambda self: len(self.logs) < 3)
    @rule(size=st.sampled_from([1500, 1 << 20]))
    def start(self, size: int) -> None:
        log = AuditLog(self.directory, SystemClock(), SystemRng(), instance="test", max_segment=size)
        self.logs.append(log)

    @precondition(lambda self: self.logs)
    @rule(data=st.data(), texts=st.lists(st.text(max_size=20), min_size=1, max_size=8))
    def append(self, data: st.DataObject, texts: list[str]) -> None:
        log = data.draw(st.sampled_from(self.logs))
        events = []
        for text in texts:
            self.acknowledged.append(f"r{len(self.acknowledged)}")
            events.append(AuditEvent(kind=EventKind.CALL_INTENT, at=1, request=self.acknowledged[-1], user=text))

        async def together() -> None:
            await asyncio.gather(*(log.append(event) for event in events))

        self.runner.run(together())

    @precondition(lambda self: self.logs)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        log = data.draw(st.sampled_from(self.logs))
        self.logs.remove(log)
        self.runner.run(log.close())

    @precondition(lambda self: self.logs)
    @rule(data=st.data(), torn=st.sampled_from([b"", b"{", b'{"seq":7,"prev":"00']))
    def kill(self, data: st.DataObject, torn: bytes) -> None:
        log = data.draw(st.sampled_from(self.logs))
        self.logs.remove(log)
        assert log._segment is not None
        os.write(log._segment.fd, torn)
        os.close(log._segment.fd)
        os.close(log._directory)

    @rule(data=st.data())
    def tamper(self, data: st.DataObject) -> None:
        segments = find_segments(self.directory)
        if not segments:
            return
        checkpoints = verify_directory(self.directory).tips
        file = self.directory / f"{data.draw(st.sampled_from(segments))}.jsonl"
        before = file.read_bytes()
        complete = before[: before.rfind(b"\n") + 1]
        lines = complete.splitlines(keepends=True)
        index = data.draw(st.integers(0, len(lines) - 1))
        after: bytes | None
        match data.draw(st.sampled_from(["flip", "delete", "duplicate", "swap", "cut", "remove"])):
            case "flip":
                position = data.draw(st.integers(0, len(complete) - 1))
                flipped = bytes([before[position] ^ (1 << data.draw(st.integers(0, 7)))])
                after = before[:position] + flipped + before[position + 1 :]
            case "delete":
                after = b"".join(lines[:index] + lines[index + 1 :])
            case "duplicate":
                after = b"".join([*lines[: index + 1], *lines[index:]])
            case "swap":
                other = data.draw(st.integers(0, len(lines) - 1).filter(lambda at: at != index)) if lines[1:] else index
                lines[index], lines[other] = lines[other], lines[index]
                after = b"".join(lines)
            case "cut":
                after = complete[: data.draw(st.integers(0, len(complete) - 1))]
            case _:
                after = None
        if after is not None and after.startswith(complete):
            return
        moved = file.with_name("moved")
        file.rename(moved)
        try:
            if after is not None:
                file.write_bytes(after)
            # With checkpoints all of it is found.
            assert not verify_directory(self.directory, checkpoints=checkpoints).ok
        finally:
            file.unlink(missing_ok=True)
            moved.rename(file)

    @invariant()
    def the_trail_verifies_and_holds_what_was_acknowledged(self) -> None:
        report = verify_directory(self.directory)
        assert report.ok, report.problems
        entries = [entry.event for entry in tail(self.directory, 1_000_000)]
        assert sorted(entry.request for entry in entries if entry is not None and entry.request) == sorted(
            self.acknowledged
        )

    def teardown(self) -> None:
        for log in self.logs:
            self.runner.run(log.close())
        self.runner.close()
        shutil.rmtree(self.directory)


AuditTrail.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestAuditTrail = AuditTrail.TestCase
