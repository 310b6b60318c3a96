"""Those who vouch for others in the configuration: what a mistake says, and what the flows are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from twogate.config import ConfigError, Settings, load_settings
from twogate.config.issuer_keys import KeyPlace, identity_keys, key_places, workload_keys
from twogate.core.jose.keys import Algorithm
from twogate.core.oauth.id_jag import IdJagIssuer
from twogate.core.oauth.workload_token import WorkloadIssuer, WorkloadKind

DOMAIN = "spiffe://example.org"
CLUSTER = "https://kubernetes.default.svc"
IDP = "https://idp.acme.example"


def spiffe(**changes: Any) -> dict[str, Any]:
    return {
        "issuer": DOMAIN,
        "kind": "spiffe",
        "algorithms": ["ES256"],
        "tenants": ["acme"],
        "jwks_uri": "https://spire.example.org/bundle",
        **changes,
    }


def cluster(**changes: Any) -> dict[str, Any]:
    return {"issuer": CLUSTER, "kind": "kubernetes", "algorithms": ["RS256"], "tenants": ["acme"], **changes}


def provider(**changes: Any) -> dict[str, Any]:
    return {"issuer": IDP, "tenant": "acme", "algorithms": ["RS256"], **changes}


def load(directory: Path, **sections: Any) -> Settings:
    settings = {
        "public_url": "http://localhost:8400",
        "listen": "127.0.0.1:8400",
        "store": "sqlite:///./twogate.db",
        "tenants": {"acme": {}, "globex": {}},
        "tools": {},
        "tasks": {"report": {"tools": ["read"]}},
        **sections,
    }
    path = directory / "twogate.yaml"
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))
    return load_settings(path)


def agent(*bindings: dict[str, str], name: str = "acme/robot") -> dict[str, Any]:
    return {name: {"role": "reader", "tasks": ["report"], "bindings": list(bindings)}}


def problems(directory: Path, **sections: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(directory, **sections)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


def test_the_flows_are_told_what_a_platform_may_say(tmp_path: Path) -> None:
    settings = load(tmp_path, workloads=[spiffe(), cluster(max_lifetime="2h")])
    assert [item.trusted for item in settings.workloads] == [
        WorkloadIssuer(DOMAIN, WorkloadKind.SPIFFE, frozenset({Algorithm.ES256}), frozenset({"acme"}), 3600),
        WorkloadIssuer(CLUSTER, WorkloadKind.KUBERNETES, frozenset({Algorithm.RS256}), frozenset({"acme"}), 7200),
    ]


def test_the_flows_are_told_what_a_provider_may_say(tmp_path: Path) -> None:
    settings = load(tmp_path, identity_assertions=[provider(claims={"name": "/email", "groups": "/groups"})])
    assert settings.identity_assertions[0].trusted == IdJagIssuer(
        IDP, "acme", frozenset({Algorithm.RS256}), 300, "/email", "/groups"
    )


def test_each_section_has_its_own_way_to_an_issuers_keys(tmp_path: Path) -> None:
    (tmp_path / "keys.json").touch()
    (tmp_path / "ca.pem").touch()
    login = {"issuer": IDP, "algorithms": ["RS256"], "tenants": ["acme"], "claims": {"agent": "/azp"}}
    settings = load(
        tmp_path,
        issuers=[login],
        workloads=[spiffe(), cluster(jwks_file="keys.json")],
        identity_assertions=[provider(jwks_uri=f"{IDP}/other", ca="ca.pem")],
    )
    places = key_places(settings)
    assert places[IDP] == KeyPlace(IDP, None)
    assert places[identity_keys(IDP)] == KeyPlace(IDP, f"{IDP}/other", None, tmp_path / "ca.pem")
    assert places[workload_keys(CLUSTER)] == KeyPlace(CLUSTER, None, tmp_path / "keys.json")
    assert places[workload_keys(DOMAIN)].uses == {"sig", "jwt-svid"}


def test_agents_are_bound_to_workloads_by_subject(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        workloads=[spiffe(), cluster()],
        agents=agent(
            {"issuer": DOMAIN, "subject": f"{DOMAIN}/robot"},
            {"issuer": CLUSTER, "subject": "system:serviceaccount:prod:robot"},
        ),
    )
    assert len(settings.agents["acme/robot"].bindings) == 2


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"workloads": [spiffe(issuer="spiffe://Example.org")]}, "workloads[0].issuer: must be spiffe://trust-domain"),
        ({"workloads": [spiffe(issuer=f"{DOMAIN}/a")]}, "workloads[0].issuer: must be spiffe://trust-domain"),
        ({"workloads": [spiffe(kind="jwt")]}, "workloads[0]: a SPIFFE trust domain, spiffe://…, goes with"),
        ({"workloads": [cluster(kind="spiffe")]}, "workloads[0]: a SPIFFE trust domain, spiffe://…, goes with"),
        ({"workloads": [cluster(kind="aws")]}, "workloads[0].kind: must be one of"),
        ({"workloads": [spiffe(jwks_file="k.json")]}, "workloads[0]: has both"),
        ({"workloads": [cluster(jwks_file="k.json", ca="c.pem")]}, "workloads[0]: ca is of no use"),
        ({"workloads": [cluster(jwks_file="gone.json")]}, "workloads[0].jwks_file:"),
        ({"workloads": [cluster(ca="gone.pem")]}, "workloads[0].ca:"),
        ({"workloads": [cluster(algorithms=[])]}, "workloads[0].algorithms: must not be empty"),
        ({"workloads": [cluster(algorithms=["HS256"])]}, "workloads[0].algorithms[0]: must be one of"),
        ({"workloads": [cluster(algorithms=["none"])]}, "workloads[0].algorithms[0]: must be one of"),
        ({"workloads": [cluster(tenants=[])]}, "workloads[0].tenants: must not be empty"),
        ({"workloads": [cluster(tenants=["nobody"])]}, "workloads[0].tenants[0]: unknown tenant 'nobody'"),
        ({"workloads": [cluster(max_lifetime="25h")]}, "workloads[0].max_lifetime: must be at most 86400 seconds"),
        ({"workloads": [cluster(), cluster()]}, f"workloads[1].issuer: {CLUSTER} vouches already"),
        ({"workloads": []}, "workloads: must not be empty"),
        ({"workloads": [cluster(subject="x")]}, "workloads[0].subject: is not a setting"),
        (
            {"workloads": [cluster(issuer="http://localhost:8400")]},
            "workloads[0].issuer: is public_url, which belongs",
        ),
        (
            {"identity_assertions": [provider(issuer="http://localhost:8400/")]},
            "identity_assertions[0].issuer: is public_url, which belongs",
        ),
        ({"identity_assertions": [provider(tenant="nobody")]}, "identity_assertions[0].tenant: unknown tenant"),
        ({"identity_assertions": [provider(issuer=DOMAIN)]}, "identity_assertions[0].issuer: must be a URL"),
        ({"identity_assertions": [provider(max_lifetime="2h")]}, "identity_assertions[0].max_lifetime: must be at"),
        ({"identity_assertions": [provider(ca="gone.pem")]}, "identity_assertions[0].ca:"),
        ({"identity_assertions": [provider(), provider()]}, f"identity_assertions[1].issuer: {IDP} vouches already"),
        (
            {"workloads": [cluster(issuer=IDP)], "identity_assertions": [provider()]},
            f"identity_assertions[0].issuer: {IDP} vouches already",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, sections: dict[str, Any], expected: str) -> None:
    found = problems(tmp_path, **sections)
    assert any(problem.startswith(expected) for problem in found), found


def test_a_trust_domain_needs_a_way_to_its_keys(tmp_path: Path) -> None:
    entry = spiffe()
    del entry["jwks_uri"]
    assert problems(tmp_path, workloads=[entry]) == [
        "workloads[0]: needs `jwks_uri` or `jwks_file`: the keys of a trust domain cannot be discovered"
    ]


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        ({"issuer": CLUSTER, "client_id": "robot"}, "knows workloads by `subject`, such as system:serviceaccount:"),
        ({"issuer": CLUSTER, "subject": "robot"}, "is none that https://kubernetes.default.svc gives"),
        ({"issuer": DOMAIN, "subject": "spiffe://other.org/robot"}, "is none that spiffe://example.org gives"),
        ({"issuer": DOMAIN, "subject": DOMAIN}, "is none that spiffe://example.org gives"),
        ({"issuer": "spiffe://other.org", "subject": "spiffe://other.org/robot"}, "unknown issuer"),
        ({"issuer": IDP, "subject": "robot"}, "unknown issuer"),
    ],
)
def test_a_binding_that_no_workload_can_have_is_a_mistake(
    tmp_path: Path, binding: dict[str, str], expected: str
) -> None:
    found = problems(tmp_path, workloads=[spiffe(), cluster()], identity_assertions=[provider()], agents=agent(binding))
    assert any(expected in problem for problem in found), found


def test_a_platform_vouches_only_for_agents_of_its_tenants(tmp_path: Path) -> None:
    binding = {"issuer": CLUSTER, "subject": "system:serviceaccount:prod:robot"}
    found = problems(tmp_path, workloads=[cluster()], agents=agent(binding, name="globex/robot"))
    assert "may not assert the tenant 'globex'" in found[0]


def test_one_workload_is_one_agent(tmp_path: Path) -> None:
    binding = {"issuer": CLUSTER, "subject": "system:serviceaccount:prod:robot"}
    found = problems(tmp_path, workloads=[cluster()], agents={**agent(binding), **agent(binding, name="acme/other")})
    assert "is bound to acme/robot already" in found[0]


def test_a_binding_never_means_a_workload_and_a_client_at_once(tmp_path: Path) -> None:
    login = {"issuer": CLUSTER, "algorithms": ["RS256"], "tenants": ["acme"], "claims": {"agent": "/azp"}}
    assert (
        "where another claim than /sub names the agent" in problems(tmp_path, issuers=[login], workloads=[cluster()])[0]
    )
    login["claims"] = {"agent": "/sub"}
    assert load(tmp_path, issuers=[login], workloads=[cluster()]).workloads


def test_exchange_needs_to_know_the_user(tmp_path: Path) -> None:
    login = {"issuer": IDP, "algorithms": ["RS256"], "tenants": ["acme"], "claims": {"agent": "/azp"}, "exchange": True}
    assert "exchange needs claims.user" in problems(tmp_path, issuers=[login])[0]
    login["claims"] = {"agent": "/azp", "user": "/sub"}
    assert load(tmp_path, issuers=[login]).issuers[0].exchange


@pytest.mark.parametrize("section", ["workloads", "identity_assertions", "issuers"])
def test_nobody_vouches_at_a_server_that_is_disabled(tmp_path: Path, section: str) -> None:
    login = {"issuer": IDP, "algorithms": ["RS256"], "tenants": ["acme"], "claims": {"agent": "/azp", "user": "/sub"}}
    more = {"workloads": [cluster()]} if section == "workloads" else {}
    more |= {"identity_assertions": [provider()]} if section == "identity_assertions" else {}
    found = problems(
        tmp_path, embedded={"enabled": False}, issuers=[{**login, "exchange": section == "issuers"}], **more
    )
    assert len(found) == 1
    assert "needs the embedded server, which is disabled" in found[0]


def test_what_cannot_be_read_is_not_reported_twice(tmp_path: Path) -> None:
    binding = {"issuer": CLUSTER, "subject": "system:serviceaccount:prod:robot"}
    found = problems(tmp_path, workloads=[cluster(kind="aws")], agents=agent(binding))
    assert len(found) == 1
