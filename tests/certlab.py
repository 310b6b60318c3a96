"""Certificate authorities for tests, and what they issue to servers and clients: good, expired, of the same key."""

from __future__ import annotations

import datetime as dt
import hashlib
import ssl
from base64 import urlsafe_b64encode
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOUR = dt.timedelta(hours=1)


class Certificate:
    """A certificate with its key, as PEM files."""

    def __init__(self, path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.key = key
        self.certificate = certificate
        self.der = certificate.public_bytes(serialization.Encoding.DER)
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.certificate_file = path.with_suffix(".pem")
        self.certificate_file.write_bytes(self.pem)
        self.key_file = path.with_suffix(".key")
        self.key_file.touch(mode=0o600)
        self.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    @property
    def thumbprint(self) -> str:
        """As `cnf` holds it (RFC 8705 section 3.1)."""
        return urlsafe_b64encode(hashlib.sha256(self.der).digest()).rstrip(b"=").decode()


class Authority:
    """A certificate authority. What it issues holds from an hour ago for a day, unless a test says otherwise."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = _named(name)
        now = dt.datetime.now(dt.UTC)
        made = (
            _builder(subject, subject, self._key, now - HOUR, now + 240 * HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._certificate = made
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        server: bool = False,
        start: dt.timedelta = -HOUR,
        end: dt.timedelta = 24 * HOUR,
    ) -> Certificate:
        """A certificate for a client, or for a server on localhost; its times are counted from now."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        certificate = (
            _builder(_named(name), self._certificate.subject, key, now + start, now + end)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path = self._directory / f"{self._name}-{name}-{certificate.serial_number}"
        return Certificate(path, certificate, key)

    def client(self, certificate: Certificate | None = None) -> ssl.SSLContext:
        """The TLS of a client that trusts servers of this authority and shows a certificate, if it has one."""
        context = ssl.create_default_context(cafile=str(self.file))
        if certificate is not None:
            context.load_cert_chain(certificate.certificate_file, certificate.key_file)
        return context


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, start: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
