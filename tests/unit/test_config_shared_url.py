from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from twogate.config.file import ConfigError, parse_settings
from twogate.config.settings import Settings
from twogate.config.shared_url import SharedUrl, shared_address
from twogate.reload import changed

ADAPTER = TypeAdapter[str](SharedUrl)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("sql", "sql"),
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://127.0.0.1:6380/2", "redis://127.0.0.1:6380/2"),
        ("redis://[::1]:6380/", "redis://[::1]:6380/0"),
        ("rediss://valkey.example.com", "rediss://valkey.example.com:6379/0"),
        ("rediss://gate@valkey.example.com:6380/15", "rediss://gate@valkey.example.com:6380/15"),
        ("rediss://[2001:db8::7]:6380/1", "rediss://[2001:db8::7]:6380/1"),
    ],
)
def test_shared_is_sql_or_the_url_of_a_server_and_is_written_in_full(text: str, full: str) -> None:
    assert ADAPTER.validate_python(text) == full
    assert ADAPTER.validate_python(full) == full


def test_the_parts_of_a_url() -> None:
    address = shared_address("rediss://gate@[2001:db8::7]:6380/1")
    assert (address.host, address.port, address.database) == ("2001:db8::7", 6380, 1)
    assert (address.user, address.tls) == ("gate", True)
    assert shared_address("redis://localhost").tls is False


@pytest.mark.parametrize(
    "text",
    [
        "rediss://gate:sesame@valkey.example.com",
        "rediss://:sesame@valkey.example.com",
        "rediss://gate:@valkey.example.com",
        "rediss://gate:ses@me@valkey.example.com",
        "redis://gate:sesame@localhost",
    ],
)
def test_a_password_in_the_url_is_refused_not_repeated_and_told_its_place(text: str) -> None:
    with pytest.raises(ValidationError, match="shared_password") as refused:
        ADAPTER.validate_python(text)
    assert "ses" not in refused.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    "value",
    [
        "", "SQL", "memory", 5, None, "valkey://localhost", "unix:///run/valkey.sock", "http://localhost:6379",
        "redis://", "redis:///0", "redis://localhost:0", "redis://localhost:70000", "redis://localhost:06379",
        "redis://localhost/x", "redis://localhost/01", "redis://localhost/-1", "redis://localhost/99999",
        "redis://localhost/0/1", "redis://localhost/0?protocol=3", "redis://localhost/0#x", "redis://lo calhost",
        "redis://localhost:6379,other:6379", "redis://@localhost", "rediss://a b@valkey.example.com",
        "rediss://%67ate@valkey.example.com", "rediss://valkey.1", "rediss://[::1", "redis://localhost/" + "0" * 3000,
    ],
)  # fmt: skip
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(value)


@pytest.mark.parametrize("host", ["valkey.example.com", "10.0.0.7", "[2001:db8::7]", "localhost.example.com"])
def test_a_server_on_another_machine_is_reached_over_tls_only(host: str) -> None:
    with pytest.raises(ValidationError, match="rediss"):
        ADAPTER.validate_python(f"redis://{host}:6379/0")


DOCUMENT = """
public_url: http://localhost:8000
listen: 127.0.0.1:8000
store: sqlite:///./state/t.db
tenants: {acme: {}}
"""


def settings(directory: Path, more: str) -> Settings:
    (directory / "password").write_text("sesame")
    (directory / "password").chmod(0o600)
    (directory / "ca.pem").write_text("")
    return parse_settings(DOCUMENT + more, directory / "twogate.yaml")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("shared_password: password", "shared_password: goes with a Redis or Valkey server"),
        ("shared: sql\nshared_ca: ca.pem", "shared_ca: goes with a Redis or Valkey server"),
        ("shared: redis://localhost\nshared_ca: ca.pem", "shared_ca: goes with rediss://"),
        ("shared: rediss://gate@valkey.example.com", "shared_password: is missing: `shared` names the user gate"),
        ("shared: redis://localhost\nshared_password: absent", "absent is not a file"),
        ("shared: rediss://valkey.example.com\nshared_ca: absent", "absent is not a file"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        settings(tmp_path, more)


def test_a_password_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").write_text("sesame")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        settings(tmp_path, "shared: redis://localhost\nshared_password: open")


def test_the_store_is_what_is_shared_unless_said_otherwise(tmp_path: Path) -> None:
    assert settings(tmp_path, "").shared == "sql"
    assert settings(tmp_path, "shared: sql").generation == settings(tmp_path, "").generation


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("shared: redis://localhost", "shared"),
        ("shared: redis://localhost\nshared_password: password", "shared_password"),
        ("shared: rediss://localhost\nshared_ca: ca.pem", "shared_ca"),
    ],
)
def test_a_reload_changes_none_of_it(tmp_path: Path, more: str, key: str) -> None:
    assert key in changed(settings(tmp_path, ""), settings(tmp_path, more))
