from __future__ import annotations

import importlib
import inspect

import pytest

from drupelet.cli.grammar import parse, usage_line, verb_help
from drupelet.cli.verbs import VERBS


@pytest.mark.parametrize("name", [name for name in VERBS if name != "help"])
def test_every_verb_has_help_with_purpose_and_examples(name: str) -> None:
    for argv in ([name, "--help"], ["help", name], ["-h", name]):
        request = parse(argv, VERBS)
        assert (request.verb.name, request.arguments) == ("help", (name,))
    verb = VERBS[name]
    text = verb_help(verb)
    assert usage_line(verb) in text
    assert verb.purpose.endswith(".")
    assert verb.examples
    assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_every_handler_is_there(verb: object) -> None:
    module, _, function = verb.handler.partition(":")  # type: ignore[attr-defined]
    handler = getattr(importlib.import_module(f"drupelet.cli.{module}"), function)
    assert list(inspect.signature(handler).parameters) == ["request"]


def test_the_verbs_of_this_issue() -> None:
    named = (
        "status nodes ping why names call cast casts multicall shell metrics missions version "
        "demo run chan nl ps trace lesson grant accept forget narrow grants revoke log pair "
        "sign relay"
    )
    assert set(named.split()) | {"completion", "help"} == set(VERBS)


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_examples_parse(verb: object) -> None:
    for example in verb.examples:  # type: ignore[attr-defined]
        words = example.removeprefix("echo ").split("|")[-1 if "| drupelet" in example else 0]
        words = words.replace("source <(", "").replace(")", "").partition(" > ")[0].split()
        assert words[0] == "drupelet"
        assert parse(words[1:], VERBS).verb is verb
