"""The TLS side of the listener: a server context from files, which may be replaced while connections are open."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import msgspec

# Forward secrecy and authenticated encryption only; TLS 1.3 has no other suites.
_TLS12_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsError(ValueError):
    """A certificate or key file that cannot be used; the text names the file and what to do."""


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server's TLS identity lies, and whose client certificates it asks for."""

    certificate: Path
    """Chain in PEM, leaf first."""
    key: Path
    """Private key in PEM, not encrypted."""
    client_ca: Path | None = None
    """Authorities (PEM) of client certificates; None asks for none."""
    client_certificate_required: bool = False
    """Refuse the handshake of a client without certificate."""


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A server context: TLS 1.3, or 1.2 with forward secrecy, without resumption, compression or renegotiation.

    With client certificates TLS 1.3 is the minimum: a resumed 1.2 session would keep a certificate that a newer trust
    configuration no longer accepts.

    Raises:
        TlsError: A file is missing, unreadable or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= (
        ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    )
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    for path in (files.certificate, files.key):
        if not path.is_file():
            raise TlsError(f"tls: {path} is not a file; name the PEM file")

    def refuse_passphrase() -> NoReturn:
        # Without this OpenSSL would ask on the terminal.
        raise TlsError(f"tls.key: {files.key} is encrypted; give a key without passphrase, readable by this user only")

    try:
        context.load_cert_chain(files.certificate, files.key, password=refuse_passphrase)
    except (ssl.SSLError, OSError) as error:
        raise TlsError(
            f"tls: {files.certificate} and {files.key} are not a PEM certificate chain and its private key ({error})"
        ) from error
    if files.client_ca is not None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(files.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise TlsError(f"tls.client_ca: {files.client_ca} holds no PEM certificates ({error})") from error
        context.verify_mode = ssl.CERT_REQUIRED if files.client_certificate_required else ssl.CERT_OPTIONAL
    elif files.client_certificate_required:
        raise TlsError("tls.client_ca: client certificates are required, so name the authorities that issue them")
    return context


class ServerTls:
    """The TLS of a listener. A new certificate holds for every handshake after `adopt`; open connections go on.

    Where client certificates are asked for, before or after, open connections end instead, none before its answer:
    theirs was checked by the authorities of before.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Load the files.

        Raises:
            TlsError: A file is missing, unreadable or does not fit.
        """
        self.context = server_context(files)
        """What the listener is given; it stays the same."""
        self.distrust: Callable[[], None] = lambda: None
        """Ends the open connections; set by whoever listens."""
        self._current = self.context
        # Called in each handshake, without a server name too.
        self.context.sni_callback = self._choose

    def adopt(self, context: ssl.SSLContext) -> None:
        """Serve what `server_context` made of other files, or of the same files anew."""
        asking = {self.context.verify_mode, context.verify_mode} != {ssl.CERT_NONE}
        # Whether a client certificate is asked for is read from the listener's context, before the callback.
        self.context.verify_mode = context.verify_mode
        self.context.minimum_version = context.minimum_version
        self._current = context
        if asking:
            self.distrust()

    def _choose(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str, _context: ssl.SSLContext) -> None:
        connection.context = self._current
