"""People of identity providers, and what operators do with people."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from peoplelab import LINK_LIFETIME, PASSWORD, PeopleLab, open_people_lab
from twogate.core.audit.record import EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.links import LinkPurpose
from twogate.flows.authserver.people import User
from twogate.flows.authserver.user_admin import NewUser

IDP = "https://idp.example"
NOW = 1_800_000_000


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[PeopleLab]:
    async with open_people_lab(tmp_path) as made:
        yield made


async def ida(lab: PeopleLab, subject: str = "ida-1", name: str = "ida", tenant: str = "acme") -> User:
    return await lab.users.upstream_user(IDP, subject, tenant, name, "Ida Example", ("b", "a", "a"), NOW)


async def test_a_person_of_a_provider_is_added_once_and_known_again(lab: PeopleLab) -> None:
    added = await ida(lab)
    assert (added.name, added.display_name, added.groups, added.provider) == ("ida", "Ida Example", ("a", "b"), IDP)
    assert await ida(lab) == added
    assert await lab.users.by_identity(IDP, "ida-1", "acme") == added
    assert [(event.user, event.method) for event in lab.events(EventKind.USER_ADDED)] == [(added.subject, "upstream")]


async def test_each_login_brings_the_groups_and_the_name_to_show_and_nothing_else(lab: PeopleLab) -> None:
    added = await ida(lab)
    again = await lab.users.upstream_user(IDP, "ida-1", "acme", "another-name", "I.\x00E.", ("c",), NOW + 9)
    assert (again.subject, again.name, again.display_name, again.groups) == (added.subject, "ida", "I. E.", ("c",))
    assert await lab.users.user("acme", added.subject) == again


async def test_an_equal_name_does_not_make_somebody_somebody_else(lab: PeopleLab) -> None:
    alice = await lab.person()
    other = await ida(lab, name="alice")
    assert other.subject != alice.subject
    assert other.name.startswith("alice~")
    assert await lab.users.by_name("acme", "alice") == alice
    assert (await lab.browser().log_in("alice")).status_code == 303
    assert (await lab.browser().log_in(other.name, PASSWORD)).status_code == 401


async def test_the_same_subject_is_another_person_in_another_tenant_or_of_another_provider(lab: PeopleLab) -> None:
    here, there = await ida(lab), await ida(lab, tenant="globex")
    elsewhere = await lab.users.upstream_user("https://other.example", "ida-1", "acme", "ida", "", (), NOW)
    assert len({here.subject, there.subject, elsewhere.subject}) == 3


async def test_first_logins_at_the_same_moment_add_one_person(lab: PeopleLab) -> None:
    people = await asyncio.gather(*(ida(lab) for _ in range(8)))
    assert len({person.subject for person in people}) == 1


async def test_people_whom_a_provider_gives_no_name_are_named_by_their_subject(lab: PeopleLab) -> None:
    for number, name in enumerate(("", " / ", "\u202e")):
        person = await ida(lab, f"nameless-{number}", name)
        assert person.name == f"person-{person.subject}".casefold()
        assert await lab.admin.find("acme", person.name) == person


async def test_a_disabled_person_of_a_provider_stays_disabled(lab: PeopleLab) -> None:
    await lab.admin.disable(await ida(lab))
    assert (await ida(lab)).disabled is True


async def test_nobody_is_added_whom_the_trail_does_not_have(lab: PeopleLab) -> None:
    lab.lab.audit.broken = True
    with pytest.raises(GateError) as refused:
        await ida(lab)
    assert refused.value.code is ErrorCode.AUDIT_UNAVAILABLE
    with pytest.raises(GateError):
        await lab.admin.add(NewUser("acme", "bob"))
    assert await lab.store.list() == []


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (NewUser("initech", "bob"), "tenants: acme, globex"),
        (NewUser("acme", "bob", roles=("owner",)), "roles: analyst, reader"),
        (NewUser("acme", "bob", groups=("sales",)), "groups: finance"),
        (NewUser("acme", "bob", "B\u202eob"), "invisible"),
        (NewUser("acme", "bob", "B" * 200), "at most 128"),
        (NewUser("acme", "ida"), f"who logs in at {IDP}"),
    ],
)
async def test_what_is_wrong_with_a_new_person_is_told(lab: PeopleLab, new: NewUser, told: str) -> None:
    await ida(lab)
    before = await lab.store.list()
    with pytest.raises(GateError) as refused:
        await lab.admin.add(new)
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED
    assert told in refused.value.debug
    assert await lab.store.list() == before


async def test_a_link_is_good_for_its_lifetime(lab: PeopleLab) -> None:
    user, link = await lab.add()
    lab.lab.clock.seconds += LINK_LIFETIME - 1
    assert (await lab.browser().open_link(link)).status_code == 303
    link, expires_at = await lab.admin.link(user, LinkPurpose.PASSWORD)
    assert expires_at == lab.lab.clock.now() + LINK_LIFETIME
    lab.lab.clock.seconds += LINK_LIFETIME
    assert (await lab.browser().open_link(link)).status_code == 400


async def test_changing_a_person_keeps_what_is_not_named(lab: PeopleLab) -> None:
    user, _ = await lab.add(roles=("reader",), groups=("finance",))
    changed = await lab.admin.change(user, roles=("analyst", "reader", "analyst"))
    assert (changed.roles, changed.groups) == (("analyst", "reader"), ("finance",))
    assert (await lab.admin.change(changed, groups=())).groups == ()
    with pytest.raises(GateError):
        await lab.admin.change(changed, roles=("owner",))


async def test_what_a_provider_says_of_its_people_is_not_changed_here(lab: PeopleLab) -> None:
    person = await ida(lab)
    assert (await lab.admin.change(person, roles=("reader",))).roles == ("reader",)
    for change in ({"groups": ("finance",)}, {"display_name": "I."}):
        with pytest.raises(GateError) as refused:
            await lab.admin.change(person, **change)
        assert IDP in refused.value.debug


async def test_a_role_that_an_operator_gave_survives_logins(lab: PeopleLab) -> None:
    await lab.admin.change(await ida(lab), roles=("reader",))
    assert (await ida(lab)).roles == ("reader",)


async def test_an_operators_password_is_judged_too_and_logs_everybody_out(lab: PeopleLab) -> None:
    user = await lab.person()
    browser = lab.browser()
    await browser.log_in()
    with pytest.raises(GateError) as refused:
        await lab.admin.set_password(user, "short")
    assert "at least 12" in refused.value.debug
    await lab.admin.set_password(user, "an operator has typed this")
    assert (await browser.get("/account")).status_code == 303
    assert (await browser.log_in(password="an operator has typed this")).status_code == 303


async def test_there_is_nobody_of_an_unknown_name(lab: PeopleLab) -> None:
    with pytest.raises(GateError) as refused:
        await lab.admin.find("acme", "nobody")
    assert refused.value.code is ErrorCode.NOT_FOUND
