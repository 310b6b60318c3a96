"""The public documents of one configuration."""

from __future__ import annotations

import pytest

from twogate.flows.authserver.metadata import build_documents

ISSUER = "https://mcp.example.com"


def test_each_resource_is_found_by_its_path() -> None:
    documents = build_documents(ISSUER, [], [f"{ISSUER}/mcp/a", f"{ISSUER}/sessions"], [ISSUER], [])
    assert set(documents.resources) == {"/mcp/a", "/sessions"}


def test_an_embedded_server_that_is_not_in_use_is_not_advertised() -> None:
    resources = [f"{ISSUER}/mcp/a"]
    assert build_documents(ISSUER, [], resources, [ISSUER, "https://login.example"], []).authorization_server
    assert build_documents(ISSUER, [], resources, ["https://login.example"], []).authorization_server is None


@pytest.mark.parametrize("resource", ["https://evil.example/mcp/a", f"{ISSUER}.evil.example/mcp/a", ISSUER])
def test_a_resource_elsewhere_is_a_mistake(resource: str) -> None:
    with pytest.raises(ValueError, match="does not lie under"):
        build_documents(ISSUER, [], [resource], [ISSUER], [])


def test_an_issuer_with_a_path_or_without_authorization_server_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="origin"):
        build_documents(f"{ISSUER}/x", [], [], [ISSUER], [])
    with pytest.raises(ValueError, match="at least one"):
        build_documents(ISSUER, [], [f"{ISSUER}/mcp/a"], [], [])
