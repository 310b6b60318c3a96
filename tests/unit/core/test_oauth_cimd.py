"""Client ids that are URLs of documents, and the documents."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.cimd import (
    MAX_CLIENT_ID,
    MAX_DOCUMENT,
    DomainRule,
    best_rule,
    is_client_id_url,
    parse_client_id_url,
    parse_document,
)
from twogate.core.oauth.client_auth import AuthMethod

URL = "https://app.example.com/oauth/client.json"
DOCUMENT: dict[str, object] = {
    "client_id": URL,
    "client_name": "Example",
    "redirect_uris": ["https://app.example.com/cb"],
}

GOOD = [
    URL,
    "https://app.example.com/c",
    "https://app.example.com/c/",
    "https://app.example.com:8443/c",
    "https://app.example.com/a%20b",
    "https://xn--bcher-kva.example/client",
    "https://app.example.com/~me/;v=1,2/@x",
]
BAD = [
    "https://app.example.com",
    "https://app.example.com/",
    "http://app.example.com/c",
    "HTTPS://app.example.com/c",
    "https://App.example.com/c",
    "https://app.example.com:443/c",
    "https://app.example.com:0443/c",
    "https://app.example.com:0/c",
    "https://app.example.com:65536/c",
    "https://app.example.com:/c",
    "https://app.example.com/c#f",
    "https://app.example.com/c#",
    "https://app.example.com/c?x=1",
    "https://app.example.com/c?",
    "https://user@app.example.com/c",
    "https://user:secret@app.example.com/c",
    "https://app.example.com@evil.example/c",
    "https://@app.example.com/c",
    "https://app.example.com/../c",
    "https://app.example.com/a/./c",
    "https://app.example.com/a/..",
    "https://app.example.com/a/%2e%2e/c",
    "https://app.example.com/a/.%2E/c",
    "https://app.example.com/%2E/c",
    "https://app.example.com/a%2Fb",
    "https://app.example.com/a%5Cb",
    "https://app.example.com/a%00",
    "https://app.example.com/a%0A",
    "https://app.example.com/a%7F",
    "https://app.example.com/a%2fb",
    "https://app.example.com/%41",
    "https://app.example.com/a%c3%a4",
    "https://app.example.com/%252e%252e/c",
    "https://app.example.com/a%3Fb",
    "https://app.example.com/a%23b",
    "https://app.example.com/%",
    "https://app.example.com/%zz",
    "https://app.example.com//c",
    "https://app.example.com/a//c",
    "https://app.example.com\\@evil.example/c",
    "https://app.example.com/a\\b",
    "https://app.example.com/a b",
    "https://app.example.com/a\tb",
    "https://app.example.com/a\nb",
    "https://app.example.com/ä",
    "https://äpp.example.com/c",
    "https://app.example.com/\uff0e\uff0e/c",
    "https://localhost/c",
    "https://intranet/c",
    "https://127.0.0.1/c",
    "https://169.254.169.254/c",
    "https://2130706433/c",
    "https://0x7f.0.0.1/c",
    "https://0177.0.0.1/c",
    "https://127.1/c",
    "https://[::1]/c",
    "https://[::ffff:127.0.0.1]/c",
    "https://app.example.com./c",
    "https://.example.com/c",
    "https://-app.example.com/c",
    "https://app_1.example.com/c",
    "https://*.example.com/c",
    "https:///c",
    "https:/app.example.com/c",
    "https:app.example.com/c",
    " https://app.example.com/c",
    "https://app.example.com/c ",
    "https://app.example.com/" + "a" * MAX_CLIENT_ID,
    "https://" + "a" * 64 + ".example.com/c",
    "",
]


@pytest.mark.parametrize("url", GOOD)
def test_a_url_in_its_one_spelling_is_a_client_id(url: str) -> None:
    assert parse_client_id_url(url).text == url
    assert is_client_id_url(url)


@pytest.mark.parametrize("url", BAD)
def test_any_other_url_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"client_id|domain name") as caught:
        parse_client_id_url(url)
    assert "evil" not in str(caught.value)


@given(st.text(max_size=40))
def test_only_value_errors_come_of_any_text(rest: str) -> None:
    for text in (rest, "https://app.example.com/" + rest, "https://" + rest + "/c"):
        try:
            assert parse_client_id_url(text).text == text
        except ValueError:
            continue


def test_a_rule_holds_for_its_host_and_port_only() -> None:
    host, below = DomainRule("example.com"), DomainRule("example.com", below=True)

    def url(text: str) -> bool:
        return host.matches(parse_client_id_url(text))

    assert url("https://example.com/c")
    assert not url("https://app.example.com/c")
    assert not url("https://example.com.evil.org/c")
    assert not url("https://evilexample.com/c")
    assert not url("https://example.com:8443/c")
    assert DomainRule("example.com", 8443).matches(parse_client_id_url("https://example.com:8443/c"))
    assert below.matches(parse_client_id_url("https://a.b.example.com/c"))
    assert not below.matches(parse_client_id_url("https://example.com/c"))
    assert not below.matches(parse_client_id_url("https://evilexample.com/c"))
    assert not below.matches(parse_client_id_url("https://a.example.com.evil.org/c"))


def test_the_most_specific_rule_counts_whatever_the_order() -> None:
    wide, narrow = DomainRule("example.com", below=True), DomainRule("apps.example.com", below=True)
    exact = DomainRule("a.apps.example.com")
    url = parse_client_id_url("https://a.apps.example.com/c")
    for rules in ([wide, narrow, exact], [exact, narrow, wide]):
        assert best_rule(rules, url) is exact
    assert best_rule([wide, narrow], url) is narrow
    assert best_rule([DomainRule("example.org")], url) is None
    assert best_rule([], url) is None


def parsed(document: object, content_type: str = "application/json") -> None:
    parse_document(json.dumps(document).encode(), content_type, URL)


def refused(body: bytes, content_type: str = "application/json") -> str:
    with pytest.raises(GateError) as caught:
        parse_document(body, content_type, URL)
    assert caught.value.code is ErrorCode.CLIENT_METADATA_INVALID
    assert caught.value.data is not None
    return str(caught.value.data["description"])


def test_a_good_document_says_what_the_client_is() -> None:
    metadata = parse_document(json.dumps(DOCUMENT).encode(), "application/json", URL)
    assert metadata.name == "Example"
    assert metadata.method is AuthMethod.NONE


@pytest.mark.parametrize("content_type", ["application/json", "application/oauth-client+json"])
def test_json_has_more_than_one_name(content_type: str) -> None:
    parsed(DOCUMENT, content_type)


@pytest.mark.parametrize("content_type", ["", "text/html", "text/json", "application/javascript", "application/jsonp"])
def test_what_is_not_served_as_json_is_no_document(content_type: str) -> None:
    assert "Content-Type" in refused(json.dumps(DOCUMENT).encode(), content_type)


@pytest.mark.parametrize(
    "client_id",
    [
        None,
        "",
        URL + "/",
        URL.upper(),
        URL.replace("https", "http"),
        URL + "#",
        [URL],
        URL.replace("/oauth", "//oauth"),
    ],
)
def test_the_documents_client_id_is_the_very_url(client_id: object) -> None:
    assert "client_id" in refused(json.dumps({**DOCUMENT, "client_id": client_id}).encode())


def test_a_document_without_client_id_is_refused() -> None:
    document = {key: value for key, value in DOCUMENT.items() if key != "client_id"}
    assert "client_id" in refused(json.dumps(document).encode())


@pytest.mark.parametrize("member", ["client_secret", "client_secret_expires_at"])
@pytest.mark.parametrize("value", ["x", None, 0])
def test_a_secret_in_public_is_refused(member: str, value: object) -> None:
    assert "client_secret" in refused(json.dumps({**DOCUMENT, member: value}).encode())


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "client_secret_jwt", "other"])
def test_a_shared_secret_method_is_refused(method: str) -> None:
    told = refused(json.dumps({**DOCUMENT, "token_endpoint_auth_method": method}).encode())
    assert "token_endpoint_auth_method" in told


@pytest.mark.parametrize("missing", ["client_name", "redirect_uris"])
def test_name_and_redirect_uris_are_required(missing: str) -> None:
    document = {key: value for key, value in DOCUMENT.items() if key != missing}
    assert missing in refused(json.dumps(document).encode())


def test_a_bad_redirect_uri_is_the_documents_fault() -> None:
    assert "redirect_uris[0]" in refused(json.dumps({**DOCUMENT, "redirect_uris": ["http://evil.example/"]}).encode())


BODY = json.dumps(DOCUMENT)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"' + URL.encode() + b'"',
        b"\xef\xbb\xbf" + BODY.encode(),
        BODY.encode("utf-16"),
        BODY.encode() + b"x",
        BODY.replace("{", '{"client_name": "Other", ', 1).encode(),
        BODY.replace("{", '{"client\\u005fid": "https://evil.example/c", ', 1).encode(),
        BODY.replace('"Example"', '"\\ud800"').encode(),
        BODY.replace('"Example"', '"\xff"').encode("latin-1"),
        BODY.replace("}", ', "x": NaN}').encode(),
        BODY.replace("}", ', "x": 1e999}').encode(),
        BODY.replace("}", ', "x": ' + "[" * 20 + "]" * 20 + "}").encode(),
        BODY.replace("}", ', "x": ' + "[" * 2000 + "]" * 2000 + "}").encode(),
        BODY.encode().ljust(MAX_DOCUMENT + 1),
        b"<html></html>",
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(body: bytes) -> None:
    assert "document" in refused(body)


def test_the_cap_on_documents_holds_exactly() -> None:
    assert parse_document(BODY.encode().ljust(MAX_DOCUMENT), "application/json", URL).name == "Example"
