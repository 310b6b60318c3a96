"""Signed messages to a receiver of the operator's own (Standard Webhooks 1.0.0, signature version v1).

The receiver verifies HMAC-SHA-256 over `id.timestamp.body`, refuses what is older than some minutes, and drops an `id`
that it has seen: a message whose answer was lost comes again under the same one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path
from typing import Final

import msgspec

from twogate.adapters.notify.secret_file import read_line
from twogate.core.notices import Notice
from twogate.flows.approvals.notices import ChannelError
from twogate.flows.environment import Clock
from twogate.flows.fetch import FetchError, MessagePost, Trust

PREFIX: Final = "whsec_"
"""Before a secret, in base64 (Standard Webhooks, "Signature scheme")."""
SHORTEST: Final = 24
LONGEST: Final = 64
"""Bytes of a secret."""


class WebhookChannel:
    """Posts to one URL, signed with the secret that a file holds."""

    def __init__(self, url: str, secret_file: Path, post: MessagePost, clock: Clock, ca_file: Path | None) -> None:
        self._url = url
        self._secret_file = secret_file
        self._post = post
        self._clock = clock
        self._ca_file = ca_file

    async def send(self, notice: Notice) -> None:
        """See `Channel.send`.

        Raises:
            ChannelError: the receiver did not answer with one of the 200s.
        """
        key = parse_secret(self._secret_file)
        at, body = self._clock.now(), webhook_body(notice)
        headers = {
            "webhook-id": notice.id,
            "webhook-timestamp": str(at),
            "webhook-signature": sign(key, notice.id, at, body),
        }
        try:
            await self._post.post_message(self._url, body, headers, trust=Trust.CONFIGURED, ca_file=self._ca_file)
        except FetchError as error:
            raise ChannelError(str(error)) from error


def webhook_body(notice: Notice) -> bytes:
    """The message as JSON; its members are a contract (docs/howto/notify-approvers.md)."""
    data: dict[str, object] = {
        "approval": notice.approval,
        "tenant": notice.tenant,
        "tool": notice.tool,
        "agent": notice.agent,
        "task": notice.task,
        "user": notice.user or None,
        "state": notice.state.value,
        "asked_at": notice.asked_at,
        "deadline": notice.deadline,
        "people": notice.people,
        "may_decide": [duty.value for duty in notice.may_decide],
        "url": notice.link,
        "more": notice.more,
    }
    return msgspec.json.encode({"type": f"approval.{notice.kind.value}", "data": data})


def sign(key: bytes, identifier: str, at: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    signed = b".".join((identifier.encode(), str(at).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def parse_secret(path: Path) -> bytes:
    """The key in a secret file: `whsec_` and base64 of 24 to 64 bytes.

    Raises:
        ChannelError: it holds none.
    """
    line = read_line(path)
    try:
        key = base64.b64decode(line.removeprefix(PREFIX), validate=True) if line.startswith(PREFIX) else b""
    except binascii.Error:
        key = b""
    if not SHORTEST <= len(key) <= LONGEST:
        raise ChannelError(f"{path}: must hold {PREFIX} and the base64 of {SHORTEST} to {LONGEST} random bytes")
    return key
