"""Erlang terms: what is one, and which line is to blame when it is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.chan.terms import INTEGER_DIGITS_MAX, Atom, Term, TermError, parse_terms, to_data
from drupelet.wire.limits import CHAN_CONF_DEPTH_MAX

terms = st.recursive(
    st.from_regex(r"[a-z][A-Za-z0-9_@]{0,9}", fullmatch=True).map(Atom)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10).filter(lambda t: "\r" not in t)
    | st.integers(-(10**17), 10**17),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=10,
)


def written(term: Term) -> str:
    match term:
        case Atom(text):
            return text
        case str():
            text = term.replace("\\", "\\\\").replace('"', '\\"')
            return '"' + text.replace("\n", "\\n") + '"'
        case tuple():
            return "{" + ", ".join(map(written, term)) + "}"
        case list():
            return "[" + ",".join(map(written, term)) + "]"
    return str(term)


@given(st.lists(terms, max_size=4), st.booleans())
def test_there_and_back(values: list[Term], dots: bool) -> None:
    text = ("." if dots else "") + "\n"
    found = parse_terms("".join(f"{written(value)}{text}" for value in values))
    assert found == [(line, value) for line, value in enumerate(values, 1)]
    for (_, one), other in zip(found, values, strict=True):
        assert type(one) is type(other)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{port,1234}.", (Atom("port"), 1234)),
        ("{ port , -7 } % a comment. {", (Atom("port"), -7)),
        ("'Quoted atom'", Atom("Quoted atom")),
        (r"'it\'s'", Atom("it's")),
        (r'"a \"b\" \\ \n\t\s%"', 'a "b" \\ \n\t %'),
        ("[]", []),
        ("{}", ()),
        ("[a,[1],{\n}]", [Atom("a"), [1], ()]),
        ("\ufefffirst", Atom("first")),
        ("a1@B_c", Atom("a1@B_c")),
        ('"Bärbel"', "Bärbel"),
    ],
)
def test_forms(text: str, value: Term) -> None:
    assert [term for _, term in parse_terms(text)] == [value]


def test_where_a_term_begins() -> None:
    text = "% first\n\n{a,\n 1}.\r\nb. c\n"
    assert [line for line, _ in parse_terms(text)] == [3, 5, 5]
    assert parse_terms("") == []


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("{port,1234\n{service", 1, "'}' is missing after a number"),
        ("a.\n{b,\n c\n\n", 3, "missing after a word"),
        ("{a,\n", 1, "the file ends"),
        ("{a 1}", 1, "missing after a word"),
        ('a.\n{b,"c}.\nd.', 2, "does not end on its line"),
        ("a.\n}", 2, "'}' where a term"),
        ("{a,}", 1, "'}' where a term"),
        ("[a}", 1, "']' is missing"),
        ("..", 1, "'.' where a term"),
        ("{port,Port}", 1, "capital letter"),
        ("_", 1, "capital letter"),
        ("\n{a,1.5}", 2, "missing after a number"),
        ("12a", 1, "begins no term"),
        ("#{}", 1, "'#' begins no term"),
        ("a.\n\n\x00", 3, "begins no term"),
        (r'"\q"', 1, r"\q in a text"),
        ("9" * (INTEGER_DIGITS_MAX + 1), 1, "too many digits"),
    ],
)
def test_the_line_is_named(text: str, line: int, words: str) -> None:
    with pytest.raises(TermError) as caught:
        parse_terms(text)
    assert caught.value.line == line
    assert words in str(caught.value)


def test_maxima_and_one_above() -> None:
    assert parse_terms("-" + "9" * INTEGER_DIGITS_MAX) == [(1, -(10**INTEGER_DIGITS_MAX) + 1)]
    deep = "[" * CHAN_CONF_DEPTH_MAX + "]" * CHAN_CONF_DEPTH_MAX
    assert len(parse_terms(deep)) == 1
    with pytest.raises(TermError, match="brackets"):
        parse_terms(f"[{deep}]")
    with pytest.raises(TermError, match="brackets"):
        parse_terms("{" * 50_000)


def test_atoms_become_text() -> None:
    [(_, term)] = parse_terms('{a, ["b", c], 1, {d}}')
    assert to_data(term) == ("a", ["b", "c"], 1, ("d",))


@given(st.text(alphabet="{}[],.\"'\\ \n%aZ_-10", max_size=40))
def test_junk_raises_nothing_else(text: str) -> None:
    try:
        found = parse_terms(text)
    except TermError as error:
        assert 1 <= error.line <= text.count("\n") + 1
    else:
        assert all(1 <= line <= text.count("\n") + 1 for line, _ in found)
