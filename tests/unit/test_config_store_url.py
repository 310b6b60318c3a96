from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from twogate.config.file import ConfigError, parse_settings
from twogate.config.store_url import StoreUrl, is_postgresql
from twogate.config.values import Base

ADAPTER = TypeAdapter[str](StoreUrl)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///var/lib/twogate/t.db", "/var/lib/twogate/t.db"),
        ("sqlite:////var/lib/twogate/t.db", "/var/lib/twogate/t.db"),
        ("sqlite:///./state/t.db", "/etc/twogate/state/t.db"),
        ("sqlite:///../t.db", "/etc/twogate/../t.db"),
    ],
)
def test_a_sqlite_store_is_an_absolute_path_or_lies_beside_the_file(text: str, path: str) -> None:
    url = ADAPTER.validate_python(text, context=Base(Path("/etc/twogate")))
    assert url == f"sqlite:///{path}"
    assert not is_postgresql(url)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("postgresql://gate@db.example.com/twogate", "gate@db.example.com:5432/twogate"),
        ("postgresql+asyncpg://gate@db.example.com:6432/two-gate.1", "gate@db.example.com:6432/two-gate.1"),
        ("postgresql://gate@10.0.0.7:5432/twogate", "gate@10.0.0.7:5432/twogate"),
        ("postgresql://gate@[2001:db8::7]:5433/twogate", "gate@[2001:db8::7]:5433/twogate"),
        ("postgresql://gate@/twogate?host=/run/postgresql", "gate@/twogate?host=/run/postgresql&port=5432"),
        ("postgresql://gate@/twogate?host=/run/pg/&port=5433", "gate@/twogate?host=/run/pg&port=5433"),
    ],
)
def test_a_postgresql_store_is_a_user_a_database_and_a_host_or_socket(text: str, normal: str) -> None:
    url = ADAPTER.validate_python(text)
    assert url == f"postgresql+asyncpg://{normal}"
    assert is_postgresql(url)
    assert ADAPTER.validate_python(url) == url


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://gate:sesame@db.example.com/twogate",
        "postgresql://gate:@db.example.com/twogate",
        "postgresql://gate:ses@me@db.example.com/twogate",
        "postgresql://gate:ses#ame@db.example.com/twogate",
        "postgresql://gate:sesame@/twogate?host=/run/postgresql",
    ],
)
def test_a_password_in_the_url_is_refused_not_repeated_and_told_its_place(text: str) -> None:
    with pytest.raises(ValidationError, match="store_password") as refused:
        ADAPTER.validate_python(text)
    assert "ses" not in str(refused.value.errors(include_input=False))


@pytest.mark.parametrize(
    "value",
    [
        "t.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///t.db",
        "sqlite:///a/b?mode=ro",
        "sqlite:///a/b#x",
        "postgres://gate@h/d",
        "postgresql+psycopg://gate@h/d",
        "postgresql://h/d",
        "postgresql://gate@h",
        "postgresql://gate@h/",
        "postgresql://gate@h/d/e",
        "postgresql://gate@/d",
        "postgresql://gate@H_H/d",
        "postgresql://gate@h1,h2/d",
        "postgresql://gate@h:0/d",
        "postgresql://gate@h:65536/d",
        "postgresql://gate@h:/d",
        "postgresql://gate@::1/d",
        "postgresql://gate@h/d?host=/run",
        "postgresql://gate@h/d?password=sesame",
        "postgresql://gate@h/d?sslmode=disable",
        "postgresql://gate@/d?host=run",
        "postgresql://gate@/d?host=/run,/etc",
        "postgresql://gate@/d?host=/run&host=/etc",
        "postgresql://gate@/d?host=/run&port=x",
        "postgresql://gate@/d?host=/run&passfile=/etc/p",
        "postgresql://gate@/d?host=/" + "r" * 100,
        "postgresql://gate@h/d\n",
        "postgresql://ga%20te@h/d",
        "postgresql://" + "g" * 3000 + "@h/d",
        1,
    ],
)
def test_anything_else_is_no_store(value: object) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(value)


CONFIG = """
public_url: http://localhost:8443
listen: 127.0.0.1:8443
store: {store}
tenants: {{acme: {{}}}}
{rest}
"""


def problems(directory: Path, store: str, rest: str = "") -> list[str]:
    path = directory / "twogate.yaml"
    try:
        parse_settings(CONFIG.format(store=store, rest=rest), path)
    except ConfigError as error:
        return [f"{problem.key}: {problem.message}" for problem in error.problems]
    return []


DATABASE = "postgresql://gate@db.example.com/twogate"


def test_postgresql_needs_a_directory_for_what_is_no_database(tmp_path: Path) -> None:
    assert problems(tmp_path, DATABASE, "state: state") == []
    assert problems(tmp_path, DATABASE) == [
        "state: is missing: with PostgreSQL, say where the audit trail and the key files live"
    ]
    settings = parse_settings(CONFIG.format(store=DATABASE, rest="state: state"), tmp_path / "twogate.yaml")
    assert (settings.store_path, settings.state_directory) == (None, tmp_path / "state")
    with pytest.raises(ValueError, match="state"):
        _ = settings.model_copy(update={"state": None}).state_directory


def test_the_password_file_must_be_there_and_closed_to_others(tmp_path: Path) -> None:
    rest = "state: state\nstore_password: secret"
    assert problems(tmp_path, DATABASE, rest) == [f"store_password: {tmp_path}/secret is not a file"]
    (tmp_path / "secret").touch(0o600)
    assert problems(tmp_path, DATABASE, rest) == []
    (tmp_path / "secret").chmod(0o640)
    (found,) = problems(tmp_path, DATABASE, rest)
    assert "chmod 600" in found


def test_what_belongs_to_postgresql_is_refused_elsewhere(tmp_path: Path) -> None:
    for name in ("secret", "ca.pem"):
        (tmp_path / name).touch(0o600)
    assert sorted(problems(tmp_path, "sqlite:///./state/t.db", "store_password: secret\nstore_ca: ca.pem")) == [
        "store_ca: goes with a PostgreSQL store",
        "store_password: goes with a PostgreSQL store",
    ]
    socket = "postgresql://gate@/twogate?host=/run/postgresql"
    assert problems(tmp_path, socket, "state: state\nstore_ca: ca.pem") == [
        "store_ca: is of no use: PostgreSQL speaks no TLS over a Unix socket"
    ]
    assert problems(tmp_path, DATABASE, "state: state\nstore_ca: none.pem") == [
        f"store_ca: {tmp_path}/none.pem is not a file"
    ]
