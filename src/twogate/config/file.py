"""From a configuration file to `Settings`, or to every problem it has, each with its line and key."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from twogate.config.approval import ApprovalSettings
from twogate.config.document import Document, KeyPath, read_document
from twogate.config.files import file_problems
from twogate.config.references import References
from twogate.config.references_names import Found
from twogate.config.servers import HttpServer, LibraryServer, StdioServer
from twogate.config.settings import Settings
from twogate.config.values import Base

MAX_BYTES: Final = 1024 * 1024

# Stand in for what is missing or broken, so that the rest can be checked too; never returned to anybody.
_PLACEHOLDERS: Final[dict[str, Any]] = {
    "public_url": "https://localhost",
    "listen": "127.0.0.1:1",
    "store": "sqlite:////nowhere/store.db",
    "tenants": {"nobody": {}},
}
_NAMED_SECTIONS: Final = frozenset(
    {"servers", "tools", "roles", "tasks", "agents", "clients", "groups", "scopes", "tenants"}
)
_TAGGED: Final[dict[str, type[BaseModel]]] = {
    "<url>": HttpServer,
    "<command>": StdioServer,
    "<library>": LibraryServer,
    "<rule>": ApprovalSettings,
    "<rules>": ApprovalSettings,
}


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong with the file. `line` counts from 1; 0 means the file as a whole."""

    line: int
    key: str
    message: str


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds everything that is wrong with it, by line."""

    def __init__(self, path: Path, problems: tuple[Problem, ...]) -> None:
        self.path = path
        self.problems = problems
        super().__init__("\n".join(self.describe(problem) for problem in problems))

    def describe(self, problem: Problem) -> str:
        """One line of text: file, line, key, what to do."""
        place = f"{self.path}:{problem.line}" if problem.line else str(self.path)
        return f"{place}: {problem.key}: {problem.message}" if problem.key else f"{place}: {problem.message}"


def load_settings(path: Path, *, now: int | None = None) -> Settings:
    """Read and check a configuration file and the files it names, at this moment or at `now` (Unix seconds).

    Raises:
        ConfigError: With every problem found.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(path, (Problem(0, "", "no such file; make one with `twogate init`"),)) from None
    except OSError as error:
        raise ConfigError(path, (Problem(0, "", f"cannot be read: {error.strerror}"),)) from None
    except UnicodeDecodeError:
        raise ConfigError(path, (Problem(0, "", "is not UTF-8 text"),)) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(path, (Problem(0, "", f"is larger than {MAX_BYTES} bytes"),))
    return parse_settings(text, path, now=now)


def parse_settings(text: str, path: Path, *, now: int | None = None) -> Settings:
    """Check the text of a configuration file that lies, or would lie, at `path`; `now` as in `load_settings`.

    Raises:
        ConfigError: With every problem found.
    """
    document = read_document(text)
    found: list[tuple[int, KeyPath, str]] = list(document.problems)
    # A file is read before anything is wired that could bring a Clock.
    base = Base(path.absolute().parent, int(time.time()) if now is None else now)  # noqa: TID251
    settings, places = None, list[Found]()
    if isinstance(document.data, dict):
        settings, places = _check(document, base)
    elif not found:
        found.append((1, (), "is empty or not a mapping of settings; see `twogate init` for a first file"))
    # What YAML itself got wrong is said once, not again by what reads the value.
    reported = {place for _, place, _ in found if place}
    found += [(document.line(at), at, message) for at, message in places if at not in reported]
    if found or settings is None:
        problems = {Problem(line, _show(at), message) for line, at, message in found}
        raise ConfigError(path, tuple(sorted(problems)))
    return settings


def _check(document: Document, base: Base) -> tuple[Settings | None, list[Found]]:
    try:
        settings = _validate(document.data, base)
    except ValidationError as error:
        # A list whose items are wrong also counts as too short; only an empty one is.
        errors = [item for item in error.errors() if item["type"] != "too_short" or not item["input"]]
        places = [_translate(item, document.data) for item in errors]
        places += _partial_problems(document.data, [place for place, _ in places], base)
        return None, places
    return settings, [*References(settings).problems(), *file_problems(settings, frozenset())]


def _validate(data: object, base: Base) -> Settings:
    # JSON mode is strict about types (no "1" for 1) and still reads lists as tuples and text as paths and enums.
    return Settings.model_validate_json(json.dumps(data), strict=True, context=base)


def _partial_problems(data: dict[str, Any], places: list[KeyPath], base: Base) -> list[Found]:
    """The problems between the settings that could be read, when others could not."""
    broken = frozenset(place[:2] if place[0] in _NAMED_SECTIONS else place[:1] for place in places if place)
    rest: dict[str, Any] = {}
    for section, value in data.items():
        if (section,) in broken:
            continue
        if section not in _NAMED_SECTIONS:
            rest[section] = value
        elif kept := {name: item for name, item in value.items() if (section, name) not in broken}:
            rest[section] = kept
    for section, value in _PLACEHOLDERS.items():
        if not rest.get(section):
            rest[section] = value
            broken |= {(section,)}
    try:
        settings = _validate(rest, base)
    except ValidationError:
        return []
    return [*References(settings, broken).problems(), *file_problems(settings, broken)]


_MESSAGES: Final = {
    "missing": "is missing",
    "string_type": "must be text; put it in quotes",
    "int_type": "must be a whole number, without quotes",
    "bool_type": "must be true or false, without quotes",
    "dict_type": "must be a mapping (`key: value` lines)",
    "model_type": "must be a mapping (`key: value` lines)",
    "tuple_type": "must be a list",
    "path_type": "must be the path of a file",
    "json_invalid": "holds text that is not valid Unicode",
}


def _translate(error: ErrorDetails, data: dict[str, Any]) -> Found:
    """One of pydantic's errors as a place in the file and our words."""
    loc: tuple[str | int, ...] = error["loc"]
    place = tuple(part for part in loc if part not in _TAGGED and part != "[key]" and not _is_choice(part))
    kind = error["type"]
    context: dict[str, Any] = error.get("ctx", {})
    if kind == "extra_forbidden":
        return place, _unknown_setting(loc)
    if error["input"] is None and kind != "missing":
        return place, "has no value; give one or remove the key"
    if kind == "missing":
        return place, _missing_setting(place, data)
    if kind == "value_error":
        return place, str(context["error"])
    if kind == "too_short":
        return place, "must not be empty"
    if kind in ("enum", "literal_error"):
        return place, f"must be one of {context['expected']}"
    if kind == "greater_than_equal":
        return place, f"must be at least {context['ge']}{_unit(place)}"
    if kind == "less_than_equal":
        return place, f"must be at most {context['le']}{_unit(place)}"
    return place, _MESSAGES.get(kind) or str(error["msg"])


def _is_choice(part: str | int) -> bool:
    # How pydantic names the members of a union of plain types.
    return isinstance(part, str) and (part.startswith(("literal[", "function-")) or part == "constrained-str")


def _unit(place: KeyPath) -> str:
    if place[-1] in ("max_lifetime", "timeout", "expected") or "lifetimes" in place:
        return " seconds"
    return " bytes" if place[-1] in ("body", "memory") else ""


def _missing_setting(place: KeyPath, data: dict[str, Any]) -> str:
    if place != ("tenants",):
        return "is missing"
    agents = data.get("agents") if isinstance(data.get("agents"), dict) else None
    names = sorted({str(name).partition("/")[0] for name in cast("dict[str, object]", agents)}) if agents else []
    example = names[0] if names else "acme"
    return f"is missing; say what each tenant may reach, for example `tenants: {{{example}: {{servers: [files]}}}}`"


def _unknown_setting(loc: tuple[str | int, ...]) -> str:
    known = _known_settings(loc[:-1])
    close = get_close_matches(str(loc[-1]), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
    return f"is not a setting of this version ({hint})"


def _known_settings(loc: tuple[str | int, ...]) -> list[str]:
    """The settings that may stand at a place, found by walking the models along it."""
    model: type[BaseModel] | None = Settings
    skip = False
    for part in loc:
        if isinstance(part, str) and part in _TAGGED:
            model = _TAGGED[part]
        elif skip:
            skip = False  # a name or index inside a mapping or list
        elif model is not None:
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            field = fields.get(str(part))
            model = _model_in(field.annotation) if field is not None else None
            origin = get_origin(field.annotation) if field is not None else None
            skip = isinstance(origin, type) and issubclass(origin, (tuple, Mapping))
    return [field.alias or name for name, field in model.model_fields.items()] if model is not None else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)


def _show(place: KeyPath) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text
