"""The hash chain: format of a line, and every finding of the verification state machine."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from twogate.core.audit.chain import (
    MAX_FINDINGS,
    MAX_FOLLOWS,
    MAX_LINE,
    Attestation,
    Cause,
    Chain,
    Finding,
    FindingKind,
    SegmentVerifier,
    Tip,
    genesis,
    parse_line,
    unseal,
)
from twogate.core.audit.record import AuditEvent, EventKind

SEGMENT = "20250101T000000.000000Z-1-0000000000000000"
encode = msgspec.json.encode


def event(number: int) -> bytes:
    return encode(AuditEvent(kind=EventKind.CALL_INTENT, at=number, request=f"r{number}"))


def segment(lines: int, *, stop: bool = False) -> list[bytes]:
    chain = Chain(SEGMENT)
    started = encode(AuditEvent(kind=EventKind.PROCESS_STARTED, at=1))
    sealed = [chain.seal_first(started, "test", 1, Cause.START, ())]
    sealed += [chain.seal(event(number)) for number in range(2, lines + 1)]
    if stop:
        sealed.append(chain.seal(encode(AuditEvent(kind=EventKind.PROCESS_STOPPED, at=9))))
    return [line[:-1] for line in sealed]


def verify(lines: list[bytes], *attestations: Attestation, torn: bool = False) -> list[Finding]:
    verifier = SegmentVerifier(SEGMENT, attestations)
    for line in lines:
        verifier.feed(line)
    verifier.finish(torn=torn)
    return verifier.findings


def kinds(findings: list[Finding]) -> list[tuple[int, FindingKind]]:
    return [(finding.line, finding.kind) for finding in findings]


def rehashed(line: bytes, old: bytes, new: bytes) -> bytes:
    body = line[:-75].replace(old, new)
    assert body != line[:-75]
    return body + b',"hash":"' + hashlib.sha256(b"twogate-audit-v1 line\n" + body).hexdigest().encode() + b'"}'


def saw(seq: int, *, lines: list[bytes], ended: bool = False) -> Attestation:
    return Attestation(Tip(SEGMENT, seq, str(json.loads(lines[seq - 1])["hash"]), ended), "later")


def test_a_line_is_json_with_the_chain_around_the_events_own_bytes() -> None:
    first, second = segment(2)
    decoded = json.loads(second)
    assert list(decoded)[:2] == ["seq", "prev"]
    assert list(decoded)[-1] == "hash"
    assert decoded["prev"] == json.loads(first)["hash"]
    assert event(2)[1:-1] in second


def test_the_first_line_is_tied_to_the_segments_name_and_carries_its_head() -> None:
    line = parse_line(segment(1)[0])
    assert line.prev == genesis(SEGMENT)
    assert line.segment is not None
    assert line.segment.id == SEGMENT
    assert line.kind is EventKind.PROCESS_STARTED


def test_a_first_line_with_the_most_tips_still_fits_a_line() -> None:
    tips = tuple(Tip(SEGMENT, 10**15, "f" * 64, ended=True) for _ in range(MAX_FOLLOWS + 5))
    line = Chain(SEGMENT).seal_first(event(1), "i" * 1024, 1, Cause.START, tips)
    assert len(line) <= MAX_LINE
    head = parse_line(line[:-1]).segment
    assert head is not None
    assert len(head.follows) == MAX_FOLLOWS


@pytest.mark.parametrize("lines", [1, 2, 50])
def test_an_untouched_segment_has_no_findings(lines: int) -> None:
    assert verify(segment(lines, stop=True)) == []


def test_every_single_flipped_bit_is_found() -> None:
    lines = segment(3)
    for index in range(len(lines[1])):
        changed = bytearray(lines[1])
        changed[index] ^= 1
        assert verify([lines[0], bytes(changed), lines[2]]), f"bit flipped in byte {index}"


def test_an_altered_line_is_named() -> None:
    lines = segment(5)
    lines[2] = lines[2].replace(b"r3", b"r9")
    assert kinds(verify(lines)) == [(3, FindingKind.ALTERED)]


def test_an_altered_last_line_is_named() -> None:
    lines = segment(3)
    lines[2] = lines[2].replace(b"r3", b"r9")
    assert kinds(verify(lines)) == [(3, FindingKind.ALTERED)]


def test_a_line_altered_with_its_hash_made_anew_is_named() -> None:
    lines = segment(5)
    lines[2] = rehashed(lines[2], b"r3", b"r9")
    assert kinds(verify(lines)) == [(3, FindingKind.ALTERED)]


def test_a_deleted_line_is_missing() -> None:
    lines = segment(6)
    del lines[2]
    findings = verify(lines)
    assert kinds(findings) == [(3, FindingKind.MISSING)]
    assert "seq 3 missing" in findings[0].text


def test_a_deleted_first_line_is_missing() -> None:
    assert kinds(verify(segment(4)[1:])) == [(1, FindingKind.MISSING)]


def test_a_line_deleted_beside_an_altered_one_gives_both() -> None:
    lines = segment(6)
    lines[2] = lines[2].replace(b"r3", b"r9")
    del lines[3]
    assert sorted(kinds(verify(lines))) == [(3, FindingKind.ALTERED), (4, FindingKind.MISSING)]


def test_swapped_lines_are_reordered_and_nothing_is_missing() -> None:
    lines = segment(6)
    lines[2], lines[3] = lines[3], lines[2]
    assert kinds(verify(lines)) == [(4, FindingKind.REORDERED)]


def test_a_line_moved_to_the_front_reorders_those_it_passed() -> None:
    lines = segment(6)
    lines.insert(1, lines.pop(4))
    assert kinds(verify(lines)) == [(3, FindingKind.REORDERED), (4, FindingKind.REORDERED), (5, FindingKind.REORDERED)]


def test_the_middle_of_a_gap_moved_behind_leaves_both_sides_missing() -> None:
    lines = segment(6)
    moved = [lines[0], lines[4], lines[2], lines[5]]
    assert sorted(kinds(verify(moved))) == [
        (2, FindingKind.MISSING),
        (2, FindingKind.MISSING),
        (3, FindingKind.REORDERED),
    ]


def test_a_repeated_line_is_a_duplicate() -> None:
    lines = segment(5)
    lines.insert(3, lines[2])
    assert kinds(verify(lines)) == [(4, FindingKind.DUPLICATE)]


def test_a_line_copied_from_further_up_is_a_duplicate() -> None:
    lines = segment(6)
    lines.insert(5, lines[1])
    assert kinds(verify(lines)) == [(6, FindingKind.DUPLICATE)]


def test_foreign_text_between_two_lines_is_inserted() -> None:
    lines = segment(5)
    lines.insert(2, b'{"kind":"call.intent"}')
    assert kinds(verify(lines)) == [(3, FindingKind.INSERTED)]


@pytest.mark.parametrize("position", [2, 3])
def test_a_forged_line_with_a_right_hash_is_inserted(position: int) -> None:
    lines = segment(5)
    forged = rehashed(lines[2], b"r3", b"r9")
    lines.insert(position, forged)
    assert kinds(verify(lines)) == [(4, FindingKind.INSERTED)]


def test_a_line_behind_the_stop_is_inserted() -> None:
    chain = Chain(SEGMENT)
    events = [event(1), encode(AuditEvent(kind=EventKind.PROCESS_STOPPED, at=2)), event(3)]
    assert kinds(verify([chain.seal(item)[:-1] for item in events])) == [(3, FindingKind.INSERTED)]


def test_a_caller_cannot_fake_the_stop_inside_a_field() -> None:
    chain = Chain(SEGMENT)
    hostile = encode(AuditEvent(kind=EventKind.CALL_INTENT, at=1, target='"kind":"process.stopped"'))
    assert verify([chain.seal(hostile)[:-1], chain.seal(event(2))[:-1]]) == []


def test_a_renamed_segment_is_found() -> None:
    verifier = SegmentVerifier(SEGMENT[:-1] + "1")
    for line in segment(3):
        verifier.feed(line)
    verifier.finish(torn=False)
    assert kinds(verifier.findings) == [(1, FindingKind.ALTERED)]


def test_a_torn_end_is_a_note() -> None:
    (finding,) = verify(segment(3), torn=True)
    assert (finding.line, finding.kind, finding.kind.is_note) == (4, FindingKind.TORN, True)


def test_a_tail_cut_behind_a_tip_is_found() -> None:
    lines = segment(5)
    assert kinds(verify(lines[:3], saw(5, lines=lines))) == [(3, FindingKind.CUT)]
    assert verify(lines, saw(3, lines=lines), saw(5, lines=lines, ended=True)) == []


def test_a_segment_made_anew_since_its_tip_was_seen_is_found() -> None:
    lines, other = segment(3), segment(2)
    other.append(rehashed(lines[2], b"r3", b"r9"))
    assert kinds(verify(other, saw(3, lines=lines))) == [(3, FindingKind.ALTERED)]


def test_lines_added_to_a_segment_that_had_ended_are_found() -> None:
    lines = segment(5)
    assert kinds(verify(lines, saw(3, lines=lines, ended=True))) == [(4, FindingKind.INSERTED)]


def test_findings_are_bounded() -> None:
    verifier = SegmentVerifier(SEGMENT)
    for _ in range(MAX_FINDINGS):
        assert not verifier.exhausted
        verifier.feed(b"garbage")
    assert verifier.exhausted


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"\xff\xfe", b'{"seq":1', b'{"seq":01,"prev":"' + b"0" * 64 + b'"', b"x" * MAX_LINE]
)
def test_what_is_no_line_is_neither_unsealed_nor_parsed(line: bytes) -> None:
    assert unseal(line) is None
    with pytest.raises(ValueError, match=r"audit event|bytes, at most"):
        parse_line(line)
