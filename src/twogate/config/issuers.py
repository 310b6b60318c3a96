"""What gate one needs of the settings of an external issuer, in its own terms."""

from __future__ import annotations

from types import MappingProxyType

from twogate.config.settings import Issuer
from twogate.config.values import ABSENT
from twogate.core.jose.keys import Algorithm
from twogate.core.jose.kind import media_type
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
        audiences=MappingProxyType({public_url + path: name for path, name in issuer.audiences.items()}),
    )
