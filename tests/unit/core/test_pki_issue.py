import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from twogate.core.pki.issue import Validity, issue_authority, issue_server_certificate

NOW = int(dt.datetime.now(dt.UTC).timestamp())  # OpenSSL compares with the real clock
HOUR = Validity(NOW - 60, NOW + 3600)
NAMES = ("localhost", "127.0.0.1", "::1")


def make(
    names: tuple[str, ...] = NAMES, permitted: tuple[str, ...] = NAMES, validity: Validity = HOUR
) -> tuple[x509.Certificate, x509.Certificate, ec.EllipticCurvePrivateKey]:
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = issue_authority(authority_key, "test CA", 1, HOUR, permitted)
    server = issue_server_certificate(authority, authority_key, key.public_key(), names, 2, validity)
    return authority, server, key


def handshake(
    directory: Path, authority: x509.Certificate, server: x509.Certificate, key: ec.EllipticCurvePrivateKey, host: str
) -> None:
    """A complete TLS handshake in memory, with the strict checks that Python 3.13 makes by default."""
    chain = directory / "chain.pem"
    chain.write_bytes(
        server.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(chain)
    calling = ssl.create_default_context(cadata=authority.public_bytes(Encoding.PEM).decode())
    calling.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        calling.wrap_bio(to_client, to_server, server_hostname=host),
        listening.wrap_bio(to_server, to_client, server_side=True),
    ]
    while sides:
        for side in tuple(sides):
            try:
                side.do_handshake()
                sides.remove(side)
            except ssl.SSLWantReadError:
                pass


@pytest.mark.parametrize("host", NAMES)
def test_a_client_that_trusts_the_authority_accepts_the_server_by_each_of_its_names(tmp_path: Path, host: str) -> None:
    handshake(tmp_path, *make(), host)


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"doesn't match|mismatch|not valid for"):
        handshake(tmp_path, *make(), "mcp.example.com")


def test_another_authority_of_the_same_name_is_refused(tmp_path: Path) -> None:
    _, server, key = make()
    other, _, _ = make()
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, other, server, key, "localhost")


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(tmp_path, *make(validity=Validity(NOW - 60, NOW - 30)), "localhost")


@pytest.mark.parametrize(
    ("permitted", "name"),
    [
        (("localhost",), "bank.example"),
        (("localhost",), "10.0.0.1"),
        (("127.0.0.1",), "10.0.0.1"),
        (("127.0.0.1",), "bank.example"),
        (("127.0.0.1",), "::1"),
        (("::1",), "127.0.0.1"),
    ],
)
def test_the_authority_cannot_speak_for_a_host_it_was_not_made_for(
    tmp_path: Path, permitted: tuple[str, ...], name: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        handshake(tmp_path, *make(names=(name,), permitted=permitted), name)


def test_the_profiles_are_those_of_rfc_5280() -> None:
    authority, server, key = make()
    for certificate, is_authority in ((authority, True), (server, False)):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert constraints.critical
        assert usage.critical
        assert constraints.value.ca is is_authority
        assert usage.value.key_cert_sign is is_authority
        assert usage.value.digital_signature is not is_authority
    assert authority.extensions.get_extension_for_class(x509.NameConstraints).critical
    purposes = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert server.public_key() == key.public_key()
    assert (authority.serial_number, server.serial_number) == (1, 2)
    assert int(server.not_valid_after_utc.timestamp()) == HOUR.not_after


def test_what_makes_no_certificate_is_refused() -> None:
    authority, _, _ = make()
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(ValueError, match="permitted name"):
        issue_authority(key, "x", 1, HOUR, ())
    with pytest.raises(ValueError, match="needs a name"):
        issue_server_certificate(authority, key, key.public_key(), (), 1, HOUR)
    with pytest.raises(ValueError, match="not the authority's"):
        issue_server_certificate(authority, key, key.public_key(), NAMES, 1, HOUR)
    with pytest.raises(ValueError, match="hold for some time"):
        issue_authority(key, "x", 1, Validity(NOW, NOW), NAMES)
