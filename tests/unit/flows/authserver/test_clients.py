from __future__ import annotations

import pytest

from twogate.core.principal import AgentId
from twogate.flows.authserver.clients import Client, ClientAuth, SecretDigest

DIGEST = SecretDigest("0f" * 32)
AGENT = AgentId("acme", "builder")
JWKS = '{"keys":[]}'


@pytest.mark.parametrize("digest", ["", "hunter2", "0F" * 32, "0f" * 31, "0f" * 33, "0f" * 32 + "\n", "zz" * 32])
def test_what_is_not_a_digest_cannot_be_stored_as_one(digest: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        SecretDigest(digest)


@pytest.mark.parametrize(
    ("auth", "digests", "jwks"),
    [
        (ClientAuth.CLIENT_SECRET, (), None),
        (ClientAuth.CLIENT_SECRET, (DIGEST,) * 3, None),
        (ClientAuth.CLIENT_SECRET, (DIGEST,), JWKS),
        (ClientAuth.PRIVATE_KEY_JWT, (), None),
        (ClientAuth.PRIVATE_KEY_JWT, (DIGEST,), JWKS),
    ],
)
def test_a_client_has_exactly_the_keys_of_its_method(
    auth: ClientAuth, digests: tuple[SecretDigest, ...], jwks: str | None
) -> None:
    with pytest.raises(ValueError, match="a client with"):
        Client("c", "acme", AGENT, auth, digests, jwks)


@pytest.mark.parametrize(("client_id", "tenant"), [("", "acme"), ("c", "umbrella"), ("c", "")])
def test_a_client_has_an_id_and_its_agents_tenant(client_id: str, tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        Client(client_id, tenant, AGENT, ClientAuth.CLIENT_SECRET, (DIGEST,))
