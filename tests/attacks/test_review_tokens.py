"""What a review of the token side tried: things that outlive their end, strangers in the store, kinds of tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select

import exchangelab
from dpoplab import Prover, server_nonce
from exchangelab import CLUSTER, EXCHANGE, ExchangeLab, Voucher, open_exchange_lab
from grantlab import ALICE, CALLBACK, CHALLENGE, VERIFIER, GrantLab, assert_refused, open_grant_lab
from harness.issuer import new_key, sign
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream
from tokenlab import FILES, ISSUER, ROBOT, SECRET, basic, digest
from twogate.adapters.rng import SystemRng
from twogate.adapters.signers.local import LocalSigner
from twogate.core.audit.record import EventKind
from twogate.core.errors import GateError
from twogate.core.identity import TYPE as IDENTITY
from twogate.core.identity import Identity, identity_claims
from twogate.core.oauth.client_auth import ASSERTION_TYPE
from twogate.core.oauth.exchange import JWT
from twogate.core.oauth.grant_type import GrantType
from twogate.core.principal import Binding, Method
from twogate.flows.authserver.clients import Client, ClientAuth
from twogate.flows.authserver.code import AuthorizationCode, Codes
from twogate.flows.authserver.consent import Consents
from twogate.flows.authserver.device import DeviceCode, DeviceRequest, digest_of
from twogate.flows.authserver.families import Lifespans
from twogate.flows.authserver.given_access import GivenAccess
from twogate.flows.authserver.grant import Authorization
from twogate.flows.authserver.people import User
from twogate.flows.signer import sign_jwt
from twogate.stores.sql.codes import SqlCodeStore
from twogate.stores.sql.consents import SqlConsentStore
from twogate.stores.sql.engine import reading
from twogate.stores.sql.tables import replay
from twogate.stores.sql.users import SqlUserStore

DEVICE_CODE = "d" * 43


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ExchangeLab]:
    async with open_exchange_lab(tmp_path) as made:
        yield made


@pytest.fixture
async def grants(tmp_path: Path) -> AsyncIterator[GrantLab]:
    async with open_grant_lab(tmp_path) as made:
        yield made


async def used_proofs(lab: ExchangeLab) -> int:
    async with reading(lab.lab.engine) as connection:
        count: int = (await connection.execute(select(func.count()).select_from(replay))).scalar_one()
        return count


class TestProofsOfStrangers:
    async def test_who_shows_no_good_assertion_makes_the_store_remember_nothing(self, lab: ExchangeLab) -> None:
        lab.vouchers[CLUSTER] = Voucher()  # a stranger's, by the same name
        for _ in range(3):
            headers = await Prover().fresh(lab.lab)
            lab.assert_refused(await lab.bearer(lab.service_account(), "", headers), "signature_invalid")
        assert await used_proofs(lab) == 0

    async def test_a_workloads_proof_is_good_once(self, lab: ExchangeLab) -> None:
        prover = Prover()
        headers = await prover.fresh(lab.lab)
        first = await lab.bearer(lab.service_account(), "", headers)
        assert (first.status_code, first.json()["token_type"]) == (200, "DPoP")
        issued = len([event for event in lab.lab.audit.events if event.kind is EventKind.TOKEN_ISSUED])
        lab.assert_refused(await lab.bearer(lab.service_account(), "", headers), "dpop_invalid", "invalid_dpop_proof")
        assert len([event for event in lab.lab.audit.events if event.kind is EventKind.TOKEN_ISSUED]) == issued
        assert await used_proofs(lab) == 1


class TestWhatIsTakenBackBeforeItWasRedeemed:
    """A code on its way is no grant yet, so that no list of grants shows it."""

    async def access(self, grants: GrantLab) -> GivenAccess:
        lab = grants.lab
        consents = Consents(SqlConsentStore(lab.engine), lab.audit, lab.clock, ISSUER)
        return GivenAccess(lab.families, consents, lab.directory, (SqlCodeStore(lab.engine), lab.devices))

    async def allowed_device(self, grants: GrantLab, client_id: str = "native") -> None:
        now = grants.lab.clock.now()
        code = DeviceCode(digest_of(DEVICE_CODE), "BCDFGHJK", client_id, DeviceRequest(FILES, ()), now + 600)
        assert await grants.lab.devices.add(code, now)

        async def announce() -> None: ...

        authorization = Authorization("acme", client_id, FILES, (), user=ALICE)
        assert await grants.lab.devices.decide("BCDFGHJK", authorization, now, announce)

    async def poll(self, grants: GrantLab) -> Any:
        return await grants.post({"grant_type": GrantType.DEVICE_CODE, "device_code": DEVICE_CODE}, "native")

    async def add_device_grant(self, grants: GrantLab) -> None:
        native = await grants.lab.clients.get("native")
        assert native is not None
        await grants.lab.clients.remove("native", [])
        every = msgspec.structs.replace(native, grants=native.grants | {GrantType.DEVICE_CODE})
        await grants.lab.clients.add(every, None, (), grants.lab.clock.now())

    async def test_withdrawing_ends_a_code_that_the_client_kept(self, grants: GrantLab) -> None:
        code, others = await grants.code("web"), await grants.code("other")
        bobs = await grants.code("web", user="bob")
        access = await self.access(grants)
        await access.withdraw(User("acme", ALICE, "alice"), "web", grants.lab.clock.now(), "203.0.113.9")
        assert_refused(grants, await grants.redeem(code), "grant_invalid")
        assert (await grants.redeem(others, "other")).status_code == 200
        # Bob does not exist; what counts is that his code was still there to be judged.
        await grants.redeem(bobs)
        assert grants.lab.audit.last.detail == "the user is disabled or gone"

    async def test_withdrawing_ends_what_a_device_was_allowed_and_did_not_fetch(self, grants: GrantLab) -> None:
        await self.add_device_grant(grants)
        await self.allowed_device(grants)
        access = await self.access(grants)
        await access.withdraw(User("acme", ALICE, "alice"), "native", grants.lab.clock.now(), "203.0.113.9")
        assert_refused(grants, await self.poll(grants), "grant_invalid")

    async def test_letting_a_person_in_again_brings_back_no_code_of_before(self, grants: GrantLab) -> None:
        await self.add_device_grant(grants)
        await self.allowed_device(grants)
        code, store, now = await grants.code("web"), SqlUserStore(grants.lab.engine), grants.lab.clock.now()
        assert await store.disable("acme", ALICE, now + 3600, now)
        assert await store.enable("acme", ALICE)
        assert_refused(grants, await grants.redeem(code), "grant_invalid")
        assert_refused(grants, await self.poll(grants), "grant_invalid")

    async def test_what_nobody_withdrew_is_redeemed(self, grants: GrantLab) -> None:
        """Without this, a store that forgets everything would pass."""
        await self.add_device_grant(grants)
        await self.allowed_device(grants)
        access = await self.access(grants)
        await access.withdraw(User("acme", ALICE, "alice"), "other", grants.lab.clock.now(), "203.0.113.9")
        await access.withdraw(User("globex", ALICE, "alice"), "native", grants.lab.clock.now(), "203.0.113.9")
        assert (await self.poll(grants)).status_code == 200


class TestTokensOfAgentsThatWereCut:
    async def subject_token(self, lab: ExchangeLab) -> str:
        """A token that the client `app` of the agent ROBOT got, and that `exchanger` may exchange."""
        secret, every = (digest(SECRET),), frozenset(GrantType)
        app = Client("app", "acme", ROBOT, ClientAuth.CLIENT_SECRET, secret, grants=every, may_act="exchanger")
        await lab.lab.clients.add(app, None, [Binding(Method.JWT, ISSUER, "app")], lab.now)
        return await lab.own("app")

    async def test_a_token_of_a_disabled_agent_is_worth_nothing_to_whom_it_names(self, lab: ExchangeLab) -> None:
        token = await self.subject_token(lab)
        assert (await lab.exchange(token)).status_code == 200
        await lab.lab.registry.disable_agent(ROBOT, lab.now)
        lab.assert_refused(await lab.exchange(token), "agent_disabled", "invalid_request")

    async def test_a_token_whose_client_lost_its_binding_is_worth_nothing(self, lab: ExchangeLab) -> None:
        token = await self.subject_token(lab)
        await lab.lab.clients.remove("app", [Binding(Method.JWT, ISSUER, "app")])
        lab.assert_refused(await lab.exchange(token), "agent_unbound", "invalid_request")

    async def test_another_issuers_token_of_a_disabled_agent_is_worth_nothing(self, lab: ExchangeLab) -> None:
        token = lab.external(azp="ext-robot", may_act={"sub": "ext-reporter"})
        assert (await lab.exchange(token)).status_code == 200
        await lab.lab.registry.disable_agent(ROBOT, lab.now)
        lab.assert_refused(await lab.exchange(token), "agent_disabled", "invalid_request")


async def test_a_refresh_token_that_would_be_refused_is_not_told_to_be_active(grants: GrantLab) -> None:
    refresh_token = (await grants.begin())["refresh_token"]
    stricter = Lifespans(unused=60, whole=3600)
    grants.lab.families.lifespans = stricter

    async def introspected() -> Any:
        sent, headers = {"token": refresh_token}, basic("web", SECRET)
        return (await grants.lab.http.post("/introspect", data=sent, headers=headers)).json()

    said = await introspected()
    assert (said["active"], said["exp"]) == (True, grants.lab.clock.now() + 60)
    grants.lab.clock.seconds += 61
    assert await introspected() == {"active": False}
    assert_refused(grants, await grants.refresh(refresh_token), "grant_invalid")


async def test_what_cannot_be_written_down_is_not_described_either(lab: ExchangeLab) -> None:
    """The reason of the refusal that was not recorded must not be told."""
    lab.lab.audit.broken = True
    answer = await lab.exchange("no.token.atall")
    assert answer.status_code == 503
    assert "subject token" not in answer.text


ONE_KEY = new_key()
PLACES = ("client_assertion", "assertion", "anonymous", "subject", "subject_jwt", "actor", "gateway", "proof")
# Where each kind of token belongs; everywhere else it is refused.
BELONGS = {
    "access token": {"subject", "subject_jwt", "gateway"},
    "external access token": {"subject", "subject_jwt"},
    "identity": set[str](),
    "client assertion": {"client_assertion"},
    "ID-JAG": {"assertion"},
    "JWT-SVID": {"assertion", "anonymous", "actor"},
    "service account": {"anonymous"},
    "proof": {"proof"},
    "refresh token": set[str](),
}


async def token_of(kind: str, lab: ExchangeLab, nonce: str, keys: Path) -> str:
    now = lab.now
    match kind:
        case "access token":
            return await lab.own()
        case "external access token":
            return lab.external()
        case "identity":
            identity = Identity("acme", "reporter", "reader", "j", now, now + 60, ISSUER, ALICE)
            signer = LocalSigner.open(keys)
            return await sign_jwt(signer, identity_claims(identity, ISSUER, "files"), IDENTITY)
        case "client assertion":
            claims = lab.lab.claims(iss="twin", sub="twin")
            return sign({"alg": "ES256", "kid": "k1"}, claims, ONE_KEY, "ES256")
        case "ID-JAG":
            return lab.jag()
        case "JWT-SVID":
            return lab.svid()
        case "service account":
            return lab.service_account()
        case "proof":
            prover = Prover()
            prover.key = ONE_KEY
            return prover.proof(now, nonce)
        case _:
            return f"{'h' * 22}.{'s' * 43}"


async def passes(token: str, place: str, lab: ExchangeLab) -> bool:
    match place:
        case "client_assertion":
            form = {"client_assertion": token, "client_assertion_type": ASSERTION_TYPE}
            answer = await lab.post({"grant_type": "client_credentials", "resource": FILES, **form}, "")
        case "assertion":
            answer = await lab.bearer(token, "exchanger")
        case "anonymous":
            answer = await lab.bearer(token)
        case "subject":
            answer = await lab.exchange(token)
        case "subject_jwt":
            answer = await lab.exchange(token, subject_token_type=JWT)
        case "actor":
            answer = await lab.exchange(await lab.own(), actor_token=token, actor_token_type=JWT)
        case "proof":
            form = {"grant_type": EXCHANGE, "subject_token": await lab.own(), "subject_token_type": JWT}
            answer = await lab.post({**form, "resource": FILES}, "exchanger", {"DPoP": token})
        case _:
            try:
                await lab.gateway(token)
            except GateError:
                return False
            return True
    assert answer.status_code in (200, 400, 401)
    return answer.status_code == 200


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", BELONGS)
async def test_a_token_passes_only_where_its_kind_belongs_even_if_all_were_signed_by_one_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, place: str
) -> None:
    monkeypatch.setattr(exchangelab, "new_key", lambda: ONE_KEY)
    async with open_exchange_lab(tmp_path) as lab:
        entry = {**ONE_KEY.as_dict(private=False), "kid": "k1"}
        await lab.lab.add_client("twin", ROBOT, jwks=json.dumps({"keys": [entry]}))
        token = await token_of(kind, lab, await server_nonce(lab.lab), tmp_path / "keys")
        assert await passes(token, place, lab) is (place in BELONGS[kind])


class TestReloads:
    """What a configuration that no longer says it takes away from tokens, grants and codes of before."""

    @pytest.fixture
    def settings(self, tmp_path: Path, upstream: RecordingUpstream) -> dict[str, Any]:
        """The tenant's client `app` acts as `acme/second`."""
        (tmp_path / "secret").write_text(SECRET)
        (tmp_path / "secret").chmod(0o600)
        made = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, None)
        some = {"role": "reader", "tasks": ["report"], "default_task": "report"}
        made["agents"] = {
            "acme/first": {**some, "bindings": [{"issuer": "embedded", "client_id": "unused"}]},
            "acme/second": {**some, "bindings": [{"issuer": "embedded", "client_id": "app"}]},
        }
        made["clients"] = {
            "app": {
                "tenant": "acme", "kind": "agent", "agent": "acme/second", "auth": "client_secret",
                "secret_file": "secret", "redirect_uris": [CALLBACK], "grants": ["authorization_code", "refresh_token"],
            }
        }  # fmt: skip
        return made

    async def code(self, stack: Stack) -> str:
        """A code that alice gave to `app` while it was the agent `second`."""
        now = stack.state.clock.now()
        authorization = Authorization("acme", "app", stack.resource(), (), user=ALICE, agent="second")
        code = AuthorizationCode(authorization, CALLBACK, True, CHALLENGE, refresh=True)
        return await Codes(SqlCodeStore(stack.state.engine), SystemRng(), 60).issue(code, now)

    async def redeem(self, stack: Stack, code: str) -> Any:
        form = {"code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
        return await self.post(stack, grant_type="authorization_code", **form)

    async def post(self, stack: Stack, **form: str) -> Any:
        return (await stack.http.post(f"{stack.url}/token", data=form, headers=basic("app", SECRET))).json()

    async def add_alice(self, stack: Stack) -> None:
        alice = User("acme", ALICE, "alice", roles=("reader",))
        assert await SqlUserStore(stack.state.engine).add(alice)

    async def test_a_client_that_is_gone_takes_its_tokens_grants_and_codes_along(
        self, tmp_path: Path, settings: dict[str, Any], upstream: RecordingUpstream
    ) -> None:
        async with running(tmp_path, settings) as stack:
            await self.add_alice(stack)
            answer, spare = await self.redeem(stack, await self.code(stack)), await self.code(stack)
            assert (await stack.call(answer["access_token"], "look")).status_code == 200
            seen = len(upstream.seen)
            del settings["clients"]
            settings["agents"]["acme/second"]["bindings"] = [{"issuer": "embedded", "client_id": "unused-too"}]
            stack.adopt(settings)
            assert (await stack.call(answer["access_token"], "look")).status_code == 401
            assert len(upstream.seen) == seen
            again = await self.post(stack, grant_type="refresh_token", refresh_token=answer["refresh_token"])
            assert again["error"] == "invalid_client"
            assert (await self.redeem(stack, spare))["error"] == "invalid_client"

    async def test_what_was_granted_to_a_client_is_not_granted_to_another_agent(
        self, tmp_path: Path, settings: dict[str, Any], upstream: RecordingUpstream
    ) -> None:
        async with running(tmp_path, settings) as stack:
            await self.add_alice(stack)
            answer, spare = await self.redeem(stack, await self.code(stack)), await self.code(stack)
            agents = settings["agents"]
            for of_first, of_second in (("app", "unused"), ("unused", "app")):
                agents["acme/first"]["bindings"] = [{"issuer": "embedded", "client_id": of_first}]
                agents["acme/second"]["bindings"] = [{"issuer": "embedded", "client_id": of_second}]
                settings["clients"]["app"]["agent"] = "acme/first" if of_first == "app" else "acme/second"
                stack.adopt(settings)
                again = await self.post(stack, grant_type="refresh_token", refresh_token=answer["refresh_token"])
                if of_first == "app":
                    assert again["error"] == "invalid_grant"
                    assert (await self.redeem(stack, spare))["error"] == "invalid_grant"
                else:
                    # It was refused, not used up: what the person granted is as it was.
                    assert again["token_type"] == "Bearer"
        assert upstream.seen == []
