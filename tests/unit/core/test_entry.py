"""Entries of the configuration: what each names, which one classifies a target, what a session keeps of them."""

from __future__ import annotations

import pytest

from twogate.core.entry import WITHHELD, Entries, outgrown, parse_entry
from twogate.core.message import MAX_NAME
from twogate.core.protocol import prompt_target, resource_target, tool_target


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("git.git_log", tool_target("git", "git_log")),
        ("git.a.b/c", tool_target("git", "a.b/c")),
        ("git.resource", tool_target("git", "resource")),
        ("git.tool:resource:x", tool_target("git", "resource:x")),
        ("git.tool:prompt:", tool_target("git", "prompt:")),
        ("git.tool:tool:resource:x", tool_target("git", "tool:resource:x")),
        ("git.prompt:review", prompt_target("git", "review")),
        ("git.prompt:Was nun?*", prompt_target("git", "Was nun?*")),
        ("git.resource:x:y", resource_target("git", "x:y")),
        ("git.resource:file:///{name}", resource_target("git", "file:///{name}")),
        (r"git.resource:file:///\*", resource_target("git", "file:///*")),
        (r"git.resource:c:\\x", resource_target("git", "c:\\x")),
    ],
)
def test_an_entry_names_the_target_that_a_message_would_act_on(name: str, target: str) -> None:
    entry = parse_entry(name)
    assert (entry.target, entry.sample, entry.is_pattern) == (target, target, False)
    assert Entries([name]).exact == {target: name}


@pytest.mark.parametrize("name", ["git.resource:file:///**", "git.resource:users://*/profile"])
def test_a_pattern_names_no_single_target_and_has_a_sample_that_it_classifies(name: str) -> None:
    entry = parse_entry(name)
    assert entry.is_pattern
    entries = Entries([name])
    assert entries.exact == {}
    assert entries.search(entry.sample) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("git", "a target is written"),
        ("", "a target is written"),
        (".x", "a target is written"),
        ("git.", "a target is written"),
        ("git.a b", "a target is written"),
        ("git.a:b", "a target is written"),
        ("git.a*", "a target is written"),
        ("git." + "a" * 129, "a target is written"),
        ("git.tool:look", r"write git\.look"),
        ("git.tool:", "only for names that begin with"),
        ("git.tool:resource:a b", "a tool's name"),
        ("git.prompt:", "a prompt's name"),
        ("git.prompt:a\nb", "a prompt's name"),
        ("git.prompt:a\u202eb", "a prompt's name"),
        ("git.prompt:" + "a" * (MAX_NAME + 1), "a prompt's name"),
        ("git.resource:", "a resource's URI"),
        ("git.resource:a\x00", "a resource's URI"),
        ("git.resource:*", "scheme"),
        ("git.resource:f:/../*", "could match nothing"),
    ],
)
def test_anything_else_is_no_entry(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_entry(name)


NAMES = [
    "files.look",
    "files.resource:file:///**",
    "files.resource:file:///reports/**",
    "files.resource:file:///reports/secret/*",
    "files.resource:file:///reports/secret/open.txt",
    "files.resource:file:///a/../b",
    "files.resource:users://*/profile",
    "files.resource:users://root/profile",
    "files.resource:users://{id}/avatar",
    "files.resource:docs://**",
    "notes.resource:file:///reports/**",
]
ENTRIES = Entries(NAMES)


@pytest.mark.parametrize(
    ("target", "entry"),
    [
        ("files.resource:file:///reports/secret/open.txt", "files.resource:file:///reports/secret/open.txt"),
        ("files.resource:file:///reports/secret/x", "files.resource:file:///reports/secret/*"),
        ("files.resource:file:///reports/secret/x/y", "files.resource:file:///reports/**"),
        ("files.resource:file:///reports/x", "files.resource:file:///reports/**"),
        ("files.resource:file:///x", "files.resource:file:///**"),
        ("notes.resource:file:///reports/x", "notes.resource:file:///reports/**"),
        ("files.resource:file:///a/../b", "files.resource:file:///a/../b"),
        ("files.resource:users://ann/profile", "files.resource:users://*/profile"),
        # What a pattern does not classify, nothing does.
        ("notes.resource:file:///x", None),
        ("files.resource:file:///a/../c", None),
        ("files.resource:file:///reports/secret/../open.txt", None),
        ("files.resource:file:///reports/secret%2Fopen.txt", None),
        ("files.resource:FILE:///x", None),
        ("files.resource:http://x/y", None),
        ("files.resource:file:///" + "a" * MAX_NAME, None),
        ("files.prompt:file:///x", None),
        ("files.tool:resource:file:///x", None),
        ("files.file:///x", None),
        ("other.resource:file:///x", None),
        ("resource:file:///x", None),
        ("", None),
        # A pattern's text is no target: a URI with literal wildcards is a URI like any other.
        ("files.resource:file:///reports/**", "files.resource:file:///reports/**"),
        ("files.resource:file:///*", "files.resource:file:///**"),
    ],
)
def test_the_own_entry_classifies_else_the_pattern_that_begins_longest(target: str, entry: str | None) -> None:
    assert (ENTRIES.exact.get(target) or ENTRIES.search(target)) == entry


@pytest.mark.parametrize(
    ("template", "entry"),
    [
        ("users://{id}/avatar", "users://{id}/avatar"),  # named
        ("docs://{page}", "docs://**"),
        ("docs://{+path}", "docs://**"),
        ("docs://a/{page}", "docs://**"),
        ("file:///x/{name}", "file:///**"),
        ("file:///reports/2026/{name}", "file:///reports/**"),
        # Some expansions would be another entry's.
        ("file:///{+path}", None),
        ("file:///reports/{dir}/{name}", None),
        ("file:///reports/secret/{name}", None),
        ("users://{id}/profile", None),
        # No pattern covers all of it.
        ("users://{id}/{page}", None),
        ("other://{x}", None),
        ("docs://a{?x}", None),
        ("docs://../{x}", None),
    ],
)
def test_a_pattern_classifies_a_template_only_if_all_that_it_may_become_is_its_own(
    template: str, entry: str | None
) -> None:
    target = resource_target("files", template)
    found = ENTRIES.exact.get(target) or ENTRIES.search(target)
    assert found == (None if entry is None else resource_target("files", entry))


def test_patterns_that_begin_alike_and_meet_are_ambiguous() -> None:
    def pairs(*uris: str) -> list[set[str]]:
        return [set(pair) for pair in Entries([f"f.resource:{uri}" for uri in uris]).ambiguous()]

    assert pairs("x:/a/**", "x:/a/*.txt") == [{"f.resource:x:/a/**", "f.resource:x:/a/*.txt"}]
    assert pairs("x:/a/**", "x:/a/*", "x:/b/*") == [{"f.resource:x:/a/**", "f.resource:x:/a/*"}]
    assert pairs("x:/a/*", "x:/a/*/**") == []
    assert pairs("x:/a/*/b", "x:/a/*/c") == []
    assert pairs("x:/a/**", "x:/a/b*", "x:/a/b/c") == []
    assert list(Entries(["f.resource:x:/a/**", "g.resource:x:/a/*"]).ambiguous()) == []
    assert list(ENTRIES.ambiguous()) == []


def test_a_set_keeps_what_it_withholds_beneath_its_patterns_and_nothing_else() -> None:
    reports = "files.resource:file:///reports/**"
    assert ENTRIES.around(frozenset({"files.look"})) == frozenset()
    assert ENTRIES.around(frozenset({"files.resource:users://root/profile"})) == frozenset()
    assert ENTRIES.around(frozenset({reports})) == {
        WITHHELD + "files.resource:file:///reports/secret/*",
        WITHHELD + "files.resource:file:///reports/secret/open.txt",
    }
    assert ENTRIES.around(frozenset({reports, "files.resource:file:///reports/secret/*"})) == {
        WITHHELD + "files.resource:file:///reports/secret/open.txt"
    }


def test_what_was_withheld_stays_out_when_its_entry_is_gone() -> None:
    reports = "files.resource:file:///reports/**"
    held = frozenset({reports}) | ENTRIES.around(frozenset({reports}))
    # What is withheld at another server says nothing of this one.
    held |= {WITHHELD + "notes.resource:file:///reports/x"}
    later = Entries([reports])
    for uri, gone in (
        ("file:///reports/x", False),
        ("file:///reports/secret/x/y", False),
        ("file:///reports/secret/x", True),
        ("file:///reports/secret/open.txt", True),
        ("file:///reports/2026/{name}", False),
        ("file:///reports/{dir}/{name}", True),
        ("file:///reports/secret/{name}", True),
    ):
        target = resource_target("files", uri)
        assert later.search(target) == reports
        assert outgrown(held, reports, target) is gone, uri


def test_a_template_stays_out_when_an_entry_that_the_session_held_is_gone() -> None:
    held = frozenset({"files.resource:file:///**", "files.resource:file:///reports/**"})
    template = "files.resource:file:///{+path}"
    assert Entries(held).search(template) is None
    assert Entries(["files.resource:file:///**"]).search(template) is not None
    assert outgrown(held, "files.resource:file:///**", template)
    assert not outgrown(held, "files.resource:file:///**", "files.resource:file:///reports/x")
