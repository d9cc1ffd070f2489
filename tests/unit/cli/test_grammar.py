from __future__ import annotations

import pytest

from drupelet.cli.grammar import Request, UsageError, general_help, parse
from drupelet.cli.verbs import VERBS


def parsed(*argv: str) -> Request:
    return parse(list(argv), VERBS)


def test_general_options_stand_anywhere() -> None:
    for argv in (
        ("--socket", "/s", "--json", "ping", "bilbo"),
        ("ping", "--socket=/s", "bilbo", "--json"),
    ):
        request = parsed(*argv)
        assert (request.verb.name, request.arguments) == ("ping", ("bilbo",))
        assert (request.socket, request.json) == ("/s", True)


def test_numbers_are_arguments_and_a_double_dash_ends_the_options() -> None:
    request = parsed("call", "n", "m", "f", "-1", "-.5", "--timeout", "2", "-", "--", "--x", "--")
    assert request.arguments == ("n", "m", "f", "-1", "-.5", "-", "--x", "--")
    assert request.seconds("timeout", 5.0) == 2.0
    assert parsed("--", "nodes").verb.name == "nodes"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["frob", "x"], "unknown verb 'frob'"),
        (["pong"], "did you mean ping"),
        (["ping"], "needs NODE"),
        (["call", "n", "m"], "needs FUNCTION"),
        (["ping", "a", "b"], "'b'"),
        (["ping", "a", "--nonsense"], "unknown option --nonsense"),
        (["call", "n", "m", "f", "--dashes"], "write -- before"),
        (["--socket"], "needs a value"),
        (["grant", "light", "--to", "--only", "temp"], "--to needs a value: --to KEY"),
        (["--json=1", "nodes"], "takes no value"),
        (["completion", "tcsh"], "one of bash, zsh, fish"),
        (["shell", "--json"], "no meaning"),
    ],
)
def test_mistakes_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parsed(*argv)
    assert message in str(raised.value)


@pytest.mark.parametrize("text", ["0", "-1", "x", "inf", "nan", ""])
def test_seconds_are_positive_and_finite(text: str) -> None:
    with pytest.raises(UsageError):
        parsed("ping", f"--timeout={text}", "a").seconds("timeout", 5.0)


@pytest.mark.parametrize(("text", "good"), [("1", True), ("16", True), ("0", False), ("17", False)])
def test_integers_have_bounds(text: str, good: bool) -> None:
    request = parsed("demo", "-n", text)
    if good:
        assert request.integer("nodes", 3, 1, 16) == int(text)
        return
    with pytest.raises(UsageError):
        request.integer("nodes", 3, 1, 16)


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"], ["--socket", "/s"]])
def test_help_of_the_program(argv: list[str]) -> None:
    assert parsed(*argv).verb.name == "help"
    assert all(name in general_help(VERBS) for name in VERBS)
