"""The act about operation tokens: a program that the agent cannot reach signs for one call, as it is, once."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

import msgspec
from joserfc import jws
from joserfc.jwk import ECKey

from twogate.cli.demo.agent import Agent
from twogate.cli.demo.scenery import AUTHORIZER, agent_in, authorizer_in, database_in
from twogate.cli.demo.step import Step

_TOOL: Final = "write_query"
_WRITE: Final = {"query": "INSERT INTO orders (customer, total) VALUES ('Umbrella', 950)"}
_MORE: Final = {"query": "INSERT INTO orders (customer, total) VALUES ('Umbrella', 950000)"}


async def signed_for(agent: Agent) -> AsyncGenerator[Step]:
    """Gate two: a write without a token, with a forged, an altered, a good and a replayed one."""
    yield await _refused(agent, f"{_TOOL} without a token", _WRITE, "", "operation_token_required", [])

    issued, printed = await _issue(agent, agent_in(agent.stage.directory))
    exact = agent.last_reason()
    refused = not issued and exact == "resource_invalid"
    why = f"{exact}: agents get nothing to sign with" if refused else printed
    yield Step("the agent signs for itself", "two", "ALLOWED" if issued else "refuse", why, refused)

    issued, printed = await _issue(agent, authorizer_in(agent.stage.directory))
    answer: dict[str, Any] = msgspec.json.decode(printed) if issued else {}
    token = str(answer.get("operation_token", ""))
    why = f"950 for Umbrella, within {answer['expires_in']} s" if issued else printed
    yield Step(f"the program `{AUTHORIZER}` signs", "two", "allow" if issued else "refuse", why, issued)
    if not issued:
        return

    forged = _forged(token, agent.stage.reporter.private_key_pem)
    yield await _refused(agent, f"{_TOOL} with a forged token", _WRITE, forged, "operation_token_invalid", [])
    yield await _refused(agent, f"{_TOOL} altered to 950000", _MORE, token, "operation_token_mismatch", [])

    done = await agent.call("sqlite", _TOOL, _WRITE, token=token)
    written = done.ran and _written(agent) == [950]
    yield Step(
        f"{_TOOL} as signed for", "two", "allow" if done.ran else "refuse",
        "1 row written" if written else done.text or done.why, written,
    )  # fmt: skip

    yield await _refused(agent, f"{_TOOL} replayed", _WRITE, token, "operation_token_used", [950])


async def _issue(agent: Agent, credentials: Path) -> tuple[bool, str]:
    """Ask for a token, as whoever has these credentials."""
    directory = agent.stage.directory
    arguments = directory / "arguments.json"
    arguments.write_bytes(msgspec.json.encode(_WRITE))
    return await agent.stage.twogate(
        *("operation", "issue", "--client", str(credentials), "--ca", str(directory / "ca.pem"), "--json"),
        *("--session", agent.session, "--tool", f"sqlite.{_TOOL}", "--arguments", str(arguments)),
    )


async def _refused(
    agent: Agent, name: str, arguments: dict[str, str], token: str, reason: str, rows: list[int]
) -> Step:
    """A call that must be refused, and must leave the table with these rows."""
    done = await agent.call("sqlite", _TOOL, arguments, token=token)
    if done.ran:
        return Step(name, "two", "ALLOWED", done.text, expected=False)
    return Step(name, "two", "refuse", done.why, done.exact == reason and _written(agent) == rows)


def _forged(token: str, private_key_pem: str) -> str:
    """What a token says, signed by the agent's key."""
    said = jws.extract_compact(token.encode())
    return jws.serialize_compact(said.headers(), said.payload, ECKey.import_key(private_key_pem), algorithms=["ES256"])


def _written(agent: Agent) -> list[int]:
    """What the table holds beyond its first rows, read beside the server."""
    with contextlib.closing(sqlite3.connect(database_in(agent.stage.directory))) as connection:
        return [total for (total,) in connection.execute("SELECT total FROM orders WHERE customer = 'Umbrella'")]
