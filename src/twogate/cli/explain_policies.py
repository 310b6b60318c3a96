"""The last step of `twogate explain`: what the Cedar policies say of a call that the decision lets through."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import typer

from twogate.config import Settings
from twogate.core import strict_json
from twogate.core.access import Decision, Deny
from twogate.core.conditions import Asked, Kind, arguments_of, kind_of
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Principal
from twogate.core.session import Session
from twogate.policies import conditions_of, policies_of

MAX_ARGUMENTS: Final = 4 * 1024 * 1024
"""Bytes of `--arguments`."""

_MAX_DEPTH: Final = 64


class Circumstances(msgspec.Struct, frozen=True):
    """What else is assumed of the call. `arguments` is None if nothing was said of them."""

    arguments: dict[str, Any] | None = None
    address: str = ""


class Judgement(msgspec.Struct, frozen=True):
    """What the policies made of a decision, and in words why."""

    decision: Decision
    because: str


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


def judge(
    settings: Settings,
    decision: Decision,
    principal: Principal,
    session: Session | None,
    target: str,
    entry: str | None,
    assumed: Circumstances,
    now: int,
) -> Judgement:
    """Put a call to the policies, as gate two does after the decision."""
    conditions = conditions_of(settings)
    if conditions is None or entry is None:
        return Judgement(decision, "there are no policies" if conditions is None else "the tool is not classified")
    kind = kind_of(entry)
    method = "" if assumed.arguments is None else "prompts/get" if kind is Kind.PROMPT else "tools/call"
    params = {} if assumed.arguments is None else {"arguments": assumed.arguments}
    asked = Asked(principal, session, target, entry, method, params, assumed.address, now)
    about = [policy for policy in policies_of(settings) if entry in policy.entries]
    unasked = [policy for policy in about if policy.looks_at_arguments] if arguments_of(asked, kind) is None else []
    why = None if isinstance(decision, Deny) else conditions.forbidden(asked)
    if why is not None:
        return Judgement(Deny(ErrorCode.POLICY_DENIED), why)
    fact = f"{_count(len(about) - len(unasked))} asked, none forbids it"
    if unasked:
        fact += f"; not asked, for want of --arguments: {_names([policy.id for policy in unasked])}"
    return Judgement(decision, fact)


def _count(number: int) -> str:
    return f"{number} {'policy' if number == 1 else 'policies'}"


def _names(names: Sequence[str]) -> str:
    shown = 5
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
