"""One YAML document as plain data, with the line of every key (DESIGN decision 22).

A small part of YAML 1.2: mappings, sequences, and scalars of the core schema. What can make a reader and a reviewer
see different things is refused: duplicate keys, aliases (a small file could grow without bound), tags, merge keys,
directives, several documents. `${NAME}` is text: nothing is expanded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

MAX_DEPTH: Final = 16
"""Nesting that a configuration file may have; the settings need 5."""

KeyPath = tuple[str | int, ...]
"""The way to a value: keys of mappings and indexes of sequences."""

# Long enough for every number a setting can hold; longer ones and other forms (0o17, 1_000, 1.5) stay text.
_INTEGER: Final = re.compile(r"(?:0|-?[1-9][0-9]{0,15})\Z")
_CORE_SCHEMA: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class _Kind(Enum):
    DOCUMENT = auto()
    SCALAR = auto()
    ALIAS = auto()
    MAPPING = auto()
    SEQUENCE = auto()
    END = auto()


_KINDS: Final = {
    DocumentStartEvent: _Kind.DOCUMENT,
    ScalarEvent: _Kind.SCALAR,
    AliasEvent: _Kind.ALIAS,
    MappingStartEvent: _Kind.MAPPING,
    SequenceStartEvent: _Kind.SEQUENCE,
    MappingEndEvent: _Kind.END,
    SequenceEndEvent: _Kind.END,
}


@dataclass(frozen=True)
class _Event:
    """What we need of one of the parser's events. `plain` is a scalar without quotes."""

    kind: _Kind
    line: int
    text: str
    plain: bool
    anchor: bool
    tag: bool
    directives: bool


@dataclass
class Document:
    """Plain data, where each key was written (lines count from 1), and what was wrong with the YAML itself."""

    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict[KeyPath, int])
    problems: list[tuple[int, KeyPath, str]] = field(default_factory=list[tuple[int, KeyPath, str]])

    def line(self, path: KeyPath) -> int:
        """The line of this path, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


@dataclass
class _Frame:
    """A mapping or sequence being read. `key` is a mapping's key that waits for its value."""

    path: KeyPath
    mapping: dict[str, Any] | None
    sequence: list[Any]
    key: str | None = None
    discard: bool = False


class _BrokenError(Exception):
    """The document cannot be read any further."""


def read_document(text: str) -> Document:
    """Read one document. Never raises: what is wrong is in `problems`."""
    document = Document()
    reader = _Reader(document)
    try:
        for event in _events(text):
            reader.take(event)
    except _BrokenError:
        pass
    except MarkedYAMLError as error:
        details: Any = error  # its attributes are untyped in the library
        mark = details.problem_mark or details.context_mark
        line = mark.line + 1 if mark else 1
        document.problems.append((line, (), f"not valid YAML: {details.problem or details.context}"))
    except (YAMLError, ValueError) as error:
        document.problems.append((1, (), f"not valid YAML: {str(error).splitlines()[0]}"))
    return document


def _events(text: str) -> Iterator[_Event]:
    # The one place that touches the library's untyped events.
    parser: Any = YAML(typ="safe", pure=True)
    for event in parser.parse(text):
        kind = _KINDS.get(event.__class__)
        if kind is None:
            continue
        yield _Event(
            kind=kind,
            line=event.start_mark.line + 1,
            text=event.value if kind is _Kind.SCALAR else "",
            plain=kind is _Kind.SCALAR and event.style is None,
            anchor=kind is not _Kind.ALIAS and getattr(event, "anchor", None) is not None,
            tag=getattr(event, "ctag", None) is not None,
            directives=kind is _Kind.DOCUMENT and (event.version is not None or bool(event.tags)),
        )


class _Reader:
    """Builds plain data from events without recursion."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._stack: list[_Frame] = []
        self._documents = 0

    def take(self, event: _Event) -> None:
        """Take the next event."""
        if event.kind is _Kind.DOCUMENT:
            self._start(event)
        elif event.kind is _Kind.END:
            self._stack.pop()
        else:
            self._node(event)

    def _start(self, event: _Event) -> None:
        self._documents += 1
        if self._documents > 1:
            self._problem(event.line, (), "a second document starts here; keep everything in one")
            raise _BrokenError
        if event.directives:
            self._problem(event.line, (), "YAML directives (%YAML, %TAG) are not accepted; remove them")

    def _node(self, event: _Event) -> None:
        frame = self._stack[-1] if self._stack else None
        if frame is not None and frame.mapping is not None and frame.key is None:
            self._key(frame, event)
            return
        path = self._place(frame, event.line)
        self._refuse_extras(event, path)
        value: object = None
        if event.kind in (_Kind.MAPPING, _Kind.SEQUENCE):
            inner = _Frame(path, {} if event.kind is _Kind.MAPPING else None, [])
            value = inner.sequence if inner.mapping is None else inner.mapping
            if len(self._stack) == MAX_DEPTH:
                self._problem(event.line, path, f"nested more than {MAX_DEPTH} levels deep")
                raise _BrokenError
            self._stack.append(inner)
        elif event.kind is _Kind.SCALAR:
            value = _scalar(event)
        if frame is None:
            self._document.data = value
        elif frame.mapping is None:
            frame.sequence.append(value)
        elif frame.key is not None:
            if not frame.discard:
                frame.mapping[frame.key] = value
            frame.key = None

    def _key(self, frame: _Frame, event: _Event) -> None:
        if event.kind is not _Kind.SCALAR:
            self._problem(event.line, frame.path, "a key must be plain text")
            raise _BrokenError
        # A key is always its text: every key names something, so `1` and `true` are names too.
        path = (*frame.path, event.text)
        self._refuse_extras(event, path)
        frame.key = event.text
        frame.discard = frame.mapping is not None and event.text in frame.mapping
        if frame.discard:
            first = self._document.line(path)
            self._problem(event.line, path, f"the key is written twice (first in line {first}); remove one")
        else:
            self._document.lines[path] = event.line
        if event.text == "<<":
            self._problem(event.line, path, "merge keys are not accepted; write the settings out")

    def _place(self, frame: _Frame | None, line: int) -> KeyPath:
        if frame is None:
            return ()
        if frame.mapping is None:
            path = (*frame.path, len(frame.sequence))
            self._document.lines[path] = line
            return path
        return (*frame.path, frame.key or "")

    def _refuse_extras(self, event: _Event, path: KeyPath) -> None:
        if event.kind is _Kind.ALIAS:
            self._problem(event.line, path, "aliases (*name) are not accepted; write the value out")
        if event.anchor:
            self._problem(event.line, path, "anchors (&name) are not accepted; remove it")
        if event.tag:
            self._problem(event.line, path, "tags (!name) are not accepted; remove it")

    def _problem(self, line: int, path: KeyPath, message: str) -> None:
        self._document.problems.append((line, path, message))


def _scalar(event: _Event) -> str | int | bool | None:
    if not event.plain:
        return event.text
    if event.text in _CORE_SCHEMA:
        return _CORE_SCHEMA[event.text]
    return int(event.text) if _INTEGER.match(event.text) else event.text
