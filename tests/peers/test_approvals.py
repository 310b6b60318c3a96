"""R-34 with programs that nobody here wrote: agents on the official client, in each form of waiting, real servers, and
a person who approves on the real pages with a passkey.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.client.extension import ClaimContext, ClientExtension, NotificationBinding, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from pydantic import Field

from harness.stack import free_port
from peers.peers import MCP_SERVER_GIT, MCP_SERVER_SQLITE, OLDER_PYTHON, require
from peers.sdk import provider, text
from peers.servers import World
from peers.tour import Stop, walk
from peoplelab import Browser
from processlab import PATIENCE, here_json, init, serving, until
from softkey import SoftKey

pytestmark = pytest.mark.peer

CLIENT = str(Path(__file__).parent / "older_client.py")
GIT = ("git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")


class RealBrowser(Browser):
    """The same browser, over sockets and TLS."""

    def __init__(self, world: World) -> None:
        url = world.gateway.url
        self.http = httpx2.AsyncClient(
            base_url=url, headers={"Origin": url}, verify=world.gateway.trust(), trust_env=False, timeout=PATIENCE
        )
        self.page: httpx2.Response | None = None


@dataclass
class Company:
    """A gateway before a repository and a database, both of which are changed only with Bob's approval."""

    world: World
    repository: Path
    database: Path
    key: SoftKey
    link: str
    approved: int = 0

    def messages(self) -> list[str]:
        """The repository's commits, read beside the server."""
        command = [*GIT, "-C", str(self.repository), "log", "--format=%s", "--all"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]

    def rows(self) -> list[tuple[str, int]]:
        """What the database holds, read beside the server."""
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute("SELECT * FROM revenue ORDER BY quarter").fetchall()

    def waiting(self) -> list[str]:
        """The approvals that wait, as the command line has them."""
        config = self.world.gateway.directory / "twogate.yaml"
        return [row["approval"] for row in here_json("approval", "list", "--config", config)["approvals"]]

    async def approve(self, url: str) -> None:
        """Bob opens the page of an approval, reads it, and approves."""
        browser = RealBrowser(self.world)
        async with browser.http:
            if not self.approved:
                assert (await browser.open_link(self.link)).status_code == 303
                assert (await browser.enrol(self.key)).status_code == 303
            answer = await browser.log_in_by(self.key)
            assert answer.status_code == 303, answer.text
            path = urlsplit(url).path
            page = await browser.get(path)
            assert page.status_code == 200, page.text
            answer = await browser.post(f"{path}/approve", credential=self.key.get(browser.options), comment="Fine.")
            assert answer.status_code == 303, answer.text
        self.approved += 1

    @asynccontextmanager
    async def connected(self, server: str, mode: str, **options: Any) -> AsyncGenerator[Client]:
        """The official client."""
        gateway, url = self.world.gateway, self.world.url(server)
        async with (
            httpx2.AsyncClient(
                auth=provider(self.world.agent, url), verify=gateway.trust(), timeout=PATIENCE, trust_env=False
            ) as http,
            Client(
                streamable_http_client(url, http_client=http), mode=mode, read_timeout_seconds=PATIENCE, **options
            ) as client,
        ):
            yield client

    def stage(self, message: str) -> dict[str, Any]:
        """The arguments of a commit, with something in it."""
        (self.repository / "file.txt").write_text(message)
        subprocess.run([*GIT, "-C", str(self.repository), "add", "file.txt"], check=True)
        return {"repo_path": str(self.repository), "message": message}


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    repository = tmp_path_factory.mktemp("git") / "repository"
    subprocess.run([*GIT, "init", "-q", str(repository)], check=True)
    for name, value in (("user.name", "T"), ("user.email", "t@example.org")):
        subprocess.run([*GIT, "-C", str(repository), "config", name, value], check=True)
    subprocess.run([*GIT, "-C", str(repository), "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    database = tmp_path_factory.mktemp("sqlite") / "company.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE revenue (quarter TEXT, million INTEGER)")
        connection.commit()
    approval = {"by": ["approver"]}
    settings = {
        "servers": {
            "git": {"command": [require(MCP_SERVER_GIT), "--repository", str(repository)]},
            "db": {"command": [require(MCP_SERVER_SQLITE), "--db-path", str(database)]},
        },
        "tools": {
            "git.git_log": {"class": "read"},
            "git.git_commit": {"class": "write", "approval": approval},
            "db.read_query": {"class": "read"},
            "db.write_query": {"class": "write", "approval": approval},
        },
        "tasks": {"all": {"tools": ["read", "write"]}},
        "tenants": {"acme": {"servers": ["git", "db"]}},
    }
    directory = tmp_path_factory.mktemp("twogate")
    init(directory, settings, port=free_port())
    config = directory / "twogate.yaml"
    options = ("--role", "executor", "--task", "all", "--default-task", "all", "--auth", "client_secret")
    agent = here_json("agent", "add", "acme/all", *options, "--config", config)
    bob = here_json("user", "add", "acme/bob", "--duty", "approver", "--config", config)
    with serving(directory) as gateway:
        world = World(gateway, agent)
        yield Company(world, repository, database, SoftKey(gateway.url, "localhost"), bob["link"])
        gateway.verify_audit()


async def test_a_client_of_2025_11_25_is_told_where_and_its_commit_is_made_once(company: Company) -> None:
    arguments = company.stage("told where")

    async def never(*_: object) -> types.ElicitResult:
        raise AssertionError("nobody asks this client but by an error")

    heard: asyncio.Queue[types.ElicitCompleteNotification] = asyncio.Queue()

    async def hear(message: object) -> None:
        if isinstance(message, types.ElicitCompleteNotification):
            heard.put_nowait(message)

    async with company.connected("git", "legacy", elicitation_callback=never, message_handler=hear) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("git_commit", arguments)
        assert caught.value.code == types.URL_ELICITATION_REQUIRED
        (asked,) = caught.value.data["elicitations"]
        assert "told where" not in company.messages()
        await company.approve(asked["url"])
        # On the stream that the client keeps open, which is that of a server over standard input and output.
        async with asyncio.timeout(PATIENCE):
            assert (await heard.get()).params.elicitation_id == asked["elicitationId"]
        assert heard.empty()
        done = [text(await client.call_tool("git_commit", arguments)) for _ in range(2)]
    assert done[0] == done[1]
    assert company.messages().count("told where") == 1


async def test_a_client_of_2026_07_28_opens_the_page_and_its_commit_is_made_once(company: Company) -> None:
    arguments, opened = company.stage("opens the page"), list[str]()

    async def elicit(_: object, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert isinstance(params, types.ElicitRequestURLParams)
        if not opened:
            await company.approve(params.url)
        opened.append(params.url)
        return types.ElicitResult(action="accept")

    async with company.connected("git", "2026-07-28", elicitation_callback=elicit) as client:
        done = text(await client.call_tool("git_commit", arguments))
    assert "opens the page" not in opened
    assert "committed" in done.lower()
    assert company.messages().count("opens the page") == 1


class TaskParams(types.RequestParams):
    """Names a task."""

    task_id: str = Field(alias="taskId")


class GetTask(types.Request[TaskParams, Literal["tasks/get"]]):
    """`tasks/get`."""

    method: Literal["tasks/get"] = "tasks/get"
    name_param = "taskId"


class Task(types.Result):
    """How a task stands."""

    task_id: str = Field(alias="taskId")
    status: str
    status_message: str = Field("", alias="statusMessage")
    result: dict[str, Any] | None = None


class MadeTask(Task):
    """The result that makes one."""

    result_type: Literal["task"] = Field("task", alias="resultType")


class Tasks(ClientExtension):
    """The tasks extension, as far as waiting for it to end goes."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self, company: Company) -> None:
        self.company = company
        self.states: list[str] = []

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=MadeTask, resolve=self.resolve)]

    async def resolve(self, made: MadeTask, context: ClaimContext) -> types.CallToolResult:
        ask = GetTask(params=TaskParams(taskId=made.task_id))
        self.states.append((await context.session.send_request(ask, Task)).status)
        (waiting,) = await asyncio.to_thread(self.company.waiting)
        await self.company.approve(f"/approvals/{waiting}")
        stands = await context.session.send_request(ask, Task)
        self.states.append(stands.status)
        return types.CallToolResult.model_validate(stands.result)


async def test_a_client_with_tasks_asks_until_it_is_done(company: Company) -> None:
    arguments, tasks = company.stage("as a task"), Tasks(company)
    async with company.connected("git", "2026-07-28", extensions=[tasks]) as client:
        done = text(await client.call_tool("git_commit", arguments))
    assert tasks.states == ["working", "completed"]
    assert "committed" in done.lower()
    assert company.messages().count("as a task") == 1


class HeardOfTask(types.NotificationParams):
    """What a client that listens hears of its task."""

    task_id: str = Field(alias="taskId")
    status: str
    result: dict[str, Any] | None = None


class ListensToTasks(Tasks):
    """The same for a client that never asks, but listens."""

    def __init__(self, company: Company) -> None:
        super().__init__(company)
        self.heard: asyncio.Queue[HeardOfTask] = asyncio.Queue()

    def notifications(self) -> Sequence[NotificationBinding[Any]]:
        return [NotificationBinding(method="notifications/tasks", params_type=HeardOfTask, handler=self.hear)]

    async def hear(self, told: HeardOfTask) -> None:
        self.states.append(told.status)
        self.heard.put_nowait(told)

    async def resolve(self, made: MadeTask, context: ClaimContext) -> types.CallToolResult:
        wanted = types.SubscriptionFilter.model_validate({"taskIds": [made.task_id]})
        listen = types.SubscriptionsListenRequest(params=types.SubscriptionsListenRequestParams(notifications=wanted))
        listening = asyncio.create_task(context.session.send_request(listen, types.SubscriptionsListenResult))
        try:
            async with asyncio.timeout(PATIENCE):
                await self.heard.get()
                (waiting,) = await asyncio.to_thread(self.company.waiting)
                await self.company.approve(f"/approvals/{waiting}")
                while (told := await self.heard.get()).status == "working":
                    continue
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        return types.CallToolResult.model_validate(told.result)


async def test_a_client_with_tasks_listens_until_it_is_done(company: Company) -> None:
    arguments, tasks = company.stage("listened to"), ListensToTasks(company)
    async with company.connected("git", "2026-07-28", extensions=[tasks]) as client:
        done = text(await client.call_tool("git_commit", arguments))
    assert (tasks.states[0], tasks.states[-1]) == ("working", "completed")
    assert "committed" in done.lower()
    assert company.messages().count("listened to") == 1


async def test_an_older_client_waits_in_its_call_and_the_row_is_written_once(company: Company) -> None:
    query = {"query": "INSERT INTO revenue VALUES ('Q3', 43)"}
    done = "[{'affected_rows': 1}]"
    tour = (Stop(("call", "write_query", query), done), Stop(("call", "write_query", query), done))
    walking = asyncio.create_task(walk(company.world, "db", "2025-06-18", tour, require(OLDER_PYTHON), CLIENT))
    found: list[str] = []

    def waits() -> bool:
        found[:] = company.waiting()
        return bool(found) or walking.done()

    await asyncio.to_thread(until, waits, "the call does not wait")
    assert company.rows() == []
    await company.approve(f"/approvals/{found[0]}")
    met = await walking
    assert met["results"] == [done, done]
    assert company.rows() == [("Q3", 43)]
