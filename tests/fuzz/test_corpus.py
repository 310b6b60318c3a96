"""Replays what the fuzzers start from, and what they found, without a fuzzer. A name says what must come of a file."""

from pathlib import Path

import pytest

from fuzz.invariants import check_answer, check_message, check_sse
from twogate.core.message import Message

CORPUS = Path(__file__).parent / "corpus"


def files(kind: str) -> list[Path]:
    return sorted((CORPUS / kind).iterdir())


def expected(path: Path) -> bool | None:
    return {"good": True, "bad": False}.get(path.name.partition("-")[0])


@pytest.mark.parametrize("path", files("message"), ids=lambda path: path.name)
def test_a_message_is_refused_or_read_as_every_parser_reads_it(path: Path) -> None:
    read = check_message(path.read_bytes())
    assert expected(path) in (None, isinstance(read, Message))


@pytest.mark.parametrize("path", files("answer"), ids=lambda path: path.name)
def test_an_answer_passes_piece_by_piece_exactly_if_it_may(path: Path) -> None:
    assert expected(path) in (None, check_answer(path.read_bytes()) is not None)


@pytest.mark.parametrize("path", files("sse"), ids=lambda path: path.name)
def test_a_stream_is_read_as_the_standard_says_however_it_is_cut(path: Path) -> None:
    assert expected(path) in (None, isinstance(check_sse(path.read_bytes()), list))


def test_there_is_much_to_replay_of_either_kind() -> None:
    for kind in ("message", "answer", "sse"):
        verdicts = [expected(path) for path in files(kind)]
        assert verdicts.count(True) >= 10
        assert verdicts.count(False) >= 5
