"""What the demo works on: a Git repository, a database, and the configuration that puts both behind two gates."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from twogate.cli.demo.programs import run

TENANT: Final = "acme"
REPORTER: Final = f"{TENANT}/reporter"
APPROVER: Final = f"{TENANT}/bob"
ADMINISTRATOR: Final = f"{TENANT}/admin"
TASK: Final = "quarterly-report"
SERVERS: Final = ("git", "sqlite")
AUTHORIZER: Final = "gate"
"""The client that signs for calls of the reporter."""

_CONFIG: Final = """\
# The demo's configuration: two MCP servers, each behind both gates.
public_url: {public_url}
listen: "{listen}"
tls: {{certificate: server.pem, key: server.key}}
store: sqlite:///./state/twogate.db
state: state
# What a server shows of its tools is withheld until somebody approved it, and again when it changes.
pins: required

servers:
  git: {{command: ["{git_server}", "--repository", "{repository}"]}}
  sqlite: {{command: ["{sqlite_server}", "--db-path", "{database}"]}}

# What each tool does. `roles` is left out, so the shipped matrix holds: an executor may read and search, and needs an
# operation token to write. A commit waits for a person instead, whoever asks for it.
tools:
  git.git_status: {{class: read}}
  git.git_log: {{class: read}}
  git.git_show: {{class: read}}
  git.git_diff_unstaged: {{class: read}}
  git.git_add: {{class: write}}
  git.git_commit: {{class: write, approval: {{by: [approver]}}}}
  sqlite.list_tables: {{class: read}}
  sqlite.describe_table: {{class: read}}
  sqlite.read_query: {{class: search}}
  sqlite.write_query: {{class: write}}

# What the task needs, and no more: `git_show` is a read that the role has, but this task does not.
tasks:
  {task}: {{tools: [git.git_log, git.git_commit, sqlite.list_tables, sqlite.read_query, sqlite.write_query]}}

tenants:
  {tenant}: {{servers: [git, sqlite]}}
"""


def write_config(path: Path, *, public_url: str, listen: str, git_server: str, sqlite_server: str) -> None:
    """Write the configuration over what `twogate init` made."""
    path.write_text(
        _CONFIG.format(
            public_url=public_url,
            listen=listen,
            git_server=git_server,
            sqlite_server=sqlite_server,
            repository=repository_in(path.parent),
            database=database_in(path.parent),
            task=TASK,
            tenant=TENANT,
        )
    )


def repository_in(directory: Path) -> Path:
    """Where the repository is."""
    return directory / "repository"


def database_in(directory: Path) -> Path:
    """Where the database is."""
    return directory / "shop.db"


def agent_in(directory: Path) -> Path:
    """Where the agent's credentials are."""
    return directory / "agent.json"


def authorizer_in(directory: Path) -> Path:
    """Where the credentials of the program that signs are."""
    return directory / f"{AUTHORIZER}.json"


def make_repository(directory: Path) -> None:
    """Three commits, and a change that waits to be committed.

    Raises:
        CommandError: git failed; says what it printed.
    """
    path = repository_in(directory)
    run(["git", "init", "--quiet", "--initial-branch=main", str(path)])
    for name, value in (("user.name", "Ada"), ("user.email", "ada@example.com"), ("commit.gpgsign", "false")):
        run(["git", "config", name, value], path)
    for number, text in enumerate(("Start the quarterly figures", "Correct the second quarter", "Add the summary"), 1):
        (path / "figures.txt").write_text(f"quarter {number}\n")
        run(["git", "add", "figures.txt"], path)
        run(["git", "commit", "--quiet", "--message", text], path)
    (path / "figures.txt").write_text("quarter 3, corrected\n")
    run(["git", "add", "figures.txt"], path)


def make_database(directory: Path) -> None:
    """A table with three orders."""
    with contextlib.closing(sqlite3.connect(database_in(directory))) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, total INTEGER)")
        rows = [("Initech", 1200), ("Globex", 800), ("Hooli", 4300)]
        connection.executemany("INSERT INTO orders (customer, total) VALUES (?, ?)", rows)
