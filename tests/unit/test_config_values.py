from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from twogate.config.values import (
    Address,
    FetchedUrl,
    IssuerUrl,
    Pointer,
    ScopeName,
    Target,
    TcpAddress,
    UnixAddress,
    UpstreamUrl,
    is_loopback,
    parse_duration,
    parse_listen,
    parse_origin,
    parse_size,
)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("https://mcp.example.com", "https://mcp.example.com"),
        ("HTTPS://MCP.Example.com:443/", "https://mcp.example.com"),
        ("https://mcp.example.com:8443", "https://mcp.example.com:8443"),
        ("https://[0:0::1]:8443", "https://[::1]:8443"),
        ("http://localhost:80", "http://localhost"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
    ],
)
def test_an_origin_has_one_spelling(written: str, normal: str) -> None:
    assert parse_origin(written) == normal


@pytest.mark.parametrize(
    "written",
    [
        "", "mcp.example.com", "http://mcp.example.com", "http://127.0.0.1.example.com", "http://0.0.0.0",
        "https://user@h.example", "https://user:pw@h.example", "https://@h.example", "https://h.example/path",
        "https://h.example?x", "https://h.example/?", "https://h.example#", "https://h.example\n", " https://h.example",
        "https://h.exa\tmple", "https://h\\.example", "https://h.example:0", "https://h.example:99999",
        "https://h.example:x", "https://", "https://-h.example", "https://h..example", "https://1.2.3.4.5",
        "https://127.1", "https://[::1", "https://bücher.example", "ftp://h.example", "null", "https://h%41.example",
        "https://" + "a" * 64 + ".example", "https://" + "a." * 130 + "example",
    ],
)  # fmt: skip
def test_anything_else_is_no_origin(written: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_origin(written)


def test_only_this_machine_is_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["localhost.example", "0.0.0.0", "::", "10.0.0.1", "", "127.1"]))


def test_an_issuer_is_kept_as_written() -> None:
    adapter = TypeAdapter[str](IssuerUrl)
    assert adapter.validate_python("https://Login.example.com/realms/a/") == "https://Login.example.com/realms/a/"
    for refused in ("https://l.example?x=1", "https://l.example#x", "http://l.example", "https://u@l.example"):
        with pytest.raises(ValidationError):
            adapter.validate_python(refused)


def test_a_jwks_uri_may_have_a_query_but_must_be_https() -> None:
    adapter = TypeAdapter[str](FetchedUrl)
    assert adapter.validate_python("https://l.example/keys?appid=1") == "https://l.example/keys?appid=1"
    with pytest.raises(ValidationError):
        adapter.validate_python("http://l.example/keys")


def test_an_upstream_url_may_be_http_but_holds_no_secret() -> None:
    adapter = TypeAdapter[str](UpstreamUrl)
    assert adapter.validate_python("http://files:9001/mcp") == "http://files:9001/mcp"
    for refused in ("http://u:p@files/mcp", "http://files/mcp?api_key=x", "http://files", "file:///etc/passwd"):
        with pytest.raises(ValidationError):
            adapter.validate_python(refused)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("30d", 2_592_000)])
def test_durations_have_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value", ["", "5", 5, "0s", "-5m", "5 m", "1.5h", "5M", "1h30m", "\u0665m", "9999999s", None, True]
)
def test_anything_else_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(value)


def test_sizes_have_a_unit() -> None:
    assert (parse_size("4MiB"), parse_size("512KiB"), parse_size("9B")) == (4 * 1024 * 1024, 512 * 1024, 9)
    for value in ("4", 4, "4MB", "0B", "1.5MiB", "4 MiB"):
        with pytest.raises(ValueError, match="size"):
            parse_size(value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8443", TcpAddress("127.0.0.1", 8443)),
        ("[::1]:8443", TcpAddress("::1", 8443)),
        ("localhost:1", TcpAddress("localhost", 1)),
        ("unix:/run/twogate.sock", UnixAddress(Path("/run/twogate.sock"))),
    ],
)
def test_listen_is_a_host_and_port_or_a_socket(text: str, address: Address) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize(
    "value",
    [
        "", "8443", ":8443", "h:0", "h:65536", "h:08", "h:-1", "::1:8443", "[127.0.0.1]:1", "h h:1", "unix:run.sock",
        "unix:", "unix:/" + "a" * 200, "unix:/a\0b", 8443, None,
    ],
)  # fmt: skip
def test_anything_else_is_no_address(value: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_listen(value)


def test_pointers_follow_rfc_6901_and_never_mean_the_whole_token() -> None:
    adapter = TypeAdapter[str](Pointer)
    for fine in ("/tenant", "/realm_access/roles", "/https:~1~1x.example~1role", "/a~0b"):
        assert adapter.validate_python(fine) == fine
    for refused in ("", "tenant", "/", "/a//b", "/a~2", "/a~", "$.tenant"):
        with pytest.raises(ValidationError):
            adapter.validate_python(refused)


def test_a_target_names_a_server_without_dots_and_a_tool() -> None:
    adapter = TypeAdapter[str](Target)
    for fine in ("git.git_log", "s-1.a.b/c-d", "a.A", "git.prompt:what now?", "git.resource:file:///a/**"):
        assert adapter.validate_python(fine) == fine
    for refused in ("git", "git.", ".x", "Git.x", "git.x y", "git.x\n", "git.resource:", "g" * 64 + ".x", "-g.x"):
        with pytest.raises(ValidationError):
            adapter.validate_python(refused)


def test_scopes_follow_rfc_6749() -> None:
    adapter = TypeAdapter[str](ScopeName)
    for fine in ("reports", "mcp:tools/read", "https://x.example/read", "[a]", "~!#"):
        assert adapter.validate_python(fine) == fine
    for refused in ("", "a b", 'a"', "a\\", "é"):
        with pytest.raises(ValidationError):
            adapter.validate_python(refused)
