"""Reading Cedar policies: each is a `forbid`, and in order against the schema, or the configuration is refused (R-35).

A `permit` could only be there to widen, so none is accepted; the one that lets everything through is our own. Beyond
what Cedar's validator finds, a policy is refused that asks for an attribute or a target that cannot exist: Cedar takes
`has` of a misspelt name for false, and the policy would never forbid anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import cedarpy
import msgspec

from twogate.core.access import ToolClass
from twogate.core.conditions import ANY_CALL, CONTEXT, NAMESPACE, SHAPE, ArgumentType, Declared
from twogate.core.entry import Entries

MAX_POLICIES: Final = 500
"""Policies that may be in force together."""

MAX_LENGTH: Final = 8192
"""Characters that one policy may have."""

MAX_NESTING: Final = 32
"""Brackets within brackets that a policy may have: Cedar's parser ends the process where there are thousands."""

# Some of its signatures are only partly typed.
_cedar: Final[Any] = cedarpy
_MAX_FINDINGS: Final = 3  # the validator repeats itself for every action
_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|[;()\[\]{}]', re.DOTALL)
_START: Final = re.compile(r"(?:\s|//[^\n]*)*")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_WHERE: Final = re.compile(r'^for policy `policy\d+`[,:] | in context for Twogate::Action::"(?:[^"\\]|\\.)*"')


class PolicySource(msgspec.Struct, frozen=True):
    """A file of policies."""

    name: str
    text: str


class KnownAction(msgspec.Struct, frozen=True):
    """An entry of `tools`, which is an action in policies: its class, and the arguments that policies may look at."""

    tool_class: ToolClass
    declared: Declared


class PolicyProblem(msgspec.Struct, frozen=True):
    """What is wrong with the policy that begins in a line of a file."""

    file: str
    line: int
    message: str


class CheckedPolicy(msgspec.Struct, frozen=True):
    """A `forbid` that is in order. `entries` are those that its scope's action covers.

    `context` is what it could see of a call's context. If the arguments are in it, it cannot be judged of a call whose
    arguments are not known.
    """

    id: str
    file: str
    line: int
    text: str
    entries: frozenset[str]
    context: frozenset[str]

    @property
    def looks_at_arguments(self) -> bool:
        """Whether it could see a call's arguments."""
        return "arguments" in self.context


class _Fragment(NamedTuple):
    file: str
    line: int
    text: str


class _Looks(NamedTuple):
    """What a policy's conditions ask for: attributes by variable, and entities by their names."""

    attributes: set[tuple[str, tuple[str, ...]]]
    entities: set[tuple[str, str]]


class PolicyReader:
    """Reads policies against one schema and the entries that it was made of.

    `schema` is Cedar's JSON form; `tenants` are those that exist.
    """

    def __init__(self, schema: str, actions: Mapping[str, KnownAction], tenants: frozenset[str]) -> None:
        """Compile the schema.

        Raises:
            ValueError: it is none.
        """
        self.schema = cedarpy.Schema.from_json_str(schema)
        self._actions = actions
        self._tenants = tenants
        self._entries = Entries(actions)

    def read(self, sources: Sequence[PolicySource]) -> tuple[tuple[CheckedPolicy, ...], tuple[PolicyProblem, ...]]:
        """The policies of all files in their order, and every problem; policies with problems are left out."""
        good: list[CheckedPolicy] = []
        problems: list[PolicyProblem] = []
        places: dict[str, str] = {}
        fragments = [fragment for source in sources for fragment in _split(source)]
        if len(fragments) > MAX_POLICIES:
            last = fragments[MAX_POLICIES]
            return (), (PolicyProblem(last.file, last.line, f"more than {MAX_POLICIES} policies"),)
        for fragment in fragments:
            try:
                policy = self._policy(fragment)
                first = places.setdefault(policy.id, f"{policy.file}:{policy.line}")
                if first != f"{policy.file}:{policy.line}":
                    raise _RefusedError(policy.id, f"has the id of the policy at {first}")
            except _RefusedError as error:
                problems += [PolicyProblem(fragment.file, fragment.line, text) for text in error.texts]
            else:
                good.append(policy)
        return tuple(good), tuple(problems)

    def _policy(self, fragment: _Fragment) -> CheckedPolicy:
        own_name = f"{fragment.file}:{fragment.line}"
        if len(fragment.text) > MAX_LENGTH or _nesting(fragment.text) > MAX_NESTING:
            raise _RefusedError("", f"has over {MAX_LENGTH} characters or brackets over {MAX_NESTING} deep; split it")
        try:
            parsed: dict[str, Any] = msgspec.json.decode(cedarpy.policies_to_json_str(fragment.text))
        except ValueError as error:
            raise _RefusedError("", f"is not Cedar: {_one_line(error)}") from None
        except RecursionError:
            raise _RefusedError("", "is nested too deeply") from None
        if parsed["templates"]:
            raise _RefusedError("", "is a template (?principal, ?resource); write the policy out")
        (policy,) = parsed["staticPolicies"].values()
        annotation: object = policy.get("annotations", {}).get("id")
        if annotation is not None and not (isinstance(annotation, str) and _ID.fullmatch(annotation)):
            raise _RefusedError("", "has an @id that is not 1 to 128 letters, digits and . _ -")
        name = annotation if isinstance(annotation, str) else own_name
        if policy["effect"] != "forbid":
            raise _RefusedError(
                name, "is a permit; policies only narrow what roles and tasks allow: write forbid, or change the roles"
            )
        looks = _looks(policy)
        covered = frozenset(entry for entry, action in self._actions.items() if _covers(policy, entry, action))
        found = [*self._validated(fragment.text), *self._unknown(looks, covered)]
        if found:
            raise _RefusedError(name, *found[:_MAX_FINDINGS])
        return CheckedPolicy(
            id=name,
            file=fragment.file,
            line=fragment.line,
            text=fragment.text,
            entries=covered,
            context=_seen(looks),
        )

    def _validated(self, text: str) -> Iterator[str]:
        result: cedarpy.ValidationResult = _cedar.validate_policies(text, self.schema)
        # Said once, not for each action that the policy is about.
        said = {_WHERE.sub("", error.error): None for error in result.errors}
        if not result.validation_passed:
            yield from said or ("was not accepted by Cedar's validator",)

    def _unknown(self, looks: _Looks, covered: frozenset[str]) -> Iterator[str]:
        for variable, path in sorted(looks.attributes):
            if variable == "context" and path[:1] == ("arguments",):
                declared = (self._actions[entry].declared for entry in covered)
                if len(path) > 1 and not any(_is_declared(item, path[1:]) for item in declared):
                    yield f"no tool that it covers declares the argument {'.'.join(path[1:])} (tools.X.arguments)"
            elif variable in SHAPE and not _exists(SHAPE[variable], path):
                yield f"there is no {'.'.join((variable, *path))}"
        for kind, identifier in sorted(looks.entities):
            if kind == f"{NAMESPACE}::Target" and identifier not in self._entries.exact:
                if self._entries.search(identifier) is None:
                    yield f"the target {identifier} is not classified (tools)"
            elif kind == f"{NAMESPACE}::Agent" and identifier.partition("/")[0] not in self._tenants:
                yield f"the agent {identifier} is of no tenant: write tenant/agent"


class _RefusedError(Exception):
    """A policy is not accepted."""

    def __init__(self, name: str, *texts: str) -> None:
        self.texts = tuple(f"policy {name} {text}" if name else text for text in texts)
        super().__init__(*self.texts)


def _split(source: PolicySource) -> Iterator[_Fragment]:
    """Each policy of a file with its line. A semicolon ends one, unless it stands in a text or a comment."""
    start = 0
    ends = [match.end() for match in _TOKENS.finditer(source.text) if match[0] == ";"]
    for end in (*ends, len(source.text)):
        blank = _START.match(source.text, start, end)
        begin = start if blank is None else blank.end()
        if begin < end:
            yield _Fragment(source.name, source.text.count("\n", 0, begin) + 1, source.text[begin:end])
        start = end


def _nesting(text: str) -> int:
    deepest = depth = 0
    for match in _TOKENS.finditer(text):
        depth += (match[0] in "([{") - (match[0] in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _looks(policy: dict[str, Any]) -> _Looks:
    looks = _Looks(set(), set())
    stack: list[object] = [policy[key] for key in ("principal", "action", "resource", "conditions")]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += cast("list[object]", node)
        elif isinstance(node, dict):
            item = cast("dict[str, Any]", node)
            entity = item.get("type"), item.get("id")
            if isinstance(entity[0], str) and isinstance(entity[1], str):
                looks.entities.add((entity[0], entity[1]))
                continue
            root, path = _chain(item)
            variable = root.get("Var")
            if isinstance(variable, str):
                looks.attributes.add((variable, path))
            elif path:
                stack.append(root)
            else:
                stack += item.values()
    return looks


def _seen(looks: _Looks) -> frozenset[str]:
    # Who takes the context as a whole could see all of it.
    taken = {path[:1] for variable, path in looks.attributes if variable == "context"}
    return CONTEXT if () in taken else frozenset(name for path in taken for name in path)


def _chain(node: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What an attribute is taken of, and the way to it: `context.arguments has a` is context, (arguments, a)."""
    path: list[str] = []
    while True:
        step: object = node.get(".", node.get("has"))
        if len(node) != 1 or not isinstance(step, dict) or "attr" not in step:
            return node, tuple(reversed(path))
        inner = cast("dict[str, Any]", step)
        path.append(inner["attr"])
        node = inner["left"]


def _covers(policy: dict[str, Any], entry: str, action: KnownAction) -> bool:
    scope: dict[str, Any] = policy["action"]
    names = {entry} if scope["op"] == "==" else {entry, action.tool_class.value, ANY_CALL}
    match scope:
        case {"op": "All"}:
            return True
        case {"op": "==" | "in", "entity": {"id": identifier}}:
            return identifier in names
        case {"op": "in", "entities": [*entities]}:
            items: list[Any] = entities
            return any(item["id"] in names for item in items)
        case _:
            # What is not understood here is left to Cedar, for every call.
            return True


def _exists(shape: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    for at, name in enumerate(path):
        found = shape.get(name, shape.get(f"{name}?"))
        if not isinstance(found, Mapping):
            # What follows a plain value is for Cedar's validator.
            return found is not None or at == len(path)
        shape = cast("Mapping[str, Any]", found)
    return True


def _is_declared(declared: Declared, path: tuple[str, ...]) -> bool:
    for name in path:
        found = declared.get(name)
        if found is None:
            return False
        if isinstance(found, ArgumentType):
            return True
        declared = found
    return True


def _one_line(error: ValueError) -> str:
    return " ".join(str(error).split())[:200]
