"""Whether the settings of those who vouch by JWT assertions hold together with all others; part of `references`."""

from __future__ import annotations

from collections.abc import Iterator

from twogate.config.document import KeyPath
from twogate.config.settings import EMBEDDED, Settings
from twogate.core.oauth.workload_token import fits

Found = tuple[KeyPath, str]

_EXAMPLES = {
    "spiffe": "spiffe://example.org/ns/prod/sa/reporter of this very trust domain",
    "kubernetes": "system:serviceaccount:NAMESPACE:NAME",
    "jwt": "the `sub` of its tokens",
}


def workload_problems(settings: Settings, broken: frozenset[KeyPath]) -> Iterator[Found]:
    """Every problem of `workloads`, `identity_assertions` and `issuers[].exchange`; `broken` as in `References`."""
    yield from _issuers(settings, broken)
    yield from _tenants(settings, broken)
    if ("workloads",) not in broken and ("issuers",) not in broken:
        yield from _agent_claims(settings)
        yield from _subjects(settings)


def _issuers(settings: Settings, broken: frozenset[KeyPath]) -> Iterator[Found]:
    exchanging = [(("issuers", index, "exchange"), None) for index, i in enumerate(settings.issuers) if i.exchange]
    vouching = [
        *((("workloads", index, "issuer"), item.issuer) for index, item in enumerate(settings.workloads)),
        *(
            (("identity_assertions", index, "issuer"), item.issuer)
            for index, item in enumerate(settings.identity_assertions)
        ),
    ]
    seen: set[str] = set()
    for place, issuer in [*exchanging, *vouching]:
        if not settings.embedded.enabled and ("embedded",) not in broken:
            yield place, "needs the embedded server, which is disabled: nobody else takes these tokens"
        if issuer is None:
            continue
        if issuer.rstrip("/") == settings.public_url:
            yield place, "is public_url, which belongs to the embedded server; it never vouches for others"
        if issuer in seen:
            # Which of the two an assertion is would be up to whoever made it.
            yield place, f"{issuer} vouches already; one issuer has one place in `workloads` and `identity_assertions`"
        seen.add(issuer)


def _tenants(settings: Settings, broken: frozenset[KeyPath]) -> Iterator[Found]:
    named = [
        *(
            (("workloads", index, "tenants", at), tenant)
            for index, item in enumerate(settings.workloads)
            for at, tenant in enumerate(item.tenants)
        ),
        *(
            (("identity_assertions", index, "tenant"), item.tenant)
            for index, item in enumerate(settings.identity_assertions)
        ),
    ]
    for place, tenant in named:
        if ("tenants",) not in broken and ("tenants", tenant) not in broken and tenant not in settings.tenants:
            yield place, f"unknown tenant {tenant!r}; add it to tenants"


def _agent_claims(settings: Settings) -> Iterator[Found]:
    pointers = {item.issuer: item.claims.agent for item in settings.issuers}
    for index, item in enumerate(settings.workloads):
        if pointers.get(item.issuer, "/sub") != "/sub":
            # A binding would mean two things: whoever has such a `sub`, and whoever has such a client.
            text = (
                "is one of `issuers` too, where another claim than /sub names the agent; give it one place of the two"
            )
            yield ("workloads", index, "issuer"), text


def _subjects(settings: Settings) -> Iterator[Found]:
    kinds = {item.issuer: item.kind for item in settings.workloads}
    for name, agent in settings.agents.items():
        for index, binding in enumerate(agent.bindings):
            kind = kinds.get(binding.issuer)
            if kind is None or binding.issuer == EMBEDDED:
                continue
            place: KeyPath = ("agents", name, "bindings", index)
            if binding.subject is None:
                yield place, f"{binding.issuer} knows workloads by `subject`, such as {_EXAMPLES[kind.value]}"
            elif not fits(kind, binding.issuer, binding.subject):
                yield (*place, "subject"), f"is none that {binding.issuer} gives; write {_EXAMPLES[kind.value]}"
