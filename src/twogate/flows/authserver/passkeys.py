"""Passkeys: enrolling them, and proving by one who is there (row R-24, WebAuthn Level 3).

A challenge is good for one ceremony of one browser, for five minutes and once. It is made so that it can be known again
(random bytes, its end, and a MAC over these, the browser and what it is for), so asking for one stores nothing; using
one up does, after the answer was verified, so strangers can make the store keep nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

from twogate.core import webauthn
from twogate.core.errors import ErrorCode, GateError
from twogate.core.webauthn import UnverifiedAnswer
from twogate.flows.authserver.clients import ReplayStore
from twogate.flows.authserver.people import User
from twogate.flows.environment import Rng

CHALLENGE_LIFETIME: Final = 5 * 60
"""Seconds that a browser may take to answer."""

MAX_PASSKEYS: Final = 20
"""Passkeys of one person."""

MAX_LABEL: Final = 64
"""Characters of a passkey's label."""

REPLAY_KIND: Final = "passkey_challenge"

_RANDOM: Final = 16
_TIME: Final = 8
_MAC: Final = 32

Ceremony = Literal["login", "enrol"]


class Passkey(msgspec.Struct, frozen=True):
    """A passkey. `credential_id` and `public_key` (COSE) are base64url; times are Unix seconds."""

    credential_id: str
    tenant: str
    subject: str
    public_key: str
    sign_count: int
    label: str
    created_at: int
    last_used_at: int | None = None


class NewPasskey(msgspec.Struct, frozen=True):
    """What a browser has proven to have made; `credential_id` and `public_key` are base64url."""

    credential_id: str
    public_key: str
    sign_count: int


class PasskeyVerifier(Protocol):
    """Verifies browsers' answers for one origin. User verification (PIN, finger, face) is always required."""

    def verify_new(self, answer: UnverifiedAnswer, challenge: bytes) -> NewPasskey:
        """The passkey that an answer to an enrolment holds (section 7.1).

        Raises:
            GateError: PASSKEY_REFUSED.
        """
        ...

    def verify_used(self, answer: UnverifiedAnswer, challenge: bytes, public_key: str, sign_count: int) -> int:
        """The new signature count of a passkey that answered (section 7.2). A count of 0 may stay 0.

        Raises:
            GateError: PASSKEY_REFUSED, also if the count did not grow, as that of a copied passkey does not.
        """
        ...


class PasskeyStore(Protocol):
    """Keeps passkeys."""

    async def get(self, credential_id: str) -> Passkey | None:
        """The passkey of this id.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def list(self, tenant: str, subject: str) -> Sequence[Passkey]:
        """A person's passkeys, oldest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def add(self, passkey: Passkey, most: int) -> bool:
        """Keep a new passkey; False if its id is taken, or the person has `most` already.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def used(self, credential_id: str, sign_count: int, now: int) -> bool:
        """Note a use; False if the passkey is gone, or another use with the same or a higher count came first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def remove(self, tenant: str, subject: str, credential_id: str) -> bool:
        """Forget a person's passkey; False if they have none of this id.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Challenges:
    """Makes challenges and knows them again."""

    def __init__(self, secret: bytes, replay: ReplayStore, rng: Rng, issuer: str) -> None:
        self._secret = secret
        self._replay = replay
        self._rng = rng
        self._issuer = issuer

    def make(self, ceremony: Ceremony, browser: str, subject: str, now: int) -> bytes:
        """A challenge for one browser; `subject` is whom it is for, '' if that is to be found out."""
        head = self._rng.token(_RANDOM) + (now + CHALLENGE_LIFETIME).to_bytes(_TIME)
        return head + self._mac(head, ceremony, browser, subject)

    def verify(self, challenge: bytes, ceremony: Ceremony, browser: str, subject: str, now: int) -> None:
        """Check that this is such a challenge of ours, and still good.

        Raises:
            GateError: PASSKEY_REFUSED for a forged one or another's, INTERACTION_EXPIRED for an old one.
        """
        head, mac = challenge[: _RANDOM + _TIME], challenge[_RANDOM + _TIME :]
        if len(challenge) != _RANDOM + _TIME + _MAC or not hmac.compare_digest(
            mac, self._mac(head, ceremony, browser, subject)
        ):
            raise GateError(ErrorCode.PASSKEY_REFUSED, "the challenge is not ours, or another browser's or ceremony's")
        if now >= _end_of(challenge):
            raise GateError(ErrorCode.INTERACTION_EXPIRED, "the challenge has expired")

    async def redeem(self, challenge: bytes, now: int) -> None:
        """Use a challenge up, which `verify` found good.

        Raises:
            GateError: PASSKEY_REFUSED if it was used before; STORE_UNAVAILABLE.
        """
        value = webauthn.encode(challenge)
        if not await self._replay.redeem(REPLAY_KIND, self._issuer, value, _end_of(challenge), now):
            raise GateError(ErrorCode.PASSKEY_REFUSED, "the challenge was used before")

    def _mac(self, head: bytes, ceremony: Ceremony, browser: str, subject: str) -> bytes:
        bound = msgspec.json.encode((webauthn.encode(head), ceremony, browser, subject))
        return hmac.digest(self._secret, b"twogate-challenge-v1\0" + bound, "sha256")


class Passkeys:
    """Enrols passkeys and lets people prove by them who they are. `browser` is always the digest of its cookie."""

    def __init__(
        self, rp_id: str, verifier: PasskeyVerifier, store: PasskeyStore, challenges: Challenges, label: str = "Twogate"
    ) -> None:
        self._rp_id = rp_id
        self._verifier = verifier
        self._store = store
        self._challenges = challenges
        self._label = label

    def login_options(self, browser: str, now: int) -> dict[str, object]:
        """What the browser is asked for a login: any passkey of ours, so no name is needed (section 5.5)."""
        return {
            "challenge": webauthn.encode(self._challenges.make("login", browser, "", now)),
            "rpId": self._rp_id,
            "userVerification": "required",
            "timeout": CHALLENGE_LIFETIME * 1000,
        }

    async def enrol_options(self, user: User, browser: str, now: int) -> dict[str, object]:
        """What the browser is asked to make (section 5.4): a passkey that it can find without a name.

        One of a person who logs in at a provider only signs approvals, so browsers need not offer it at a login.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        found = user.provider is None
        known = await self._store.list(user.tenant, user.subject)
        return {
            "challenge": webauthn.encode(self._challenges.make("enrol", browser, _who(user), now)),
            "rp": {"id": self._rp_id, "name": self._label},
            "user": {
                "id": webauthn.encode(user_handle(user.tenant, user.subject)),
                "name": user.name,
                "displayName": user.label,
            },
            # ES256, EdDSA, RS256 (RFC 9053, RFC 8812), as the verifier accepts them.
            "pubKeyCredParams": [{"type": "public-key", "alg": alg} for alg in (-7, -8, -257)],
            "authenticatorSelection": {
                "residentKey": "required" if found else "discouraged",
                "requireResidentKey": found,
                "userVerification": "required",
            },
            "attestation": "none",
            "excludeCredentials": [{"type": "public-key", "id": passkey.credential_id} for passkey in known],
            "timeout": CHALLENGE_LIFETIME * 1000,
        }

    async def find_claimed(self, text: str, browser: str, now: int) -> tuple[UnverifiedAnswer, Passkey]:
        """The passkey that an answer to `login_options` claims to be from; `verify_claimed` must follow.

        Raises:
            GateError: PASSKEY_REFUSED, INTERACTION_EXPIRED; STORE_UNAVAILABLE.
        """
        # 1. The challenge is one that this browser got for this.
        answer = webauthn.parse_answer(text)
        self._challenges.verify(answer.challenge, "login", browser, "", now)
        # 2. The passkey is known, and the authenticator knows whose it is.
        passkey = await self._store.get(answer.credential_id)
        if passkey is None:
            raise GateError(ErrorCode.PASSKEY_REFUSED, "the passkey is unknown")
        if answer.user_handle != user_handle(passkey.tenant, passkey.subject):
            raise GateError(ErrorCode.PASSKEY_REFUSED, "the passkey is another person's")
        return answer, passkey

    async def verify_claimed(self, answer: UnverifiedAnswer, passkey: Passkey, now: int) -> None:
        """Check that the passkey which `find_claimed` found is at hand. Whether its person may log in is not looked at.

        Raises:
            GateError: PASSKEY_REFUSED, STORE_UNAVAILABLE.
        """
        # 3. Signature, origin, flags and count.
        count = self._verifier.verify_used(answer, answer.challenge, passkey.public_key, passkey.sign_count)
        # 4. Only this once.
        await self._challenges.redeem(answer.challenge, now)
        if not await self._store.used(passkey.credential_id, count, now):
            raise GateError(ErrorCode.PASSKEY_REFUSED, "the passkey was removed or used meanwhile")

    def verify_new(self, text: str, user: User, browser: str, now: int) -> tuple[NewPasskey, bytes]:
        """The passkey that an answer to `enrol_options` for this person holds, and its challenge; nothing is kept yet.

        Raises:
            GateError: PASSKEY_REFUSED, INTERACTION_EXPIRED.
        """
        answer = webauthn.parse_answer(text)
        self._challenges.verify(answer.challenge, "enrol", browser, _who(user), now)
        return self._verifier.verify_new(answer, answer.challenge), answer.challenge

    async def keep(self, new: NewPasskey, challenge: bytes, user: User, label: str, now: int) -> Passkey:
        """Keep a passkey that `verify_new` found good. Who may enrol one is for the caller to decide, before.

        Raises:
            GateError: PASSKEY_REFUSED if the challenge or the passkey was used before, or the person has too many;
                STORE_UNAVAILABLE.
        """
        await self._challenges.redeem(challenge, now)
        passkey = Passkey(
            new.credential_id, user.tenant, user.subject, new.public_key, new.sign_count, _clean(label), now
        )
        if not await self._store.add(passkey, MAX_PASSKEYS):
            raise GateError(ErrorCode.PASSKEY_REFUSED, "the passkey is enrolled already, or the person has too many")
        return passkey

    async def list(self, user: User) -> Sequence[Passkey]:
        """A person's passkeys, oldest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.list(user.tenant, user.subject)

    async def is_kept(self, passkey: Passkey) -> bool:
        """Whether a passkey is still the person's.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.get(passkey.credential_id) is not None

    async def remove(self, user: User, credential_id: str) -> bool:
        """Forget a passkey of a person. Who may is for the caller to decide, before. False if they have no such one.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.remove(user.tenant, user.subject, credential_id)


def user_handle(tenant: str, subject: str) -> bytes:
    """How authenticators know a person (section 5.4.3): the same for all of their passkeys, and saying nothing."""
    return hashlib.sha256(msgspec.json.encode(("twogate-user-v1", tenant, subject))).digest()


def _who(user: User) -> str:
    return f"{user.tenant}/{user.subject}"


def _end_of(challenge: bytes) -> int:
    return int.from_bytes(challenge[_RANDOM : _RANDOM + _TIME])


def _clean(label: str) -> str:
    kept = "".join(char for char in label if char.isprintable()).strip()[:MAX_LABEL]
    return kept or "Passkey"
