"""The few header fields of a download that are looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Final

_MEDIA_TYPE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


class Headers:
    """Header fields of an answer."""

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in raw:
            self._fields.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").strip())

    def last(self, name: str) -> str:
        """The last value of a field; '' if there is none."""
        return self._fields.get(name, [""])[-1]

    def media_type(self) -> str:
        """The media type in lower case without parameters; '' if there is none."""
        found = self.last("content-type").partition(";")[0].strip().lower()
        return found if _MEDIA_TYPE.fullmatch(found) else ""

    def max_age(self, now: int) -> int | None:
        """Seconds for which the answer is fresh for a private cache (RFC 9111 sections 4.2.1 and 5.2.2)."""
        control = ",".join(self._fields.get("cache-control", []))
        directives = [part.strip().lower() for part in control.split(",")]
        # A directive with a field list (`no-cache="set-cookie"`) counts as the bare one: fetching again is never wrong.
        if any(part.partition("=")[0] in {"no-store", "no-cache"} for part in directives):
            return 0
        ages = [part.partition("=")[2].strip('"') for part in directives if part.startswith("max-age=")]
        if ages:
            # "If directives conflict […], either the first occurrence should be used or the response should be
            # considered stale" (section 4.2.1).
            if len(set(ages)) > 1 or not _SECONDS.fullmatch(ages[0]):
                return 0
            age = self.last("age")
            return max(0, int(ages[0]) - (int(age) if _SECONDS.fullmatch(age) else 0))
        if "expires" in self._fields:
            expires, date = _parse_date(self.last("expires")), _parse_date(self.last("date"))
            # "A cache recipient MUST interpret invalid date formats […] as representing a time in the past" (5.3).
            return 0 if expires is None else max(0, expires - (now if date is None else date))
        return None


def _parse_date(text: str) -> int | None:
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, OverflowError):
        return None
