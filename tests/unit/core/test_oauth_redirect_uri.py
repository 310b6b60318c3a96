"""Redirect URIs: which are valid, and when two are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.oauth.redirect_uri import (
    MAX_REDIRECT_URI,
    RESPONSE_PARAMETERS,
    parse_redirect_uri,
    redirect_uri_matches,
)

GOOD = [
    "https://app.example/callback",
    "https://app.example",
    "https://app.example/",
    "https://app.example?tenant=1",
    "https://app.example:8443/cb?x=a%20b",
    "https://192.0.2.7/cb",
    "https://[2001:db8::1]:8443/cb",
    "https://xn--bcher-kva.example/cb",
    "https://localhost:8443/cb",
    "http://127.0.0.1/cb",
    "http://127.0.0.1:49152/cb",
    "http://[::1]:49152/cb",
    "http://localhost/",
    "http://localhost:33418",
    "com.example.app:/oauth2redirect/example-provider",
    "com.example.app://callback",
    "cursor://anysphere.cursor-mcp/oauth/callback",
    "vscode://vscode.github-authentication/did-authenticate",
]

BAD = {
    "empty": "",
    "relative": "/callback",
    "without scheme": "app.example/cb",
    "scheme in capitals": "HTTPS://app.example/cb",
    "host in capitals": "https://App.example/cb",
    "http to a host": "http://app.example/cb",
    "http to another loopback address": "http://127.0.0.2/cb",
    "http to a name that begins like loopback": "http://localhost.evil.example/cb",
    "http to an address that begins like loopback": "http://127.0.0.1.evil.example/cb",
    "fragment": "https://app.example/cb#x",
    "empty fragment": "https://app.example/cb#",
    "user name": "https://user@app.example/cb",
    "user name that looks like a host": "https://app.example@evil.example/cb",
    "user name before loopback": "http://127.0.0.1:80@evil.example/cb",
    "backslash": "https://app.example\\@evil.example/cb",
    "encoded backslash segment": "https://app.example/a%5C..%5Cb",
    "blank": "https://app.example/a b",
    "tab": "https://app.example/\tcb",
    "line break": "https://app.example/cb\r\nSet-Cookie: x",
    "NUL": "https://app.example/\x00",
    "encoded line break": "https://app.example/cb%0d%0aSet-Cookie:x",
    "not ASCII": "https://äpp.example/cb",
    "full-width": "https://app.example\uff0fcb",
    "bad percent": "https://app.example/%zz",
    "lone percent": "https://app.example/%",
    "dot segment": "https://app.example/a/../cb",
    "single dot": "https://app.example/./cb",
    "encoded dot segment": "https://app.example/a/%2e%2e/cb",
    "half-encoded dot segment": "https://app.example/a/.%2E",
    "dot segment behind an encoded slash": "https://app.example/a%2f..%2fb",
    "dot segment of an application": "com.example.app:/a/../b",
    "no host": "https:///cb",
    "one slash": "https:/app.example/cb",
    "no slash": "https:app.example/cb",
    "empty port": "https://app.example:/cb",
    "port zero": "http://127.0.0.1:0/cb",
    "port with a leading zero": "http://127.0.0.1:080/cb",
    "port beyond 65535": "https://app.example:65536/cb",
    "decimal address": "https://2130706433/cb",
    "octal address": "https://0177.0.0.1/cb",
    "hex address": "https://0x7f.0.0.1/cb",
    "short address": "http://127.1/cb",
    "long IPv6": "http://[0:0:0:0:0:0:0:1]/cb",
    "IPv4 in IPv6": "http://[::ffff:127.0.0.1]/cb",
    "IPv6 with zone": "https://[fe80::1%25eth0]/cb",
    "trailing dot": "https://app.example./cb",
    "wildcard": "https://*.example/cb",
    "label too long": f"https://{'a' * 64}.example/cb",
    "javascript": "javascript:alert(1)",
    "javascript with slashes": "javascript://app.example/%0aalert(1)",
    "data": "data:text/html,x",
    "file": "file:///etc/passwd",
    "blob": "blob:https://app.example/1",
    "about": "about:blank",
    "vbscript": "vbscript:x",
    "view-source": "view-source:https://app.example/",
    "ftp": "ftp://app.example/cb",
    "ws": "wss://app.example/cb",
    "intent": "intent://x/#Intent;end",
    "scheme without a dot": "myapp://callback",
    "urn": "urn:ietf:wg:oauth:2.0:oob",
    "opaque of an application": "com.example.app:callback",
    "application without path": "com.example.app:",
    "user name of an application": "com.example.app://user@host/cb",
    "three slashes of an application": "com.example.app:///cb",
    "scheme that ends in a dot": "com.example.:/cb",
}


@pytest.mark.parametrize("uri", GOOD)
def test_a_usual_redirect_uri_is_valid_and_matches_itself(uri: str) -> None:
    assert parse_redirect_uri(uri).text == uri
    assert redirect_uri_matches([uri], uri)


@pytest.mark.parametrize("uri", BAD.values(), ids=BAD.keys())
def test_what_browsers_could_read_in_another_way_is_refused_and_never_matches(uri: str) -> None:
    with pytest.raises(ValueError, match="redirect URI"):
        parse_redirect_uri(uri)
    assert not redirect_uri_matches([uri], uri)


@pytest.mark.parametrize("uri", BAD.values(), ids=BAD.keys())
def test_a_refusal_does_not_quote_the_uri(uri: str) -> None:
    with pytest.raises(ValueError, match="redirect URI") as caught:
        parse_redirect_uri(uri)
    assert "evil" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_cap_holds_exactly() -> None:
    longest = "https://app.example/".ljust(MAX_REDIRECT_URI, "a")
    assert parse_redirect_uri(longest).host == "app.example"
    with pytest.raises(ValueError, match="1 to 1024"):
        parse_redirect_uri(longest + "a")


@pytest.mark.parametrize("name", sorted(RESPONSE_PARAMETERS))
@pytest.mark.parametrize("spelling", ["{}=x", "a=1&{}=x", "{}", "%63&{}="])
def test_a_query_that_has_a_member_of_the_response_is_refused(name: str, spelling: str) -> None:
    with pytest.raises(ValueError, match="authorization response"):
        parse_redirect_uri("https://app.example/cb?" + spelling.format(name))


def test_an_encoded_name_of_the_response_is_refused() -> None:
    with pytest.raises(ValueError, match="authorization response"):
        parse_redirect_uri("https://app.example/cb?c%6Fde=x")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
@pytest.mark.parametrize("registered", ["", ":8080"])
@pytest.mark.parametrize("presented", ["", ":1", ":65535"])
def test_any_port_of_http_to_this_machine_is_the_same(host: str, registered: str, presented: str) -> None:
    assert redirect_uri_matches([f"http://{host}{registered}/cb?a=1"], f"http://{host}{presented}/cb?a=1")


@pytest.mark.parametrize(
    ("registered", "presented"),
    [
        ("http://127.0.0.1/cb", "http://localhost/cb"),
        ("http://localhost/cb", "http://[::1]/cb"),
        ("http://127.0.0.1/cb", "http://127.0.0.1/cb/"),
        ("http://127.0.0.1/cb", "http://127.0.0.1/cb?x"),
        ("http://127.0.0.1/cb", "http://127.0.0.1/CB"),
        ("http://127.0.0.1", "http://127.0.0.1/"),
        ("http://127.0.0.1/cb", "https://127.0.0.1/cb"),
        ("https://localhost:1/cb", "https://localhost:2/cb"),
        ("https://app.example/cb", "https://app.example:443/cb"),
        ("https://app.example:8443/cb", "https://app.example/cb"),
        ("https://app.example/cb", "https://app.example/cb/"),
        ("https://app.example/cb", "https://app.example/cb?a"),
        ("https://app.example/cb", "https://app.example/c%62"),
        ("https://app.example/cb", "https://app.example/cb/../cb"),
        ("https://app.example/", "https://app.example"),
        ("https://app.example/cb", "https://app.example.evil.example/cb"),
        ("com.example.app:/cb", "com.example.app://cb"),
        ("com.example.app:/cb", "com.example.app:/cb2"),
        ("http://127.0.0.1/cb", ""),
    ],
)
def test_everything_else_is_compared_character_by_character(registered: str, presented: str) -> None:
    assert not redirect_uri_matches([registered], presented)


def test_nothing_matches_an_empty_registration() -> None:
    assert not redirect_uri_matches([], "https://app.example/cb")


def test_people_are_told_the_host_or_the_scheme() -> None:
    assert parse_redirect_uri("https://app.example:8443/cb").shown == "app.example"
    assert parse_redirect_uri("com.example.app:/cb").shown == "com.example.app:"


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("https://app.example/cb", "https://app.example"),
        ("https://app.example:8443/cb", "https://app.example:8443"),
        ("http://127.0.0.1:5000/cb", "http://127.0.0.1:5000"),
        ("http://[::1]:5000/cb", "http:"),
        ("cursor://a/b", "cursor:"),
    ],
)
def test_a_policy_can_name_where_a_form_may_lead(uri: str, source: str) -> None:
    assert parse_redirect_uri(uri).form_target == source


@given(st.text(max_size=60))
def test_only_value_errors_come_of_any_text(text: str) -> None:
    try:
        uri = parse_redirect_uri(text)
    except ValueError:
        return
    assert uri.text == text
    assert text.isascii()


@given(st.sampled_from(GOOD), st.sampled_from("/\\@#?%:. \t\n.."), st.integers(0, 60))
def test_one_more_character_makes_another_uri(uri: str, extra: str, at: int) -> None:
    changed = uri[:at] + extra + uri[at:]
    assert not redirect_uri_matches([uri], changed)
