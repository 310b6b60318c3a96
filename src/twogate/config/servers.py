"""How the MCP servers behind Twogate are reached: `servers:` of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from twogate.config.sandbox import Sandbox
from twogate.config.secrets import HeaderCredential, ProcessCredential
from twogate.config.values import Duration, FilePath, NonEmpty, ProcessText, UpstreamUrl, is_loopback

# Parts of the names of environment variables that hold secrets.
_SECRET_WORDS: Final = frozenset({"secret", "token", "password", "passwd", "passphrase", "credential", "credentials"})
_SECRET_KEYS: Final = ("api_key", "apikey", "private_key", "access_key", "secret_key")


OWN_VARIABLES: Final = frozenset({"PATH", "LANG", "HOME", "TMPDIR"})
"""What Twogate itself tells every process."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClientRequest(StrEnum):
    """What a server may ask of a client."""

    SAMPLING = "sampling"
    ELICITATION = "elicitation"
    ROOTS = "roots"


class HttpServer(_Model):
    """An MCP server reached by Streamable HTTP (`http`) or by the HTTP+SSE transport of 2024-11-05 (`sse`).

    `ca` is trusted instead of the system's CAs; timeout in seconds. `identity`: it is told who calls (R-46).
    `credential`: it gets a secret of the calling tenant's with each request (R-36). `arguments` of approved tools are
    checked against their schemas, or go on as they are (R-43).
    """

    url: UpstreamUrl
    transport: Literal["http", "sse"] = "http"
    ca: FilePath | None = None
    # Left out: it may ask clients nothing.
    client_requests: NonEmpty[ClientRequest] = ()
    timeout: Annotated[Duration, Field(ge=1, le=3600)] = 60
    identity: bool = False
    credential: HeaderCredential | None = None
    arguments: Literal["validate", "forward"] = "validate"

    @model_validator(mode="after")
    def _credential_is_sealed(self) -> HttpServer:
        # RFC 6750 section 5.3: whoever reads it on its way can use it.
        read_by_all = self.url.startswith("http:") and not is_loopback(urlsplit(self.url).hostname or "")
        if self.credential is not None and read_by_all:
            raise ValueError("credential needs an https url: it would cross the network for everybody to read")
        return self

    @model_validator(mode="after")
    def _identity_has_a_way(self) -> HttpServer:
        if self.identity and self.transport != "http":
            raise ValueError("identity goes with `transport: http`: the old transport has no headers of each call")
        return self


class StdioServer(_Model):
    """An MCP server run as a child process, with this environment and no other. Timeout in seconds.

    `credential`: each process gets a secret of its tenant's. Without `sandbox` it runs as Twogate's own user and sees
    all that Twogate sees.
    """

    command: Annotated[tuple[ProcessText, ...], Field(min_length=1)]
    cwd: FilePath | None = None
    env: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")], ProcessText] = Field(
        default_factory=dict
    )
    sandbox: Sandbox | None = None
    credential: ProcessCredential | None = None
    arguments: Literal["validate", "forward"] = "validate"
    client_requests: NonEmpty[ClientRequest] = ()
    timeout: Annotated[Duration, Field(ge=1, le=3600)] = 60

    @field_validator("env")
    @classmethod
    def _no_secrets(cls, env: Mapping[str, str]) -> Mapping[str, str]:
        for name in env:
            lowered = name.lower()
            words = set(lowered.split("_"))
            secret = words & _SECRET_WORDS or any(key in lowered for key in _SECRET_KEYS)
            if secret and not lowered.endswith(("_file", "_path", "_dir")):
                raise ValueError(f"{name} looks like a secret; secrets never stand in this file")
        return env

    @model_validator(mode="after")
    def _credential_has_a_place(self) -> StdioServer:
        if self.credential is not None and self.credential.variable in {*self.env, *OWN_VARIABLES}:
            raise ValueError(f"credential and env must not both set {self.credential.variable}")
        return self


class LibraryServer(_Model):
    """An MCP server that is guarded within its own process, by `twogate.asgi` (R-42); `timeout` in seconds.

    No other process can reach it, so a gateway that reads this file does not serve it.
    """

    library: Literal[True]
    client_requests: NonEmpty[ClientRequest] = ()
    timeout: Annotated[Duration, Field(ge=1, le=3600)] = 60

    @property
    def credential(self) -> None:
        """None: it is called within the process, where it has its secrets already."""


_KINDS: Final[tuple[tuple[str, type[_Model]], ...]] = (
    ("url", HttpServer),
    ("command", StdioServer),
    ("library", LibraryServer),
)


def _kind(value: object) -> str | None:
    found = [key for key, model in _KINDS if isinstance(value, model) or (isinstance(value, dict) and key in value)]
    return f"<{found[0]}>" if len(found) == 1 else None


# The tags stand in the places pydantic reports; angle brackets tell them from keys.
Server = Annotated[
    Annotated[HttpServer, Tag("<url>")]
    | Annotated[StdioServer, Tag("<command>")]
    | Annotated[LibraryServer, Tag("<library>")],
    Discriminator(
        _kind,
        custom_error_type="server_kind",
        custom_error_message="needs exactly one of `url`, `command` and `library`",
    ),
]
