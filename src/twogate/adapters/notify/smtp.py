"""Plain text mail by SMTP (RFC 5321), over TLS but to this machine itself (RFC 8314, RFC 3207).

`smtplib` blocks, so a message is sent in a thread. Whoever waits for that closes the connection when the time is over,
which ends the thread. As for `adapters/fetch.py`, the host is resolved once, every address is judged, and the
connection goes to a judged one.
"""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec

from twogate.adapters.addresses import is_loopback, is_ordinary_host
from twogate.adapters.fetch import MAX_ADDRESSES, Resolve, resolve_with_system
from twogate.adapters.notify.secret_file import read_line
from twogate.core.notices import Notice
from twogate.flows.approvals.notices import ChannelError
from twogate.flows.environment import Clock

STEP_SECONDS: Final = 8.0
"""For one answer of the server."""
TOTAL_SECONDS: Final = 20.0
"""For the whole of it."""
_READY: Final = 220


class Security(StrEnum):
    """How the connection is protected: TLS from the first byte, TLS after STARTTLS, or not (to this machine only)."""

    TLS = "tls"
    STARTTLS = "starttls"
    NONE = "none"


class MailServer(msgspec.Struct, frozen=True):
    """Where mail is handed in. `user` is empty if the server wants nobody to log in."""

    host: str
    port: int
    security: Security
    user: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None


class MailChannel:
    """Sends one mail to all addresses."""

    def __init__(
        self,
        server: MailServer,
        sender: str,
        to: Sequence[str],
        clock: Clock,
        resolve: Resolve = resolve_with_system,
        seconds: float = TOTAL_SECONDS,
    ) -> None:
        self._server = server
        self._sender = sender
        self._to = tuple(to)
        self._clock = clock
        self._resolve = resolve
        self._seconds = seconds

    async def send(self, notice: Notice) -> None:
        """See `Channel.send`.

        Raises:
            ChannelError: the server did not take it for every address.
        """
        password = "" if self._server.password_file is None else read_line(self._server.password_file)
        mail = compose_mail(notice, self._sender, self._to, self._clock.now())
        visit = _Visit(self._server, password)
        try:
            async with asyncio.timeout(self._seconds):
                addresses = await self._judged()
                await asyncio.to_thread(visit.hand_in, addresses, mail)
        except TimeoutError:
            raise ChannelError(f"{self._server.host}: not taken within {self._seconds:g} s") from None
        except (OSError, ValueError) as error:
            # `smtplib` lets what a server says wrongly, such as a challenge that is no base64, out as a ValueError.
            raise ChannelError(f"{self._server.host}: {_words(error)}") from error
        finally:
            visit.cut()

    async def _judged(self) -> Sequence[str]:
        server = self._server
        found = await self._resolve(server.host, server.port)
        if not found or len(found) > MAX_ADDRESSES:
            raise ChannelError(f"{server.host}: {len(found)} addresses")
        allowed = is_loopback if server.security is Security.NONE else is_ordinary_host
        for text in found:
            if not allowed(ip_address(text)):
                raise ChannelError(f"{server.host}: {text} may not be connected to ({server.security.value})")
        return found


class _Visit:
    """One connection to a mail server, used in a thread and cut from the event loop."""

    def __init__(self, server: MailServer, password: str) -> None:
        self._server = server
        self._password = password
        self._socket: socket.socket | None = None
        self._over = False

    def hand_in(self, addresses: Sequence[str], mail: EmailMessage) -> None:
        """Hand in a mail for all of its addresses, or for none.

        Raises:
            OSError: the server cannot be reached, or its certificate is not the host's.
            smtplib.SMTPException: it did not take the mail.
        """
        server = self._server
        plain = self._connect(addresses)
        client = smtplib.SMTP(timeout=STEP_SECONDS)
        try:
            client.sock = self._wrap(plain) if server.security is Security.TLS else plain
            code, text = client.getreply()
            if code != _READY:
                raise smtplib.SMTPConnectError(code, text)
            client.ehlo_or_helo_if_needed()
            if server.security is Security.STARTTLS:
                self._start_tls(client, plain)
            if server.user:
                client.login(server.user, self._password)
            refused = client.send_message(mail)
            if refused:
                raise smtplib.SMTPRecipientsRefused(refused)
            with suppress(smtplib.SMTPException, OSError):
                client.quit()
        finally:
            client.close()
            if self._socket is not None:
                # It is not the client's yet if TLS failed.
                self._socket.close()

    def cut(self) -> None:
        """End whatever the thread waits for."""
        self._over = True
        if self._socket is not None:
            with suppress(OSError):
                # Not the TLS layer's: the thread may be within it.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _connect(self, addresses: Sequence[str]) -> socket.socket:
        failed = OSError("no address")
        for address in addresses:
            if self._over:
                break
            try:
                self._socket = socket.create_connection((address, self._server.port), STEP_SECONDS)
            except OSError as error:
                failed = error
            else:
                if not self._over:
                    return self._socket
                self._socket.close()
        raise failed

    def _start_tls(self, client: smtplib.SMTP, plain: socket.socket) -> None:
        if not client.has_extn("starttls"):
            raise smtplib.SMTPNotSupportedError("the server offers no STARTTLS; nothing was sent")
        code, text = client.docmd("STARTTLS")
        if code != _READY:
            raise smtplib.SMTPResponseException(code, text)
        client.sock = self._wrap(plain)
        # What came before TLS counts no more (RFC 3207 section 4.2), what was read ahead of it included.
        client.file = None
        client.helo_resp = client.ehlo_resp = None
        client.esmtp_features = {}
        client.does_esmtp = False
        client.ehlo()

    def _wrap(self, plain: socket.socket) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self._server.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        wrapped = context.wrap_socket(plain, server_hostname=self._server.host, do_handshake_on_connect=False)
        # The plain one is nothing any more; what is cut from now on is this one.
        self._socket = wrapped
        wrapped.do_handshake()
        return wrapped


def compose_mail(notice: Notice, sender: str, to: Sequence[str], now: int) -> EmailMessage:
    """The mail. Names of strangers are only in its body and its subject, of which no line break can come."""
    mail = EmailMessage(policy=SMTP)
    mail["From"] = Address(addr_spec=sender)
    mail["To"] = tuple(Address(addr_spec=address) for address in to)
    # The header is parsed when it is set: an encoded word (RFC 2047) in a name would be decoded, and some versions of
    # Python write the line break that may be in it.
    mail["Subject"] = notice.subject.replace("=?", "= ?")
    mail["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    mail["Message-ID"] = f"<{notice.id}@{sender.rpartition('@')[2]}>"
    # RFC 3834: no replies by machines.
    mail["Auto-Submitted"] = "auto-generated"
    facts = "\n".join(f"{name + ':':<15}{value}" for name, value in notice.facts())
    rest = f"\n\n{notice.rest}" if notice.rest else ""
    link = f"Look at it, and decide, at\n{notice.link}\n\nNothing can be decided by answering this mail."
    mail.set_content(f"{notice.title}.\n\n{facts}{rest}\n\n{link}\n")
    return mail


def _words(error: Exception) -> str:
    # The server's own words may repeat the login.
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{type(error).__name__} {error.smtp_code}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"refused for {len(error.recipients)} of the addresses"
    if isinstance(error, smtplib.SMTPException) or not isinstance(error, OSError):
        return type(error).__name__
    return f"{type(error).__name__}: {error}"
