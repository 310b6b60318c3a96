"""Whether the settings of the authorization server hold together with all others; part of `references`."""

from __future__ import annotations

from collections.abc import Iterator

from twogate.config.document import KeyPath
from twogate.config.settings import Settings

Found = tuple[KeyPath, str]


class AuthserverReferences:
    """Finds problems between settings; `broken` as in `References`."""

    def __init__(self, settings: Settings, broken: frozenset[KeyPath]) -> None:
        self._settings = settings
        self._broken = broken

    def problems(self) -> Iterator[Found]:
        """Every problem, in the order of the sections."""
        yield from self._logins()

    def _logins(self) -> Iterator[Found]:
        settings = self._settings
        if settings.logins and ("embedded",) not in self._broken and not settings.embedded.enabled:
            yield ("logins",), "are of no use: the embedded server is disabled"
        names: set[str] = set()
        issuers: set[tuple[str, str]] = set()
        for index, provider in enumerate(settings.logins):
            place: KeyPath = ("logins", index)
            if provider.name in names:
                yield (*place, "name"), f"{provider.name!r} is another provider already; names make up redirect URIs"
            names.add(provider.name)
            if ("public_url",) not in self._broken and provider.issuer.rstrip("/") == settings.public_url:
                yield (*place, "issuer"), "is public_url: people would log in here in order to log in here"
            for at, tenant in enumerate(provider.tenants):
                if not {("tenants",), ("tenants", tenant)} & self._broken and tenant not in settings.tenants:
                    yield (*place, "tenants", at), f"unknown tenant {tenant!r}; add it to tenants"
                # Its refresh tokens are found by issuer and tenant, and one subject must not be two people.
                if (provider.issuer, tenant) in issuers:
                    yield (*place, "tenants", at), f"{provider.issuer} is listed for {tenant!r} already; merge the two"
                issuers.add((provider.issuer, tenant))
