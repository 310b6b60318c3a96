"""`twogate init`: a first configuration that denies everything, with a local CA and a server certificate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.cli.options import JsonOption
from twogate.cli.output import CommandError, print_json, print_text
from twogate.config import load_settings
from twogate.config.values import is_loopback, parse_origin
from twogate.core.pki.issue import MAX_SERIAL_BYTES, Validity, issue_authority, issue_server_certificate

DAY: Final = 86400
AUTHORITY_DAYS: Final = 5 * 365
SERVER_DAYS: Final = 397  # browsers refuse longer ones
CLOCK_SKEW: Final = 300

_PRIVATE, _PUBLIC = 0o600, 0o644

_TEMPLATE: Final = """\
# Twogate's configuration. `twogate check` validates it and shows who may do what.
# Everything is denied unless it is allowed here. Secrets never stand in this file, and ${{NAME}} is not expanded.
# Relative paths count from the directory of this file.

public_url: {public_url}        # what clients call; tokens are issued for it
listen: "{listen}"
{tls}store: sqlite:///./state/twogate.db
state: state                    # audit trail, keys, sealed secrets
pins: required                  # what a server shows of itself is withheld until `twogate tool approve`

# Who may reach which MCP server. A tenant without servers reaches nothing.
tenants:
  default: {{}}                   # default: {{servers: [files]}}

# The MCP servers behind Twogate: reached by URL, or run as a child process.
# servers:
#   files: {{url: http://127.0.0.1:9001/mcp}}
#   git: {{command: [mcp-server-git, --repository, /srv/repo], sandbox: {{writable: [/srv/repo]}}}}

# What each tool does: read search fetch write send execute secrets configure. A tool that is not listed is denied.
# tools:
#   files.read_file: {{class: read}}

# What a task needs: classes or tools. A session gets what both the agent's role and its task hold.
# tasks:
#   report: {{tools: [files.read_file]}}

# The agents and their credentials. Roles: reader, analyst, executor, admin (shipped), or your own under `roles`.
# agents:
#   default/reporter:
#     role: reader
#     tasks: [report]
#     default_task: report
#     bindings: [{{issuer: embedded, client_id: reporter}}]
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init")(init)


def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write; made if needed.")] = Path(),
    public_url: Annotated[
        str, typer.Option("--public-url", metavar="URL", help="What clients will call.")
    ] = "https://localhost:8443",
    as_json: JsonOption = False,
) -> None:
    """Write a first configuration, a local CA and a server certificate. Never overwrites anything."""
    try:
        origin = parse_origin(public_url)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--public-url") from None
    parts = urlsplit(origin)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    files: dict[str, tuple[bytes, int]] = {"twogate.yaml": (_configuration(origin, host, secure).encode(), _PUBLIC)}
    if secure:
        files |= _certificates(host)
    _write(directory, files)
    # Proves that what was just written works; a failure here is ours.
    settings = load_settings(directory / "twogate.yaml")
    if as_json:
        written = {"directory": str(directory.absolute()), "files": sorted(files), "public_url": settings.public_url}
        print_json(written)
        return
    print_text(f"Wrote {', '.join(sorted(files))} and state/ to {directory}.")
    print_text(_next_steps(directory, secure))


def _configuration(origin: str, host: str, secure: bool) -> str:
    port = urlsplit(origin).port or (443 if secure else 80)
    tls = "tls: {certificate: server.pem, key: server.key}\n" if secure else ""
    listen = f"127.0.0.1:{port}" if is_loopback(host) else f"0.0.0.0:{port}"
    if host == "::1":
        listen = f"[::1]:{port}"
    return _TEMPLATE.format(public_url=origin, listen=listen, tls=tls)


def _certificates(host: str) -> Mapping[str, tuple[bytes, int]]:
    names = list(dict.fromkeys([host, "localhost", "127.0.0.1", "::1"])) if is_loopback(host) else [host]
    now = SystemClock().now()
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = issue_authority(
        authority_key,
        f"Twogate local CA for {host}"[:64],
        _serial(),
        Validity(now - CLOCK_SKEW, now + AUTHORITY_DAYS * DAY),
        permitted=names,
    )
    server = issue_server_certificate(
        authority,
        authority_key,
        server_key.public_key(),
        names,
        _serial(),
        Validity(now - CLOCK_SKEW, now + SERVER_DAYS * DAY),
    )
    return {
        "ca.pem": (_pem(authority), _PUBLIC),
        "ca.key": (_key_pem(authority_key), _PRIVATE),
        "server.pem": (_pem(server), _PUBLIC),
        "server.key": (_key_pem(server_key), _PRIVATE),
    }


def _serial() -> int:
    # A set top bit keeps it from being zero or short.
    return int.from_bytes(b"\x01" + SystemRng().token(MAX_SERIAL_BYTES - 1))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(directory: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    targets = [*files, "state"]
    existing = [name for name in targets if os.path.lexists(directory / name)]
    if existing:
        raise CommandError(
            f"{directory} already holds {', '.join(existing)}; choose an empty directory or move them away",
            code="exists",
            data={"existing": existing},
        )
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    try:
        for name, (content, mode) in files.items():
            path = directory / name
            # O_EXCL: another process may have made the file meanwhile; it stays as it is.
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                written.append(path)
                file.write(content)
        (directory / "state").mkdir(mode=0o700)
    except OSError:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _next_steps(directory: Path, secure: bool) -> str:
    config = directory / "twogate.yaml"
    steps = [
        f"Edit {config}: name your MCP servers, classify their tools, add tasks and agents.",
        f"Run `twogate tool approve -c {config} SERVER` to read and approve what each server shows of itself.",
        f"Run `twogate check -c {config}` to see who may do what.",
    ]
    if secure:
        steps.append(f"Let clients trust {directory / 'ca.pem'}, or put your own certificate into server.pem and .key.")
    steps.append(f"Run `twogate serve -c {config}`.")
    return "\n".join(["Next:", *(f"  {number}. {step}" for number, step in enumerate(steps, 1))])
