"""Cedar's word on a call: may it run, after `core.access.decide` let it through (R-35)? Fails closed.

Policies are parsed once. A call is put only to those whose scope covers it, so one that none is about costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import cedarpy
import msgspec

from twogate.adapters.cedar_policies import CheckedPolicy
from twogate.core.conditions import (
    URI,
    ArgumentRefusedError,
    Asked,
    Declared,
    Kind,
    arguments_of,
    context_of,
    entities_of,
    read_arguments,
    uid,
)

ENTITIES_KEPT: Final = 1024
"""Callers with targets that are kept parsed."""

MAX_KEPT: Final = 8192
"""Bytes that one of them may have; longer ones (a caller with very many groups) are parsed for each call."""

VERDICTS_KEPT: Final = 8192
"""Questions whose answer is kept: a stream asks the same for each of its resources, whenever something comes."""

_PERMIT: Final = "permit(principal, action, resource);"
_NAMED: Final = 3  # policies that a refusal names at most

_encode: Final = msgspec.json.encode
# Some of its signatures are only partly typed.
_cedar: Final[Any] = cedarpy


class JudgedEntry(msgspec.Struct, frozen=True):
    """What an entry of `tools` is to policies."""

    kind: Kind
    declared: Declared


class _Set(NamedTuple):
    handle: cedarpy.PolicySet
    policies: Mapping[str, CheckedPolicy]
    context: frozenset[str]


class _Judged(NamedTuple):
    entry: JudgedEntry
    every: _Set | None
    without_arguments: _Set | None


class CedarConditions:
    """The policies of one configuration generation; implements `flows.gateway.admit.Conditions`."""

    def __init__(
        self, policies: Sequence[CheckedPolicy], schema: cedarpy.Schema, entries: Mapping[str, JudgedEntry]
    ) -> None:
        """Parse the policies.

        Raises:
            ValueError: Cedar does not accept one, or does not number them in their order.
        """
        self._schema = schema
        self._kept: OrderedDict[bytes, cedarpy.Entities] = OrderedDict()
        self._verdicts: OrderedDict[bytes, str | None] = OrderedDict()
        sets: dict[tuple[str, ...], _Set | None] = {}

        def parsed(wanted: Iterable[CheckedPolicy]) -> _Set | None:
            chosen = tuple(wanted)
            key = tuple(policy.id for policy in chosen)
            if key not in sets:
                sets[key] = _parse(chosen) if chosen else None
            return sets[key]

        self._judged: dict[str, _Judged] = {}
        for name, entry in entries.items():
            about = [policy for policy in policies if name in policy.entries]
            rest = (policy for policy in about if not policy.looks_at_arguments)
            self._judged[name] = _Judged(entry, parsed(about), parsed(rest))

    def forbidden(self, asked: Asked) -> str | None:
        """Why the policies forbid this call, in words for the audit trail that hold none of its values; else None."""
        judged = self._judged.get(asked.entry)
        if judged is None:
            return "the policies do not know this entry"
        kind, declared = judged.entry.kind, judged.entry.declared
        arguments: dict[str, Any] = {}
        try:
            given = arguments_of(asked, kind)
            if given is not None and declared:
                arguments = read_arguments(declared, given)
        except ArgumentRefusedError as refused:
            return str(refused)
        chosen = judged.without_arguments if given is None else judged.every
        if chosen is None:
            return None
        if given is None and declared is URI:
            return "the resource has no URI"
        try:
            return self._judge(asked, kind, arguments, chosen)
        except ValueError:
            # Its text may hold the caller's values.
            return "the call could not be put to the policies"

    def _judge(self, asked: Asked, kind: Kind, arguments: dict[str, Any], chosen: _Set) -> str | None:
        entities = _encode(entities_of(asked, kind))
        context = _encode(context_of(asked, arguments, chosen.context))
        # All that Cedar is given stands in these two and in which policies are asked; the same question has the same
        # answer. Both are JSON, so where one ends is certain.
        question = blake2b(b"%d%b%b" % (id(chosen.handle), entities, context), digest_size=32).digest()
        if question in self._verdicts:
            return self._verdicts[question]
        verdict = self._verdicts[question] = self._ask(asked, entities, context, chosen)
        if len(self._verdicts) > VERDICTS_KEPT:
            self._verdicts.popitem(last=False)
        return verdict

    def _ask(self, asked: Asked, entities: bytes, context: bytes, chosen: _Set) -> str | None:
        request = {
            "principal": uid("Agent", str(asked.principal.agent.id)),
            "action": uid("Action", asked.entry),
            "resource": uid("Target", asked.target),
            "context": context.decode(),
        }
        # The entities were read by the schema, so they are of the types that the policies were checked for, and the
        # actions with their groups are among them. The context is what these policies could see, typed as in `SHAPE`.
        result: cedarpy.AuthzResult = _cedar.is_authorized(request, chosen.handle, self._entities(entities))
        diagnostics = result.diagnostics
        if diagnostics.errors:
            # Cedar leaves out a policy that fails; to us it forbids.
            failed = _named(
                chosen, (name for name in chosen.policies for text in diagnostics.errors if f"`{name}`" in text)
            )
            return f"{failed or 'the call'} could not be evaluated"
        if result.decision is cedarpy.Decision.Allow:
            return None
        return f"forbidden by {_named(chosen, diagnostics.reasons) or 'the policies'}"

    def _entities(self, text: bytes) -> cedarpy.Entities:
        found = self._kept.get(text)
        if found is None:
            parsed: cedarpy.Entities = _cedar.Entities.from_json_str(text.decode(), self._schema)
            found = parsed
            if len(text) <= MAX_KEPT:
                self._kept[text] = found
                if len(self._kept) > ENTITIES_KEPT:
                    self._kept.popitem(last=False)
        return found


def _parse(policies: Sequence[CheckedPolicy]) -> _Set:
    text = "\n".join([_PERMIT, *(policy.text for policy in policies)])
    # A refusal names policies by Cedar's numbers, so these must be known to be theirs.
    numbered: dict[str, Any] = msgspec.json.decode(cedarpy.policies_to_json_str(text))["staticPolicies"]
    for at, policy in enumerate(policies, 1):
        (alone,) = msgspec.json.decode(cedarpy.policies_to_json_str(policy.text))["staticPolicies"].values()
        if numbered.get(f"policy{at}") != alone:
            raise ValueError(f"policy {policy.id} is not number {at} of its set")
    handle = cedarpy.PolicySet.from_str(text)
    if len(handle) != len(policies) + 1:
        raise ValueError("a set of policies holds others than it was made of")
    seen = frozenset[str]().union(*(policy.context for policy in policies))
    return _Set(handle, {f"policy{at}": policy for at, policy in enumerate(policies, 1)}, seen)


def _named(chosen: _Set, numbers: Iterable[str]) -> str:
    found = [chosen.policies[number] for number in dict.fromkeys(numbers) if number in chosen.policies]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    names = ", ".join(_name(policy) for policy in sorted(found, key=lambda policy: policy.id)[:_NAMED])
    return f"{'policies' if len(found) > 1 else 'policy'} {names}{more}" if found else ""


def _name(policy: CheckedPolicy) -> str:
    place = f"{policy.file}:{policy.line}"
    return policy.id if policy.id == place else f"{policy.id} ({place})"
