"""A browser's visit to the authorization endpoint: what it brings, and what comes of it."""

from __future__ import annotations

import msgspec

from twogate.core.errors import ErrorCode
from twogate.core.oauth.redirect_uri import parse_redirect_uri
from twogate.flows.authserver.clients import Client, ClientSource
from twogate.flows.authserver.consent_view import ConsentView


class Visit(msgspec.Struct, frozen=True):
    """Who comes: the digest of the browser's cookie, the cookie of its login, and the address that it calls from."""

    browser: str
    login: str | None
    address: str

    def __repr__(self) -> str:
        """Say where from; the cookie is a credential."""
        return f"Visit(address={self.address!r})"


class Granted(msgspec.Struct, frozen=True):
    """The browser takes a code to the client."""

    redirect_uri: str
    state: str | None
    code: str

    def __repr__(self) -> str:
        """Leave the code out."""
        return f"Granted({self.redirect_uri!r})"


class Refused(msgspec.Struct, frozen=True):
    """The browser takes an error to the client. Unless it is `trusted`, the person is asked before they go there."""

    redirect_uri: str
    state: str | None
    code: ErrorCode
    description: str | None = None
    trusted: bool = False


class LogIn(msgspec.Struct, frozen=True):
    """Somebody of this tenant has to log in first; `again`: even if somebody has."""

    tenant: str
    handle: str
    again: bool = False


class Ask(msgspec.Struct, frozen=True):
    """The person is to be asked, on a page of its own."""

    handle: str


class ConsentPage(msgspec.Struct, frozen=True):
    """The question to the person `subject`. `form_target` is where the form's answer may redirect to."""

    handle: str
    subject: str
    tenant: str
    view: ConsentView
    form_target: str


Outcome = Granted | Refused | LogIn | ConsentPage


def is_trusted(client: Client, redirect_uri: str) -> bool:
    """Whether a browser may be sent there although nobody has agreed to anything.

    Who may register at will can make any error lead from our name to a page of theirs (RFC 9700 section 4.11.2). An
    operator vouches for the other clients, a document's host for its own, and what listens on the machine shows no
    page. An application's scheme is anybody's to register, and opens the application with a path of their choice.
    """
    uri = parse_redirect_uri(redirect_uri)
    if client.source not in (ClientSource.REGISTERED, ClientSource.DOCUMENT) or uri.loopback:
        return True
    return client.source is ClientSource.DOCUMENT and client.client_id.startswith(f"https://{uri.host}/")
