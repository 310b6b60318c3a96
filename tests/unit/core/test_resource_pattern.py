"""Patterns over resource URIs: what they match, when two overlap, and which URIs are plain enough for a wildcard."""

from __future__ import annotations

import posixpath
import re
from time import process_time
from urllib.parse import unquote, urljoin, urlparse, urlsplit

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, ValidationError

from twogate.core.message import MAX_NAME
from twogate.core.resource_pattern import irregularity, is_template, parse_pattern, parse_template

MATCHED = [
    ("file:///reports/*", "file:///reports/a.txt"),
    ("file:///reports/*", "file:///reports/.hidden"),
    ("file:///reports/a*", "file:///reports/a"),
    ("file:///reports/*.txt", "file:///reports/a.b.txt"),
    ("file:///reports/*/x", "file:///reports/2026/x"),
    ("file:///reports/**", "file:///reports/a"),
    ("file:///reports/**", "file:///reports/a/b/c"),
    ("file:///reports/**/x", "file:///reports/a/b/x"),
    ("file:///r**t", "file:///reports/a.txt"),
    ("users://*/profile", "users://ann/profile"),
    ("users://**", "users://ann/profile"),
    ("https://api.example.com/items?**", "https://api.example.com/items?id=1&b=2"),
    ("https://*.example.com:8443/**", "https://a.b.example.com:8443/x"),
    ("note:*", "note:abc"),
    ("note:/**", "note:/a/b"),
    (r"file:///a\*/*", "file:///a*/b"),
    ("file:///[a-z]?".replace("[a-z]?", "(a-z)!*"), "file:///(a-z)!b"),
    # Exact entries are the very string, whatever it is.
    (r"file:///\*", "file:///*"),
    (r"c:\\x", "c:\\x"),
    ("file:///reports/../etc/passwd", "file:///reports/../etc/passwd"),
    ("file:///{name}", "file:///{name}"),
    ("just text", "just text"),
]
NOT_MATCHED = [
    ("file:///reports/*", "file:///reports/a/b"),
    ("file:///reports/*", "file:///reports"),
    ("file:///reports/*", "file:///Reports/a"),
    ("file:///reports/**", "file:///reports"),
    ("file:///reports/**", "file:///reports2/a"),
    ("file:///reports/**", "file:///reports/a?b"),
    ("file:///reports/*.txt", "file:///reports/secret?.txt"),
    ("file:///reports/*.txt", "file:///reports/a.txt.exe"),
    ("file:///reports/*.txt", "file:///reports/axtxt"),
    ("file:///reports/a?*", "file:///reports/abc"),
    ("https://api.example.com/items?**", "https://api.example.com/items"),
    ("https://api.example.com/items?**", "https://api.example.com/items?a?b"),
    ("note:**", "note://evil/x"),
    ("note:**", "note:///x"),
    ("note://**", "note:///x"),
    ("users://*/profile", "users:///profile"),
    ("note:/**", "note://evil/x"),
    ("users://*/profile", "users://a/b/profile"),
    ("file:///a", "file:///a/"),
    ("file:///a", "file:///A"),
    (r"file:///\*", "file:///a"),
]


@pytest.mark.parametrize(("pattern", "uri"), MATCHED)
def test_a_pattern_matches(pattern: str, uri: str) -> None:
    parsed = parse_pattern(pattern)
    assert parsed.matches(uri)
    assert parsed.matches(parsed.sample)


@pytest.mark.parametrize(("pattern", "uri"), NOT_MATCHED)
def test_a_pattern_does_not_match(pattern: str, uri: str) -> None:
    assert not parse_pattern(pattern).matches(uri)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no URI"),
        ("file:///a\\b", "backslash"),
        ("file:///a\\", "backslash"),
        ("file:///***", r"\*\*\*"),
        ("file:///a/****/b", r"\*\*\*"),
        ("*", "scheme"),
        ("**", "scheme"),
        ("f*://a", "scheme"),
        ("File:///*", "scheme"),
        ("/reports/*", "scheme"),
        ("file:///a/../*", "could match nothing"),
        ("file:///a/*/", "could match nothing"),
        ("file:///a//*", "could match nothing"),
        ("file:///%2e/*", "could match nothing"),
        ("file:///ä/*", "could match nothing"),
        ("file:///a b/*", "could match nothing"),
        ("file:///*#x", "could match nothing"),
        ("file:///{name}/*", "could match nothing"),
        ("file://host/*", "could match nothing"),
        ("https://Example.com/*", "could match nothing"),
        ("https://user@example.com/*", "could match nothing"),
        ("https://example.com:443/*", "could match nothing"),
        ("https://example.com:*/x", "could match nothing"),
        ("https:*", "could match nothing"),
        ("https://*", "could match nothing"),
    ],
)
def test_a_pattern_that_is_malformed_or_could_match_nothing_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_pattern(text)


PLAIN = [
    "file:///reports/2026/q3.txt", "file:///a..b/..c/.git/d", "file:///caf%C3%A9/%E6%97%A5", "file:///a%20b",
    "users://ann/profile", "users://ann", "urn:isbn:0451450523", "note:a", "x:/a", "https://h.example:8443/a",
    "https://127.0.0.1/a",
    "https://h.example/a?b=c&d=e%20f", "file:///a=b,c&d", "file:///~ann/$x", "file:///a(1)*!'", "db://h_1/t",
    "file:///%7Bname%7D", "git+ssh://h/a",
]  # fmt: skip
# RFC 3986 section 6.2.2 and 6.2.3 would change them, or readers differ on what they name.
IRREGULAR = [
    # Dot segments, in every dress.
    "file:///reports/../etc/passwd", "file:///reports/./a", "file:///reports/..", "file:///reports/.",
    "file:///reports/%2e%2e/etc", "file:///reports/.%2E/etc", "file:///reports/%2E%2E/etc", "file:///reports/..;/etc",
    "file:///reports/..;x=1/etc", "file:///reports/.../x", "x:../a", "x:a/..", "https://h/a?p=../b",
    "https://h/a?p=..", "https://h/a?p=..&q=1", "file:///reports/..%20/x", "file:///reports/%20../x",
    "file:///reports/..%3B/x", "file:///reports/..%00/x",
    # Encoded separators, double encoding, overlong and broken UTF-8.
    "file:///reports%2Fsecret", "file:///reports%2fsecret", "file:///reports%5Csecret",
    "file:///reports/%252e%252e/a", "file:///reports/%25", "file:///a%3Fb.txt", "file:///a%23.txt",
    "file:///%C0%AE%C0%AE/x", "file:///%C0%AF", "file:///%E0%80%AE", "file:///%FF", "file:///%C3", "file:///a%",
    "file:///a%2", "file:///a%GG", "file:///a%u002e",
    # Another spelling of the same: what is stricter under its own entry must not be reachable by it.
    "file:///%41", "file:///a%7Eb", "file:///a%3Ab", "file:///a%2Bb", "file:///caf%c3%a9", "FILE:///a", "File:///a",
    "https://Example.com/a", "https://example.com:443/a", "http://h:80/a", "https://h:/a", "https://h:0443/a",
    "https://h", "https://h?x=1", "https:/h/a", "https:///a", "https://:8443/a", "https://2130706433/a",
    "https://0x7f.1/a", "https://127.0.0.01/a", "https:h/a", "file:/a", "file:a", "file://localhost/a", "file://?a",
    "file://", "file://h/share", "https://h./a", "https://%68/a", "https://user@h/a", "https://user:pw@h/a",
    "https://h@evil/a", "https://[::1]/a", "https://h/secret;", "https://h/secret;x=1", "https://h/;", "file:///a;b",
    "file:///a//b", "file:////a", "file:///a/", "x://?a", "x://", "file:///a/?b", "file:///", "https://h/",
    "https://h/a?", "https://h/a#", "https://h/a#b", "https://h//a", "file:///a.", "file:///a./b", "file:///a.%20",
    "file:///a%20", "file:///%20a", "file:///a%20/b",
    # Characters that a URI does not have.
    "file:///a b", "file:///a\\b", "file:///reports\\..\\etc", "file:///ä", "file:///\u202e", "file:///a\tb",
    "file:///a\nb", "file:///a\x00b", "file:///a|b", "file:///{a}", 'file:///a"b', "file:///<a>", "file:///a`b",
    "file:///^", "file:///[a]", "file:///\uff0e\uff0e/a",
    # Encoded characters that somebody may read as another, or not see.
    "file:///%EF%BC%8E%EF%BC%8E/a", "file:///a%EF%BC%8Fb", "file:///%E2%80%A4%E2%80%A4/a", "file:///a%E2%80%AEb",
    "file:///a%E2%80%8Bb", "file:///a%C2%A0b", "file:///a%C2%85b", "file:///a%0Ab", "file:///a%00", "file:///a%7F",
    "file:///cafe%CC%81", "file:///a%E2%80%A8b",
    # No URI at all.
    "", "reports/a", "/reports/a", "*", "1x:a", "a_b:c", "://a", ":a", "file:///" + "a" * MAX_NAME,
]  # fmt: skip


@pytest.mark.parametrize("uri", PLAIN)
def test_a_plain_uri_is_one_that_nobody_would_write_otherwise(uri: str) -> None:
    assert irregularity(uri) is None


@pytest.mark.parametrize("uri", IRREGULAR)
def test_what_is_not_plain_is_matched_by_no_wildcard_but_by_an_exact_entry(uri: str) -> None:
    assert irregularity(uri) is not None
    if uri:
        exact = parse_pattern(uri.replace("\\", "\\\\").replace("*", "\\*"))
        assert exact.exact
        assert exact.matches(uri)


# Hypothesis. The alphabet is what the tricks above are made of.
SCHEMES = st.sampled_from(
    ["file:", "file://", "file:///", "https://", "https://h", "https://h/", "x:", "x:/", "x://h/"]
)
BITS = st.sampled_from(
    [
        "a",
        "b",
        ".",
        "..",
        "/",
        "//",
        "%2e",
        "%2E",
        "%2F",
        "%20",
        "%C3%A9",
        "%25",
        "?",
        "#",
        ";",
        ":",
        "@",
        "*",
        "\\",
        "~",
    ]
)
URIS = st.builds(lambda scheme, bits: scheme + "".join(bits), SCHEMES, st.lists(BITS, max_size=8))


@given(URIS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.filter_too_much])
def test_a_plain_uri_means_the_same_to_every_reader(uri: str) -> None:
    assume(irregularity(uri) is None)
    # To a browser's parser (WHATWG), which normalises; the same code reads URIs for the MCP Python SDK.
    try:
        assert str(AnyUrl(uri)) == uri
    except ValidationError:
        assert uri.startswith("x:")
    # To RFC 3986's own resolution of references, which removes dot segments.
    assert urljoin("https://base.example/a/b", uri) == uri
    # To a server that decodes the path and opens it as a file.
    path = unquote(urlsplit(uri).path)
    if path:
        assert posixpath.normpath(path) == path
    # To Python's own parser, which cuts parameters off a path.
    assert urlparse(uri).path == urlsplit(uri).path
    # And to one that decodes first and splits afterwards.
    decoded = unquote(uri)
    assert [len(decoded.split(mark)) for mark in "/?#\\"] == [len(uri.split(mark)) for mark in "/?#\\"]


PATTERN_BITS = st.sampled_from(["a", "b", "/", "*", "**", "\\*", "?", "ab"])
PATTERNS = st.lists(PATTERN_BITS, min_size=1, max_size=7).map("".join)
TEXTS = st.lists(st.sampled_from(["a", "b", "/", "*", "?"]), max_size=8).map("".join)


def by_regex(pattern: str) -> re.Pattern[str]:
    """The same meaning, said as a regular expression."""
    said = {"**": "[^?#]*", "*": "[^/?#]*", "\\*": r"\*"}
    tokens = re.findall(r"\*\*|\*|\\\*|.", pattern)
    return re.compile("".join(said.get(token, re.escape(token)) for token in tokens))


def any_pattern(text: str) -> str:
    """A pattern whatever the text: with a scheme, and with no wildcards in a row."""
    return "x:y" + re.sub(r"\*{3,}", "**", text)


@given(PATTERNS, TEXTS)
@settings(max_examples=150)
def test_matching_is_what_a_regular_expression_says(pattern: str, text: str) -> None:
    pattern = any_pattern(pattern)
    try:
        parsed = parse_pattern(pattern)
    except ValueError:
        return
    uri = "x:y" + text
    assert parsed.matches(uri) == (by_regex(pattern).fullmatch(uri) is not None)


@given(PATTERNS, PATTERNS, TEXTS)
@settings(max_examples=150)
def test_two_patterns_that_match_one_string_overlap(one: str, other: str, text: str) -> None:
    try:
        first, second = parse_pattern(any_pattern(one)), parse_pattern(any_pattern(other))
    except ValueError:
        return
    assert first.overlaps(second) == second.overlaps(first)
    assert first.overlaps(first)
    uri = "x:y" + text
    if first.matches(uri) and second.matches(uri):
        assert first.overlaps(second)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("x:/a/**", "x:/a/*.txt", True),
        ("x:/a/*/b", "x:/a/*/c", False),
        ("x:/a/*", "x:/a/*/b", False),
        ("x:/a/**", "x:/a/*/b", True),
        ("x:/a/*b", "x:/a/c*", True),
        ("x:/a/*b", "x:/a/*c", False),
        ("x:/a/b", "x:/a/*", True),
        ("x:/a/b?**", "x:/a/**", False),
        ("x:/a/**", "x:/b/**", False),
    ],
)
def test_whether_patterns_overlap(one: str, other: str, expected: bool) -> None:
    assert parse_pattern(one).overlaps(parse_pattern(other)) is expected


def test_no_pattern_makes_matching_slow() -> None:
    pattern = parse_pattern("x:" + "a**" * 60 + "b")
    uri = "x:" + "a" * (MAX_NAME - 3) + "c"
    began = process_time()
    assert not pattern.matches(uri)
    assert process_time() - began < 1


@pytest.mark.parametrize(
    ("template", "covered", "not_covered"),
    [
        ("file:///a/{name}", ["file:///a/*", "file:///a/**", "file:///**"], ["file:///b/**", "file:///a/x*"]),
        ("file:///a/{x}/{y}", ["file:///a/*/*", "file:///a/**"], ["file:///a/*"]),
        ("file:///a/{x}{y}", ["file:///a/*"], []),
        ("file:///a/{+path}", ["file:///a/**"], ["file:///a/*"]),
        ("file:///a/{x}{+y}", ["file:///a/**"], ["file:///a/*"]),
        ("users://{id}/profile", ["users://*/profile", "users://**"], ["users://*/p*x", "users:**"]),
        ("x://h/a?q={q}", ["x://h/a?**", "x://h/a?q=*"], ["x://h/**"]),
        ("file:///a/{x:3}.txt", ["file:///a/*", "file:///a/*.txt"], ["file:///a/*.md"]),
        ("file:///a/{x*}", ["file:///a/*"], []),
    ],
)  # fmt: skip
def test_a_pattern_covers_a_template_when_it_matches_whatever_may_be_filled_in(
    template: str, covered: list[str], not_covered: list[str]
) -> None:
    parsed = parse_template(template)
    assert parsed is not None
    for pattern in covered:
        assert parse_pattern(pattern).matches(parsed.sample), pattern
        assert parse_pattern(pattern).overlaps(parsed.pattern)
    for pattern in not_covered:
        assert not parse_pattern(pattern).matches(parsed.sample), pattern


@pytest.mark.parametrize(
    "template",
    ["file:///a{/x}", "file:///a{?x}", "file:///a{#x}", "file:///a{.x}", "file:///a{;x}", "file:///a{&x}", "file:///{",
     "file:///}", "file:///{}", "file:///{a", "file:///a/../{x}", "file:///{x}/", "file:///{x}.", "file:///%2e/{x}",
     "{+uri}", "file:///{a{b}}", "file:///{a b}", "file:///\x01{x}"],
)  # fmt: skip
def test_other_templates_are_covered_by_no_pattern(template: str) -> None:
    assert parse_template(template) is None


VALUES = st.lists(st.sampled_from(["a", "b", "%20", ",", "~"]), max_size=3).map("".join)


@given(PATTERNS, VALUES, VALUES)
@settings(max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
def test_what_matches_the_sample_matches_every_plain_expansion(pattern: str, first: str, second: str) -> None:
    template = parse_template("x:y{one}/a{+two}")
    assert template is not None
    try:
        parsed = parse_pattern(any_pattern(pattern))
    except ValueError:
        return
    assume(parsed.matches(template.sample))
    for expansion in (f"x:y{first}/a{second}", f"x:y{first}/a{second}/{first}"):
        if irregularity(expansion) is None:
            assert parsed.matches(expansion)
            assert template.pattern.matches(expansion)
            assert parsed.overlaps(template.pattern)


def test_only_what_has_a_brace_is_a_template() -> None:
    assert is_template("file:///{a}")
    assert not is_template("file:///%7Ba%7D")
