"""What `twogate check` says of approvals: calls that nobody hears of, and rules that nobody can satisfy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from twogate.cli.state import with_store
from twogate.config import Settings
from twogate.config.approval_rules import approval_rules
from twogate.core.approval import Rule
from twogate.core.approval_grounds import duties_now
from twogate.core.notices import Kind
from twogate.flows.authserver.people import User
from twogate.state import Store, store_exists

NAMED: Final = 3
"""Entries of `tools` that one warning names."""


class Approver(msgspec.Struct, frozen=True):
    """Somebody who is not disabled, and whether they could sign."""

    user: User
    has_passkey: bool


def approval_warnings(settings: Settings) -> Iterator[str]:
    """Why calls would wait in vain, as far as settings and store tell.

    Raises:
        GateError: STORE_UNAVAILABLE.
    """
    waiting = {tenant: _by_rule(rules) for tenant, rules in _rules(settings).items() if rules}
    if not waiting:
        return
    for tenant in waiting:
        if not any(_hears(channel.tenants, tenant, channel.kinds) for channel in settings.notify.values()):
            page = f"{settings.public_url}/console/approvals"
            yield f"notify: no channel tells the people of {tenant} about calls that wait; they only see them at {page}"
    people = _people(settings)
    for tenant, rules in waiting.items():
        for rule, entries in rules:
            yield from _unsatisfied(settings, tenant, rule, entries, people.get(tenant, ()))


def _unsatisfied(
    settings: Settings, tenant: str, rule: Rule, entries: Sequence[str], people: Sequence[Approver]
) -> Iterator[str]:
    at_last = rule.duties | rule.escalate_to
    able = [
        one for one in people if not at_last.isdisjoint(duties_now(one.user.duties, one.user.groups, settings.duties))
    ]
    signing = sum(one.has_passkey for one in able)
    if signing >= rule.people:
        return
    where = f"tenants.{tenant}: calls of {_named(entries)} wait in vain: "
    wanted = " or ".join(sorted(duty.value for duty in at_last))
    if not able:
        # Who comes from a provider is known once they have logged in.
        why = f"nobody known here is {wanted}"
    elif len(able) < rule.people:
        why = f"{rule.people} people must approve, and {len(able)} may ({wanted})"
    else:
        why = f"{rule.people} must sign, and of the {len(able)} who may approve ({wanted}) {signing} have a passkey"
    yield where + why


def _rules(settings: Settings) -> Mapping[str, Mapping[str, Sequence[Rule]]]:
    """The rules that can count in each tenant, by entry of a server that it reaches."""
    return {
        tenant: {
            entry: found
            for entry, rules in entries.items()
            if any(entry.startswith(f"{server}.") for server in settings.tenants[tenant].servers)
            and (found := [one.rule for one in rules if not one.when.tenants or tenant in one.when.tenants])
        }
        for tenant, entries in approval_rules(settings).items()
    }


def _by_rule(entries: Mapping[str, Sequence[Rule]]) -> list[tuple[Rule, list[str]]]:
    """Rules that need the same people are one, with all entries that have it."""
    found: dict[Rule, list[str]] = {}
    for entry, rules in entries.items():
        for rule in rules:
            same = Rule(rule.duties, rule.people, escalate_to=rule.escalate_to)
            if entry not in found.setdefault(same, []):
                found[same].append(entry)
    return list(found.items())


def _people(settings: Settings) -> Mapping[str, Sequence[Approver]]:
    if not asyncio.run(store_exists(settings)):
        return {}
    # Here, because few configurations have rules.
    from twogate.stores.sql.passkeys import SqlPasskeyStore  # noqa: PLC0415
    from twogate.stores.sql.users import SqlUserStore  # noqa: PLC0415

    async def read(store: Store) -> Mapping[str, Sequence[Approver]]:
        passkeys = SqlPasskeyStore(store.engine)
        found: dict[str, list[Approver]] = {}
        for user in await SqlUserStore(store.engine).list():
            if user.disabled or not duties_now(user.duties, user.groups, settings.duties):
                continue
            has_passkey = bool(await passkeys.list(user.tenant, user.subject))
            found.setdefault(user.tenant, []).append(Approver(user, has_passkey))
        return found

    return with_store(settings, read)


def _hears(tenants: Sequence[str], tenant: str, kinds: frozenset[Kind]) -> bool:
    return Kind.REQUESTED in kinds and (not tenants or tenant in tenants)


def _named(entries: Sequence[str]) -> str:
    more = len(entries) - NAMED
    return ", ".join(entries[:NAMED]) + (f" and {more} more" if more > 0 else "")
