"""Until when gate two is only observed: a moment that must lie ahead, and not far (DESIGN decision 12)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import BeforeValidator, ValidationInfo

from twogate.config.values import Base

MAX_OBSERVED: Final = 30 * 86400
"""Seconds, from when the file is read."""

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt]\d\d:\d\d:\d\d(?:[Zz]|[+-]\d\d:\d\d))?", re.ASCII)


def parse_moment(text: object) -> int:
    """Unix seconds of an RFC 3339 time without fractions, or of a date's first moment in UTC.

    Raises:
        ValueError: It is neither.
    """
    if not isinstance(text, str) or not _MOMENT.fullmatch(text):
        raise ValueError("must be a date (2026-12-01, from 00:00 UTC) or a time (2026-12-01T09:00:00Z)")
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise ValueError(f"is no date or time: {error}") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _ahead(value: object, info: ValidationInfo) -> int:
    moment = parse_moment(value)
    if not isinstance(info.context, Base):
        raise ValueError("means something only in a file that is being loaded")  # noqa: TRY004 - as pydantic wants it
    if moment <= info.context.now:
        raise ValueError("has passed; write `enforcement: enforce` and remove this, or set a new end")
    if moment > info.context.now + MAX_OBSERVED:
        raise ValueError(
            f"lies more than {MAX_OBSERVED // 86400} days ahead; observe for less and look at what was found"
        )
    return moment


ObserveUntil = Annotated[int, BeforeValidator(_ahead)]
