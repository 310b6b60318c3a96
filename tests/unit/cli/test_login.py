"""`twogate login`: the device flow as its client walks it, what it does not believe, and where tokens are kept.

The server here is scripted, because most of what it says no Twogate would. `peers/test_login.py` has the real one.
"""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from typer.testing import CliRunner, Result

from processlab import cli
from twogate.adapters.token_files import StoredTokens, TokenFileError, TokenFiles, default_directory
from twogate.cli.device_login import MAX_ANSWER, DeviceLogin
from twogate.cli.main import app
from twogate.cli.output import CommandError

NOW = 1_800_000_000
METADATA = "/.well-known/oauth-authorization-server"
BEGIN = "/device_authorization"
TOKENS = {"access_token": "access-1", "token_type": "Bearer", "expires_in": 300, "refresh_token": "refresh-1"}

Answer = tuple[int, Any]


class FixedClock:
    def now(self) -> int:
        return NOW

    def now_us(self) -> int:
        return NOW * 1_000_000

    def monotonic(self) -> float:
        return float(NOW)


@dataclass
class Script:
    """What the server answers by path: each answer once, the last one again and again. Bytes are sent as they are."""

    url: str
    answers: dict[str, list[Answer]]
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def forms(self, path: str) -> list[dict[str, str]]:
        return [form for seen, form in self.seen if seen == path]

    def next(self, path: str) -> Answer:
        left = self.answers.get(path, [(404, {})])
        return left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def serving_script() -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", "0")))
            self._answer(dict(parse_qsl(raw.decode())))

        def _answer(self, form: dict[str, str]) -> None:
            running.seen.append((self.path, form))
            status, body = running.next(self.path)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if status in (302, 307):
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base calls it so
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    running = Script(
        url,
        {
            METADATA: [
                (
                    200,
                    {
                        "issuer": url,
                        "token_endpoint": f"{url}/token",
                        "device_authorization_endpoint": url + BEGIN,
                        "revocation_endpoint": f"{url}/revoke",
                    },
                )
            ],
            BEGIN: [
                (
                    200,
                    {
                        "device_code": "device-1",
                        "user_code": "WDJB-MJHT",
                        "verification_uri": f"{url}/device",
                        "verification_uri_complete": f"{url}/device?user_code=WDJB-MJHT",
                        "expires_in": 600,
                        "interval": 1,
                    },
                )
            ],
            "/token": [(200, TOKENS)],
            "/revoke": [(200, {})],
        },
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def script() -> Iterator[Script]:
    with serving_script() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "twogate" / "logins"


def error(code: str) -> Answer:
    return 400, {"error": code, "error_description": f"it is {code}"}


def told(script: Script, path: str, **changes: Any) -> None:
    """Change members of an answer; None takes one away."""
    status, body = script.answers[path][0]
    script.answers[path] = [(status, {k: v for k, v in {**body, **changes}.items() if v is not None})]


def login(script: Script, waits: list[float] | None = None) -> DeviceLogin:
    waited: list[float] = [] if waits is None else waits
    return DeviceLogin(script.url, "cli", None, FixedClock(), waited.append)


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["login", *args])


class TestFlow:
    def test_codes_are_asked_for_shown_and_redeemed(self, script: Script) -> None:
        with login(script) as flow:
            prompt = flow.begin(f"{script.url}/mcp/files", "reports", "review")
            tokens = flow.finish(prompt, f"{script.url}/mcp/files")
        assert (prompt.user_code, prompt.verification_uri) == ("WDJB-MJHT", f"{script.url}/device")
        assert script.forms(BEGIN) == [
            {
                "client_id": "cli",
                "resource": f"{script.url}/mcp/files",
                "scope": "reports",
                "authorization_details": '[{"type":"mcp_session","task":"review"}]',
            }
        ]
        assert script.forms("/token") == [
            {
                "client_id": "cli",
                "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
                "device_code": "device-1",
                "resource": f"{script.url}/mcp/files",
            }
        ]
        assert tokens == StoredTokens(
            issuer=script.url,
            client_id="cli",
            resource=f"{script.url}/mcp/files",
            scope="",
            access_token="access-1",
            expires_at=NOW + 300,
            refresh_token="refresh-1",
        )

    def test_it_polls_as_slowly_as_it_is_told(self, script: Script) -> None:
        told(script, BEGIN, interval=5)
        pending, slow = error("authorization_pending"), error("slow_down")
        script.answers["/token"] = [pending, slow, pending, (503, {}), (200, TOKENS)]
        waits: list[float] = []
        with login(script, waits) as flow:
            flow.finish(flow.begin(script.url, "", None), script.url)
        assert waits == [5, 5, 10, 10, 20]

    def test_without_an_interval_it_waits_five_seconds_and_without_a_whole_link_it_shows_the_short_one(
        self, script: Script
    ) -> None:
        told(script, BEGIN, interval=None, verification_uri_complete=None)
        with login(script) as flow:
            prompt = flow.begin(script.url, "", None)
        assert (prompt.interval, prompt.verification_uri_complete) == (5, f"{script.url}/device")

    @pytest.mark.parametrize("interval", [0, -5])
    def test_an_interval_of_nothing_does_not_make_it_poll_without_end(self, script: Script, interval: int) -> None:
        told(script, BEGIN, interval=interval, expires_in=3)
        script.answers["/token"] = [error("authorization_pending")]
        waits: list[float] = []
        with login(script, waits) as flow, pytest.raises(CommandError) as ended:
            flow.finish(flow.begin(script.url, "", None), script.url)
        assert (ended.value.code, waits) == ("expired", [1, 1, 1])

    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (error("access_denied"), "access_denied"),
            (error("expired_token"), "expired"),
            (error("invalid_grant"), "refused"),
            (error("invalid_client"), "invalid_client"),
            ((200, {"token_type": "Bearer"}), "answer_invalid"),
            ((200, {**TOKENS, "token_type": "DPoP"}), "answer_invalid"),
            ((200, {**TOKENS, "expires_in": "300"}), "answer_invalid"),
        ],
    )
    def test_every_other_answer_ends_it(self, script: Script, answer: Answer, code: str) -> None:
        script.answers["/token"] = [answer]
        with login(script) as flow, pytest.raises(CommandError) as ended:
            flow.finish(flow.begin(script.url, "", None), script.url)
        assert ended.value.code == code
        assert len(script.forms("/token")) == 1


class TestDistrust:
    @pytest.mark.parametrize(
        "issuer",
        [
            "http://mcp.example.com",
            "https://mcp.example.com/path",
            "https://user@mcp.example.com",
            "https://mcp.example.com?x",
            "mcp.example.com",
            "file:///etc/passwd",
            "",
        ],
    )
    def test_only_the_origin_of_a_server_is_spoken_to(self, issuer: str) -> None:
        with pytest.raises(CommandError) as refused:
            DeviceLogin(issuer, "cli", None, FixedClock(), lambda _: None)
        assert refused.value.code == "usage"

    @pytest.mark.parametrize("other", ["https://evil.example", "http://127.0.0.1", None])
    def test_metadata_of_another_issuer_is_not_used(self, script: Script, other: str | None) -> None:
        told(script, METADATA, issuer=other)
        with login(script) as flow, pytest.raises(CommandError) as refused:
            flow.begin(script.url, "", None)
        assert refused.value.code == "answer_invalid"
        assert [path for path, _ in script.seen] == [METADATA]

    @pytest.mark.parametrize("endpoint", ["https://evil.example/token", "http://127.0.0.1:1/token", "/token"])
    def test_tokens_are_asked_for_nowhere_else(self, script: Script, endpoint: str) -> None:
        told(script, METADATA, token_endpoint=endpoint)
        with login(script) as flow:
            prompt = flow.begin(script.url, "", None)
            with pytest.raises(CommandError) as refused:
                flow.finish(prompt, script.url)
        assert refused.value.code == "answer_invalid"

    @pytest.mark.parametrize(
        "uri", ["https://evil.example/device", "javascript:alert(1)", "http://127.0.0.1:1@evil.example/", "\x1b[2J"]
    )
    def test_no_page_of_anybody_else_is_shown_or_opened(self, script: Script, uri: str) -> None:
        for member in ("verification_uri", "verification_uri_complete"):
            with serving_script() as other:
                told(other, BEGIN, **{member: uri})
                with login(other) as flow, pytest.raises(CommandError) as refused:
                    flow.begin(other.url, "", None)
            assert refused.value.code == "answer_invalid"

    @pytest.mark.parametrize("path", [METADATA, BEGIN])
    @pytest.mark.parametrize(
        "answer", [(302, {}), (307, {}), (200, b"x" * (MAX_ANSWER + 1)), (200, b"[]"), (200, b"<html>"), (200, b"{}")]
    )
    def test_redirects_and_nonsense_are_not_followed(self, script: Script, path: str, answer: Answer) -> None:
        script.answers[path] = [answer]
        with login(script) as flow, pytest.raises(CommandError) as refused:
            flow.begin(script.url, "", None)
        assert refused.value.code in ("answer_invalid", "refused")

    def test_a_server_that_is_not_there(self) -> None:
        with (
            DeviceLogin("http://127.0.0.1:1", "cli", None, FixedClock(), lambda _: None) as flow,
            pytest.raises(CommandError) as refused,
        ):
            flow.begin("http://127.0.0.1:1/mcp/files", "", None)
        assert refused.value.code == "unreachable"

    def test_a_server_without_the_device_flow(self, script: Script) -> None:
        told(script, METADATA, device_authorization_endpoint=None)
        with login(script) as flow, pytest.raises(CommandError) as refused:
            flow.begin(script.url, "", None)
        assert refused.value.code == "unsupported"


class TestFiles:
    TOKENS = StoredTokens(
        issuer="https://a.example",
        client_id="cli",
        resource="https://a.example/mcp/files",
        scope="reports",
        access_token="access",
        expires_at=NOW,
        refresh_token="refresh",
    )

    def test_what_is_kept_is_for_its_owner_alone_and_found_again(self, tmp_path: Path) -> None:
        files = TokenFiles(tmp_path / "logins")
        path = files.save(self.TOKENS)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert files.load("https://a.example", "https://a.example/mcp/files") == self.TOKENS
        assert files.load("https://a.example", "https://a.example/mcp/git") is None
        assert files.load("https://b.example", "https://a.example/mcp/files") is None
        assert list(path.parent.iterdir()) == [path]

    def test_a_file_that_others_can_read_is_not_used(self, tmp_path: Path) -> None:
        files = TokenFiles(tmp_path)
        path = files.save(self.TOKENS)
        path.chmod(0o640)
        with pytest.raises(TokenFileError, match="others may read"):
            files.load(self.TOKENS.issuer, self.TOKENS.resource)

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        files = TokenFiles(tmp_path)
        path = files.save(self.TOKENS)
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            files.load(self.TOKENS.issuer, self.TOKENS.resource)
        files.save(self.TOKENS)
        assert not path.is_symlink()

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b"[1]", b'{"version":2}', b"\xff", b'{"access_token":"access-9","access_token":"x"}']
    )
    def test_a_broken_file_is_said_to_be_broken_and_not_quoted(self, tmp_path: Path, content: bytes) -> None:
        files = TokenFiles(tmp_path)
        files.save(self.TOKENS).write_bytes(content)
        with pytest.raises(TokenFileError, match="no tokens") as broken:
            files.load(self.TOKENS.issuer, self.TOKENS.resource)
        assert "access-9" not in str(broken.value)

    def test_a_file_of_another_login_is_not_used(self, tmp_path: Path) -> None:
        files = TokenFiles(tmp_path)
        path = files.save(self.TOKENS)
        path.rename(files.path("https://b.example", "https://b.example/mcp/files"))
        with pytest.raises(TokenFileError, match="another login"):
            files.load("https://b.example", "https://b.example/mcp/files")

    def test_forgetting(self, tmp_path: Path) -> None:
        files = TokenFiles(tmp_path)
        files.save(self.TOKENS)
        assert files.forget(self.TOKENS.issuer, self.TOKENS.resource) is True
        assert files.forget(self.TOKENS.issuer, self.TOKENS.resource) is False

    def test_tokens_show_nowhere(self) -> None:
        assert "access" not in repr(self.TOKENS).replace("access_token", "")
        assert "refresh" not in repr(self.TOKENS)

    @pytest.mark.parametrize("configured", ["", "relative/state"])
    def test_the_users_state_directory_is_the_default(
        self, configured: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", configured)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_directory() == tmp_path / ".local" / "state" / "twogate" / "logins"


class TestCommand:
    def options(self, script: Script) -> tuple[str, ...]:
        return script.url, "--resource", "/mcp/files", "--client-id", "cli"

    def stored(self, home: Path) -> dict[str, Any]:
        (file,) = home.glob("*.json")
        tokens: dict[str, Any] = json.loads(file.read_bytes())
        return tokens

    def test_logging_in_stores_the_tokens_and_prints_none(self, script: Script, home: Path) -> None:
        done = run(*self.options(script))
        assert done.exit_code == 0, done.output
        assert "WDJB-MJHT" in done.stderr
        assert f"{script.url}/device?user_code=WDJB-MJHT" in done.stderr
        assert "access-1" not in done.output
        assert self.stored(home)["access_token"] == "access-1"

    def test_json_prints_them_and_stores_none(self, script: Script, home: Path) -> None:
        done = run(*self.options(script), "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["refresh_token"] == "refresh-1"
        assert not home.exists()

    def test_a_stored_token_that_is_still_good_is_printed_without_asking_anybody(
        self, script: Script, home: Path
    ) -> None:
        told(script, "/token", expires_in=3600)
        run(*self.options(script))
        seen = len(script.seen)
        done = run(*self.options(script), "--print-token")
        assert (done.exit_code, done.stdout) == (0, "access-1\n")
        assert len(script.seen) == seen

    def test_one_that_is_about_to_end_is_refreshed_first(self, script: Script, home: Path) -> None:
        told(script, "/token", expires_in=10)
        run(*self.options(script))
        script.answers["/token"] = [(200, {**TOKENS, "access_token": "access-2", "refresh_token": "refresh-2"})]
        done = run(*self.options(script), "--print-token", "--json")
        assert json.loads(done.stdout)["access_token"] == "access-2"
        assert script.forms("/token")[-1] == {
            "client_id": "cli",
            "grant_type": "refresh_token",
            "refresh_token": "refresh-1",
            "resource": f"{script.url}/mcp/files",
        }
        assert (self.stored(home)["access_token"], self.stored(home)["refresh_token"]) == ("access-2", "refresh-2")

    def test_a_login_that_has_ended_is_forgotten(self, script: Script, home: Path) -> None:
        told(script, "/token", expires_in=10)
        run(*self.options(script))
        script.answers["/token"] = [error("invalid_grant")]
        done = run(*self.options(script), "--print-token")
        assert (done.exit_code, "has ended" in done.stderr) == (1, True)
        assert list(home.glob("*.json")) == []

    def test_a_server_that_is_away_costs_no_login(self, script: Script, home: Path) -> None:
        told(script, "/token", expires_in=10)
        run(*self.options(script))
        script.answers["/token"] = [(503, {})]
        done = run(*self.options(script), "--print-token")
        assert (done.exit_code, "cannot answer now" in done.stderr) == (1, True)
        assert self.stored(home)["refresh_token"] == "refresh-1"

    def test_two_commands_at_once_redeem_a_refresh_token_once(self, script: Script, home: Path) -> None:
        told(script, "/token", expires_in=10)
        run(*self.options(script))
        script.answers["/token"] = [
            (200, {**TOKENS, "access_token": "access-2", "refresh_token": "refresh-2", "expires_in": 3600}),
            error("invalid_grant"),
        ]
        files = TokenFiles(home)
        resource = f"{script.url}/mcp/files"
        with ThreadPoolExecutor(3) as pool:
            with files.locked(script.url, resource):
                running = [pool.submit(cli, "login", *self.options(script), "--print-token") for _ in range(3)]
            done = [future.result() for future in running]
        assert [(result.returncode, result.stdout) for result in done] == [(0, "access-2\n")] * 3

    def test_forgetting_revokes_first(self, script: Script, home: Path) -> None:
        run(*self.options(script))
        done = run(*self.options(script), "--forget")
        assert (done.exit_code, list(home.glob("*.json"))) == (0, [])
        assert script.forms("/revoke") == [{"client_id": "cli", "token": "refresh-1"}]
        assert json.loads(run(*self.options(script), "--forget", "--json").stdout)["forgotten"] is False

    def test_what_could_not_be_revoked_is_kept(self, script: Script, home: Path) -> None:
        run(*self.options(script))
        script.answers["/revoke"] = [(503, {})]
        assert run(*self.options(script), "--forget").exit_code == 1
        assert self.stored(home)["refresh_token"] == "refresh-1"

    def test_printing_without_a_login_says_what_to_do(self, script: Script, home: Path) -> None:
        done = run(*self.options(script), "--print-token")
        assert (done.exit_code, "run `twogate login`" in done.stderr) == (1, True)

    def test_a_client_that_may_not_is_told_what_an_operator_does(self, script: Script, home: Path) -> None:
        script.answers[BEGIN] = [error("unauthorized_client")]
        done = run(*self.options(script))
        assert (done.exit_code, "twogate client add" in done.stderr) == (1, True)

    @pytest.mark.parametrize(
        "missing",
        [
            ("--client-id", "cli"),
            ("--resource", "/mcp/files"),
            ("--resource", "/mcp/files", "--client-id", "cli", "--print-token", "--forget"),
        ],
    )
    def test_wrong_use(self, script: Script, home: Path, missing: tuple[str, ...]) -> None:
        assert run(script.url, *missing).exit_code == 2
        assert script.seen == []

    def test_without_a_url_the_file_says_where(self, script: Script, home: Path, tmp_path: Path) -> None:
        port = script.url.rpartition(":")[2]
        config = tmp_path / "twogate.yaml"
        config.write_text(
            f"public_url: {script.url}\nlisten: 127.0.0.1:{port}\nstore: sqlite:///./state/twogate.db\nstate: state\n"
            "tenants: {acme: {}}\n"
        )
        done = run("--resource", "/mcp/files", "--client-id", "cli", "--config", str(config))
        assert done.exit_code == 0, done.output
        assert self.stored(home)["issuer"] == script.url
