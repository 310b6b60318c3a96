"""The grant types of this server, by their registered names."""

from __future__ import annotations

from enum import StrEnum


class GrantType(StrEnum):
    """A way to a token (RFC 6749 section 1.3, RFC 7523, RFC 8628, RFC 8693)."""

    CLIENT_CREDENTIALS = "client_credentials"
    AUTHORIZATION_CODE = "authorization_code"
    REFRESH_TOKEN = "refresh_token"
    DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
    TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
    JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
