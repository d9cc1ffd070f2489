from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet import toml_text
from drupelet.errors import ConfigError
from drupelet.toml_text import ConfigErrors

TEXT = """\
top = 1
"quo ted" = 2  # [fake]
[a]
x = [
  "[b]",   # y = 1
  "z",
]
y = '''
w = 1
[c]
'''
"k.ey" = { q = 1 }
[ a . "b c" ]
z = "#"
v.u.t = 3
s = \"\"\"one \\
 [d]\"\"\"
r = "\\"[ "
q = 1
[[list]]
p = 1
[[list]]
p = 2
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 1),
        (("quo ted",), 2),
        (("a",), 3),
        (("a", "x"), 4),
        (("a", "y"), 8),
        (("a", "k.ey"), 12),
        (("a", "b c"), 13),
        (("a", "b c", "z"), 14),
        (("a", "b c", "v", "u", "t"), 15),
        (("a", "b c", "s"), 16),
        (("a", "b c", "r"), 18),
        (("a", "b c", "q"), 19),
        (("list",), 20),
        (("list", "p"), 21),
    ],
)
def test_lines_of_tables_and_keys(path: tuple[str, ...], line: int) -> None:
    assert toml_text.locate_all(TEXT)[path] == line


def test_nothing_inside_values_or_comments_is_taken_for_a_key() -> None:
    toml_text.parse_toml(TEXT, "t")  # the text is TOML at all
    found = {part for path in toml_text.locate_all(TEXT) for part in path}
    assert found.isdisjoint({"fake", "b", "c", "d", "w"})


def test_locate_falls_back_to_the_section_and_the_first_line() -> None:
    assert toml_text.locate(TEXT, "a", "x") == 4
    assert toml_text.locate(TEXT, "a", "missing") == 3
    assert toml_text.locate(TEXT, "", "top") == 1
    assert toml_text.locate(TEXT, "a") == 3
    assert toml_text.locate(TEXT, "missing", "x") == 1
    assert toml_text.locate("", "", "") == 1


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab=[]{}.\"'#\n\\ ,", max_size=120))
def test_junk_has_lines_within_the_text(text: str) -> None:
    lines = toml_text.locate_all(text)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text("abc-_", min_size=1, max_size=4),
        st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.integers(0, 9), max_size=4),
        max_size=4,
    ),
    st.integers(0, 3),
)
def test_every_key_of_a_written_text_is_found(
    tables: dict[str, dict[str, int]], blank_lines: int
) -> None:
    rows: list[str] = []
    expected = {}
    for name, table in tables.items():
        rows += [""] * blank_lines + [f"[{name}]"]
        expected[(name,)] = len(rows)
        for key, value in table.items():
            rows.append(f"{key} = {value}")
            expected[(name, key)] = len(rows)
    assert toml_text.locate_all("\n".join(rows)) == expected


# -- reading


def refusal(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        toml_text.read_text(path)
    assert caught.value.file == str(path)
    return caught.value


def test_read_text(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfname = 1\r\n")  # as Windows' editor saves it
    assert toml_text.read_text(path) == "name = 1\r\n"


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").what == "no such file"
    assert refusal(tmp_path).what == "is a directory"
    assert "cannot be read" in refusal(tmp_path / ("x" * 300)).what
    assert "cannot be read" in refusal(Path("a\x00b")).what
    path = tmp_path / "latin.toml"
    path.write_bytes("# ok\nname = 'über'\n".encode("latin-1"))
    error = refusal(path)
    assert (error.line, error.what) == (2, "byte 0xfc is not UTF-8")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("")
    path.chmod(0)
    assert refusal(path).what == "may not be read by this user"


def test_the_size_has_a_maximum(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"#" * toml_text.CONFIG_BYTES_MAX)
    assert len(toml_text.read_text(path)) == toml_text.CONFIG_BYTES_MAX
    path.write_bytes(b"#" * (toml_text.CONFIG_BYTES_MAX + 1))
    assert "is larger than 1048576 bytes" in refusal(path).what


# -- parsing


@pytest.mark.parametrize(
    ("text", "line", "what", "mend"),
    [
        ("a = 1\nb = = 2", 2, "Invalid value at column 5", "double quotes"),
        ("a = 1\na = 2", 2, "Cannot overwrite a value", "defined twice"),
        ("[a]\nb = 1\n[a]", 3, "twice", "defined twice"),
        ('a = "x\n"', 1, "", 'text in "quotes"'),
        ("a\n", 1, "Expected '=' after a key", "key = value"),
        ("\n\na = [1,\n2", 4, "", ""),
        ("a = " + "[" * 5000, 1, "nested too deep", "flatten"),
        ("a = " + "1" * 5000, 1, "", ""),
    ],
)
def test_syntax_errors_have_a_line(text: str, line: int, what: str, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        toml_text.parse_toml(text, "t.toml")
    error = caught.value
    assert (error.file, error.line or 1) == ("t.toml", line)
    assert what in error.what
    assert mend in error.mend
    assert str(error).isprintable()


def test_a_line_has_a_maximum() -> None:
    fits = "a = 1 #".ljust(toml_text.LINE_CHARS_MAX, "x")
    assert toml_text.parse_toml(f"\n{fits}\n", "t") == {"a": 1}
    with pytest.raises(ConfigError, match="t:2: the line has more than 16384 characters"):
        toml_text.parse_toml(f"\n{fits}x\n", "t")


def test_the_longest_key_is_parsed_in_bounded_time() -> None:
    parts = toml_text.LINE_CHARS_MAX // 2 - 2
    with pytest.raises(ConfigError):
        toml_text.parse_toml(".".join("a" * parts) + "=x", "t")
    assert len(toml_text.locate_all(".".join("a" * parts) + " = 1")) <= 8


# -- words


def test_suggest() -> None:
    assert toml_text.suggest("naem", ["name", "socket"]) == 'did you mean "name"?'
    assert toml_text.suggest("Name", ["name", "socket"]) == 'did you mean "name"?'
    assert toml_text.suggest("qqqq", ["b", "a"]) == "remove it or use one of: a, b"
    assert toml_text.suggest("x", []) == "remove it"


def test_problems_are_raised_together_and_capped() -> None:
    toml_text.raise_all([])
    one = ConfigError("w", mend="m", file="f", line=1)
    with pytest.raises(ConfigError) as single:
        toml_text.raise_all([one])
    assert single.value is one
    for count, rows in [(20, 20), (21, 21), (30, 21)]:
        many = [ConfigError(f"w{n}", mend="m", file="f", line=n) for n in range(1, count + 1)]
        with pytest.raises(ConfigErrors) as several:
            toml_text.raise_all(many)
        assert len(several.value.problems) == count
        assert len(str(several.value).split("\n")) == rows
    assert str(several.value).endswith("... and 10 more")
