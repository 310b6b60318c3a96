"""`twogate token revoke`: what an operator takes back, by the token itself or by its name."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from harness.issuer import new_key, sign
from twogate.cli.main import app
from twogate.config import load_settings
from twogate.core.oauth.refresh_token import RefreshToken, digest_of
from twogate.flows.authserver.families import Family
from twogate.flows.authserver.grant import Authorization
from twogate.state import State, open_state
from twogate.stores.sql.grants import SqlGrantStore

ISSUER = "http://localhost:8080"
CONFIG = f"""\
public_url: {ISSUER}
listen: 127.0.0.1:8080
store: sqlite:///./state/twogate.db
state: state
tenants: {{acme: {{}}}}
"""
REFRESH = RefreshToken("h" * 22, "s" * 43)
EXPIRES = 4_000_000_000


class Lab:
    """A configuration with a store, and the command line over it."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "twogate.yaml"
        self.config.write_text(CONFIG)
        self.audit = directory / "state" / "audit"

    def run(self, *args: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, ["token", "revoke", *args, "--config", str(self.config)], input=stdin)

    def json(self, *args: str, stdin: str = "") -> Any:
        result = self.run(*args, "--json", stdin=stdin)
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    def grant(self) -> None:
        """Put a family into the store."""
        authorization = Authorization("acme", "web", f"{ISSUER}/mcp/files", ("reports",), user="alice")
        family = Family("g-1", authorization, digest_of(REFRESH.handle), digest_of(REFRESH.secret), 1, 1, EXPIRES)

        async def put(state: State) -> None:
            await SqlGrantStore(state.engine).add(family, 1)

        self._with_state(put)

    def revoked(self) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = set()

        async def look(state: State) -> None:
            found.update((await state.registry_store.load()).revoked)

        self._with_state(look)
        return found

    def alive(self) -> bool:
        found: list[bool] = []

        async def look(state: State) -> None:
            family = await SqlGrantStore(state.engine).get("g-1")
            found.append(family is not None and family.revoked_at is None)

        self._with_state(look)
        return found[0]

    def events(self) -> list[dict[str, Any]]:
        text = "".join(file.read_text() for file in sorted(self.audit.glob("*.jsonl")))
        return [event for line in text.splitlines() if ".revoked" in (event := json.loads(line)).get("kind", "")]

    def _with_state(self, use: Any) -> None:
        async def run() -> None:
            state = await open_state(load_settings(self.config))
            try:
                await use(state)
            finally:
                await state.close()

        asyncio.run(run())


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def access_token(**claims: object) -> str:
    whole = {"iss": ISSUER, "jti": "j-1", "exp": EXPIRES, **claims}
    header = {"alg": "ES256", "kid": "k", "typ": "at+jwt"}
    return sign(header, {name: value for name, value in whole.items() if value is not None}, new_key(), "ES256")


def test_an_access_token_from_standard_input_is_revoked_by_its_jti(lab: Lab) -> None:
    assert lab.json(stdin=access_token() + "\n") == {"kind": "token", "name": "j-1", "changed": True}
    assert lab.revoked() == {("token", "j-1")}


def test_a_refresh_token_ends_its_grant(lab: Lab) -> None:
    lab.grant()
    assert lab.json(stdin=REFRESH.text) == {"kind": "grant", "name": "g-1", "changed": True}
    assert (lab.revoked(), lab.alive()) == ({("grant", "g-1")}, False)
    assert lab.json(stdin=REFRESH.text) == {"kind": "grant", "name": "g-1", "changed": False}


def test_a_grant_is_ended_by_its_name(lab: Lab) -> None:
    lab.grant()
    result = lab.run("--grant", "g-1")
    assert (result.exit_code, "Grant g-1 is ended" in result.stdout) == (0, True)
    assert (lab.revoked(), lab.alive()) == ({("grant", "g-1")}, False)
    assert "ended already" in lab.run("--grant", "g-1").stdout


def test_a_token_is_revoked_by_its_name(lab: Lab) -> None:
    result = lab.run("--jti", "j-9")
    assert (result.exit_code, result.stdout) == (0, "Access token j-9 is revoked.\n")
    assert lab.revoked() == {("token", "j-9")}


def test_the_trail_says_what_was_revoked_and_holds_no_token(lab: Lab) -> None:
    lab.grant()
    token = access_token()
    lab.run(stdin=token)
    lab.run(stdin=REFRESH.text)
    first, second = lab.events()
    assert (first["kind"], first["detail"]) == ("token.revoked", "jti j-1, by an operator")
    assert (second["kind"], second["client"], second["user"]) == ("grant.revoked", "web", "alice")
    written = "".join(file.read_text() for file in lab.audit.glob("*.jsonl"))
    assert token not in written
    assert REFRESH.secret not in written


@pytest.mark.parametrize(
    ("stdin", "code"),
    [
        ("", "failed"), ("   \n", "failed"), ("nonsense", "token_malformed"), ("a.b.c", "token_malformed"),
        (access_token(iss="https://other.example"), "issuer_unknown"), (access_token(jti=None), "token_malformed"),
        ("x" * 100_000, "token_malformed"), (RefreshToken("u" * 22, "s" * 43).text, "not_found"),
    ],
    ids=["nothing", "blank", "nonsense", "no JWT", "another issuer", "no jti", "too long", "unknown"],
)  # fmt: skip
def test_what_names_nothing_of_ours_is_refused_and_revokes_nothing(lab: Lab, stdin: str, code: str) -> None:
    result = lab.run("--json", stdin=stdin)
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (1, code)
    assert lab.revoked() == set()
    assert lab.events() == []


@pytest.mark.parametrize(
    "arguments", [("--jti", "a", "--grant", "b"), ("--jti", ""), ("--grant", "x" * 2000), ("--jti", "a\nb")]
)
def test_wrong_use_is_told_apart(lab: Lab, arguments: tuple[str, ...]) -> None:
    assert lab.run(*arguments).exit_code == 2


def test_without_the_embedded_server_there_is_nothing_to_revoke(lab: Lab) -> None:
    lab.config.write_text(
        CONFIG + "embedded: {enabled: false}\n"
        "issuers: [{issuer: 'https://login.example.com', algorithms: [RS256], tenants: [acme], roles: [],"
        " claims: {agent: /azp}}]\n"
    )
    result = lab.run("--jti", "a")
    assert result.exit_code == 1
    assert "embedded" in result.stderr
