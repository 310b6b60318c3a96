import pytest

from twogate.config.document import MAX_DEPTH, Document, read_document


def messages(document: Document) -> list[str]:
    return [message for _, _, message in document.problems]


def test_scalars_follow_the_core_schema_and_quoted_ones_are_text() -> None:
    document = read_document("a: 1\nb: '1'\nc: true\nd: yes\ne: ~\nf:\ng: 1.10\nh: 007\ni: 0x1f\nj: |\n  text\n")
    assert document.problems == []
    assert document.data == {
        "a": 1, "b": "1", "c": True, "d": "yes", "e": None, "f": None, "g": "1.10", "h": "007", "i": "0x1f",
        "j": "text\n",
    }  # fmt: skip


def test_every_key_and_item_has_its_line_and_others_the_line_around_them() -> None:
    document = read_document("a:\n  b: 1\n  c:\n    - x\n    - {y: 2}\n")
    assert document.line(("a", "b")) == 2
    assert document.line(("a", "c", 1)) == 5
    assert document.line(("a", "c", 1, "y")) == 5
    assert document.line(("a", "c", 7, "z")) == 3
    assert document.line(("nowhere",)) == 1


def test_keys_are_always_text() -> None:
    assert read_document("1: a\ntrue: b\nnull: c\n").data == {"1": "a", "true": "b", "null": "c"}


def test_a_duplicate_key_is_reported_with_both_lines_and_the_first_one_kept() -> None:
    document = read_document("a: 1\nb: {c: 1,\n  c: {d: [2]}}\na: 3\n")
    assert document.data == {"a": 1, "b": {"c": 1}}
    assert [(line, path) for line, path, _ in document.problems] == [(3, ("b", "c")), (4, ("a",))]
    assert "first in line 2" in messages(document)[0]


def test_environment_references_are_plain_text() -> None:
    assert read_document("a: ${HOME}\n").data == {"a": "${HOME}"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\n", "anchors"),
        ("&x a: 1\n", "anchors"),
        ("a: *x\n", "aliases"),
        ("a: !!str 1\n", "tags"),
        ("a: !!python/object/apply:os.system [x]\n", "tags"),
        ("a: ! 1\n", "tags"),
        ("<<: {a: 1}\n", "merge keys"),
        ("%YAML 1.1\n---\na: 1\n", "directives"),
        ("%TAG ! tag:x,2000:\n---\na: 1\n", "directives"),
        ("a: 1\n---\nb: 2\n", "second document"),
        ("? [a]\n: 1\n", "a key must be plain text"),
        ("{a: 1}: 1\n", "a key must be plain text"),
        ("a: [1\n", "not valid YAML"),
        ("a:\n\t- x\n", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("a: 'x", "not valid YAML"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: str, message: str) -> None:
    assert any(message in found for found in messages(read_document(text)))


def test_nesting_is_capped_without_recursion() -> None:
    fine = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert read_document(fine).problems == []
    assert "nested more than" in messages(read_document("[" * 50_000))[0]


def test_a_billion_laughs_stays_small() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n"
    document = read_document(text)
    assert document.data["a11"] == [None] * 9
    assert "aliases (*name) are not accepted; write the value out" in messages(document)
