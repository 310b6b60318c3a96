"""The token request: form bytes to parameters, and parameters to the grant that is asked for (RFC 6749, RFC 8707)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorization_details import parse_details
from twogate.core.oauth.grant_type import GrantType

MAX_BODY: Final = 16 * 1024
"""Bytes that the body of a token request may have at most."""

MAX_PARAMETERS: Final = 64
"""Parameters that a token request may have at most, unknown ones included."""

MAX_SCOPES: Final = 64
"""Scopes that one request may ask for at most."""

# What an encoded form can hold at all (RFC 6749 appendix B): printable ASCII, and every % begins an octet.
_FORM: Final = re.compile(rb"(?:[!-$&-~]|%[0-9A-Fa-f]{2})*")
_SCOPE_TOKEN: Final = re.compile(r"[!#-\[\]-~]{1,128}")


class Wanted(msgspec.Struct, frozen=True):
    """What a well-formed request asks for. `resource` is not compared with anything yet, nor do the scopes exist."""

    resource: str
    scopes: tuple[str, ...]
    task: str | None = None


def parse_form(body: bytes) -> Mapping[str, str]:
    """Read an `application/x-www-form-urlencoded` body; parameters without a value are left out.

    Raises:
        GateError: TOO_LARGE, REQUEST_MALFORMED, PARAMETER_REPEATED; RESOURCE_INVALID for a second `resource`.
    """
    form: dict[str, str] = {}
    for name, value in parse_pairs(body, MAX_BODY):
        if name in form:
            # RFC 8707 section 2 allows several resources; a server that wants one says so by `invalid_target`.
            code = ErrorCode.RESOURCE_INVALID if name == "resource" else ErrorCode.PARAMETER_REPEATED
            # "Request and response parameters MUST NOT be included more than once." (RFC 6749 section 3.2)
            raise GateError(code, "a parameter is given more than once")
        form[name] = value
    # "Parameters sent without a value MUST be treated as if they were omitted from the request." (the same section)
    return {name: value for name, value in form.items() if value}


def parse_pairs(encoded: bytes, max_bytes: int) -> list[tuple[str, str]]:
    """The fields of an `application/x-www-form-urlencoded` body or query, in order, repeated and empty ones too.

    Raises:
        GateError: TOO_LARGE, REQUEST_MALFORMED.
    """
    if len(encoded) > max_bytes:
        raise GateError(ErrorCode.TOO_LARGE, "the form exceeds its cap")
    if _FORM.fullmatch(encoded) is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "the form is not percent-encoded ASCII")
    try:
        return parse_qsl(
            encoded.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError as error:
        # The parser's own text quotes the input, which may be a secret.
        raise GateError(ErrorCode.REQUEST_MALFORMED, "the form has a broken or non-UTF-8 field, or too many") from error


def parse_grant_type(form: Mapping[str, str]) -> GrantType:
    """The grant that a form asks for.

    Raises:
        GateError: REQUEST_MALFORMED, GRANT_UNSUPPORTED.
    """
    grant = form.get("grant_type")
    if grant is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "grant_type is missing")
    try:
        return GrantType(grant)
    except ValueError:
        raise GateError(ErrorCode.GRANT_UNSUPPORTED, "the grant type does not exist here") from None


def parse_wanted(form: Mapping[str, str]) -> Wanted:
    """Read what a form asks for; unknown parameters are ignored (RFC 6749 section 3.2).

    Raises:
        GateError: RESOURCE_INVALID, SCOPE_INVALID, DETAILS_INVALID.
    """
    resource = form.get("resource")
    if resource is None:
        raise GateError(ErrorCode.RESOURCE_INVALID, "resource is missing")
    return Wanted(resource, parse_scope(form.get("scope")), parse_details(form.get("authorization_details")))


def verify_wanted(wanted: Wanted, resources: Collection[str], scopes: frozenset[str]) -> None:
    """Check that the resource is one that this client may name and that every scope exists.

    Raises:
        GateError: RESOURCE_INVALID, SCOPE_INVALID.
    """
    # By simple string comparison: two spellings of one resource would be two audiences.
    if wanted.resource not in resources:
        raise GateError(ErrorCode.RESOURCE_INVALID, "resource is none of this client's")
    if unknown := len(set(wanted.scopes) - scopes):
        raise GateError(ErrorCode.SCOPE_INVALID, f"{unknown} scope(s) do not exist")


def parse_scope(scope: str | None) -> tuple[str, ...]:
    """The scopes of a `scope` parameter, each once; none without it (RFC 6749 section 3.3).

    Raises:
        GateError: SCOPE_INVALID.
    """
    # scope = scope-token *( SP scope-token ) (RFC 6749 section 3.3)
    if scope is None:
        return ()
    tokens = scope.split(" ")
    if len(tokens) > MAX_SCOPES or not all(_SCOPE_TOKEN.fullmatch(token) for token in tokens):
        raise GateError(ErrorCode.SCOPE_INVALID, "scope is not a list of scope tokens")
    return tuple(dict.fromkeys(tokens))
