"""The error reference says of every code what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from twogate.core.errors import FACES, ErrorCode
from twogate.web.errors import HTTP_FACES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
_ROW = re.compile(r"\| `(\w+)` \| `(\w+)` \| (\d+) \| (-\d+) \| (`\w+`|none) \| (.+) \|")


def rows() -> dict[str, tuple[str, ...]]:
    """Each row's cells by its code."""
    found = [match.groups() for line in PAGE.read_text().splitlines() if (match := _ROW.fullmatch(line))]
    table = {code: tuple(rest) for code, *rest in found}
    assert len(table) == len(found), "a code stands in two rows"
    return table


def test_the_page_has_a_row_for_every_code_and_no_other() -> None:
    assert set(rows()) == {code.value for code in ErrorCode}


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_row_gives_the_public_reason_status_and_codes_of_the_tables(code: ErrorCode) -> None:
    reason, status, jsonrpc, oauth, meaning = rows()[code.value]
    face, http = FACES[code], HTTP_FACES[code]
    assert (reason, int(status), int(jsonrpc)) == (face.reason, http.status, face.jsonrpc)
    assert oauth.strip("`") == (http.oauth or "none")
    assert len(meaning) > len("nothing")
