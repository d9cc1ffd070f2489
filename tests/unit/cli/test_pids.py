from __future__ import annotations

import pytest

from drupelet.cli.awaiting import compile_line, make_compiler
from drupelet.cli.pids import (
    MESSAGE_CHARS_MAX,
    bare,
    parse_address,
    parse_pid,
    pids_in_code,
    shown,
    shown_address,
    shown_short,
)
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.notices import Down, Request

PIDS = [
    Pid("gandalf", 17, 42),
    Pid("gandalf@192.168.1.7", 1, 2**63 - 1),
    Pid("pi-1.kitchen", 0, 1),
    Pid("7", 7, 7),
]


@pytest.mark.parametrize("pid", PIDS, ids=str)
def test_what_is_printed_can_be_typed(pid: Pid) -> None:
    for text in (str(pid), bare(pid)):
        assert parse_pid(text) == pid
        assert parse_address(text) == pid
        if pid.node != "7":
            code = compile_line(f"f({text})", make_compiler(), {})
            assert code is not None
            assert str(pid) in code.co_consts or bare(pid) in code.co_consts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gandalf",
        "<gandalf.1>",
        "<gandalf.1.2",
        "gandalf.1.2>",
        "gandalf.01.2",
        "gandalf.1.-2",
        "<<gandalf.1.2>>",
        "gandalf.1.2 ",
        "#Ref<gandalf.1.2>",
        f"gandalf.1.{2**63}",
        "-a.1.2",
        "a@b@c.1.2",
    ],
)
def test_anything_else_is_no_pid(text: str) -> None:
    with pytest.raises(ValueError):
        parse_pid(text)


def test_addresses() -> None:
    assert parse_address("resa_server") == ("resa_server", "")
    assert parse_address("resa_server@bilbo") == ("resa_server", "bilbo")
    assert parse_address("kvs.Kvs@bilbo@10.0.0.1") == ("kvs.Kvs", "bilbo@10.0.0.1")
    assert parse_address("a.1.2@bilbo") == ("a.1.2", "bilbo")  # a name, as it says its node
    for text in ("", "a b", "a@", "@bilbo", "<gandalf.1.2", "#Ref<gandalf.1.2>"):
        with pytest.raises(ValueError):
            parse_address(text)


def test_pids_in_code_leave_texts_and_comments_alone() -> None:
    source = """send(<gandalf.1.2>, ("<a.1.2>", 'a.1.2')); x = a.b.c * 1.5  # to <gandalf.1.2>"""
    wanted = source.replace("send(<gandalf.1.2>", 'send(__pid__("gandalf.1.2")')
    assert pids_in_code(source) == wanted
    text = '"""\n<a.1.2>\n""" + \'\\\'<a.1.2>\''
    assert pids_in_code(text) == text
    assert pids_in_code("link(a.1.2)") == 'link(__pid__("a.1.2"))'
    for valid in ("x.y1.z2", "1.5", "x < 1.5 > y", "f(x)[1.2]", "a.b.__class__"):
        assert pids_in_code(valid) == valid


def test_values_read_as_python_with_pids_as_text() -> None:
    pid, ref = Pid("g", 1, 2), Ref("g", 1, 3)
    assert shown((pid, [ref, (1,)], {"a": pid, 2: b"x"}, "<g.1.2>")) == (
        "(<g.1.2>, [#Ref<g.1.3>, (1,)], {'a': <g.1.2>, 2: b'x'}, '<g.1.2>')"
    )
    assert shown(Down(ref, pid, ("ValueError", "bad"))) == (
        "Down(ref=#Ref<g.1.3>, pid=<g.1.2>, reason=('ValueError', 'bad'))"
    )
    request = Request((pid, ref), "connect")
    assert shown(request) == "Request(caller=(<g.1.2>, #Ref<g.1.3>), request='connect')"
    endless: list[object] = []
    endless.append(endless)
    assert shown(endless) == "[[...]]"


def test_what_a_peer_sent_stays_on_its_line() -> None:
    assert "\x1b" not in shown_short("\x1b[2J\n")
    assert len(shown_short("x" * MESSAGE_CHARS_MAX)) == MESSAGE_CHARS_MAX
    assert shown_short("x" * (MESSAGE_CHARS_MAX - 2)).endswith("x'")


def test_addresses_are_shown_as_they_are_typed() -> None:
    assert shown_address(Pid("g", 1, 2)) == "g.1.2"
    assert shown_address(("resa", "g")) == "resa@g"
    assert (shown_address("resa"), shown_address(None), shown_address(7)) == ("resa", "", "7")
