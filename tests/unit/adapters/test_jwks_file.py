"""Keys in a file that somebody else keeps up to date."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.issuer import new_key
from twogate.adapters.jwks_file import FileKeys
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import MAX_DOCUMENT
from twogate.core.oauth.workload_token import WorkloadKind, key_uses


def jwks(*kids: str, **members: Any) -> str:
    return json.dumps({"keys": [{**new_key().as_dict(private=False), "kid": kid, **members} for kid in kids]})


async def kids(source: FileKeys) -> list[str | None]:
    return [key.kid for key in await source.keys(None)]


async def test_the_keys_are_those_of_the_file_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(jwks("a"))
    source = FileKeys(path)
    assert await kids(source) == ["a"]
    path.write_text(jwks("b", "c"))
    assert await kids(source) == ["b", "c"]


async def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(jwks("a"))
    source = FileKeys(path)
    assert (await source.keys(None))[0] is (await source.keys("x"))[0]


async def test_another_file_in_its_place_counts_although_it_looks_the_same(tmp_path: Path) -> None:
    path, other = tmp_path / "keys.json", tmp_path / "other.json"
    path.write_text(jwks("a"))
    source = FileKeys(path)
    assert await kids(source) == ["a"]
    other.write_text(jwks("b"))
    when = path.stat()
    os.utime(other, ns=(when.st_atime_ns, when.st_mtime_ns))
    # How a mounted volume swaps a file: one atomic rename.
    other.replace(path)
    assert await kids(source) == ["b"]


@pytest.mark.parametrize("content", [None, "", "{}", "not JSON", "x" * (MAX_DOCUMENT + 1)])
async def test_while_the_file_is_no_key_set_there_are_no_keys(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys.json"
    path.write_text(jwks("a"))
    source = FileKeys(path)
    assert await kids(source) == ["a"]
    path.unlink()
    if content is not None:
        path.write_text(content)
    for _ in range(2):
        with pytest.raises(GateError) as refusal:
            await source.keys(None)
        assert refusal.value.code is ErrorCode.KEYS_UNAVAILABLE
    path.write_text(jwks("b"))
    assert await kids(source) == ["b"]


async def test_of_a_spiffe_bundle_only_the_keys_for_jwt_svids_are_used(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    entries = [
        *json.loads(jwks("x509", use="x509-svid"))["keys"],
        *json.loads(jwks("jwt", use="jwt-svid"))["keys"],
    ]
    path.write_text(json.dumps({"keys": entries, "spiffe_sequence": 5, "spiffe_refresh_hint": 60}))
    assert await kids(FileKeys(path, key_uses(WorkloadKind.SPIFFE))) == ["jwt"]
