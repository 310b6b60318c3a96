"""The authorization response: an address that the browser takes back to the client (RFC 6749 section 4.1.2)."""

from __future__ import annotations

from urllib.parse import urlencode


def code_response(redirect_uri: str, issuer: str, code: str, state: str | None) -> str:
    """The address that takes a code to the client."""
    return _response(redirect_uri, {"code": code}, issuer, state)


def error_response(redirect_uri: str, issuer: str, error: str, description: str, state: str | None) -> str:
    """The address that takes a refusal to the client (RFC 6749 section 4.1.2.1)."""
    return _response(redirect_uri, {"error": error, "error_description": description}, issuer, state)


def _response(redirect_uri: str, parameters: dict[str, str], issuer: str, state: str | None) -> str:
    if state is not None:
        parameters["state"] = state
    # "in the authorization response … including error responses" (RFC 9207 section 2): who compares it cannot be led
    # to send a code to another server than the one that issued it.
    parameters["iss"] = issuer
    # The URI's own query "MUST be retained when adding additional query parameters" (RFC 6749 section 3.1.2).
    return f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{urlencode(parameters)}"
