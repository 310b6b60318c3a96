"""The composition of the embedded authorization server, for one configuration generation; part of `app.py`."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import Route

from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.refusal_log import RefusalLog
from twogate.adapters.signers.local import LocalSigner
from twogate.config import Settings
from twogate.config.client_records import allowed_documents, configured_clients
from twogate.config.clients import DEFAULT_UNUSED
from twogate.config.issuer_keys import identity_keys, workload_keys
from twogate.console import Shown, console_routes
from twogate.core.access import Policy
from twogate.core.oauth.authorize_request import Prompt
from twogate.core.oauth.metadata import DEVICE_PATH, INTROSPECT_PATH, PAR_PATH, REVOKE_PATH, TOKEN_PATH, ServerFaces
from twogate.core.oauth.resource import OPERATIONS_PATH, tenant_resources
from twogate.flows.authserver.access_tokens import AccessTokens, TokenSettings
from twogate.flows.authserver.authenticate_client import ClientAuthenticator
from twogate.flows.authserver.authorize import AuthorizeEndpoint
from twogate.flows.authserver.begin_limit import BeginLimit
from twogate.flows.authserver.cimd import ClientDocuments
from twogate.flows.authserver.client_credentials import ClientCredentials
from twogate.flows.authserver.client_removal import ClientRemoval
from twogate.flows.authserver.code import Codes
from twogate.flows.authserver.code_grant import CodeGrant
from twogate.flows.authserver.consent import Consents
from twogate.flows.authserver.consent_view import ConsentViews
from twogate.flows.authserver.decision import Decisions
from twogate.flows.authserver.device import DeviceAuthorization, DeviceGrant, DeviceLimits
from twogate.flows.authserver.device_decision import DeviceDecisions
from twogate.flows.authserver.directory import ClientKeys, Directory
from twogate.flows.authserver.dpop import DpopProofs
from twogate.flows.authserver.exchange import TokenExchange
from twogate.flows.authserver.families import Families, Lifespans
from twogate.flows.authserver.form import Forms
from twogate.flows.authserver.given_access import GivenAccess
from twogate.flows.authserver.grant import Grant
from twogate.flows.authserver.identity_assertions import IdentityAssertions
from twogate.flows.authserver.interaction import Requests
from twogate.flows.authserver.introspect import IntrospectionEndpoint
from twogate.flows.authserver.jwt_bearer import JwtBearer
from twogate.flows.authserver.metadata import build_documents
from twogate.flows.authserver.par import PushedRequests
from twogate.flows.authserver.refresh import RefreshGrant
from twogate.flows.authserver.register import Registration, Terms
from twogate.flows.authserver.registered import KeepUsed
from twogate.flows.authserver.remote_documents import FetchLimits
from twogate.flows.authserver.request_reader import RequestReader
from twogate.flows.authserver.retry_answer import RetryAnswers
from twogate.flows.authserver.revocations import Revocations
from twogate.flows.authserver.revoke import RevocationEndpoint
from twogate.flows.authserver.standing import Standing
from twogate.flows.authserver.subject_tokens import SubjectTokens, exchangeable
from twogate.flows.authserver.token import TokenEndpoint
from twogate.flows.authserver.users import Users
from twogate.flows.authserver.workloads import Workloads
from twogate.flows.envelope import Envelope
from twogate.flows.gateway.issuers import Issuers
from twogate.flows.gateway.limit import AddressLimit
from twogate.flows.registry import Registry
from twogate.flows.sessions import Sessions
from twogate.people import open_people, people_routes
from twogate.provider_logins import provider_logins
from twogate.state import State
from twogate.stores.sql.authorize_requests import SqlAuthorizeRequestStore
from twogate.stores.sql.codes import SqlCodeStore
from twogate.stores.sql.consents import SqlConsentStore
from twogate.stores.sql.device_codes import SqlDeviceStore
from twogate.stores.sql.grants import SqlGrantStore
from twogate.stores.sql.registrations import SqlRegistrationStore
from twogate.stores.sql.revocations import SqlRevocationStore
from twogate.web.authorize import authorize_routes
from twogate.web.authserver import form_route
from twogate.web.device import DevicePages, device_routes
from twogate.web.pages import Pages, asset_routes
from twogate.web.register import register_routes
from twogate.web.upstream_login import upstream_login_routes
from twogate.web.wellknown import wellknown_routes


@dataclass(frozen=True)
class Parts:
    """What the authorization server takes from the process and the generation around it."""

    state: State
    settings: Settings
    policy: Policy
    registry: Registry
    sessions: Sessions
    signer: LocalSigner
    refusals: RefusalLog
    envelope: Envelope
    page_secret: bytes
    issuers: Issuers
    fetch: GuardedFetch
    device_limits: DeviceLimits
    seen: Shown


def authserver_routes(parts: Parts) -> list[Route]:
    """Every route of the authorization server that this configuration has, and the public documents."""
    settings, signer = parts.settings, parts.signer
    resources = tenant_resources(
        settings.public_url, {tenant: entry.servers for tenant, entry in parts.policy.tenants.items()}
    )
    issuers = [issuer.issuer for issuer in settings.issuers]
    routes: list[Route] = []
    faces = ServerFaces()
    served = frozenset[str]()
    if settings.embedded.enabled:
        issuers.insert(0, settings.public_url)
        served = frozenset({settings.public_url + OPERATIONS_PATH})
        endpoint, more = _endpoints(parts, resources)
        routes += more
        faces = ServerFaces(
            grants=endpoint.grants,
            pushed_requests=True,
            introspection=True,
            revocation=True,
            registration=settings.registration is not None,
            client_documents=bool(settings.cimd),
            identity_assertions=bool(settings.identity_assertions),
            prompts=tuple(Prompt),
        )
    documents = build_documents(
        settings.public_url,
        [signer.public_jwk()],
        sorted(served.union(*resources.values())),
        issuers,
        settings.scopes,
        faces,
    )
    return [*routes, *wellknown_routes(settings.public_url, lambda: documents)]


def _endpoints(parts: Parts, resources: dict[str, frozenset[str]]) -> tuple[TokenEndpoint, list[Route]]:
    state, settings = parts.state, parts.settings
    issuer, clock, rng, audit = settings.public_url, state.clock, state.rng, state.audit
    lifetimes = settings.embedded.lifetimes
    persons = open_people(state, settings, parts.refusals)
    people, users, logins = persons.store, persons.users, persons.logins
    consents = Consents(SqlConsentStore(state.engine), audit, clock, issuer)
    directory = _directory(parts)
    authenticator = ClientAuthenticator(issuer, directory, state.clients, state.replay, parts.registry)
    forms = Forms(issuer, authenticator, DpopProofs(issuer, state.replay, parts.page_secret), parts.refusals, clock)
    tokens = AccessTokens(
        TokenSettings(issuer, resources, frozenset(settings.scopes), lifetimes.access_token),
        people,
        parts.sessions,
        parts.signer,
        audit,
        clock,
        rng,
    )
    revocations = Revocations(SqlRevocationStore(state.engine))
    code_store, family_store = SqlCodeStore(state.engine), SqlGrantStore(state.engine)
    codes = Codes(code_store, rng, lifetimes.code)
    lifespans = Lifespans(lifetimes.refresh_token, lifetimes.grant)
    families = Families(family_store, tokens, revocations, audit, clock, rng, lifespans)
    answers = RetryAnswers(parts.envelope, rng)
    upstream = provider_logins(state, settings, parts.fetch, parts.envelope, parts.refusals, users, logins)
    devices = SqlDeviceStore(state.engine)
    grants: list[Grant] = [
        ClientCredentials(tokens),
        CodeGrant(code_store, families),
        RefreshGrant(family_store, families, tokens, upstream.grants, answers, audit, clock, rng),
        DeviceGrant(devices, families),
        *_vouched(parts, tokens, consents, users),
    ]
    endpoint = TokenEndpoint(forms, grants, _keep_used(parts))
    removal = ClientRemoval(issuer, state.clients, family_store, revocations)
    pages = Pages(issuer, parts.page_secret, rng)
    views = ConsentViews(parts.policy, tokens.settings, lifetimes.grant, clock)
    requests = Requests(
        SqlAuthorizeRequestStore(state.engine),
        rng,
        BeginLimit(clock),
        pushed=lifetimes.pushed_request,
        interaction=lifetimes.interaction,
    )
    reader = RequestReader(tokens.settings, authenticator)
    authorize = AuthorizeEndpoint(
        directory,
        reader,
        requests,
        Standing(upstream.confirmed, people, consents),
        Decisions(issuer, consents, codes, audit, parts.refusals, clock),
        views,
        clock,
    )
    pushed = PushedRequests(forms, reader, requests)
    device = DeviceAuthorization(
        forms, devices, tokens.settings, parts.device_limits, clock, rng, lifetimes.device_code
    )
    limits = parts.device_limits
    decisions = DeviceDecisions(issuer, devices, directory, authenticator, limits, audit, parts.refusals, clock)
    device_pages = DevicePages(pages, decisions, upstream.confirmed, people, views, clock, parts.page_secret)
    own = parts.issuers.only(issuer)
    introspection = IntrospectionEndpoint(forms, own, parts.registry, people, families)
    revocation = RevocationEndpoint(forms, own, parts.registry, families, revocations, audit, clock)
    return endpoint, [
        form_route(TOKEN_PATH, endpoint.respond, issuer, cors=True),
        form_route(PAR_PATH, pushed.respond, issuer),
        *authorize_routes(authorize, pages, issuer),
        *upstream_login_routes(upstream.logins, pages, issuer, logins.lifetime),
        form_route(DEVICE_PATH, device.respond, issuer),
        *device_routes(device_pages, issuer),
        *people_routes(
            state,
            settings,
            persons,
            pages,
            parts.page_secret,
            GivenAccess(families, consents, directory, (code_store, devices)),
            upstream.logins.providers_of,
        ),
        # Whoever decides and looks must still be there at their provider, as whoever consents.
        *console_routes(state, settings, parts.envelope, persons, upstream.confirmed, pages, parts.seen),
        form_route(INTROSPECT_PATH, introspection.respond, issuer),
        form_route(REVOKE_PATH, revocation.respond, issuer),
        *_registration(parts, removal),
        *asset_routes(issuer),
    ]


def _directory(parts: Parts) -> Directory:
    """Every client there is, wherever it is defined."""
    settings, clock = parts.settings, parts.state.clock
    limits = FetchLimits()
    documents = None
    if settings.cimd:
        documents = ClientDocuments(allowed_documents(settings), parts.fetch, limits, clock)
    keys = ClientKeys(parts.fetch, limits, clock)
    return Directory(parts.state.clients, configured_clients(settings), documents, keys)


def _keep_used(parts: Parts) -> KeepUsed:
    registration = parts.settings.registration
    unused = DEFAULT_UNUSED if registration is None else registration.unused
    return KeepUsed(SqlRegistrationStore(parts.state.engine), unused)


def _vouched(parts: Parts, tokens: AccessTokens, consents: Consents, users: Users) -> list[Grant]:
    """The grants for tokens that somebody else gave: exchange always, `jwt-bearer` if there is anybody who vouches."""
    settings, state, keys = parts.settings, parts.state, parts.issuers.keys
    issuer = settings.public_url
    exchanging = {issuer, *(item.issuer for item in settings.issuers if item.exchange)}
    subjects = SubjectTokens(issuer, exchangeable(parts.issuers, exchanging), parts.registry, users, state.replay)
    workloads = Workloads(
        issuer,
        {item.issuer: item.trusted for item in settings.workloads},
        {item.issuer: keys[workload_keys(item.issuer)] for item in settings.workloads},
        parts.registry,
    )
    identities = IdentityAssertions(
        issuer,
        {item.issuer: item.trusted for item in settings.identity_assertions},
        {item.issuer: keys[identity_keys(item.issuer)] for item in settings.identity_assertions},
        state.replay,
        users,
    )
    grants: list[Grant] = [TokenExchange(tokens, subjects, consents, workloads)]
    if settings.workloads or settings.identity_assertions:
        grants.append(JwtBearer(tokens, workloads, identities))
    return grants


def _registration(parts: Parts, removal: ClientRemoval) -> list[Route]:
    """Dynamic registration, if the configuration turns it on."""
    state, terms = parts.state, parts.settings.registration
    if terms is None:
        return []
    registration = Registration(
        parts.settings.public_url,
        Terms(terms.tenant, terms.mode == "open", terms.clients),
        SqlRegistrationStore(state.engine),
        removal,
        AddressLimit(rate=terms.per_hour / 3600, burst=terms.per_hour),
        state.audit,
        parts.refusals,
        state.clock,
        state.rng,
    )
    return register_routes(registration, parts.settings.public_url)
