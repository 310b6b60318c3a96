"""What `twogate explain` is told to assume of a call, read from its options."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import typer

from twogate.core import strict_json
from twogate.core.errors import GateError

MAX_ARGUMENTS: Final = 4 * 1024 * 1024
"""Bytes of `--arguments`."""

_MAX_DEPTH: Final = 64


def parse_arguments(text: str | None) -> dict[str, Any] | None:
    """The arguments of a call: a JSON object, or `@` and the file that holds one.

    Raises:
        BadParameter: it is neither.
    """
    if text is None:
        return None
    try:
        raw = Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()
        value: object = strict_json.decode(raw, max_bytes=MAX_ARGUMENTS, max_depth=_MAX_DEPTH)
    except OSError as error:
        raise typer.BadParameter(f"{text[1:]}: {error.strerror}", param_hint="--arguments") from None
    except (GateError, UnicodeEncodeError) as error:
        why = error.face.text if isinstance(error, GateError) else "not Unicode text"
        raise typer.BadParameter(f"no acceptable JSON: {why}", param_hint="--arguments") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("must be a JSON object", param_hint="--arguments")
    return cast("dict[str, Any]", value)


def parse_moment(text: str | None, now: int) -> int:
    """Unix seconds of an RFC 3339 time; `now` if nothing was said. Without an offset it is UTC.

    Raises:
        BadParameter: it is no time.
    """
    if text is None:
        return now
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("must be a time such as 2026-12-01T09:00:00Z", param_hint="--at") from None
    return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp())
