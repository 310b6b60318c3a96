"""Making a certificate authority and server certificates (X.509 profile of RFC 5280).

Pure: keys, serial numbers and times come from the caller. Every certificate carries what OpenSSL's strict checks want
(key usage, subject and authority key identifiers, critical basic constraints).
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

MAX_SERIAL_BYTES: Final = 19
"""Bytes of a serial number drawn at random: RFC 5280 section 4.1.2.2 allows 20, the top bit must stay zero."""


class Validity(msgspec.Struct, frozen=True):
    """When a certificate holds: Unix seconds, both ends included."""

    not_before: int
    not_after: int


def issue_authority(
    key: ec.EllipticCurvePrivateKey, name: str, serial: int, validity: Validity, permitted: Sequence[str]
) -> x509.Certificate:
    """A self-signed CA for nothing but these host names and addresses.

    The name constraints (RFC 5280 section 4.2.1.10) keep a stolen CA key from speaking for any other host, whatever
    machine trusts the CA.

    Raises:
        ValueError: No name is permitted, or a serial or validity is not possible.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    constraints = x509.NameConstraints(permitted_subtrees=_subtrees(permitted), excluded_subtrees=None)
    usage = _key_usage(digital_signature=False, certificates=True)
    return (
        _builder(subject, subject, key.public_key(), serial, validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(constraints, critical=True)
        .sign(key, hashes.SHA256())
    )


def issue_server_certificate(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    names: Sequence[str],
    serial: int,
    validity: Validity,
) -> x509.Certificate:
    """A certificate for a TLS server of these host names and addresses; clients look only there (RFC 9525 section 6.1).

    Raises:
        ValueError: There is no name, or a serial or validity is not possible.
    """
    if not names:
        raise ValueError("a server certificate needs a name")
    if authority_key.public_key() != authority.public_key():
        raise ValueError("the key is not the authority's")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(subject, authority.subject, key, serial, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True, certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, serial: int, validity: Validity
) -> x509.CertificateBuilder:
    if validity.not_after <= validity.not_before:
        raise ValueError("a certificate must hold for some time")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(_utc(validity.not_before))
        .not_valid_after(_utc(validity.not_after))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, digital_signature: bool, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _subtrees(permitted: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for name in permitted:
        try:
            names.append(x509.IPAddress(ipaddress.ip_network(name)))
        except ValueError:
            names.append(x509.DNSName(name))
    if not names:
        raise ValueError("an authority needs at least one permitted name")
    # A kind of name without a subtree would be unconstrained: permit none of that kind.
    if not any(isinstance(name, x509.IPAddress) for name in names):
        names.append(x509.IPAddress(ipaddress.ip_network("0.0.0.0/32")))
    if not any(isinstance(name, x509.DNSName) for name in names):
        names.append(x509.DNSName("invalid"))
    return names


def _utc(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
