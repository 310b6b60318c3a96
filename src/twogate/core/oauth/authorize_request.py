"""The authorization request: a query, a form or a pushed form to what is asked for (RFC 6749 section 4.1.1).

Three steps, because what may be answered depends on how far a request holds: without a known client and one of its
redirect URIs nobody is answered but the person in front of the browser; from then on every error goes back to the
client. PKCE with S256 (RFC 7636), `resource` (RFC 8707), `authorization_details` (RFC 9396), `dpop_jkt` (RFC 9449
section 10), `prompt` and `max_age` (OpenID Connect Core section 3.1.2.1).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.pkce import parse_challenge
from twogate.core.oauth.redirect_uri import redirect_uri_matches
from twogate.core.oauth.token_request import Wanted, parse_pairs, parse_wanted

CONSENT_PATH: Final = "/authorize/consent"
REQUEST_URI_PREFIX: Final = "urn:ietf:params:oauth:request_uri:"

MAX_REQUEST: Final = 8 * 1024
"""Bytes that an authorization request may have at most, encoded."""

MAX_STATE: Final = 1024
"""Characters that `state` may have at most."""

# 32 bytes in base64url, as handles and SHA-256 thumbprints (RFC 7638) are.
_32_BYTES: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_CLIENT_ID: Final = re.compile(r"[ -~]{1,1024}")
_MAX_AGE: Final = re.compile(r"[0-9]{1,9}")

# What is kept of a pushed request. A client's credentials, which come with it, are never stored.
_KNOWN: Final = frozenset(
    {
        "authorization_details",
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "dpop_jkt",
        "max_age",
        "prompt",
        "redirect_uri",
        "request",
        "request_uri",
        "resource",
        "response_mode",
        "response_type",
        "scope",
        "state",
    }
)


class Prompt(StrEnum):
    """What a client wants the person to be asked, whatever is remembered."""

    NONE = "none"
    LOGIN = "login"
    CONSENT = "consent"
    SELECT_ACCOUNT = "select_account"


class Parameters(msgspec.Struct, frozen=True):
    """The parameters of a request by name, without those that have no value; `repeated` are named more than once."""

    values: Mapping[str, str]
    repeated: frozenset[str] = frozenset()

    def one(self, name: str) -> str | None:
        """A parameter's value; None without one.

        Raises:
            GateError: PARAMETER_REPEATED, or RESOURCE_INVALID for `resource`.
        """
        if name in self.repeated:
            # "Request and response parameters MUST NOT be included more than once." (RFC 6749 section 3.1)
            code = ErrorCode.RESOURCE_INVALID if name == "resource" else ErrorCode.PARAMETER_REPEATED
            raise _refusal(code, f"{name} is given more than once")
        return self.values.get(name)

    @property
    def state(self) -> str | None:
        """What an answer echoes; None if there is not exactly one."""
        return None if "state" in self.repeated else self.values.get("state")


class AuthorizeRequest(msgspec.Struct, frozen=True):
    """A well-formed request. `redirect_uri` is where the answer goes, given or not; resource and scopes may not exist.

    `proof` is the thumbprint of the key that the tokens are to be bound to. `max_age` is in seconds.
    """

    client_id: str
    redirect_uri: str
    redirect_uri_given: bool
    code_challenge: str
    resource: str
    scopes: tuple[str, ...] = ()
    task: str | None = None
    state: str | None = None
    proof: str | None = None
    prompts: tuple[Prompt, ...] = ()
    max_age: int | None = None

    @property
    def wanted(self) -> Wanted:
        """What is asked for, as a token request would ask."""
        return Wanted(self.resource, self.scopes, self.task)

    def fresh_since(self, begun_at: int) -> int | None:
        """The moment (Unix seconds) since when the person must have logged in; None if any login will do."""
        if Prompt.LOGIN in self.prompts or Prompt.SELECT_ACCOUNT in self.prompts:
            return begun_at
        return None if self.max_age is None else begun_at - self.max_age


def parse_parameters(encoded: bytes) -> Parameters:
    """Read a query or a form body.

    Raises:
        GateError: TOO_LARGE, REQUEST_MALFORMED.
    """
    values: dict[str, str] = {}
    repeated: set[str] = set()
    for name, value in parse_pairs(encoded, MAX_REQUEST):
        if name in values:
            repeated.add(name)
        values[name] = value
    # "Parameters sent without a value MUST be treated as if they were omitted from the request." (the same section)
    return Parameters({name: value for name, value in values.items() if value}, frozenset(repeated))


def pushed_parameters(form: Mapping[str, str], client_id: str) -> Parameters:
    """The parameters of a pushed request, by the client that authenticated with it (RFC 9126 section 2.1).

    Raises:
        GateError: REQUEST_MALFORMED for a `request_uri`; TOO_LARGE.
    """
    if "request_uri" in form:
        # "Reject the request if the request_uri authorization request parameter is provided." (RFC 9126 section 2.1)
        raise _refusal(ErrorCode.REQUEST_MALFORMED, "request_uri cannot be pushed")
    kept = {name: value for name, value in form.items() if name in _KNOWN} | {"client_id": client_id}
    if sum(len(name) + len(value) + 2 for name, value in kept.items()) > MAX_REQUEST:
        raise GateError(ErrorCode.TOO_LARGE, "the request exceeds its cap")
    return Parameters(kept)


def parse_client_id(parameters: Parameters) -> str:
    """The client that a request names, unverified.

    Raises:
        GateError: REQUEST_MALFORMED, PARAMETER_REPEATED.
    """
    client_id = parameters.one("client_id")
    if client_id is None or _CLIENT_ID.fullmatch(client_id) is None:
        raise _refusal(ErrorCode.REQUEST_MALFORMED, "client_id is missing or not printable ASCII")
    return client_id


def parse_request_uri(parameters: Parameters) -> str | None:
    """The handle of the pushed request that a request names; None if it names none.

    Raises:
        GateError: REQUEST_URI_INVALID for any other address: nothing is fetched; PARAMETER_REPEATED.
    """
    request_uri = parameters.one("request_uri")
    if request_uri is None:
        return None
    handle = request_uri.removeprefix(REQUEST_URI_PREFIX)
    if handle == request_uri or _32_BYTES.fullmatch(handle) is None:
        raise GateError(ErrorCode.REQUEST_URI_INVALID, "not the name of a pushed request")
    return handle


def find_redirect_uri(parameters: Parameters, registered: Collection[str]) -> tuple[str, bool]:
    """Where the answer goes, and whether the request said so (RFC 6749 section 3.1.2.3).

    Raises:
        GateError: REDIRECT_INVALID, PARAMETER_REPEATED.
    """
    presented = parameters.one("redirect_uri")
    if presented is not None:
        if not redirect_uri_matches(registered, presented):
            raise GateError(ErrorCode.REDIRECT_INVALID, "redirect_uri is none of the client's")
        return presented, True
    (*uris,) = registered
    # "If multiple redirection URIs have been registered …, the client MUST include a redirection URI". What could not
    # be presented is none either, whatever it was registered by.
    if len(uris) != 1 or not redirect_uri_matches(uris, uris[0]):
        raise GateError(ErrorCode.REDIRECT_INVALID, "redirect_uri is missing, and the client has not exactly one")
    return uris[0], False


def parse_request(parameters: Parameters, client_id: str, redirect_uri: str, *, given: bool) -> AuthorizeRequest:
    """Read what a request asks for; unknown parameters are ignored (RFC 6749 section 3.1).

    Raises:
        GateError: REQUEST_MALFORMED, PARAMETER_REPEATED, RESPONSE_TYPE_UNSUPPORTED, RESOURCE_INVALID, SCOPE_INVALID,
            DETAILS_INVALID.
    """
    if parameters.repeated & _KNOWN:
        parameters.one(min(parameters.repeated & _KNOWN))
    if "request" in parameters.values:
        raise _refusal(ErrorCode.REQUEST_MALFORMED, "request objects (RFC 9101) are not supported; push the request")
    if parameters.values.get("response_mode", "query") != "query":
        raise _refusal(ErrorCode.REQUEST_MALFORMED, "response_mode must be query")
    response_type = parameters.values.get("response_type")
    if response_type is None:
        raise _refusal(ErrorCode.REQUEST_MALFORMED, "response_type is missing")
    if response_type != "code":
        raise GateError(ErrorCode.RESPONSE_TYPE_UNSUPPORTED, "response_type is not code")
    state = parameters.values.get("state")
    if state is not None and len(state) > MAX_STATE:
        raise _refusal(ErrorCode.REQUEST_MALFORMED, f"state exceeds {MAX_STATE} characters")
    wanted = parse_wanted(parameters.values)
    return AuthorizeRequest(
        client_id=client_id,
        redirect_uri=redirect_uri,
        redirect_uri_given=given,
        code_challenge=_parse_challenge(parameters.values),
        resource=wanted.resource,
        scopes=wanted.scopes,
        task=wanted.task,
        state=state,
        proof=_parse_proof_key(parameters.values),
        prompts=_parse_prompts(parameters.values),
        max_age=_parse_max_age(parameters.values),
    )


def is_handle(text: str) -> bool:
    """Whether a text could be the handle of an interaction."""
    return _32_BYTES.fullmatch(text) is not None


def _parse_challenge(values: Mapping[str, str]) -> str:
    try:
        # "MUST … require" PKCE, of every client (OAuth 2.1 section 4.1.1).
        return parse_challenge(values.get("code_challenge"), values.get("code_challenge_method"))
    except GateError as error:
        raise _refusal(error.code, f"PKCE with S256 is required: {error.debug}") from None


def _parse_proof_key(values: Mapping[str, str]) -> str | None:
    thumbprint = values.get("dpop_jkt")
    if thumbprint is not None and _32_BYTES.fullmatch(thumbprint) is None:
        raise _refusal(ErrorCode.REQUEST_MALFORMED, "dpop_jkt must be a SHA-256 thumbprint in base64url")
    return thumbprint


def _parse_prompts(values: Mapping[str, str]) -> tuple[Prompt, ...]:
    try:
        prompts = (
            tuple(Prompt(word) for word in dict.fromkeys(values["prompt"].split(" "))) if "prompt" in values else ()
        )
    except ValueError:
        raise _refusal(ErrorCode.REQUEST_MALFORMED, f"prompt must be of {', '.join(Prompt)}") from None
    if Prompt.NONE in prompts and len(prompts) > 1:
        # "If this parameter contains none with any other value, an error is returned." (Core section 3.1.2.1)
        raise _refusal(ErrorCode.REQUEST_MALFORMED, "prompt none stands alone")
    return prompts


def _parse_max_age(values: Mapping[str, str]) -> int | None:
    max_age = values.get("max_age")
    if max_age is None:
        return None
    if _MAX_AGE.fullmatch(max_age) is None:
        raise _refusal(ErrorCode.REQUEST_MALFORMED, "max_age must be a number of seconds")
    return int(max_age)


def _refusal(code: ErrorCode, text: str) -> GateError:
    """What a developer needs to mend the request; it says nothing that the request did not hold."""
    return GateError(code, text, data={"description": text})
