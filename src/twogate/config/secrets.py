"""`tenants.NAME.secrets` and `servers.NAME.credential`: which secret a server gets, from where, and how it is shown.

The file holds references only (DESIGN decision 22): `local:NAME` is kept in Twogate's own encrypted store, `file:PATH`
in a file that another system rotates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, model_validator

from twogate.config.values import directory_of, matching
from twogate.flows.secrets import SECRET_NAME

LOCAL: Final = "local"
FILE: Final = "file"
AUTHORIZATION: Final = "authorization"

CREDENTIAL_FILE: Final = "TWOGATE_CREDENTIAL_FILE"
"""The environment variable that tells a stdio server where its secret is, unless `credential` names another one."""

_HEADER: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")
# What HTTP, MCP or Twogate says by itself; in a second copy each reader would believe another one.
_TAKEN: Final = frozenset(
    {
        "host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "via", "date",
        "accept", "cache-control", "last-event-id", "origin", "cookie", "forwarded", "range", "dpop", "signature",
        "signature-input",
    }
)  # fmt: skip
_TAKEN_PREFIXES: Final = (
    "mcp-", "twogate-", "content-", "accept-", "proxy-", "sec-", "x-forwarded-", "access-control-", "if-",
)  # fmt: skip


@dataclass(frozen=True)
class SecretReference:
    """Where a secret is: `scheme` says which source has it, `name` how that source calls it (an absolute path)."""

    scheme: str
    name: str

    @property
    def path(self) -> Path | None:
        """The file, if it is one."""
        return Path(self.name) if self.scheme == FILE else None

    def __str__(self) -> str:
        """As the setting spells it."""
        return f"{self.scheme}:{self.name}"


def _parse(value: object, info: ValidationInfo) -> SecretReference:
    if isinstance(value, SecretReference):
        return value
    scheme, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if colon and scheme == LOCAL and SECRET_NAME.fullmatch(name):
        return SecretReference(LOCAL, name)
    if colon and scheme == FILE and Path(name).name and "\0" not in name:
        return SecretReference(FILE, str(directory_of(info) / name))
    # The value itself is not repeated: by mistake it may be the secret.
    raise ValueError("must be local:NAME (see `twogate secret set`) or file:PATH; secrets never stand in this file")


def _header(value: object) -> object:
    if not isinstance(value, str):
        return value
    name = value.lower()
    if not _HEADER.fullmatch(name):
        raise ValueError("a header's name is 1 to 64 letters, digits and -, a letter first")
    if name in _TAKEN or name.startswith(_TAKEN_PREFIXES):
        raise ValueError(f"{value} is not for credentials; use authorization, or a header like x-api-key")
    return name


Scheme = Annotated[str, matching(r"(?:[A-Za-z][A-Za-z0-9-]{0,31})?", "must be one word such as Bearer, or empty")]


class HeaderCredential(BaseModel):
    """How a server reached by URL gets its tenant's secret: after `scheme` and a blank, or with an empty one, alone.

    Without `scheme` that is Bearer in `authorization`, and none elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    header: Annotated[str, BeforeValidator(_header)] = AUTHORIZATION
    scheme: Scheme | None = None

    @property
    def effective_scheme(self) -> str:
        """The scheme that is used; empty for none."""
        if self.scheme is None:
            return "Bearer" if self.header == AUTHORIZATION else ""
        return self.scheme


EnvironmentName = Annotated[
    str, matching(r"[A-Za-z_][A-Za-z0-9_]{0,127}", "must be the name of an environment variable")
]


class ProcessCredential(BaseModel):
    """How a stdio server gets its tenant's secret.

    `file` is the environment variable that names a file with it, in memory and for this process alone. `env` is the one
    that holds the secret itself: what the process starts inherits it, and it stands in `/proc`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: EnvironmentName | None = None
    env: EnvironmentName | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.file is not None and self.env is not None:
            raise ValueError("needs one of `file` and `env`, not both")
        return self

    @property
    def variable(self) -> str:
        """The environment variable, whichever it is."""
        return self.env or self.file or CREDENTIAL_FILE


Reference = Annotated[SecretReference, BeforeValidator(_parse)]
