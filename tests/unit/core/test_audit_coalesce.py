"""A flood of refusals becomes a few events and true counts."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from twogate.core.audit.coalesce import OTHER, Coalesced, Coalescer


def test_the_first_of_each_reason_is_written_and_the_rest_counted() -> None:
    coalescer = Coalescer(window=10)
    assert [coalescer.note("a", code, 0.0) for code in ("x", "x", "y", "x")] == [True, False, True, False]
    assert coalescer.due(9.9) == []
    assert coalescer.due(10.0) == [Coalesced("a", "x", 2)]
    assert coalescer.note("a", "x", 10.0)


def test_addresses_do_not_hide_each_other() -> None:
    coalescer = Coalescer()
    assert coalescer.note("a", "x", 0.0)
    assert coalescer.note("b", "x", 0.0)


def test_reasons_beyond_a_few_are_counted_together() -> None:
    coalescer = Coalescer(max_codes=2)
    assert [coalescer.note("a", code, 0.0) for code in "wxyz"] == [True, True, False, False]
    assert coalescer.due(math.inf) == [Coalesced("a", OTHER, 2)]


def test_a_full_table_counts_further_addresses_in_one_entry() -> None:
    coalescer = Coalescer(max_addresses=2)
    written = [coalescer.note(str(address), "x", 0.0) for address in range(1000)]
    assert written == [True, True, True] + [False] * 997
    assert coalescer.due(math.inf) == [Coalesced(OTHER, "x", 997)]


def test_what_could_not_be_written_is_counted_again() -> None:
    coalescer = Coalescer()
    coalescer.note("a", "x", 0.0)
    coalescer.give_back("a", "x", 1, 1.0)
    coalescer.give_back("b", "x", 5, 1.0)
    assert coalescer.due(math.inf) == [Coalesced("a", "x", 1), Coalesced("b", "x", 5)]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.floats(0, 5))))
def test_every_refusal_is_either_written_or_counted(notes: list[tuple[str, str, float]]) -> None:
    coalescer = Coalescer(window=3, max_addresses=3, max_codes=2)
    now, written, counted = 0.0, 0, Counter[str]()
    for address, code, step in notes:
        now += step
        written += coalescer.note(address, code, now)
        for due in coalescer.due(now):
            counted[due.address] += due.count
    for due in coalescer.due(math.inf):
        counted[due.address] += due.count
    assert written + counted.total() == len(notes)
    assert len(counted) <= len("abcdef") + 1
