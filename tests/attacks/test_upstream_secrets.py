"""Secrets of tenants on their way to servers: missing, stolen, swapped, altered, leaked, and as a way to smuggle."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from typer.testing import CliRunner, Result

from gatelab import FakeAnswer, FakeUpstream
from harness.issuer import TestIssuer
from harness.stack import tool_call
from stdio_servers.harness import ALICE, BOB, BOT, HERE, OTHER_TENANT, Client, Reader, StepClock, alive, until
from stdio_servers.legacy import LegacyServer
from tenantlab import ACME, COMMON, GLOBEX, MODERN, SECRETS, SERVER, TenantLab, sealed, tenant_lab, write_private
from twogate.adapters.envelope import LocalEnvelope
from twogate.adapters.rng import SystemRng
from twogate.adapters.secrets.files import FileSecrets
from twogate.adapters.secrets.sealed import SealedSecrets
from twogate.adapters.upstream.credentialed import CredentialedUpstream, HeaderSecrets, RenewedUpstream
from twogate.adapters.upstream.sse import SseUpstream
from twogate.adapters.upstream.stdio import MASK, StdioLimits, StdioUpstream, masked
from twogate.adapters.upstream.stdio_plan import Account, SandboxPlan
from twogate.adapters.upstream.stdio_process import StdioCommand, StdioCredential
from twogate.cli.main import app
from twogate.config.file import ConfigError, parse_settings
from twogate.config.references_sandbox import python_directories
from twogate.config.sandbox import HIDDEN
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.upstream import UpstreamRequest
from twogate.flows.secrets import MAX_SECRET, Secret, TenantSecrets, parse_secret

OLD, NEW = "the-old-secret-0123456789", "the-new-secret-0123456789"
CALL = {"name": "look", "arguments": {}}


@pytest.fixture
async def lab(tmp_path: Path, issuer: TestIssuer) -> AsyncIterator[TenantLab]:
    async with tenant_lab(tmp_path, issuer) as made:
        yield made


def unavailable(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["error"]["data"]["reason"]) == (503, "unavailable"), answer.text


def run(*arguments: str | Path, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], input=stdin)


# -- Over HTTP: no secret, no call


async def every_way(lab: TenantLab, token: str, server: str, session: str | None) -> None:
    """Each must be refused: calls and lists of both eras, what opens and ends a session, streams, notifications."""
    for version in ("2025-11-25", MODERN):
        for method, params in (("tools/call", CALL), ("tools/list", {})):
            unavailable(await lab.send(token, server, method, params, version))
    unavailable(await lab.send(token, server, "server/discover"))
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    unavailable(await lab.send(token, server, "initialize", hello, "2025-11-25"))
    told = await lab.send(token, server, "notifications/initialized", {}, "2025-11-25")
    assert told.status_code == 503
    if session is not None:
        for http_method in ("GET", "DELETE"):
            answer = await lab.stack.http.request(
                http_method,
                lab.stack.resource(server),
                headers={"authorization": f"Bearer {token}", "mcp-session-id": session, "accept": "text/event-stream"},
            )
            assert answer.status_code == 503


async def test_without_its_secret_nothing_of_a_tenants_goes_and_others_go_on(lab: TenantLab) -> None:
    mine, theirs = lab.token(ACME, COMMON), lab.token(GLOBEX, COMMON)
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    opened = await lab.send(mine, COMMON, "initialize", hello, "2025-11-25")
    session = opened.headers["mcp-session-id"]
    (lab.stack.directory / "acme-common").unlink()
    before = lab.quiet()
    await every_way(lab, mine, COMMON, session)
    assert lab.quiet() == before
    assert set(lab.stack.reasons()) == {"secret_unavailable"}
    assert (await lab.call(theirs, "look", COMMON)).status_code == 200
    assert lab.seen(COMMON)[-1].headers["authorization"] == f"Bearer {SECRETS[GLOBEX, COMMON]}"


async def test_a_reference_that_is_missing_is_no_reason_to_take_another(lab: TenantLab) -> None:
    settings = json.loads((lab.stack.directory / "twogate.yaml").read_text())
    del settings["tenants"][ACME]["secrets"][COMMON]
    lab.stack.adopt(settings)
    await every_way(lab, lab.token(ACME, COMMON), COMMON, None)
    assert lab.quiet() == {"files": 0, "notes": 0, COMMON: 0}
    # The name that globex calls its secret by is nothing to acme.
    settings["tenants"][ACME]["secrets"][COMMON] = "local:notes"
    lab.stack.adopt(settings)
    unavailable(await lab.call(lab.token(ACME, COMMON), "look", COMMON))
    assert lab.quiet() == {"files": 0, "notes": 0, COMMON: 0}


async def test_a_changed_secret_is_used_from_the_next_call_on(lab: TenantLab) -> None:
    store = sealed(lab.stack.directory)
    for tenant, server, header, before in (
        (ACME, "files", "authorization", "Bearer "),
        (GLOBEX, "notes", "private-token", ""),
        (ACME, COMMON, "authorization", "Bearer "),
    ):
        for secret in (SECRETS[tenant, server], NEW, OLD):
            if server == COMMON:
                write_private(lab.stack.directory / "acme-common", secret)
            elif secret != SECRETS[tenant, server]:
                await store.put(tenant, server, secret, 1_800_000_000)
            for version in ("2025-11-25", MODERN):
                answer = await lab.send(lab.token(tenant, server), server, "tools/call", CALL, version)
                assert answer.status_code == 200, answer.text
                assert lab.seen(server)[-1].headers[header] == before + secret
    await store.remove(ACME, "files")
    unavailable(await lab.call(lab.token(ACME, "files"), "look", "files"))
    # Back again at once, also for calls that ask the catalogue first.
    unavailable(await lab.send(lab.token(ACME, "files"), "files", "tools/call", CALL))
    await store.put(ACME, "files", NEW, 1_800_000_001)
    assert (await lab.send(lab.token(ACME, "files"), "files", "tools/call", CALL)).status_code == 200


async def test_a_caller_cannot_bring_or_see_the_credential(lab: TenantLab) -> None:
    told = ""
    for server in ("notes", COMMON):
        answer = await lab.call(lab.token(GLOBEX, server), "look", server, private_token="mine-0123456789")
        assert answer.status_code == 200
        assert "mine-0123456789" not in str(lab.seen(server)[-1].headers)
        told += str((answer.headers, answer.text))
    assert lab.seen("notes")[-1].headers["private-token"] == SECRETS[GLOBEX, "notes"]
    assert not any(secret in told for secret in SECRETS.values())


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n{x}",
        b"no HTTP\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_no_error_log_line_event_or_file_holds_a_secret(
    lab: TenantLab, capfd: pytest.CaptureFixture[str], raw: bytes
) -> None:
    lab.servers[COMMON].raw_answer = raw
    answers = [
        await lab.send(lab.token(tenant, COMMON), COMMON, "tools/call", CALL, version)
        for tenant in (ACME, GLOBEX)
        for version in ("2025-11-25", MODERN)
    ]
    assert all(answer.status_code != 200 for answer in answers)
    assert lab.seen(COMMON)
    out, err = capfd.readouterr()
    texts = out + err + "".join(str((answer.headers, answer.text)) for answer in answers) + repr(lab.stack.events())
    written = lab.everything_written()
    for secret in SECRETS.values():
        assert secret not in texts
        assert secret.encode() not in written


async def test_nothing_that_may_be_printed_of_a_request_or_process_shows_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, OLD)
    secrets = TenantSecrets({(ACME, "files"): ("file", str(path))}, {"file": FileSecrets()})
    inner = FakeUpstream(FakeAnswer([b"{}"]))
    upstream = CredentialedUpstream(inner, HeaderSecrets(secrets, "files", "authorization", "Bearer"))
    request = UpstreamRequest(BOT, "POST", ((b"accept", b"x"),), b"{}", None, True, 1.0)
    await upstream.send(request)
    assert inner.seen[0].headers == ((b"accept", b"x"), (b"authorization", f"Bearer {OLD}".encode()))
    given = StdioCredential("TOKEN", OLD, False)
    command = StdioCommand("x", ("y",), None, {}, None, given)
    printed = repr((inner.seen, upstream, secrets, await secrets.of(ACME, "files"), given, command, Secret(OLD)))
    assert OLD not in printed
    with pytest.raises(GateError) as caught:
        await secrets.of(GLOBEX, "files")
    assert caught.value.code is ErrorCode.SECRET_UNAVAILABLE


# -- Files that another system rotates


async def refused_file(path: Path) -> str:
    with pytest.raises(GateError) as caught:
        await FileSecrets().read(ACME, str(path))
    assert caught.value.code is ErrorCode.SECRET_UNAVAILABLE
    assert OLD not in str(caught.value)
    return caught.value.debug


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"short", b"x" * (MAX_SECRET + 1), b"a-secret-0123456789\r\nx-admin: yes", b"a-secret\n0123456789",
        b"a-secret\r0123456789", b" a-secret-0123456789", b"a-secret-0123456789 ", b"a-secret-0123456789\n\n",
        b"a-secret\x00-0123456789", b"a-secret\t-0123456789", "ä-secret-0123456789".encode(), b"\xff" * 20,
        b"a-secret-0123456789\x7f", "a-secret\u2028-0123456789".encode(), b"a-secret\x85-0123456789",
    ],
)  # fmt: skip
async def test_what_could_end_a_header_or_is_none_is_no_secret(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_bytes(content)
    await refused_file(path)
    with pytest.raises(GateError) as caught:
        parse_secret(content)
    assert caught.value.code is ErrorCode.REQUEST_MALFORMED
    assert "secret-0123" not in caught.value.debug


async def test_a_file_that_is_open_to_others_no_file_or_a_trap_is_not_read(tmp_path: Path) -> None:
    good = tmp_path / "good"
    write_private(good, OLD)
    assert (await FileSecrets().read(ACME, str(good))).value == OLD
    for mode in (0o604, 0o640, 0o602, 0o666):
        good.chmod(mode)
        assert "chmod 600" in await refused_file(good)
    good.chmod(0o600)
    fifo, loop = tmp_path / "fifo", tmp_path / "loop"
    os.mkfifo(fifo, 0o600)
    loop.symlink_to(loop)
    for path in (fifo, loop, tmp_path, Path("/dev/zero"), tmp_path / "nothing"):
        await refused_file(path)
    link = tmp_path / "link"
    link.symlink_to(good)
    assert (await FileSecrets().read(ACME, str(link))).value == OLD


async def test_a_file_behind_a_link_is_read_anew_when_the_link_is_turned(tmp_path: Path) -> None:
    # As Kubernetes does it: one link to a whole directory, replaced by rename.
    source = FileSecrets()
    for number, secret in enumerate((OLD, NEW)):
        (tmp_path / f"v{number}").mkdir()
        write_private(tmp_path / f"v{number}" / "token", secret)
        (tmp_path / "next").symlink_to(f"v{number}")
        (tmp_path / "next").replace(tmp_path / "data")
        if not number:
            (tmp_path / "token").symlink_to("data/token")
        assert (await source.read(ACME, str(tmp_path / "token"))).value == secret
    (tmp_path / "v1" / "token").unlink()
    with pytest.raises(GateError):
        await source.read(ACME, str(tmp_path / "token"))


# -- Twogate's own store


def store_in(directory: Path, key: bytes = bytes(32)) -> SealedSecrets:
    return SealedSecrets(directory, LocalEnvelope(key, SystemRng()))


async def test_a_sealed_file_in_another_tenants_place_altered_or_of_another_key_opens_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for tenant in (ACME, GLOBEX):
        await store.put(tenant, "token", f"{tenant}-secret-0123456789", 1)
    mine, theirs = (tmp_path / "secrets" / f"{tenant}.sealed" for tenant in (ACME, GLOBEX))
    good, other = mine.read_bytes(), theirs.read_bytes()
    assert b"secret-0123" not in good + other
    altered = bytearray(good)
    altered[-1] ^= 1
    for content in (other, bytes(altered), good[:-1], good + b"x", b"", b"\x01", b'{"version":1,"secrets":{}}'):
        write_bytes(mine, content)
        for reader in (store, store_in(tmp_path)):
            with pytest.raises(GateError) as caught:
                await reader.read(ACME, "token")
            assert caught.value.code is ErrorCode.SECRET_UNAVAILABLE
        # Setting another one must not make the broken ones go away unseen.
        with pytest.raises(GateError):
            await store.put(ACME, "another", NEW, 1)
        assert mine.read_bytes() == content
    write_bytes(mine, good)
    with pytest.raises(GateError):
        await store_in(tmp_path, b"k" * 32).read(ACME, "token")
    assert (await store.read(ACME, "token")).value == "acme-secret-0123456789"


def write_bytes(path: Path, content: bytes) -> None:
    path.unlink()
    path.touch(0o600)
    path.write_bytes(content)


async def test_the_store_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        await store_in(tmp_path / "state").put(ACME, "token", OLD, 1)
    finally:
        os.umask(old)
    for path in (tmp_path / "state").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    (tmp_path / "state" / "secrets" / "acme.sealed").chmod(0o644)
    with pytest.raises(GateError, match="chmod 600"):
        await store_in(tmp_path / "state").read(ACME, "token")


async def test_processes_that_set_secrets_at_once_lose_none_and_readers_never_see_half(tmp_path: Path) -> None:
    await store_in(tmp_path).put(ACME, "kept", OLD, 1)

    def writer(number: int) -> None:
        for count in range(5):
            asyncio.run(store_in(tmp_path).put(ACME, f"w{number}-{count}", NEW, 1))

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    reader = store_in(tmp_path)
    while any(thread.is_alive() for thread in threads):
        assert (await reader.read(ACME, "kept")).value == OLD
    for thread in threads:
        thread.join()
    assert len(await reader.list(ACME)) == 21


# -- The command


@pytest.fixture
def config(tmp_path: Path) -> Path:
    settings = {
        "public_url": "http://localhost:8080", "listen": "127.0.0.1:8080",
        "store": f"sqlite:///{tmp_path}/state/twogate.db", "state": "state",
        "servers": {"files": {"url": "http://127.0.0.1:9/mcp", "credential": {}}},
        "tools": {"files.look": {"class": "read"}}, "tasks": {"report": {"tools": ["read"]}},
        "tenants": {ACME: {"servers": ["files"], "secrets": {"files": "local:token"}}, GLOBEX: {"servers": ["files"]}},
    }  # fmt: skip
    path = tmp_path / "twogate.yaml"
    path.write_text(json.dumps(settings))
    return path


def trail(config: Path) -> list[dict[str, Any]]:
    files = sorted((config.parent / "state" / "audit").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def test_the_command_keeps_a_secret_that_nothing_shows(config: Path) -> None:
    done = run("secret", "set", ACME, "token", "--config", config, "--json", stdin=f"{OLD}\n")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"tenant": ACME, "name": "token", "replaced": False, "servers": ["files"]}
    again = run("secret", "set", ACME, "token", "--config", config, stdin=NEW)
    assert "replaced" in again.stdout
    listed = run("secret", "list", "--config", config, "--json")
    (row,) = json.loads(listed.stdout)["secrets"]
    assert (row["tenant"], row["name"], row["servers"]) == (ACME, "token", ["files"])
    assert "token" in run("secret", "list", "--tenant", ACME, "--config", config).stdout
    events = [event for event in trail(config) if event["kind"].startswith("secret.")]
    assert [(event["kind"], event["tenant"], event["detail"]) for event in events] == [
        ("secret.set", ACME, "token")
    ] * 2
    written = b"".join(path.read_bytes() for path in config.parent.rglob("*") if path.is_file())
    for secret in (OLD, NEW):
        assert secret.encode() not in written
        assert secret not in done.output + again.output + listed.output + repr(trail(config))


def test_a_removed_secret_is_gone(config: Path) -> None:
    run("secret", "set", ACME, "token", "--config", config, stdin=OLD)
    assert run("secret", "remove", GLOBEX, "token", "--config", config).exit_code == 1
    done = run("secret", "remove", ACME, "token", "--config", config, "--json")
    assert json.loads(done.stdout) == {"tenant": ACME, "name": "token", "removed": True}
    again = run("secret", "remove", ACME, "token", "--config", config, "--json")
    assert (again.exit_code, json.loads(again.stdout)["error"]["code"]) == (1, "not_found")
    assert json.loads(run("secret", "list", "--config", config, "--json").stdout) == {"secrets": []}
    assert [event["kind"] for event in trail(config) if event["kind"].startswith("secret.")] == [
        "secret.set", "secret.removed"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tenant", "name", "stdin", "code"),
    [
        (ACME, "token", "a-secret-0123456789\r\nx-admin: yes", 1),
        (ACME, "token", "short", 1),
        (ACME, "token", "", 1),
        (ACME, "token", "x" * (MAX_SECRET + 5), 1),
        ("initech", "token", OLD, 1),
        ("../acme", "token", OLD, 1),
        (ACME, "../../keys/envelope.key", OLD, 1),
        (ACME, "to ken", OLD, 1),
    ],
)
def test_what_is_wrong_is_refused_and_leaves_no_trace(
    config: Path, tenant: str, name: str, stdin: str, code: int
) -> None:
    done = run("secret", "set", tenant, name, "--config", config, "--json", stdin=stdin)
    assert done.exit_code == code
    assert json.loads(done.stdout)["error"]["code"] == "request_malformed"
    assert not stdin or stdin.strip()[:12] not in done.output
    assert [event for event in trail(config) if event["kind"].startswith("secret.")] == []
    assert not (config.parent / "state" / "secrets").exists()


def test_a_secret_is_no_argument(config: Path) -> None:
    for arguments in ((ACME, "token", OLD), (ACME, "token", "--value", OLD)):
        assert run("secret", "set", *arguments, "--config", config, stdin=NEW).exit_code == 2


def test_a_check_says_which_tenant_lacks_which_secret(config: Path) -> None:
    def said() -> list[str]:
        return [
            text for text in json.loads(run("check", "-c", config, "--json").stdout)["warnings"] if "secret" in text
        ]

    first = said()
    assert [text.partition(":")[0] for text in first] == ["tenants.acme", "tenants.globex"]
    assert "twogate secret set acme token" in first[0]
    assert not (config.parent / "state" / "keys").exists(), "asking made a key"
    run("secret", "set", ACME, "token", "--config", config, stdin=OLD)
    assert [text.partition(":")[0] for text in said()] == ["tenants.globex"]


# -- The configuration


def problems(config: Path, change: Callable[[dict[str, Any]], None]) -> list[str]:
    settings = json.loads(config.read_text())
    change(settings)
    try:
        parse_settings(json.dumps(settings, indent=1), config)
    except ConfigError as error:
        return [f"{problem.key}: {problem.message}" for problem in error.problems]
    return []


def credential(value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda settings: settings["servers"]["files"].update(credential=value)


@pytest.mark.parametrize(
    "header",
    [
        "Host", "Mcp-Session-Id", "mcp-anything", "Content-Length", "Content-Type", "Connection", "Transfer-Encoding",
        "TE", "Trailer", "Upgrade", "Keep-Alive", "Proxy-Authorization", "Twogate-Identity", "twogate-x", "Accept",
        "Accept-Encoding", "Cookie", "Last-Event-ID", "X-Forwarded-For", "Expect", "x_y", "x:y", "x\r\ny", "", "ü",
    ],
)  # fmt: skip
def test_a_credential_takes_the_place_of_no_other_header(config: Path, header: str) -> None:
    (found,) = problems(config, credential({"header": header}))
    assert found.startswith("servers.files.credential.header: ")


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key", "Private-Token", "Ocp-Apim-Subscription-Key"])
def test_headers_that_servers_want_credentials_in_can_be_named(config: Path, header: str) -> None:
    assert problems(config, credential({"header": header})) == []


@pytest.mark.parametrize("scheme", ["Bearer x", "a\r\nb", "1", " "])
def test_a_scheme_is_one_word(config: Path, scheme: str) -> None:
    assert problems(config, credential({"scheme": scheme}))[0].startswith("servers.files.credential.scheme: ")


def test_a_credential_never_crosses_the_network_in_clear(config: Path) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["servers"]["files"]["url"] = "http://tools.example/mcp"

    assert "https" in problems(config, change)[0]


@pytest.mark.parametrize("value", ["sk-live-0123456789abcdef", "local:", "local:a b", "env:TOKEN", "file:", 5, None])
def test_a_value_in_the_place_of_a_reference_is_refused_and_not_repeated(config: Path, value: Any) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["tenants"][ACME]["secrets"]["files"] = value

    (found,) = problems(config, change)
    assert found.startswith("tenants.acme.secrets.files: ")
    assert "sk-live" not in found


def test_secrets_are_for_the_tenants_own_servers_that_want_one(config: Path) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["servers"]["plain"] = {"url": "http://127.0.0.1:9/mcp"}
        settings["servers"]["abroad"] = {"url": "http://127.0.0.1:9/mcp", "credential": {}}
        settings["tenants"][ACME]["servers"].append("plain")
        settings["tenants"][ACME]["secrets"] |= {"plain": "local:a", "abroad": "local:b", "none": "local:c"}

    found = "\n".join(problems(config, change))
    assert "tenants.acme.secrets.plain: nothing would be done with it" in found
    assert "tenants.acme.secrets.abroad: 'abroad' is not among this tenant's servers" in found
    assert "tenants.acme.secrets.none: unknown server 'none'" in found


@pytest.mark.parametrize("spelt", ["token", "./token", "below/../token"])
def test_two_tenants_do_not_share_a_secret(config: Path, spelt: str) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["tenants"][ACME]["secrets"]["files"] = "file:token"
        settings["tenants"][GLOBEX] = {"servers": ["files"], "secrets": {"files": f"file:{spelt}"}}

    (found,) = problems(config, change)
    assert found.startswith("tenants.globex.secrets.files: ")
    assert "is acme's already" in found


@pytest.mark.parametrize(
    "value", [{"env": "A", "file": "B"}, {"env": "PATH"}, {"env": "GIVEN"}, {"file": "HOME"}, {"env": "A=B"}, {"x": 1}]
)
def test_a_process_gets_its_secret_in_one_place_of_its_own(config: Path, value: Any) -> None:
    def change(settings: dict[str, Any]) -> None:
        settings["servers"]["files"] = {"command": ["x"], "env": {"GIVEN": "1"}, "credential": value}
        del settings["tenants"][GLOBEX]

    assert problems(config, change)


# -- Servers on links: the transport of 2024-11-05


class Kept:
    """Secrets of tenants that a test changes."""

    def __init__(self, **secrets: str) -> None:
        self.secrets = secrets

    async def read(self, tenant: str, name: str) -> Secret:
        assert name == "token"
        if tenant not in self.secrets:
            raise GateError(ErrorCode.SECRET_UNAVAILABLE, "told to")
        return Secret(self.secrets[tenant])

    def all(self) -> TenantSecrets:
        return TenantSecrets({(tenant, "s"): ("kept", "token") for tenant in (ACME, GLOBEX)}, {"kept": self})


def heads(server: LegacyServer) -> list[tuple[str, str]]:
    """Method and credential of every request."""
    found = []
    for _, raw in server.raw.requests:
        head = raw.partition(b"\r\n\r\n")[0].decode()
        lines = [line for line in head.split("\r\n") if line.lower().startswith("authorization:")]
        assert len(lines) <= 1
        found.append((head.split(" ")[0], lines[0].partition(": ")[2] if lines else ""))
    return found


async def test_each_stream_and_post_of_the_oldest_transport_brings_its_tenants_secret() -> None:
    server, kept, clock = LegacyServer(), Kept(acme=OLD), StepClock()
    async with server.raw:
        headers = HeaderSecrets(kept.all(), "s", "authorization", "Bearer")
        links = SseUpstream(server.url, clock=clock, log=lambda *_: None, credential=headers.of)
        upstream = RenewedUpstream(links, kept.all(), "s")
        made = Client(cast("Any", upstream), clock, [])
        try:
            with pytest.raises(GateError) as caught:
                await made.pid(owner=OTHER_TENANT)
            assert caught.value.code is ErrorCode.SECRET_UNAVAILABLE
            assert server.raw.requests == []
            kept.secrets[GLOBEX] = "globex-secret-0123456789"
            first, abroad = await made.pid(owner=BOT), await made.pid(owner=OTHER_TENANT)
            assert first != abroad
            assert {secret for _, secret in heads(server)} == {f"Bearer {OLD}", "Bearer globex-secret-0123456789"}
            # A changed one: a new stream for this tenant, the other's stays.
            kept.secrets[ACME] = NEW
            seen = len(server.raw.requests)
            assert await made.pid(owner=BOT) != first
            assert await made.pid(owner=OTHER_TENANT) == abroad
            assert {secret for _, secret in heads(server)[seen:]} == {
                f"Bearer {NEW}",
                "Bearer globex-secret-0123456789",
            }
            await until(lambda: len(server.streams) == 2, "the old stream stayed open")
            # None any more: nothing is sent, and the stream is closed.
            del kept.secrets[ACME]
            seen = len(server.raw.requests)
            with pytest.raises(GateError):
                await made.pid(owner=BOT)
            assert len(server.raw.requests) == seen
            await until(lambda: len(server.streams) == 1, "the stream of a removed secret stayed open")
        finally:
            await upstream.aclose()


# -- Servers as processes


@pytest.fixture
async def processes() -> AsyncIterator[Callable[..., tuple[Client, Kept, list[tuple[str, str]]]]]:
    made: list[RenewedUpstream] = []

    def make(*, as_file: bool, script: str = "tiny.py") -> tuple[Client, Kept, list[tuple[str, str]]]:
        kept, clock, logged = Kept(acme=OLD, globex="globex-secret-0123456789"), StepClock(), list[tuple[str, str]]()

        async def given(tenant: str) -> StdioCredential:
            secret = await kept.all().of(tenant, "s")
            return StdioCredential("THE_TOKEN", secret.value, as_file)

        inner = StdioUpstream(
            (sys.executable, "-I", str(HERE / script)),
            cwd=None,
            environment={},
            limits=StdioLimits(grace=0.2),
            clock=clock,
            log=lambda name, line: logged.append((name, line)),
            name="under-test",
            credential=given,
        )
        made.append(RenewedUpstream(inner, kept.all(), "s"))
        return Client(cast("Any", made[-1]), clock, logged), kept, logged

    yield make
    for upstream in made:
        await upstream.aclose()


async def secret_of(made: Client, owner: PrincipalKey) -> str:
    place = (await made.call("environment", owner=owner))["THE_TOKEN"]
    assert place.startswith("/proc/self/fd/"), "the secret itself stands in the environment"
    text: str = (await made.call("read", arguments={"path": place}, owner=owner))["text"]
    return text


async def test_a_process_finds_its_tenants_secret_in_a_file_without_a_name(processes: Any) -> None:
    made, _, _ = processes(as_file=True)
    for owner, secret in ((BOT, OLD), (ALICE, OLD), (OTHER_TENANT, "globex-secret-0123456789")):
        assert await secret_of(made, owner) == secret
        assert await secret_of(made, owner) == secret, "it can be read once only"
        environment = await made.call("environment", owner=owner)
        assert secret not in str(environment)
        descriptors = await made.call("descriptors", owner=owner)
        assert sum("memfd" in link for link in descriptors.values()) == 1


@pytest.mark.parametrize("mode", ["own user", "account"])
async def test_a_sandboxed_process_finds_its_secret_too(mode: str) -> None:
    account = pwd.getpwnam("nobody")
    if mode == "account" and os.geteuid() != 0:
        pytest.skip("only root can give a server another user")
    plan = SandboxPlan(
        network=False,
        hidden=HIDDEN,
        readable=(HERE, *python_directories()),
        writable=(),
        accounts={ACME: Account(account.pw_uid, account.pw_gid)} if mode == "account" else None,
        memory=512 * 1024 * 1024,
        processes=8,
        open_files=64,
    )
    if (failed := plan.probe(ACME, None)) is not None:
        pytest.skip(f"THIS SYSTEM HAS NO SANDBOX FOR STDIO SERVERS: {failed}")
    clock, kept = StepClock(), Kept(acme=OLD)

    async def given(tenant: str) -> StdioCredential:
        return StdioCredential("THE_TOKEN", (await kept.all().of(tenant, "s")).value, True)

    upstream = StdioUpstream(
        (sys.executable, "-I", "-B", str(HERE / "tiny.py")),
        cwd=None,
        environment={},
        limits=StdioLimits(grace=0.2),
        clock=clock,
        log=lambda *_: None,
        sandbox=plan,
        credential=given,
    )
    try:
        made = Client(upstream, clock, [])
        assert await secret_of(made, BOT) == OLD
        assert await secret_of(made, BOT) == OLD
    finally:
        await upstream.aclose()


async def test_a_process_gets_the_secret_in_its_environment_where_the_operator_says_so(processes: Any) -> None:
    made, _, _ = processes(as_file=False)
    assert (await made.call("environment"))["THE_TOKEN"] == OLD
    assert (await made.call("environment", owner=OTHER_TENANT))["THE_TOKEN"] == "globex-secret-0123456789"
    assert not any("memfd" in link for link in (await made.call("descriptors")).values())


async def test_a_changed_secret_restarts_the_tenants_processes_and_no_others(processes: Any) -> None:
    made, kept, _ = processes(as_file=True)
    before = {owner: await made.pid(owner=owner) for owner in (BOT, BOB, OTHER_TENANT)}
    kept.secrets[ACME] = NEW
    assert await secret_of(made, BOT) == NEW
    assert await secret_of(made, BOB) == NEW
    after = {owner: await made.pid(owner=owner) for owner in before}
    assert after[BOT] != before[BOT]
    assert after[BOB] != before[BOB]
    assert after[OTHER_TENANT] == before[OTHER_TENANT]
    await until(lambda: not alive(before[BOT]) and not alive(before[BOB]), "a process with the old secret lives on")


async def test_a_call_under_way_ends_in_peace_when_the_secret_changes(processes: Any) -> None:
    made, kept, _ = processes(as_file=True)
    session = await made.initialize(sampling={})
    old = await made.pid(session=session)
    asked = {"id": "q", "method": "sampling/createMessage"}
    reader = Reader(await made.start_call("consult", arguments=asked, session=session, identifier=7))
    question = await reader.next()
    kept.secrets[ACME] = NEW
    assert await made.pid(session=session) != old
    assert alive(old)
    # The answer goes to whom it was asked by, though new calls go elsewhere.
    await made.respond(question["id"], {"said": "yes"}, session=session)
    answered = await reader.next()
    assert answered["result"]["answer"]["result"] == {"said": "yes"}
    assert await reader.ended()
    await reader.answer.aclose()
    await until(lambda: not alive(old), "the process with the old secret lives on")


async def test_a_stream_of_the_process_before_ends_and_a_new_one_is_of_the_new(processes: Any) -> None:
    made, kept, _ = processes(as_file=True)
    session = await made.initialize()
    old = await made.pid(session=session)
    stream = Reader(await made.listen(session))
    kept.secrets[ACME] = NEW
    new = await made.pid(session=session)
    assert new != old
    assert await stream.ended()
    await stream.answer.aclose()
    again = Reader(await made.listen(session))
    await made.call("stray", session=session)
    assert (await again.next())["method"] == "notifications/message"
    await again.answer.aclose()
    await until(lambda: not alive(old), "the process with the old secret lives on")
    assert alive(new)


async def test_without_its_secret_a_tenants_process_is_not_started_and_the_running_one_ends(processes: Any) -> None:
    made, kept, _ = processes(as_file=True)
    running = await made.pid()
    del kept.secrets[ACME]
    for owner in (BOT, BOB):
        with pytest.raises(GateError) as caught:
            await made.pid(owner=owner)
        assert caught.value.code is ErrorCode.SECRET_UNAVAILABLE
    await until(lambda: not alive(running), "a process outlived its secret")
    assert await made.pid(owner=OTHER_TENANT)


async def test_what_a_process_says_on_stderr_reaches_the_log_without_its_secret(processes: Any) -> None:
    made, _, logged = processes(as_file=True)
    await made.call("say", arguments={"text": f"using {OLD} now\nAuthorization: Bearer {OLD}\n"})
    await until(lambda: len(logged) == 2, "stderr was not logged")
    assert [line for _, line in logged] == [f"using {MASK} now", f"Authorization: Bearer {MASK}"]


def test_a_line_that_was_cut_within_a_secret_shows_no_part_of_it() -> None:
    for length in range(1, len(OLD)):
        shown = masked(f"token: {OLD[:length]}", OLD)
        assert OLD[:8] not in shown
    assert masked("nothing here", OLD) == "nothing here"
    assert masked(OLD * 3, OLD) == MASK * 3


async def test_a_running_gateway_uses_what_the_command_sets(tmp_path: Path, issuer: TestIssuer) -> None:
    async with tenant_lab(tmp_path, issuer) as lab:
        path = tmp_path / "twogate.yaml"
        token = lab.token(ACME, SERVER[ACME])
        done = await asyncio.to_thread(run, "secret", "set", ACME, "files", "--config", path, stdin=NEW)
        assert done.exit_code == 0, done.output
        answer = await lab.stack.post(token, tool_call("look"), "files", mcp_protocol_version="2025-11-25")
        assert answer.status_code == 200
        assert lab.seen("files")[-1].headers["authorization"] == f"Bearer {NEW}"
        done = await asyncio.to_thread(run, "secret", "remove", ACME, "files", "--config", path)
        assert done.exit_code == 0
        unavailable(await lab.call(token, "look", "files"))
        assert len(lab.seen("files")) == 1
