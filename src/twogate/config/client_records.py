"""The clients and allowed documents of the settings in the flows' own terms, and what is wrong with their files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from twogate.config.clients import ClientSettings, parse_domain
from twogate.config.document import KeyPath
from twogate.config.policy import parse_agent_id
from twogate.config.settings import Settings
from twogate.core import strict_json
from twogate.core.errors import GateError
from twogate.core.oauth.cimd import DomainRule
from twogate.core.oauth.client_metadata import check_keys
from twogate.core.principal import PUBLIC_CLIENT, AgentId
from twogate.flows.authserver.cimd import AllowedDocuments, Owner
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, ClientSource, SecretDigest

MAX_JWKS: Final = 64 * 1024
"""Bytes of a file of public keys."""

_MAX_SECRET: Final = 1024
_MAX_DEPTH: Final = 8
_SECRET: Final = re.compile(rb"[!-~]{32,512}")
_DIGEST: Final = re.compile(rb"[0-9a-f]{64}")


def configured_clients(settings: Settings) -> Mapping[str, Client]:
    """The clients that the configuration declares, with their keys and secrets' digests read from their files.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file holds something else than when the configuration was checked.
    """
    return MappingProxyType({name: _client(name, client) for name, client in settings.clients.items()})


def allowed_documents(settings: Settings) -> AllowedDocuments:
    """The client ID metadata documents that the configuration lets in."""
    exact: dict[str, Owner] = {}
    domains: dict[DomainRule, Owner] = {}
    for entry in settings.cimd:
        owner = Owner(entry.tenant, None if entry.agent is None else parse_agent_id(entry.agent))
        if entry.client_id is not None:
            exact[entry.client_id] = owner
        elif entry.domain is not None:
            domains[parse_domain(entry.domain)] = owner
    return AllowedDocuments(MappingProxyType(exact), MappingProxyType(domains))


def client_file_problems(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with the files of keys and secrets that clients name."""
    for name, client in settings.clients.items():
        for setting, path in client.files.items():
            try:
                _read(setting, path)
            except OSError as error:
                yield ("clients", name, setting), f"{path} cannot be read: {error.strerror}"
            except ValueError as error:
                yield ("clients", name, setting), f"{path} {error}"


def _client(name: str, client: ClientSettings) -> Client:
    if client.agent is not None:
        agent: AgentId | None = parse_agent_id(client.agent)
    else:
        agent = None if client.kind is ClientKind.AUTHORIZER else AgentId(client.tenant, PUBLIC_CLIENT)
    held = {setting: _read(setting, path) for setting, path in client.files.items()}
    digest = held.get("secret_file") or held.get("secret_digest_file")
    return Client(
        client_id=name,
        tenant=client.tenant,
        agent=agent,
        auth=client.auth,
        secret_digests=() if digest is None else (SecretDigest(digest),),
        jwks=held.get("jwks_file"),
        kind=client.kind,
        grants=client.effective_grants,
        name=client.name or "",
        redirect_uris=client.redirect_uris,
        may_act=client.may_act,
        agents=frozenset(parse_agent_id(name) for name in client.agents),
        tools=frozenset(client.tools),
        jwks_uri=client.jwks_uri if client.auth is ClientAuth.PRIVATE_KEY_JWT else None,
        source=ClientSource.CONFIGURED,
    )


def _read(setting: str, path: Path) -> str:
    """The JWK set, or the digest of the secret, that a file holds."""
    most = MAX_JWKS if setting == "jwks_file" else _MAX_SECRET
    with path.open("rb") as file:
        raw = file.read(most + 1)
    if setting == "jwks_file":
        try:
            return check_keys(strict_json.decode(raw, max_bytes=most, max_depth=_MAX_DEPTH))
        except GateError as error:
            raise ValueError(f"is not a JWK set: {error.face.text}") from None
    line = raw.removesuffix(b"\n").removesuffix(b"\r")
    if setting == "secret_digest_file":
        if not _DIGEST.fullmatch(line):
            raise ValueError("must hold the SHA-256 of the secret, in lower-case hex, as one line")
        return line.decode()
    # Digested fast, so a secret that a person could think of would be found by trying.
    if not _SECRET.fullmatch(line):
        raise ValueError("must hold a random secret of 32 to 512 visible ASCII characters, as one line")
    return hashlib.sha256(line).hexdigest()
