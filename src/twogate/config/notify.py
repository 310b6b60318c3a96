"""Settings of the ways to reach people about calls that wait. Secrets are files, never here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from twogate.config.values import FetchedUrl, FilePath, NonEmpty, TenantName, check_host, is_loopback, matching
from twogate.core.notices import Kind

MAX_ADDRESSES = 20
"""Addresses of one mail."""


def _host(value: str) -> str:
    check_host(value)
    return value


Host = Annotated[str, AfterValidator(_host)]
# A plain address: no display name, no quoted local part, nothing that could end a header.
MailAddress = Annotated[
    str,
    matching(
        r"[A-Za-z0-9!#$%&'*+/^_{|}~-]{1,64}(?:\.[A-Za-z0-9!#$%&'*+/^_{|}~-]{1,64}){0,8}"
        r"@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?",
        "must be a plain mail address, such as approvals@example.com",
    ),
]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SlackSettings(_Model):
    """`url` is the file that holds the incoming webhook's URL, which is a secret."""

    url: FilePath


class WebhookSettings(_Model):
    """Where signed messages go; `secret` is the file that holds the key."""

    url: FetchedUrl
    secret: FilePath
    ca: FilePath | None = None


class SmtpSettings(_Model):
    """Where mail is handed in, from whom and to whom."""

    host: Host
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    sender: MailAddress = Field(alias="from")
    to: Annotated[NonEmpty[MailAddress], Field(max_length=MAX_ADDRESSES)]
    user: Annotated[str, matching(r"[!-~]{1,256}", "must be 1 to 256 visible ASCII characters")] | None = None
    password: FilePath | None = None
    ca: FilePath | None = None

    @model_validator(mode="after")
    def _protected(self) -> SmtpSettings:
        if self.tls == "none" and not is_loopback(self.host):
            raise ValueError("tls: none is only for this machine itself (localhost, 127.0.0.1, ::1)")
        if self.tls == "none" and self.ca is not None:
            raise ValueError("`ca` goes with TLS")
        if (self.user is None) != (self.password is None):
            raise ValueError("`user` and `password` go together")
        return self


class ChannelSettings(_Model):
    """One channel: what it is for, and exactly one way."""

    slack: SlackSettings | None = None
    webhook: WebhookSettings | None = None
    smtp: SmtpSettings | None = None
    tenants: NonEmpty[TenantName] = ()
    events: NonEmpty[Literal["requested", "reminded", "escalated", "decided"]] = (
        "requested",
        "reminded",
        "escalated",
    )

    @model_validator(mode="after")
    def _one_way(self) -> ChannelSettings:
        if sum(way is not None for way in (self.slack, self.webhook, self.smtp)) != 1:
            raise ValueError("needs exactly one of `slack`, `webhook` and `smtp`")
        return self

    @property
    def kinds(self) -> frozenset[Kind]:
        """What it is for, in the core's terms."""
        return frozenset(map(Kind, self.events))

    @property
    def way(self) -> str:
        """Which of the three it is."""
        return "slack" if self.slack is not None else "webhook" if self.webhook is not None else "smtp"
