"""`approval:` of a tool: who must agree before it runs."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from twogate.config.values import Duration, Name, NonEmpty, TenantName
from twogate.core.approval import Duty, Rule
from twogate.core.approval_rules import ApprovalRule, ArgumentTest, When

MAX_RULES: Final = 16
MAX_TESTS: Final = 16
MAX_PEOPLE: Final = 5

_Scalar = str | bool | int | float


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArgumentSettings(_Model):
    """A test of the argument that the JSON pointer `at` leads to."""

    at: Annotated[str, Field(pattern=r"^(/[^/\x00-\x1f]{0,200}){1,8}$")]
    over: float | None = None
    under: float | None = None
    one_of: Annotated[tuple[_Scalar, ...], Field(max_length=100)] = ()
    none_of: Annotated[tuple[_Scalar, ...], Field(max_length=100)] = ()

    @model_validator(mode="after")
    def _one_test(self) -> ArgumentSettings:
        if sum((self.over is not None, self.under is not None, bool(self.one_of), bool(self.none_of))) != 1:
            raise ValueError("needs exactly one of `over`, `under`, `one_of` and `none_of`")
        return self


class WhenSettings(_Model):
    """When the rule counts; what is left out does not matter."""

    tenants: NonEmpty[TenantName] = ()
    roles: NonEmpty[Name] = ()
    arguments: Annotated[tuple[ArgumentSettings, ...], Field(max_length=MAX_TESTS)] = ()


class EscalationSettings(_Model):
    """Who may decide too once nobody did for so long."""

    after: Annotated[Duration, Field(ge=1, le=3600)]
    to: Annotated[frozenset[Duty], Field(min_length=1)]


class ApprovalSettings(_Model):
    """One rule. Times in seconds; `signed` says how, and there is one way."""

    by: Annotated[frozenset[Duty], Field(min_length=1)]
    people: Annotated[int, Field(ge=1, le=MAX_PEOPLE)] = 1
    not_requester: bool = True
    signed: Literal["passkey"] = "passkey"
    within: Annotated[Duration, Field(ge=1, le=3600)] = 3600
    remind_after: Annotated[Duration, Field(ge=1, le=3600)] | None = None
    escalate: EscalationSettings | None = None
    when: WhenSettings = WhenSettings()

    @model_validator(mode="after")
    def _no_viewers(self) -> ApprovalSettings:
        if Duty.VIEWER in self.by or (self.escalate is not None and Duty.VIEWER in self.escalate.to):
            raise ValueError("a viewer only looks; name approver, operator or administrator")
        return self

    @model_validator(mode="after")
    def _in_time(self) -> ApprovalSettings:
        for name, after in (("remind_after", self.remind_after), ("escalate.after", self._escalate_after)):
            if after is not None and after >= self.within:
                raise ValueError(f"{name} comes after `within`, when nobody can decide any more")
        return self

    @property
    def _escalate_after(self) -> int | None:
        return None if self.escalate is None else int(self.escalate.after)

    def compiled(self) -> ApprovalRule:
        """The rule in the core's terms."""
        return ApprovalRule(
            Rule(
                duties=self.by,
                people=self.people,
                not_requester=self.not_requester,
                within=int(self.within),
                remind_after=None if self.remind_after is None else int(self.remind_after),
                escalate_after=self._escalate_after,
                escalate_to=frozenset() if self.escalate is None else self.escalate.to,
            ),
            When(
                tenants=frozenset(self.when.tenants),
                roles=frozenset(self.when.roles),
                arguments=tuple(
                    ArgumentTest(test.at, test.over, test.under, test.one_of, test.none_of)
                    for test in self.when.arguments
                ),
            ),
        )


def _kind(value: object) -> str:
    return "<rules>" if isinstance(value, list | tuple) else "<rule>"


# One rule, or several in order. The tags stand in the places pydantic reports; angle brackets tell them from keys.
ApprovalChoice = Annotated[
    Annotated[ApprovalSettings, Tag("<rule>")]
    | Annotated[tuple[ApprovalSettings, ...], Field(max_length=MAX_RULES), Tag("<rules>")],
    Discriminator(_kind),
]
