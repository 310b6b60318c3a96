"""Which calls of a target wait for whom: rules in order, the first whose condition holds counts (row R-34).

Pure. A condition that cannot be judged holds: an argument that is missing or of another type than the rule expects is
no way around a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from twogate.core.approval import Rule

Scalar = str | int | float | bool | None


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

    def holds(self, arguments: object) -> bool:
        """Whether the argument is such a one, or cannot be judged."""
        found, value = _resolve(arguments, self.at)
        if not found:
            return True
        if self.over is not None or self.under is not None:
            if not isinstance(value, int | float) or isinstance(value, bool):
                return True
            return value > self.over if self.over is not None else value < cast("float", self.under)
        if isinstance(value, dict | list):
            return True
        if self.one_of:
            return all(_kind(value) is not _kind(one) for one in self.one_of) or any(
                _same(value, one) for one in self.one_of
            )
        return not any(_same(value, one) for one in self.none_of)


class When(msgspec.Struct, frozen=True):
    """When a rule counts: for these tenants and agents' roles (empty: all), and if every test holds."""

    tenants: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    arguments: tuple[ArgumentTest, ...] = ()

    def holds(self, tenant: str, role: str, arguments: object) -> bool:
        """Whether it is so for this call."""
        return (
            (not self.tenants or tenant in self.tenants)
            and (not self.roles or role in self.roles)
            and all(test.holds(arguments) for test in self.arguments)
        )


class ApprovalRule(msgspec.Struct, frozen=True):
    """A rule and when it counts."""

    rule: Rule
    when: When = When()


Rules = Mapping[str, tuple[ApprovalRule, ...]]
"""By classified entry."""


def rule_for(rules: Sequence[ApprovalRule], tenant: str, role: str, arguments: object) -> Rule | None:
    """The rule by which a call must be approved; None if it needs no approval."""
    return next((one.rule for one in rules if one.when.holds(tenant, role, arguments)), None)


def _resolve(value: object, pointer: str) -> tuple[bool, object]:
    for raw in pointer.split("/")[1:]:
        name = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = cast("dict[str, Any]", value)[name]
        elif isinstance(value, list) and name.isascii() and name.isdigit() and (name == "0" or name[0] != "0"):
            items = cast("list[object]", value)
            if len(name) > 6 or int(name) >= len(items):  # noqa: PLR2004 - no list is as long
                return False, None
            value = items[int(name)]
        else:
            return False, None
    return True, value


def _kind(value: object) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def _same(value: object, wanted: Scalar) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return value == wanted
