"""The composition of people: logging in, their own page, and what operators do with them; part of `authserver.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.routing import Route

from twogate.adapters.passkeys import PasskeyLibrary, relying_party
from twogate.adapters.passwords import Argon2Hasher
from twogate.adapters.refusal_log import RefusalLog
from twogate.config import Settings
from twogate.flows.audit import Refusals
from twogate.flows.authserver.account import Account
from twogate.flows.authserver.given_access import GivenAccess
from twogate.flows.authserver.links import Links
from twogate.flows.authserver.lockout import Lockout
from twogate.flows.authserver.logins import Logins
from twogate.flows.authserver.passkeys import Challenges, Passkeys
from twogate.flows.authserver.passwords import Passwords
from twogate.flows.authserver.person_trail import PersonTrail
from twogate.flows.authserver.setup import SetUp
from twogate.flows.authserver.sign_in import SignIn
from twogate.flows.authserver.user_admin import Terms, UserAdmin
from twogate.flows.authserver.users import Users
from twogate.state import State
from twogate.stores.sql.links import SqlLinkStore
from twogate.stores.sql.login_failures import SqlFailureStore
from twogate.stores.sql.logins import SqlLoginStore
from twogate.stores.sql.passkeys import SqlPasskeyStore
from twogate.stores.sql.users import SqlUserStore
from twogate.web.account import AccountPages, account_routes
from twogate.web.login import LoginPages, login_routes
from twogate.web.pages import Pages
from twogate.web.setup import SetupPages, setup_routes


@dataclass(frozen=True)
class People:
    """Who people are, and who of them is logged in."""

    store: SqlUserStore
    users: Users
    logins: Logins
    trail: PersonTrail


def open_people(state: State, settings: Settings, refusals: Refusals) -> People:
    """What other parts need of people."""
    store = SqlUserStore(state.engine)
    trail = PersonTrail(settings.public_url, state.audit, refusals, state.clock)
    logins = Logins(SqlLoginStore(state.engine), state.rng, settings.embedded.lifetimes.login)
    return People(store, Users(store, state.rng, trail), logins, trail)


def people_routes(
    state: State,
    settings: Settings,
    people: People,
    pages: Pages,
    secret: bytes,
    given: GivenAccess,
    providers_of: Callable[[str], Sequence[tuple[str, str]]],
) -> list[Route]:
    """The pages on which people log in and look after themselves. `secret` is the pages' (32 random bytes)."""
    issuer, clock, rng = settings.public_url, state.clock, state.rng
    passwords = Passwords(people.store, Argon2Hasher())
    passkeys = _passkeys(state, issuer, secret)
    lockout = Lockout(SqlFailureStore(state.engine), secret)
    sign_in = SignIn(people.users, passwords, passkeys, lockout, people.logins, people.trail, clock, rng)
    account = Account(people.users, passwords, passkeys, lockout, people.logins, given, people.trail, clock)
    setup = SetUp(
        _links(state, settings, people.trail), people.users, passwords, passkeys, people.logins, people.trail, clock
    )
    has_passkeys = passkeys is not None
    login_pages = LoginPages(pages, sign_in, people.logins, passkeys, providers_of, sorted(settings.tenants), clock)
    return [
        *login_routes(login_pages, pages, issuer),
        *setup_routes(SetupPages(pages, setup, passkeys=has_passkeys), pages, issuer),
        *account_routes(AccountPages(pages, account, people.logins, clock, passkeys=has_passkeys), pages, issuer),
    ]


def user_admin(state: State) -> UserAdmin:
    """What operators' commands do with people."""
    settings = state.settings
    people = open_people(state, settings, RefusalLog(state.audit, state.clock))
    terms = Terms(
        frozenset(settings.tenants),
        frozenset(settings.roles),
        frozenset(settings.groups),
        relying_party(settings.public_url) is not None,
        {name: frozenset(tenant.roles) for name, tenant in settings.tenants.items()},
    )
    return UserAdmin(
        terms,
        people.store,
        people.store,
        _links(state, settings, people.trail),
        Passwords(people.store, Argon2Hasher()),
        SqlPasskeyStore(state.engine),
        people.logins,
        people.trail,
        state.clock,
        state.rng,
    )


def _links(state: State, settings: Settings, trail: PersonTrail) -> Links:
    lifetime = settings.embedded.lifetimes.operator_link
    return Links(settings.public_url, SqlLinkStore(state.engine), trail, state.clock, state.rng, lifetime)


def _passkeys(state: State, issuer: str, secret: bytes) -> Passkeys | None:
    rp_id = relying_party(issuer)
    if rp_id is None:
        return None
    challenges = Challenges(secret, state.replay, state.rng, issuer)
    return Passkeys(rp_id, PasskeyLibrary(issuer, rp_id), SqlPasskeyStore(state.engine), challenges)
