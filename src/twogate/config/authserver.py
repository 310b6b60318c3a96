"""The settings of the embedded authorization server (DESIGN, "The embedded authorization server")."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from twogate.config.values import Duration

_MINUTE = 60
_HOUR = 3600
_DAY = 86400


class Lifetimes(BaseModel):
    """How long everything that the server gives out lives, in seconds.

    `refresh_token` is how long a refresh token may lie unused, `grant` how long a family of them may live in all, and
    `grant_without_refresh` the same for a person whose identity provider cannot be asked again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_token: Annotated[Duration, Field(ge=1, le=15 * _MINUTE)] = 5 * _MINUTE
    code: Annotated[Duration, Field(ge=10, le=10 * _MINUTE)] = _MINUTE
    pushed_request: Annotated[Duration, Field(ge=10, le=10 * _MINUTE)] = 90
    interaction: Annotated[Duration, Field(ge=_MINUTE, le=_HOUR)] = 10 * _MINUTE
    device_code: Annotated[Duration, Field(ge=_MINUTE, le=30 * _MINUTE)] = 10 * _MINUTE
    refresh_token: Annotated[Duration, Field(ge=_HOUR, le=90 * _DAY)] = 30 * _DAY
    grant: Annotated[Duration, Field(ge=_HOUR, le=365 * _DAY)] = 90 * _DAY
    grant_without_refresh: Annotated[Duration, Field(ge=_MINUTE, le=_HOUR)] = _HOUR
    login: Annotated[Duration, Field(ge=5 * _MINUTE, le=7 * _DAY)] = 12 * _HOUR
    operator_link: Annotated[Duration, Field(ge=5 * _MINUTE, le=7 * _DAY)] = _DAY

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.refresh_token > self.grant:
            raise ValueError("refresh_token must not outlive grant: a refresh token ends with its family")
        return self


class Embedded(BaseModel):
    """The embedded authorization server; its issuer is `public_url`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    # Whether each of its access tokens is good for one request.
    one_time: bool = False
    lifetimes: Lifetimes = Lifetimes()
