"""`servers.NAME.sandbox`: what a stdio server may see, use and take. Its problems are found in `references_sandbox`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from twogate.config.values import FilePath, NonEmpty, Size, TenantName, matching

HIDDEN: Final = tuple(map(Path, ("/home", "/root", "/run", "/tmp", "/var/tmp")))  # noqa: S108 - named to be hidden
"""What every sandbox hides beside Twogate's own: people's files, other programs' sockets, what others left behind."""

AccountName = Annotated[
    str, matching(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", "must be the name of an account of this machine")
]


class Sandbox(BaseModel):
    """Linux namespaces around a stdio server; left out, it has none. What is not named is not given.

    `users` maps tenants to accounts of the machine. `memory` (bytes of address space) and `open_files` count for each
    process of the server, `processes` for all of one agent and user together, threads included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: Annotated[Mapping[TenantName, AccountName] | None, Field(min_length=1)] = None
    network: Literal["none", "host"] = "none"
    readable: NonEmpty[FilePath] = ()
    writable: NonEmpty[FilePath] = ()
    memory: Annotated[Size, Field(ge=64 * 1024 * 1024)] = 4096 * 1024 * 1024
    processes: Annotated[int, Field(ge=1, le=4096)] = 64
    open_files: Annotated[int, Field(ge=16, le=65536)] = 256
