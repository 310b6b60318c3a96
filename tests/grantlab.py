"""People's grants in the token lab: codes, refresh tokens, and clients of every kind that use them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import jwt
import msgspec
from sqlalchemy import insert, update

from tokenlab import FILES, PUBLIC, REPORTER, SECRET, Lab, basic, digest, open_lab
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.oauth.access_token import encode_base64url
from twogate.core.oauth.grant_type import GrantType
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind
from twogate.flows.authserver.code import AuthorizationCode
from twogate.flows.authserver.grant import Authorization
from twogate.stores.sql.engine import writing
from twogate.stores.sql.tables import users

ALICE = "alice-subject"
CALLBACK = "https://app.example/callback"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = encode_base64url(hashlib.sha256(VERIFIER.encode()).digest())
OTHER_VERIFIER = "o" * 43
GRANTS = frozenset({GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN})


@dataclass
class GrantLab:
    """The lab with the person `alice`, and the clients `web`, `other`, `once` (no refresh) and `native` (public)."""

    lab: Lab

    async def code(self, client_id: str = "web", *, refresh: bool = True, **changes: Any) -> str:
        """A code as the authorization endpoint would issue it; `changes` are of the code or its authorization."""
        of_code = {name: changes.pop(name) for name in list(changes) if name in AuthorizationCode.__struct_fields__}
        authorization = Authorization("acme", client_id, FILES, ("reports", "admin"), user=ALICE)
        code = AuthorizationCode(
            msgspec.structs.replace(authorization, **changes), CALLBACK, True, CHALLENGE, refresh=refresh
        )
        return await self.lab.codes.issue(msgspec.structs.replace(code, **of_code), self.lab.clock.now())

    async def post(
        self, form: dict[str, str], client_id: str = "web", headers: dict[str, str] | None = None
    ) -> httpx2.Response:
        """A token request by a client; an empty value takes a parameter away."""
        sent = dict(headers or {})
        if client_id in ("web", "once", "other"):
            sent |= basic(client_id, SECRET)
        elif client_id:
            form = {"client_id": client_id, **form}
        return await self.lab.http.post("/token", data={k: v for k, v in form.items() if v}, headers=sent)

    async def redeem(
        self, code: str, client_id: str = "web", headers: dict[str, str] | None = None, /, **form: str
    ) -> httpx2.Response:
        whole = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER,
            **form,
        }
        return await self.post(whole, client_id, headers)

    async def refresh(
        self, token: str, client_id: str = "web", headers: dict[str, str] | None = None, /, **form: str
    ) -> httpx2.Response:
        return await self.post({"grant_type": "refresh_token", "refresh_token": token, **form}, client_id, headers)

    async def begin(self, client_id: str = "web", headers: dict[str, str] | None = None, **changes: Any) -> Any:
        """What the redemption of a new code answers."""
        response = await self.redeem(await self.code(client_id, **changes), client_id, headers)
        assert response.status_code == 200, response.text
        return response.json()

    def events(self, kind: EventKind) -> list[AuditEvent]:
        return [event for event in self.lab.audit.events if event.kind is kind]

    async def disable_alice(self, at: int | None = 1) -> None:
        async with writing(self.lab.engine) as connection:
            await connection.execute(update(users).values(disabled_at=at))

    async def revoked(self) -> set[tuple[str, str]]:
        """What no token may come from any more, as the gateways see it."""
        return set((await self.lab.registry.load()).revoked)


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def assert_refused(grants: GrantLab, response: httpx2.Response, reason: str, error: str = "invalid_grant") -> None:
    """Refused with this OAuth error, recorded with this reason, and nothing handed out."""
    assert (response.status_code, response.json()["error"]) == (400, error), response.text
    assert response.json().keys() == {"error", "error_description"}
    event = grants.lab.audit.last
    assert (event.kind, event.reason) == (EventKind.TOKEN_REFUSED, reason)


def confidential(name: str, grants: frozenset[GrantType] = GRANTS) -> Client:
    """An application with the secret that every client of the lab has."""
    return Client(
        name,
        "acme",
        REPORTER,
        ClientAuth.CLIENT_SECRET,
        (digest(SECRET),),
        kind=ClientKind.HOST,
        grants=grants,
        redirect_uris=(CALLBACK,),
    )


def public(name: str) -> Client:
    """An application that cannot keep a secret."""
    return Client(
        name, "acme", PUBLIC, ClientAuth.NONE, kind=ClientKind.PUBLIC, grants=GRANTS, redirect_uris=(CALLBACK,)
    )


@asynccontextmanager
async def open_grant_lab(directory: Path) -> AsyncGenerator[GrantLab]:
    """Start the lab, with people and the clients that they use."""
    async with open_lab(directory) as lab:
        now = lab.clock.now()
        for client in (
            confidential("web"),
            confidential("other"),
            confidential("once", frozenset({GrantType.AUTHORIZATION_CODE})),
            public("native"),
            public("other-native"),
        ):
            await lab.clients.add(client, None, (), now)
        async with writing(lab.engine) as connection:
            await connection.execute(
                insert(users).values(
                    tenant="acme",
                    subject=ALICE,
                    name="alice",
                    display_name="Alice",
                    roles="[]",
                    groups='["staff"]',
                    password_hash="",
                    provider="",
                    disabled_at=None,
                    created_at=now,
                    last_login_at=None,
                )
            )
        yield GrantLab(lab)
