"""The processes under test: `twogate serve` as users run it, and nginx as a plain reverse proxy with one worker."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.issuer import AGENT, TENANT, Issuer
from twogate import __version__

SERVER: Final = "files"
TOOL: Final = "look"
FORBIDDEN_TOOL: Final = "wipe"
READY_SECONDS: Final = 20.0


class Subject(NamedTuple):
    """A process that answers on a loopback port."""

    name: str
    version: str
    port: int
    pid: int


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    """The shared MCP server; its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.upstream", stdout=asyncio.subprocess.PIPE
    )
    try:
        if process.stdout is None or not (line := await process.stdout.readline()):
            raise RuntimeError("the upstream did not start")
        yield int(line)
    finally:
        await end(process)


@asynccontextmanager
async def gateway(
    directory: Path,
    upstream_port: int,
    issuer: Issuer,
    name: str = "gateway",
    limits: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> AsyncIterator[Subject]:
    """Twogate with one tenant, one agent and one task, trusting the issuer; everything else as shipped.

    `limits` and `more` are further settings.
    """
    port = free_port()
    path = directory / "twogate.yaml"
    settings = _settings(directory, port, upstream_port, issuer)
    settings.update(more or {})
    settings["limits"].update(limits or {})
    path.write_text(json.dumps(settings))  # JSON is YAML
    with (directory / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "twogate.cli.main", "serve", "-c", str(path), stderr=log
        )
    try:
        await _wait_until_listening(process, port, directory / "gateway.log")
        yield Subject(name, f"twogate {__version__}, Python {sys.version.split()[0]}", port, process.pid)
    finally:
        await end(process)


@asynccontextmanager
async def nginx(directory: Path, upstream_port: int, binary: str) -> AsyncIterator[Subject]:
    """The peer: nginx as a plain reverse proxy."""
    port = free_port()
    home = directory / "nginx"
    home.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(
        _NGINX.format(user=user, home=home, port=port, upstream=upstream_port), encoding="utf-8"
    )
    log = home / "error.log"
    process = await asyncio.create_subprocess_exec(
        binary, "-p", str(home), "-e", str(log), "-c", str(home / "nginx.conf"), "-g", "daemon off;"
    )
    try:
        await _wait_until_listening(process, port, log)
        shown = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stderr  # noqa: ASYNC221
        yield Subject("nginx_plain", shown.strip().rpartition(" ")[2], port, process.pid)
    finally:
        await end(process)


def find_nginx() -> str | None:
    """The nginx binary, if there is one."""
    return shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")  # noqa: TID251


def install_nginx() -> None:
    """Install nginx by apt-get if it is missing and this user may; without it the run skips that subject."""
    if find_nginx() is not None or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    print("bench: installing nginx by apt-get, to measure against", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}  # noqa: TID251
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "nginx"]):
        subprocess.run(["apt-get", "-qq", *arguments], env=environment, stdout=subprocess.DEVNULL, check=False)


_NGINX: Final = """\
{user}
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    keepalive_requests 100000000;
    upstream mcp {{
        server 127.0.0.1:{upstream};
        keepalive 100;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://mcp;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


def _settings(directory: Path, port: int, upstream_port: int, issuer: Issuer) -> dict[str, Any]:
    return {
        "public_url": f"http://127.0.0.1:{port}",
        "listen": f"127.0.0.1:{port}",
        "store": f"sqlite:///{directory}/state/twogate.db",
        "state": f"{directory}/state",
        # All load comes from one address.
        "limits": {"requests": 100_000, "burst": 100_000},
        "servers": {SERVER: {"url": f"http://127.0.0.1:{upstream_port}/mcp"}},
        "tools": {f"{SERVER}.{TOOL}": {"class": "read"}, f"{SERVER}.{FORBIDDEN_TOOL}": {"class": "configure"}},
        "tasks": {"report": {"tools": [f"{SERVER}.{TOOL}"]}},
        "tenants": {TENANT: {"servers": [SERVER]}},
        "issuers": [
            {
                "issuer": issuer.url,
                "jwks_uri": f"{issuer.url}/jwks",
                "algorithms": ["ES256"],
                "tenants": [TENANT],
                "roles": ["reader"],
                "claims": {"agent": "/azp", "tenant": "/tenant", "role": "/mcp_role"},
            }
        ],
        "agents": {
            f"{TENANT}/{AGENT}": {
                "role": "reader",
                "tasks": ["report"],
                "default_task": "report",
                "bindings": [{"issuer": issuer.url, "subject": AGENT}],
            }
        },
    }


async def _wait_until_listening(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + READY_SECONDS
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            if process.returncode is not None or asyncio.get_running_loop().time() > deadline:
                raise RuntimeError(f"a subject did not start:\n{_tail(log)}") from error
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process, in order if it lets itself be."""
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(15):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
