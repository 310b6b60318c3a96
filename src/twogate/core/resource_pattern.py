r"""Patterns over the URIs of resources, as the configuration writes them.

`*` stands for any characters within one segment, `**` for any characters across segments; both may stand for none.
Neither matches `?` or `#`, so a query must be written. Everything else stands for itself; `\*` is a literal `*` and
`\\` a backslash. Letter case counts. Text without wildcards is exact: it matches that very string, whatever it is.

A wildcard matches plain URIs only (`irregularity`): those that every reader takes for the same resource, because they
are written in the one form that RFC 3986 section 6 would give them. So neither `/../`, nor an encoded slash, nor
another spelling of a resource that has a stricter entry of its own can get past a pattern.

Matching takes time linear in the URI: patterns are run as state machines whose states are the bits of a number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Final, NamedTuple
from urllib.parse import unquote

from twogate.core.message import MAX_NAME

_SEGMENT: Final = "*"
_ANY: Final = "**"

# What `*` and `**` do not match. _RESERVED_VALUE stands in a template for an expansion that may hold slashes.
_NO_ANY: Final = frozenset("?#")
_VALUE: Final = "\x01"
_RESERVED_VALUE: Final = "\x02"
_NO_SEGMENT: Final = _NO_ANY | {"/", _RESERVED_VALUE}

_TOKEN: Final = re.compile(r"\*+|\\[*\\]|\\|[^*\\]")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*:")
_LEGAL: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,=:@/?-]|%[0-9A-F]{2})*")
_PARTS: Final = re.compile(r"([a-z][a-z0-9+.-]*):(?://([^/?]*))?([^?]*)(\?.*)?")
_AUTHORITY: Final = re.compile(r"([a-z0-9._~-]*)(?::([1-9][0-9]{0,4}))?")
_ONLY_ENCODED: Final = frozenset(' "<>[]^`{|}')
_EDGE: Final = r"[/?&=,:@!$'()*+]"
_TRAILING_DOT: Final = re.compile(rf"\.(?={_EDGE}|\Z)")
_BLANK_AT_EDGE: Final = re.compile(rf"%20(?={_EDGE}|\Z)|{_EDGE}%20")
_DEFAULT_PORTS: Final = {"ftp": "21", "http": "80", "https": "443", "ws": "80", "wss": "443"}

# RFC 6570: a simple or a reserved expansion. Those with other operators add characters of their own.
_EXPRESSION: Final = re.compile(r"\{(\+?)[A-Za-z0-9_%][A-Za-z0-9_.,%:*]{0,199}\}")
_VALUES: Final = re.compile(f"[{_VALUE}{_RESERVED_VALUE}]+|.")


class _Machine(NamedTuple):
    """A pattern's tokens as bits: which of them are which literal, and which are wildcards."""

    literals: dict[str, int]
    segment: int
    any: int
    accept: int


class Pattern:
    """One resource entry's pattern. `prefix` is its literal beginning: all of it, if it is exact."""

    __slots__ = ("_machine", "_slashes", "_whole", "exact", "prefix", "tokens")

    def __init__(self, tokens: tuple[str, ...]) -> None:
        literal = next((at for at, token in enumerate(tokens) if token[0] == "*"), len(tokens))
        self.tokens = tokens
        self.prefix = "".join(_plain(token) for token in tokens[:literal])
        self.exact = literal == len(tokens)
        self._whole = tokens[literal:] == (_ANY,)
        self._machine = _build(tokens[literal:])
        self._slashes = _slashes(self.prefix)

    @property
    def sample(self) -> str:
        """A URI that it matches; itself, if it is exact."""
        return "".join("any-name" if token[0] == "*" else _plain(token) for token in self.tokens)

    def matches(self, uri: str) -> bool:
        """Whether it matches a URI that is plain (or, if it is exact, any string); see `irregularity`.

        Whether a URI has an authority, and an empty one, is never a wildcard's: `x:`, `x://` and `x:///` are written.
        """
        if self.exact:
            return uri == self.prefix
        if not uri.startswith(self.prefix):
            return False
        if _slashes(uri) != self._slashes:
            return False
        rest = uri[len(self.prefix) :]
        return _NO_ANY.isdisjoint(rest) if self._whole else _accepts(self._machine, rest)

    def overlaps(self, other: Pattern) -> bool:
        """Whether some string is matched by both; may be wrongly True where the string would be no plain URI."""
        todo, seen = [(0, 0)], {(0, 0)}
        mine, its = self.tokens, other.tokens
        while todo:
            at, beside = todo.pop()
            if at == len(mine) and beside == len(its):
                return True
            for step in _steps(mine, at, its, beside):
                if step not in seen:
                    seen.add(step)
                    todo.append(step)
        return False


def parse_pattern(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        ValueError: it is malformed, or its wildcards could never match anything; the text says why.
    """
    tokens = tuple(_TOKEN.findall(text))
    if not tokens:
        raise ValueError("names no URI")
    if "\\" in tokens:
        raise ValueError(r"holds a backslash that stands for nothing; write \\ for a backslash and \* for a literal *")
    if any(len(token) > len(_ANY) and token[0] == "*" for token in tokens):
        raise ValueError("holds ***; * stays within a segment, ** does not")
    pattern = Pattern(tokens)
    if not pattern.exact:
        if not _SCHEME.match(pattern.prefix):
            raise ValueError("has a wildcard but does not begin with a scheme in lower case, such as file:")
        wrong = irregularity("".join("x" if token[0] == "*" else _plain(token) for token in tokens))
        if wrong:
            raise ValueError(f"could match nothing: wildcards match plain URIs only, and this {wrong}")
    return pattern


def irregularity(uri: str) -> str | None:
    """What keeps a URI from being plain, as words to stand behind "the URI"; None if it is.

    Plain means that RFC 3986 section 6 would change nothing, and that nothing in it is read differently by those who
    decode, split or open it in another order:

    1. only the characters of a URI, encoded triplets in upper case, no fragment, no `;` (some readers drop what
       follows it), MAX_NAME characters at most;
    2. scheme and host in lower case, no user name, no default port; http URIs with host and path, files without host;
    3. encoded is only what cannot stand as it is, in valid UTF-8, NFKC-normalised, without control characters; no
       slash, backslash, percent sign, question mark or number sign;
    4. no empty segment, and none that begins or ends in a blank or ends in a dot (so no `.` and no `..`).
    """
    # 1.
    if len(uri) > MAX_NAME:
        return f"is longer than {MAX_NAME} characters"
    if not _LEGAL.fullmatch(uri):
        return "holds a character or an encoding that a plain URI does not"
    # 2.
    parts = _PARTS.fullmatch(uri)
    if parts is None:
        return "does not begin with a scheme in lower case"
    scheme, authority, path, query = parts[1], parts[2], parts[3], parts[4] or ""
    host = _AUTHORITY.fullmatch(authority or "")
    if host is None:
        return "has a user name, or a host or port in another than the plain form"
    if scheme in _DEFAULT_PORTS and (not _is_one_host(host[1]) or not path or host[2] == _DEFAULT_PORTS[scheme]):
        return "is another spelling of a URI with a host and a path but without port"
    if scheme == "file" and (authority != "" or not path):
        return "is another spelling of a URI that begins with file:///"
    # 3.
    if "%" in uri and not _encodes_plainly(uri):
        return "encodes what a plain URI does not"
    # 4.
    if "//" in path + query or path.endswith("/") or uri.endswith(("/", "?")) or (authority == "" and not path):
        return "has an empty segment"
    if _TRAILING_DOT.search(uri) or _BLANK_AT_EDGE.search(uri):
        return "has a segment that is a dot segment, ends in a dot, or begins or ends in a blank"
    return None


class Template(NamedTuple):
    """A URI template (RFC 6570) whose expressions are `{value}`, which holds no slash, or `{+value}`, which may.

    Where a pattern matches `sample` it matches every expansion that is plain and whose authority, if it has one, did
    not become empty. `pattern` overlaps whatever matches an expansion.
    """

    sample: str
    pattern: Pattern


def is_template(uri: str) -> bool:
    """Whether it is a URI template and no URI."""
    return "{" in uri


def parse_template(uri: str) -> Template | None:
    """Read a template; None if it has expressions with other operators or is not plain around its expressions."""
    bare = _EXPRESSION.sub("x", uri)
    if "{" in bare or "}" in bare or irregularity(bare) is not None:
        return None
    sample = _EXPRESSION.sub(lambda found: _RESERVED_VALUE if found[1] else _VALUE, uri)
    tokens: list[str] = []
    for found in _VALUES.findall(sample):
        if found[0] in (_VALUE, _RESERVED_VALUE):
            tokens.append(_ANY if _RESERVED_VALUE in found else _SEGMENT)
        else:
            tokens.append("\\*" if found == "*" else found)
    return Template(sample, Pattern(tuple(tokens)))


def _slashes(uri: str) -> str:
    rest = uri.partition(":")[2]
    return next((slashes for slashes in ("///", "//") if rest.startswith(slashes)), "")


def _plain(token: str) -> str:
    return token[-1]  # of an escape, what is escaped


def _is_one_host(host: str) -> bool:
    # A last label that begins with a digit may be read as a number, and so as an address in another form.
    if not host.rpartition(".")[2][:1].isdigit():
        return host != ""
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True


def _encodes_plainly(uri: str) -> bool:
    try:
        decoded = unquote(uri, errors="strict")
    except UnicodeDecodeError:
        return False
    encoded = (unquote(found, errors="replace") for found in re.findall(r"(?:%[0-9A-F]{2})+", uri))
    return unicodedata.is_normalized("NFKC", decoded) and all(
        char in _ONLY_ENCODED or (not char.isascii() and unicodedata.category(char)[0] not in "CZ")
        for run in encoded
        for char in run
    )


def _build(tokens: Sequence[str]) -> _Machine:
    literals: dict[str, int] = {}
    wild = {_SEGMENT: 0, _ANY: 0}
    for at, token in enumerate(tokens):
        if token in wild:
            wild[token] |= 1 << at
        else:
            literals[_plain(token)] = literals.get(_plain(token), 0) | 1 << at
    return _Machine(literals, wild[_SEGMENT], wild[_ANY], 1 << len(tokens))


def _accepts(machine: _Machine, text: str) -> bool:
    # Bit n of `state`: the tokens before the nth match what was read. A wildcard may stand for nothing; two never
    # stand side by side, so one step over each is enough.
    wild = machine.segment | machine.any
    state = 1 | (wild & 1) << 1
    for char in text:
        stays = 0 if char in _NO_ANY else machine.any if char in _NO_SEGMENT else wild
        state = (state & machine.literals.get(char, 0)) << 1 | state & stays
        if not state:
            return False
        state |= (state & wild) << 1
    return bool(state & machine.accept)


def _steps(mine: Sequence[str], at: int, its: Sequence[str], beside: int) -> list[tuple[int, int]]:
    # One step of both machines over the same unknown string.
    token = mine[at] if at < len(mine) else ""
    other = its[beside] if beside < len(its) else ""
    steps: list[tuple[int, int]] = []
    if token[:1] == "*":
        steps.append((at + 1, beside))
    if other[:1] == "*":
        steps.append((at, beside + 1))
    if token and other and token[0] != "*" and other[0] != "*":
        if _plain(token) == _plain(other):
            steps.append((at + 1, beside + 1))
    elif token[:1] == "*" and other and other[0] != "*" and _plain(other) not in _refused(token):
        steps.append((at, beside + 1))
    elif other[:1] == "*" and token and token[0] != "*" and _plain(token) not in _refused(other):
        steps.append((at + 1, beside))
    return steps


def _refused(wildcard: str) -> frozenset[str]:
    return _NO_ANY if wildcard == _ANY else _NO_SEGMENT
