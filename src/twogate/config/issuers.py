"""What gate one needs of the settings of an issuer, external or our own, in its own terms."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from twogate.config.issuer import Issuer
from twogate.config.values import ABSENT
from twogate.core.jose.keys import Algorithm
from twogate.core.jose.kind import ACCESS_TOKEN_TYPE, media_type
from twogate.flows.gateway.issuers import ClaimPointers, TrustedIssuer


def trusted_issuer(issuer: Issuer, public_url: str) -> TrustedIssuer:
    """What the operator of the gateway at `public_url` lets this issuer say."""
    return TrustedIssuer(
        issuer=issuer.issuer,
        algorithms=frozenset(Algorithm(algorithm) for algorithm in issuer.algorithms),
        types=frozenset(media_type(None if name == ABSENT else name) for name in issuer.types),
        tenants=frozenset(issuer.tenants),
        roles=frozenset(issuer.roles),
        pointers=ClaimPointers(**issuer.claims.model_dump()),
        max_lifetime=issuer.max_lifetime,
        signed=issuer.validation != "introspect",
        asked=issuer.validation != "jwt",
        one_time=issuer.one_time,
        audiences=MappingProxyType({public_url + path: name for path, name in issuer.audiences.items()}),
    )


def embedded_issuer(
    issuer: str,
    algorithm: Algorithm,
    tenants: Iterable[str],
    roles: Iterable[str],
    max_lifetime: int,
    *,
    one_time: bool = False,
) -> TrustedIssuer:
    """What the gateway lets the embedded authorization server say; `max_lifetime` of its tokens is in seconds."""
    return TrustedIssuer(
        issuer=issuer,
        algorithms=frozenset([algorithm]),
        types=frozenset([ACCESS_TOKEN_TYPE]),
        tenants=frozenset(tenants),
        roles=frozenset(roles),
        # As `core.oauth.access_token` writes them.
        pointers=ClaimPointers(
            agent="/client_id",
            assigned="/agent",
            tenant="/tenant",
            role="/roles",
            user="/user",
            user_optional=True,
            groups="/groups",
            scope="/scope",
            session="/sid",
        ),
        max_lifetime=max_lifetime,
        revocable=True,
        one_time=one_time,
    )
