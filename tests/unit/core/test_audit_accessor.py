"""Accessors name a value without revealing it."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from twogate.core.audit.accessor import Accessors

KEY = b"k" * 32


def test_an_accessor_is_the_key_id_and_the_start_of_an_hmac() -> None:
    expected = hmac.new(KEY, b"arguments\0value", hashlib.sha256).hexdigest()[:20]
    assert Accessors("a1", KEY).of("arguments", b"value") == f"a1:{expected}"


def test_kind_key_and_value_each_change_the_digest() -> None:
    one = Accessors("a1", KEY)
    made = {one.of("x", b"v"), one.of("y", b"v"), one.of("x", b"w"), Accessors("a1", b"j" * 32).of("x", b"v")}
    assert len(made) == 4
    assert one.of("x", b"v") == one.of("x", b"v")


@pytest.mark.parametrize("kind", ["", "a\0b"])
def test_a_kind_that_could_be_mistaken_for_a_value_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="kind"):
        Accessors("a1", KEY).of(kind, b"")


def test_short_keys_and_odd_key_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        Accessors("a1", b"k" * 31)
    for key_id in ("", "A1", "a:1", "a" * 17):
        with pytest.raises(ValueError, match="id"):
            Accessors(key_id, KEY)


def test_the_key_does_not_show() -> None:
    assert "kkkk" not in repr(Accessors("a1", KEY))
