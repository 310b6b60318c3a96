"""Mail handed in to a server that nobody here wrote (aiosmtpd), over STARTTLS and TLS."""

from __future__ import annotations

import asyncio
import email
import email.policy
import os
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gatelab import NOW, FakeClock
from noticelab import Kept, open_notice_lab, secret_file
from rawlab import Authority
from twogate.adapters.notify.smtp import MailChannel, MailServer, Security
from twogate.core.notices import Notice
from twogate.flows.approvals.notices import ChannelError

PASSWORD = "correct-horse"
TO = ("approvals@example.com", "duty@example.com")


@dataclass
class MailHost:
    """What a mail server got: each mail, its addresses, and whether it came over TLS."""

    port: int = 0
    got: list[tuple[bytes, Sequence[str], bool]] = field(default_factory=list[tuple[bytes, Sequence[str], bool]])
    logins: list[bytes] = field(default_factory=list[bytes])

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.got.append((envelope.original_content, envelope.rcpt_tos, session.ssl is not None))
        return "250 taken"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> Any:
        from aiosmtpd.smtp import AuthResult

        self.logins.append(data.login)
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)


@asynccontextmanager
async def mail_host(context: ssl.SSLContext, *, at_once: bool) -> AsyncGenerator[MailHost]:
    """A mail server on a free port that wants STARTTLS and a login.

    `at_once`: TLS from the first byte, for which this one knows no logins.
    """
    if find_spec("aiosmtpd") is None:
        reason = "THE PEER aiosmtpd IS MISSING, so no mail was sent; install it: pip install -r requirements-dev.lock"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from aiosmtpd.smtp import SMTP

    host = MailHost()

    def protocol() -> Any:
        return SMTP(
            host,
            hostname="localhost",
            tls_context=None if at_once else context,
            require_starttls=not at_once,
            auth_required=not at_once,
            authenticator=host.authenticate,
            loop=asyncio.get_running_loop(),
        )

    listening = await asyncio.get_running_loop().create_server(
        protocol, "127.0.0.1", 0, ssl=context if at_once else None
    )
    host.port = listening.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        listening.close()
        await listening.wait_closed()


async def resolve(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def channel(host: MailHost, directory: Path, ca: Path, security: Security, password: str = PASSWORD) -> MailChannel:
    file = secret_file(directory, "password", password)
    user = "twogate" if security is Security.STARTTLS else ""
    server = MailServer("localhost", host.port, security, user, file, ca)
    return MailChannel(server, "twogate@example.com", TO, FakeClock(), resolve)


@pytest.fixture
async def notice(tmp_path: Path) -> Notice:
    kept = Kept()
    async with open_notice_lab(f"sqlite:///{tmp_path}/state/twogate.db") as lab:
        await lab.park(tool="git.gît_commit", agent="réporter")
        await lab.telling(ops=kept).tick()
    return kept.got[0]


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
async def test_a_mail_arrives_over_tls_for_everybody(notice: Notice, tmp_path: Path, security: Security) -> None:
    authority = Authority(tmp_path)
    async with mail_host(authority.server_context("localhost"), at_once=security is Security.TLS) as host:
        await channel(host, tmp_path, authority.ca_file, security).send(notice)
    assert host.logins == ([b"twogate"] if security is Security.STARTTLS else [])
    ((raw, to, over_tls),) = host.got
    assert list(to) == list(TO)
    assert over_tls or security is Security.TLS
    mail: Any = email.message_from_bytes(raw, policy=email.policy.default)
    assert mail["subject"] == "A call waits for approval: git.gît_commit (acme)"
    assert mail["message-id"] == f"<{notice.id}@example.com>"
    assert mail["date"].datetime.timestamp() == NOW
    body = mail.get_content()
    assert notice.link in body.split()
    assert "réporter" in body


async def test_a_wrong_password_sends_nothing(notice: Notice, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with mail_host(authority.server_context("localhost"), at_once=False) as host:
        with pytest.raises(ChannelError, match="SMTPAuthenticationError 535"):
            await channel(host, tmp_path, authority.ca_file, Security.STARTTLS, "wrong-horse").send(notice)
    assert host.got == []
