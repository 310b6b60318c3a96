"""Setting and removing the secrets in Twogate's own store, for operators (R-36)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.audit import AuditSink
from twogate.flows.environment import Clock
from twogate.flows.secrets import SECRET_NAME, parse_secret


class KeptSecret(msgspec.Struct, frozen=True):
    """What may be said of a secret; `set_at` is Unix seconds."""

    tenant: str
    name: str
    set_at: int


class SecretStore(Protocol):
    """Keeps secrets of tenants, sealed."""

    async def put(self, tenant: str, name: str, value: str, now: int) -> None:
        """Keep a secret in place of the one of this name.

        Raises:
            GateError: SECRET_UNAVAILABLE.
        """
        ...

    async def remove(self, tenant: str, name: str) -> bool:
        """Forget a secret; False if there was none.

        Raises:
            GateError: SECRET_UNAVAILABLE.
        """
        ...

    async def list(self, tenant: str) -> Sequence[KeptSecret]:
        """The tenant's secrets by name.

        Raises:
            GateError: SECRET_UNAVAILABLE.
        """
        ...


class SecretAdmin:
    """Operators' use cases on the secrets of the configured tenants."""

    def __init__(self, tenants: Collection[str], store: SecretStore, audit: AuditSink, clock: Clock) -> None:
        self._tenants = tenants
        self._store = store
        self._audit = audit
        self._clock = clock

    async def set(self, tenant: str, name: str, raw: bytes) -> bool:
        """Keep a secret, from the tenant's next call on; whether there was one of this name. The trail has it first.

        Raises:
            GateError: REQUEST_MALFORMED with what is wrong; SECRET_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        self._check(tenant, name)
        value = parse_secret(raw)
        # Read before anything is written down: what cannot be read would be replaced together with all the others.
        replaced = any(kept.name == name for kept in await self._store.list(tenant))
        await self._record(EventKind.SECRET_SET, tenant, name)
        await self._store.put(tenant, name, value, self._clock.now())
        return replaced

    async def remove(self, tenant: str, name: str) -> bool:
        """Forget a secret; False if there was none. The tenant's next call that needs it is refused.

        Raises:
            GateError: REQUEST_MALFORMED, SECRET_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        self._check(tenant, name)
        if all(kept.name != name for kept in await self._store.list(tenant)):
            return False
        await self._record(EventKind.SECRET_REMOVED, tenant, name)
        return await self._store.remove(tenant, name)

    def _check(self, tenant: str, name: str) -> None:
        if tenant not in self._tenants:
            raise _wrong(f"there is no tenant {tenant[:64]!r}; tenants: {', '.join(sorted(self._tenants))}")
        if not SECRET_NAME.fullmatch(name):
            raise _wrong("a secret's name is 1 to 63 letters, digits, _ and -, no _ or - at its start")

    async def _record(self, kind: EventKind, tenant: str, name: str) -> None:
        await self._audit.append(AuditEvent(kind=kind, at=self._clock.now_us(), tenant=tenant, detail=name))


def _wrong(text: str) -> GateError:
    return GateError(ErrorCode.REQUEST_MALFORMED, text)
