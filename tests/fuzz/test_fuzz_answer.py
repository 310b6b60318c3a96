import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fuzz.invariants import IDENTIFIER, attempt, check_answer, exact
from twogate.core.errors import ErrorCode
from twogate.core.json_stream import ResponseScanner

texts = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=30,
)
results = st.dictionaries(st.sampled_from(["content", "structuredContent", "isError", "x", "\u00fc"]), values)
layouts = st.sampled_from(
    [{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":"), "ensure_ascii": False}]
)
places = st.lists(st.floats(0, 1), max_size=6)
tokens = st.sampled_from(
    [
        *("{", "}", "[", "]", ",", ":", " ", "\n", '""', '"a"', '"\\ud83d\\ude00"', '"\\ud83d', "\\", '"'),
        *("0", "-1.5e3", "1e309", "true", "nul", '"a":1', '"_meta":{', '"taskId"', '"cacheScope":"public"', "[[[1]]],"),
    ]
)
insertions = st.binary(max_size=3) | tokens.map(str.encode)


def text(result: dict[str, Any], layout: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": IDENTIFIER, "result": result}, **layout).encode()


def pieces(raw: bytes, at: list[float]) -> list[bytes]:
    bounds = [0, *sorted(round(place * len(raw)) for place in at), len(raw)]
    return [raw[a:b] for a, b in pairwise(bounds)]


@given(results, layouts, places)
def test_every_result_passes_with_its_value_however_it_is_cut(
    result: dict[str, Any], layout: dict[str, Any], at: list[float]
) -> None:
    raw = text(result, layout)
    scanner = ResponseScanner(IDENTIFIER)
    given = b"".join(map(scanner.feed, pieces(raw, at))) + scanner.finish()
    assert exact(json.loads(given)) == exact(json.loads(raw))
    assert check_answer(raw) == given


@given(results, layouts, st.data())
def test_a_mutated_answer_passes_exactly_if_every_parser_reads_it_alike(
    result: dict[str, Any], layout: dict[str, Any], data: st.DataObject
) -> None:
    raw = bytearray(text(result, layout))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 4))] = data.draw(insertions)
    check_answer(bytes(raw))


@given(st.lists(tokens, max_size=25).map("".join))
def test_a_soup_of_tokens_passes_exactly_if_it_is_a_result(soup: str) -> None:
    check_answer(f'{{"jsonrpc":"2.0","id":1,"result":{{"a":[{soup}]}}}}'.encode())
    check_answer(f'{{"jsonrpc":"2.0","id":1,"result":{{{soup}}}}}'.encode())


@given(results, layouts, st.data())
def test_a_part_of_an_answer_is_never_complete(
    result: dict[str, Any], layout: dict[str, Any], data: st.DataObject
) -> None:
    raw = text(result, layout)
    scanner = ResponseScanner(IDENTIFIER)
    scanner.feed(raw[: data.draw(st.integers(0, len(raw) - 1))])
    assert attempt(scanner.finish) is ErrorCode.UPSTREAM_INVALID
