"""The files of Cedar policies: `policies:` of the configuration (R-35).

They are read once, with the configuration: what was checked is what holds, and the generation names their text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationInfo

from twogate.config.values import directory_of

MAX_BYTES: Final = 256 * 1024
"""Bytes that one file may have."""

MAX_FILES: Final = 32


@dataclass(frozen=True)
class PolicyFile:
    """One file as it was read."""

    path: Path
    text: str


def _read(value: object, info: ValidationInfo) -> PolicyFile:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be the path of a file")
    path = directory_of(info) / value
    try:
        if not path.is_file():
            raise ValueError(f"{path} is not a file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    if "\0" in text:
        raise ValueError(f"{path} holds a NUL character")
    return PolicyFile(path, text)


def _distinct(files: tuple[PolicyFile, ...]) -> tuple[PolicyFile, ...]:
    names: dict[str, Path] = {}
    for file in files:
        # A policy without an id is called by its file's name.
        first = names.setdefault(file.path.name, file.path)
        if first is not file.path:
            raise ValueError(f"two files are called {file.path.name}; give each its own name")
    return files


def _written(file: PolicyFile) -> list[str]:
    return [str(file.path), file.text]


class Policies(BaseModel):
    """Cedar policies, which only narrow what roles and tasks allow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: Annotated[
        tuple[Annotated[PolicyFile, PlainValidator(_read), PlainSerializer(_written)], ...],
        Field(min_length=1, max_length=MAX_FILES),
        AfterValidator(_distinct),
    ]
