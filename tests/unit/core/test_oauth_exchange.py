"""Token exchange: its request, who may exchange a token, and what follows from one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.authorization_details import details_of
from twogate.core.oauth.exchange import (
    ACCESS_TOKEN,
    JWT,
    MAX_ACTORS,
    ExchangeRequest,
    narrow_scopes,
    narrow_task,
    next_actors,
    parse_actors,
    parse_exchange,
    require_named,
    task_of,
)

US = "https://mcp.example.com"
IDP = "https://login.example.com"
FILES = f"{US}/mcp/files"
FORM = {"subject_token": "a.b.c", "subject_token_type": ACCESS_TOKEN, "resource": FILES}


def test_a_request_names_the_subject_token() -> None:
    assert parse_exchange(FORM) == ExchangeRequest("a.b.c", None)
    assert parse_exchange({**FORM, "subject_token_type": JWT}) == ExchangeRequest("a.b.c", None)


def test_an_actor_token_may_come_with_it() -> None:
    form = {**FORM, "actor_token": "d.e.f", "actor_token_type": JWT, "requested_token_type": ACCESS_TOKEN}
    assert parse_exchange(form) == ExchangeRequest("a.b.c", "d.e.f")


def test_no_token_is_shown() -> None:
    assert "a.b.c" not in repr(parse_exchange(FORM))


def test_an_audience_that_says_the_same_as_resource_is_fine() -> None:
    assert parse_exchange({**FORM, "audience": FILES}).unverified_subject == "a.b.c"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"subject_token": None}, ErrorCode.REQUEST_MALFORMED),
        ({"subject_token_type": None}, ErrorCode.REQUEST_MALFORMED),
        ({"subject_token": None, "subject_token_type": None}, ErrorCode.REQUEST_MALFORMED),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, ErrorCode.REQUEST_MALFORMED),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, ErrorCode.REQUEST_MALFORMED),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, ErrorCode.REQUEST_MALFORMED),
        ({"subject_token_type": "access_token"}, ErrorCode.REQUEST_MALFORMED),
        ({"actor_token": "d.e.f"}, ErrorCode.REQUEST_MALFORMED),
        ({"actor_token_type": JWT}, ErrorCode.REQUEST_MALFORMED),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, ErrorCode.REQUEST_MALFORMED),
        ({"requested_token_type": JWT}, ErrorCode.REQUEST_MALFORMED),
        ({"audience": "reporter"}, ErrorCode.RESOURCE_INVALID),
        ({"audience": FILES, "resource": None}, ErrorCode.RESOURCE_INVALID),
    ],
)
def test_a_request_for_anything_else_is_refused(changes: dict[str, str | None], code: ErrorCode) -> None:
    form = {name: value for name, value in {**FORM, **changes}.items() if value is not None}
    with pytest.raises(GateError) as refusal:
        parse_exchange(form)
    assert refusal.value.code is code


def named(claims: dict[str, Any], issuer: str = US, names: frozenset[str] = frozenset({"reporter"})) -> None:
    require_named(claims, issuer, "/client_id", names, (US, "reporter"))


@pytest.mark.parametrize(
    "claims",
    [
        {"client_id": "reporter"},
        {"azp": "reporter"},
        {"client_id": "reporter", "azp": "reporter"},
        {"client_id": "web", "aud": "reporter"},
        {"client_id": "web", "aud": [FILES, "reporter"]},
        {"client_id": "web", "may_act": {"sub": "reporter"}},
        {"client_id": "web", "may_act": {"sub": "reporter", "iss": US}},
    ],
)
def test_the_exchanger_may_be_client_audience_or_actor_to_be(claims: dict[str, Any]) -> None:
    named(claims)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"client_id": "web"},
        {"client_id": "web", "azp": "reporter"},
        {"client_id": "reporter", "azp": "web"},
        {"client_id": "Reporter"},
        {"sub": "reporter"},
        {"client_id": "web", "aud": "reporter2"},
        {"client_id": "web", "aud": ["report", "er"]},
        {"client_id": "web", "may_act": {"sub": "other"}},
        {"client_id": "web", "may_act": {"sub": "reporter", "iss": IDP}},
        {"client_id": "web", "may_act": "reporter"},
        {"client_id": "web", "may_act": ["reporter"]},
        {"client_id": "web", "may_act": {}},
        {"client_id": "web", "act": {"sub": "reporter"}},
    ],
)
def test_a_token_that_names_others_is_worth_nothing_to_the_exchanger(claims: dict[str, Any]) -> None:
    with pytest.raises(GateError) as refusal:
        named(claims)
    assert refusal.value.code is ErrorCode.GRANT_INVALID


@pytest.mark.parametrize(
    "claims", [{"client_id": 5}, {"azp": ["reporter"]}, {"aud": {"reporter": 1}}, {"may_act": {"sub": ["reporter"]}}]
)
def test_names_of_another_form_are_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(GateError) as refusal:
        named({"client_id": "web", **claims})
    assert refusal.value.code is ErrorCode.CLAIM_INVALID


def test_at_another_issuer_only_the_names_there_count() -> None:
    names = frozenset({"6e74172b"})
    named({"azp": "6e74172b"}, IDP, names)
    named({"azp": "web", "may_act": {"sub": "6e74172b"}}, IDP, names)
    named({"azp": "web", "may_act": {"iss": US, "sub": "reporter"}}, IDP, names)
    for claims in (
        {"azp": "reporter"},
        {"azp": "web", "aud": "reporter"},
        {"azp": "web", "may_act": {"sub": "reporter"}},
        {"azp": "web", "may_act": {"iss": US, "sub": "6e74172b"}},
    ):
        with pytest.raises(GateError) as refusal:
            named(claims, IDP, names)
        assert refusal.value.code is ErrorCode.GRANT_INVALID


def test_without_a_name_at_the_issuer_nobody_is_named() -> None:
    with pytest.raises(GateError) as refusal:
        named({"aud": [], "sub": "x"}, IDP, frozenset())
    assert refusal.value.code is ErrorCode.GRANT_INVALID


def test_the_exchanger_comes_before_those_who_acted_already() -> None:
    assert next_actors("reporter", None) == {"sub": "reporter"}
    assert next_actors("second", {"sub": "reporter"}) == {"sub": "second", "act": {"sub": "reporter"}}


def chain(length: int) -> dict[str, Any] | None:
    act: dict[str, Any] | None = None
    for n in range(length):
        act = {"sub": f"c{n}"} if act is None else {"sub": f"c{n}", "act": act}
    return act


@given(st.integers(0, MAX_ACTORS + 3))
def test_a_chain_has_an_end(length: int) -> None:
    if length < MAX_ACTORS:
        assert next_actors("next", chain(length))["sub"] == "next"
        assert parse_actors({"act": chain(length)}, None) == chain(length)
        return
    with pytest.raises(GateError) as refusal:
        next_actors("next", chain(length))
    assert refusal.value.code is ErrorCode.GRANT_INVALID


def test_a_chain_that_is_too_long_is_not_read_to_its_end() -> None:
    with pytest.raises(GateError) as refusal:
        parse_actors({"act": chain(MAX_ACTORS + 1)}, None)
    assert refusal.value.code is ErrorCode.GRANT_INVALID


def test_of_actors_only_who_they_are_is_kept() -> None:
    act = {"sub": "a", "role": "admin", "act": {"sub": "b", "iss": "https://x.example", "exp": 5}}
    assert parse_actors({"act": act}, None) == {"sub": "a", "act": {"iss": "https://x.example", "sub": "b"}}


def test_a_foreign_actor_is_never_taken_for_one_of_ours() -> None:
    assert parse_actors({"act": {"sub": "reporter"}}, IDP) == {"iss": IDP, "sub": "reporter"}


def test_without_actors_there_are_none() -> None:
    assert parse_actors({}, IDP) is None


@pytest.mark.parametrize("act", ["reporter", ["reporter"], {}, {"sub": ""}, {"sub": 5}, {"sub": "a", "act": "b"}, True])
def test_actors_of_another_form_are_refused(act: object) -> None:
    with pytest.raises(GateError) as refusal:
        parse_actors({"act": act}, None)
    assert refusal.value.code is ErrorCode.CLAIM_INVALID


def test_a_token_of_ours_says_its_task() -> None:
    assert task_of({"authorization_details": details_of("review"), "sid": "s"}) == "review"
    assert task_of({}) is None


@pytest.mark.parametrize("claims", [{"sid": "s"}, {"authorization_details": []}, {"authorization_details": "review"}])
def test_a_session_without_a_task_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(GateError) as refusal:
        task_of(claims)
    assert refusal.value.code is ErrorCode.CLAIM_INVALID


SCOPES = st.sets(st.sampled_from(["reports", "admin", "mail", "gone"])).map(lambda names: tuple(sorted(names)))


@given(SCOPES, SCOPES)
def test_scopes_only_ever_narrow(requested: tuple[str, ...], granted: tuple[str, ...]) -> None:
    known = frozenset({"reports", "admin", "mail"})
    if set(requested) <= set(granted):
        assert set(narrow_scopes(requested, granted, known)) <= set(granted)
        assert "gone" not in narrow_scopes((), granted, known)
        return
    with pytest.raises(GateError) as refusal:
        narrow_scopes(requested, granted, known)
    assert refusal.value.code is ErrorCode.SCOPE_INVALID


def test_a_task_stays_what_it_is() -> None:
    assert narrow_task(None, None) is None
    assert narrow_task("review", None) == "review"
    assert narrow_task(None, "review") == "review"
    assert narrow_task("review", "review") == "review"
    with pytest.raises(GateError) as refusal:
        narrow_task("release", "review")
    assert refusal.value.code is ErrorCode.DETAILS_INVALID
