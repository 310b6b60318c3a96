"""Token exchange: its request, and how the tokens of a chain of actors follow from one another (RFC 8693)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, cast

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at, strings_at
from twogate.core.oauth.authorization_details import McpSession

ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"

MAX_ACTORS: Final = 4
"""Who may act for a user at once: the exchanger, and those before it."""

# ID tokens are missing on purpose: they tell a client who logged in, and are no authorization to act for that person.
_PRESENTED: Final = frozenset({ACCESS_TOKEN, JWT})


class ExchangeRequest(msgspec.Struct, frozen=True):
    """A well-formed request, but for what every token request has (`Wanted`); nothing is verified."""

    unverified_subject: str
    unverified_actor: str | None

    def __repr__(self) -> str:
        """Leave the tokens out."""
        return f"ExchangeRequest(actor={self.unverified_actor is not None})"


def parse_exchange(form: Mapping[str, str]) -> ExchangeRequest:
    """Read a token exchange request (section 2.1).

    Raises:
        GateError: REQUEST_MALFORMED; RESOURCE_INVALID for an `audience` that is not the `resource`.
    """
    subject = _presented(form, "subject_token")
    if subject is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "subject_token is missing")
    if form.get("requested_token_type", ACCESS_TOKEN) != ACCESS_TOKEN:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "requested_token_type is not access_token")
    # `resource` says where the token is for; a second way to say it could only contradict it.
    if "audience" in form and form["audience"] != form.get("resource"):
        raise GateError(ErrorCode.RESOURCE_INVALID, "audience is not the resource")
    return ExchangeRequest(subject, _presented(form, "actor_token"))


def require_named(
    claims: Mapping[str, Any], issuer: str, client_pointer: str, names: Collection[str], us: tuple[str, str]
) -> None:
    """Check that a subject token lets this exchanger exchange it, so that a captured one is worth nothing to others.

    1. it was issued to the exchanger; or 2. the exchanger is an audience of it; or 3. its `may_act` names the exchanger
    (RFC 8693 section 4.4). `names` are the exchanger's at `issuer`, `client_pointer` is where that issuer's tokens name
    their client; `us` is our own issuer with the exchanger's client_id there.

    Raises:
        GateError: GRANT_INVALID, CLAIM_INVALID.
    """
    # 1. Both claims are in use, and neither may speak against the other.
    clients = {string_at(claims, pointer) for pointer in (client_pointer, "/azp", "/client_id")} - {None}
    if clients and clients <= set(names):
        return
    # 2.
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else strings_at(claims, "/aud", spaced=False)
    if not set(names).isdisjoint(audiences):
        return
    # 3.
    may_act = claims.get("may_act")
    if isinstance(may_act, Mapping):
        actor = cast("Mapping[str, Any]", may_act)
        sub, iss = string_at(actor, "/sub"), string_at(actor, "/iss") or issuer
        if (sub in names and iss == issuer) or (iss, sub) == us:
            return
    raise GateError(ErrorCode.GRANT_INVALID, "the subject token does not name this client as one that may exchange it")


def next_actors(client_id: str, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The `act` of a token that `client_id` gets for a subject token with the actors `before` (section 4.1).

    Raises:
        GateError: GRANT_INVALID if there are too many.
    """
    depth, link = 1, before
    while link is not None:
        depth, link = depth + 1, link.get("act")
    if depth > MAX_ACTORS:
        raise GateError(ErrorCode.GRANT_INVALID, f"more than {MAX_ACTORS} would act for the user")
    return {"sub": client_id} if before is None else {"sub": client_id, "act": dict(before)}


def parse_actors(claims: Mapping[str, Any], issuer: str | None) -> dict[str, Any] | None:
    """The `act` of a verified token, cut to who acts; None if nobody does.

    `issuer` is whose names they are where the token does not say, None if they are our own: a foreign `sub` must not be
    taken for one of our clients.

    Raises:
        GateError: CLAIM_INVALID, GRANT_INVALID if there are too many.
    """
    links: list[dict[str, Any]] = []
    link: object = claims.get("act")
    while link is not None:
        if not isinstance(link, Mapping):
            raise GateError(ErrorCode.CLAIM_INVALID, "act is not an object")
        actor = cast("Mapping[str, Any]", link)
        sub, iss = string_at(actor, "/sub"), string_at(actor, "/iss") or issuer
        if sub is None:
            raise GateError(ErrorCode.CLAIM_INVALID, "act names nobody")
        if len(links) == MAX_ACTORS:
            raise GateError(ErrorCode.GRANT_INVALID, f"more than {MAX_ACTORS} act for the user")
        links.append({"sub": sub} if iss is None else {"iss": iss, "sub": sub})
        link = actor.get("act")
    nested: dict[str, Any] | None = None
    for actor_link in reversed(links):
        nested = actor_link if nested is None else {**actor_link, "act": nested}
    return nested


def task_of(claims: Mapping[str, Any]) -> str | None:
    """The task that an access token of ours is for; None if it is for none.

    Raises:
        GateError: CLAIM_INVALID, which would be a mistake of ours.
    """
    details = claims.get("authorization_details")
    if details is None:
        if "sid" in claims:
            raise GateError(ErrorCode.CLAIM_INVALID, "a session without a task")
        return None
    try:
        (session,) = msgspec.convert(details, list[McpSession])
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise GateError(ErrorCode.CLAIM_INVALID, "authorization_details are not one mcp_session") from error
    return session.task


def narrow_scopes(requested: tuple[str, ...], granted: tuple[str, ...], known: frozenset[str]) -> tuple[str, ...]:
    """The scopes of a token that follows from another: those requested, or all that the other has and that exist.

    Raises:
        GateError: SCOPE_INVALID if more is requested than the other token has.
    """
    if not set(requested) <= set(granted):
        raise GateError(ErrorCode.SCOPE_INVALID, "more scopes than the subject token has")
    return requested or tuple(scope for scope in granted if scope in known)


def narrow_task(requested: str | None, granted: str | None) -> str | None:
    """The task of a token that follows from another: the other's if it has one, else the one requested.

    Raises:
        GateError: DETAILS_INVALID if another task is requested than the other token's.
    """
    if granted is not None and requested not in (None, granted):
        raise GateError(ErrorCode.DETAILS_INVALID, "another task than the subject token's")
    return requested if granted is None else granted


def _presented(form: Mapping[str, str], name: str) -> str | None:
    token, kind = form.get(name), form.get(f"{name}_type")
    if token is None and kind is None:
        return None
    if token is None or kind not in _PRESENTED:
        raise GateError(ErrorCode.REQUEST_MALFORMED, f"{name} and its type come together, as access_token or jwt")
    return token
