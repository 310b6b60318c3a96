"""Which calls of a target wait for whom: rules in order, the first whose condition holds counts (row R-34).

Pure. An argument that is missing, of another type than the rule expects, or beside one that some server may take for it
cannot be judged. That is no way around a person, nor to another one: whatever rule may count is met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from twogate.core.approval import Duty, Rule
from twogate.core.message import MAX_MEMBERS, reads_as

Scalar = str | int | float | bool | None

_RANKS: Final = tuple(Duty)
# Where JavaScript copies it with the rest, the others may be read from within it.
_PROTOTYPE: Final = "__proto__"


class ArgumentTest(msgspec.Struct, frozen=True):
    """A test of one argument, found by its JSON pointer (RFC 6901). Exactly one of the others is set.

    `over` and `under` compare numbers; `one_of` and `none_of` compare strings, booleans and numbers; true is not 1.
    Servers may take "1" for 1: a value of a type of which nothing is listed cannot be judged.
    """

    at: str
    over: float | None = None
    under: float | None = None
    one_of: tuple[Scalar, ...] = ()
    none_of: tuple[Scalar, ...] = ()

    def judge(self, arguments: object) -> bool | None:
        """Whether the argument is such a one; None if that cannot be judged."""
        found, value = _resolve(arguments, self.at)
        if not found:
            return None
        if self.over is not None or self.under is not None:
            if not isinstance(value, int | float) or isinstance(value, bool):
                return None
            return value > self.over if self.over is not None else value < cast("float", self.under)
        listed = self.one_of or self.none_of
        if isinstance(value, dict | list) or all(_kind(value) is not _kind(one) for one in listed):
            return None
        return any(_same(value, one) for one in listed) is bool(self.one_of)


class When(msgspec.Struct, frozen=True):
    """When a rule counts: for these tenants and agents' roles (empty: all), and if every test holds."""

    tenants: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    arguments: tuple[ArgumentTest, ...] = ()

    def judge(self, tenant: str, role: str, arguments: object) -> bool | None:
        """Whether it is so for this call; None if that cannot be judged."""
        if (self.tenants and tenant not in self.tenants) or (self.roles and role not in self.roles):
            return False
        judged = [test.judge(arguments) for test in self.arguments]
        return False if False in judged else None if None in judged else True


class ApprovalRule(msgspec.Struct, frozen=True):
    """A rule and when it counts."""

    rule: Rule
    when: When = When()


Rules = Mapping[str, tuple[ApprovalRule, ...]]
"""By classified entry."""


def rule_for(rules: Sequence[ApprovalRule], tenant: str, role: str, arguments: object) -> Rule | None:
    """The rule by which a call must be approved; None if it needs no approval.

    Of rules that cannot be judged, and the first that holds, it is as strict as each of them.
    """
    possible: list[Rule] = []
    for one in rules:
        judged = one.when.judge(tenant, role, arguments)
        if judged is not False:
            possible.append(one.rule)
        if judged:
            break
    return _strictest(possible) if len(possible) > 1 else next(iter(possible), None)


def _strictest(rules: Sequence[Rule]) -> Rule:
    # Whose least duty is the highest says who; how many and until when is the strictest of all.
    who = max(rules, key=lambda rule: min(map(_RANKS.index, rule.duties)))
    # An escalation lets nobody in whom another rule never does, nor sooner.
    least = max(min(map(_RANKS.index, rule.duties | rule.escalate_to)) for rule in rules)
    sooner = who.escalate_after
    return msgspec.structs.replace(
        who,
        people=max(rule.people for rule in rules),
        not_requester=any(rule.not_requester for rule in rules),
        within=min(rule.within for rule in rules),
        escalate_after=None if sooner is None else max(rule.escalate_after or sooner for rule in rules),
        escalate_to=frozenset(duty for duty in who.escalate_to if _RANKS.index(duty) >= least),
    )


def _resolve(value: object, pointer: str) -> tuple[bool, object]:
    for raw in pointer.split("/")[1:]:
        name = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            members = cast("dict[str, Any]", value)
            if _disguised(members, name):
                return False, None
            value = members[name]
        elif isinstance(value, list) and name.isascii() and name.isdigit() and (name == "0" or name[0] != "0"):
            items = cast("list[object]", value)
            if len(name) > 6 or int(name) >= len(items):  # noqa: PLR2004 - no list is as long
                return False, None
            value = items[int(name)]
        else:
            return False, None
    return True, value


def _disguised(members: Mapping[str, object], name: str) -> bool:
    """Whether some server may take another member for this one, or there are too many to tell."""
    return len(members) > MAX_MEMBERS or any(
        other != name and (other == _PROTOTYPE or len(other) > MAX_MEMBERS or reads_as(other, name))
        for other in members
    )


def _kind(value: object) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def _same(value: object, wanted: Scalar) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return value == wanted
