"""The states of a key."""

from __future__ import annotations

from itertools import product

import pytest

from twogate.core.keyring import TRANSITIONS, KeyState, PublicKey, change_state, published


def key(state: KeyState) -> PublicKey:
    return PublicKey("k", {"kty": "EC"}, state)


@pytest.mark.parametrize(("old", "new"), list(product(KeyState, KeyState)))
def test_a_key_changes_by_the_table_and_no_other_way(old: KeyState, new: KeyState) -> None:
    if new in TRANSITIONS[old]:
        assert change_state(key(old), new) == key(new)
    else:
        with pytest.raises(ValueError, match=f"{old.value} cannot become {new.value}"):
            change_state(key(old), new)


def test_a_planned_rotation_and_its_way_back_exist_and_nothing_leaves_deleted() -> None:
    path = [KeyState.STAGED, KeyState.ENABLED, KeyState.DISABLED, KeyState.ENABLED, KeyState.DISABLED, KeyState.DELETED]
    current = key(path[0])
    for state in path[1:]:
        current = change_state(current, state)
    assert TRANSITIONS[current.state] == frozenset()


def test_every_key_but_a_deleted_one_is_published() -> None:
    assert [k.state for k in published(map(key, KeyState))] == [KeyState.STAGED, KeyState.ENABLED, KeyState.DISABLED]
