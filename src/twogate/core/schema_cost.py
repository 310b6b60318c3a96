"""What it costs to check a value against a JSON Schema, worked out before it is done.

A schema is a server's text. A few lines of references can ask for more work than will ever end, and the validator that
does the work cannot be stopped. So a schema is read here first: what cannot be bounded is refused when it is read, and
what depends on the value (recursion, large enumerations, patterns) is added up for each value, without doing it.

The sum is an upper bound in units of about 25 ns, the time of the cheapest check. It follows the validator's own way:
every subschema that applies to the same place is counted as often as it applies, so that what branches in both schema
and value shows as a large number here, and not as time there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from twogate.core.schema_reader import Node, PatternCost, SchemaError, SchemaReader
from twogate.core.schema_unique import units_to_tell_apart

MAX_CHAIN: Final = 48
"""Subschemas that may apply to one place by way of each other: the validator's stack grows with each."""
MAX_AT_ONCE: Final = 5000
"""Subschemas that may apply to one place at all, counted as often as they do."""
MAX_COMBINED: Final = 200_000
"""Pairs of a subschema and a property that may have to be kept apart."""
MAX_REACHED: Final = 300_000
"""Subschemas that all subschemas apply to the same value, all told; each takes some microseconds to add up."""

_CONTAINER: Final = 20
_MEMBER: Final = 8
_SCALAR: Final = 5
_LONG_NAME: Final = 256
"""Characters of a name that are copied in one unit, for each subschema that looks at it."""
_OFTEN: Final = 1000
"""Units after which it is seen whether they are too many."""


class TooCostlyError(Exception):
    """Checking this value would take more than was allowed."""


Applied = tuple[tuple["_Place", int], ...]
"""What applies to a value, and how often."""


class _Place:
    """A subschema with everything that it applies to the same value, added up."""

    def __init__(self) -> None:
        self.own = 0
        self.per_char = 0
        self.per_key = 0
        self.per_key_char = 0
        self.unique = 0
        self.properties: dict[str, Applied] = {}
        self.other: Applied = ()
        self.prefix: list[Applied] = []
        self.items: Applied = ()

    def item(self, at: int) -> Applied:
        """What applies to an array's item at this place."""
        return self.prefix[at] if at < len(self.prefix) else self.items


class SchemaCost:
    """A schema that was read. `contextual` ones tell of an error by telling of every branch that failed."""

    def __init__(self, schema: Mapping[str, Any], pattern_cost: PatternCost) -> None:
        """Read a schema, and everything that it refers to within itself.

        Raises:
            SchemaError: it refers elsewhere, to itself without end, or is too large.
        """
        reader = SchemaReader(schema, pattern_cost)
        reader.read()
        self.contextual = reader.contextual
        self._root = _Combiner(reader.nodes).place(0)

    def of(self, value: object, budget: int) -> int:
        """Units that checking this value takes at most.

        Raises:
            TooCostlyError: they are more than `budget`.
        """
        return _Walk(budget).sum(((self._root, 1),), value)


_CHAIN: Final = f"more than {MAX_CHAIN} subschemas apply each other to the same value"


class _Combiner:
    """Adds up what applies to one place."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._places: dict[int, _Place] = {}
        self._closures: dict[int, dict[int, int]] = {}
        self._chains: dict[int, int] = {}
        self._pairs = 0
        self._reached = 0

    def place(self, first: int) -> _Place:
        wanted = [first]
        while wanted:
            number = wanted.pop()
            if number not in self._places:
                self._places[number] = _Place()
                wanted += [child for child in self._children(number) if child not in self._places]
        for number, place in self._places.items():
            self._fill(place, self._closure(number, ()))
        return self._places[first]

    def _closure(self, number: int, above: tuple[int, ...]) -> dict[int, int]:
        """Which subschemas apply where this one does, and how often."""
        known = self._closures.get(number)
        if known is not None:
            return known
        if number in above:
            raise SchemaError("a subschema applies itself to the same value without end")
        if len(above) >= MAX_CHAIN:
            raise SchemaError(_CHAIN)
        found = {number: 1}
        node = self._nodes[number]
        for other in node.same:
            for one, times in self._closure(other, (*above, number)).items():
                found[one] = found.get(one, 0) + times * node.factor
        if sum(found.values()) > MAX_AT_ONCE:
            raise SchemaError(f"more than {MAX_AT_ONCE} subschemas apply to one value")
        self._reached += len(found)
        if self._reached > MAX_REACHED:
            raise SchemaError("too many subschemas apply each other")
        # Those that were known already may have long chains of their own.
        self._chains[number] = 1 + max((self._chains[other] for other in node.same), default=0)
        if self._chains[number] > MAX_CHAIN:
            raise SchemaError(_CHAIN)
        self._closures[number] = found
        return found

    def _children(self, number: int) -> set[int]:
        found: set[int] = set()
        for one in self._closure(number, ()):
            node = self._nodes[one]
            found.update(node.properties.values(), node.patterns, node.names, node.additional)
            found.update(node.prefix, node.items, node.every)
        return found

    def _fill(self, place: _Place, closure: Mapping[int, int]) -> None:
        nodes = [(self._nodes[number], times) for number, times in closure.items()]
        names = {name for node, _ in nodes for name in node.properties}
        self._pairs += len(names) * len(nodes)
        if self._pairs > MAX_COMBINED:
            raise SchemaError("too many subschemas and properties apply to one value")
        for node, times in nodes:
            place.own += node.own * times
            place.per_char += node.per_char * times
            place.unique += times if node.unique else 0
            place.per_key_char += node.per_key_char * times
            for name in node.names:
                for one, count in self._closure(name, ()).items():
                    place.per_key += self._nodes[one].own * count * times
                    place.per_key_char += self._nodes[one].per_char * count * times
        place.properties = {
            name: self._applied(
                (number, times)
                for node, times in nodes
                for number in (
                    *([node.properties[name]] if name in node.properties else node.additional),
                    *node.patterns,
                )
            )
            for name in names
        }
        place.other = self._applied(
            (number, times) for node, times in nodes for number in (*node.additional, *node.patterns)
        )
        place.items = self._applied((number, times) for node, times in nodes for number in (*node.items, *node.every))
        longest = max((len(node.prefix) for node, _ in nodes), default=0)
        self._pairs += longest * len(nodes)
        if self._pairs > MAX_COMBINED:
            raise SchemaError("too many subschemas apply to the items of one array")
        place.prefix = [
            self._applied(
                (number, times)
                for node, times in nodes
                for number in (*(node.prefix[at : at + 1] or node.items), *node.every)
            )
            for at in range(longest)
        ]

    def _applied(self, numbers: Iterator[tuple[int, int]]) -> Applied:
        found: dict[int, int] = {}
        for number, times in numbers:
            found[number] = found.get(number, 0) + times
        return tuple((self._places[number], times) for number, times in found.items())


class _Walk:
    """Adds up units over a value."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._units = 0

    def sum(self, applied: Applied, value: object) -> int:
        self._at(applied, value)
        return self._units

    def _spend(self, units: int) -> None:
        self._units += units
        if self._units > self._budget:
            raise TooCostlyError

    def _at(self, applied: Applied, value: object) -> None:
        if isinstance(value, dict):
            self._spend(_CONTAINER + sum(place.own * times for place, times in applied))
            self._members(applied, cast("dict[str, object]", value))
        elif isinstance(value, list):
            self._spend(_CONTAINER + sum(place.own * times for place, times in applied))
            self._items(applied, cast("list[object]", value))
        elif isinstance(value, str):
            length = len(value)
            self._spend(_SCALAR + sum((place.own + place.per_char * length) * times for place, times in applied))
        else:
            self._spend(_SCALAR + sum(place.own * times for place, times in applied))

    def _members(self, applied: Applied, value: dict[str, object]) -> None:
        if len(applied) == 1 and not applied[0][0].per_key and not applied[0][0].per_key_char:
            self._plain_members(*applied[0], value)
            return
        for name, member in value.items():
            units = _MEMBER
            for place, times in applied:
                # Names are checked by themselves where a pattern or `propertyNames` asks for it.
                units += times * (
                    1 + place.per_key * (1 + len(name) // _LONG_NAME) + place.per_key_char * (1 + len(name))
                )
            self._spend(units)
            if below := _below((place.properties.get(name, place.other), times) for place, times in applied):
                self._at(below, member)

    def _plain_members(self, place: _Place, times: int, value: dict[str, object]) -> None:
        # As `_members`, for the usual case, at a third of its time.
        properties, other, units = place.properties, place.other, 0
        for name, member in value.items():
            units += _MEMBER
            below = properties.get(name, other)
            if times != 1:
                below = tuple((child, count * times) for child, count in below)
            if isinstance(member, dict | list):
                if below:
                    self._at(below, cast("object", member))
            else:
                length = len(member) if isinstance(member, str) else 0
                for child, count in below:
                    units += _SCALAR + (child.own + child.per_char * length) * count
            if units > _OFTEN:
                self._spend(units)
                units = 0
        self._spend(units)

    def _items(self, applied: Applied, value: list[object]) -> None:
        if unique := sum(place.unique * times for place, times in applied):
            self._spend(unique * (self._size(value) + units_to_tell_apart(value)))
        longest = max(len(place.prefix) for place, _ in applied)
        for at, item in enumerate(value[:longest]):
            if below := _below((place.item(at), times) for place, times in applied):
                self._at(below, item)
        below = _below((place.items, times) for place, times in applied)
        if not below:
            return
        own = _SCALAR + sum(place.own * times for place, times in below)
        per_char = sum(place.per_char * times for place, times in below)
        for item in value[longest:] if longest else value:
            if isinstance(item, dict | list):
                self._at(below, cast("object", item))
            else:
                self._spend(own + per_char * len(item) if isinstance(item, str) else own)

    def _size(self, value: object) -> int:
        """Units of comparing all parts of a value with each other, by their digests."""
        units, waiting = 0, [value]
        while waiting:
            item = waiting.pop()
            units += _CONTAINER
            if units + self._units > self._budget:
                raise TooCostlyError
            if isinstance(item, dict):
                waiting.extend(cast("dict[str, object]", item).values())
            elif isinstance(item, list):
                waiting.extend(cast("list[object]", item))
            elif isinstance(item, str):
                units += len(item) // _CONTAINER
        return units


def _below(parts: Iterable[tuple[Applied, int]]) -> Applied:
    found: dict[_Place, int] = {}
    for part, times in parts:
        for child, count in part:
            found[child] = found.get(child, 0) + count * times
    return tuple(found.items())
