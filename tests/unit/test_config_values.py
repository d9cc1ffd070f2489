from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet import config_values as values
from drupelet.config_values import BadValue, Check, Peer
from drupelet.wire import ids, limits

BASE = Path("/base")


@pytest.mark.parametrize(
    ("check", "value", "result"),
    [
        (values.boolean, True, True),
        (values.boolean, False, False),
        (values.port, 0, 0),
        (values.port, 65_535, 65_535),
        (values.path_of, "a/b", Path("/base/a/b")),
        (values.path_of, "/a", Path("/a")),
        (values.socket_path, "/" + "s" * 106, Path("/" + "s" * 106)),
        (values.optional_socket_path, "", None),
        (values.optional_socket_path, "a", Path("/base/a")),
        (values.address, "::", "::"),
        (values.address, "192.168.1.7", "192.168.1.7"),
        (values.address, "fe80::1%eth0", "fe80::1%eth0"),
        (values.interface, "a" * 15, "a" * 15),
        (values.interface, "fe80::1", "fe80::1"),
        (values.node_name, "n" * 63, "n" * 63),
        (values.node_name, "a_b-9@shire", "a_b-9@shire"),
        (values.node_name, "a@shire.example.org", "a@shire.example.org"),
        (values.node_name, "a@10.0.0.1", "a@10.0.0.1"),
        (values.peer, "a@h:1", Peer(name="a", host="h", port=1)),
        (values.peer, "a@h.local:65535", Peer(name="a", host="h.local", port=65_535)),
        (values.peer, "a@[::1]:4370", Peer(name="a", host="::1", port=4370)),
    ],
)
def test_good_values(check: Check, value: object, result: object) -> None:
    assert check(value, BASE) == result


@pytest.mark.parametrize(
    ("check", "value", "what"),
    [
        (values.boolean, 1, "must be true or false, not a whole number"),
        (values.boolean, "true", "must be true or false, not text"),
        (values.port, -1, "-1 is no port"),
        (values.port, 65_536, "65536 is no port"),
        (values.port, True, "must be a whole number, not true or false"),
        (values.port, 4370.0, "must be a whole number, not a number with a point"),
        (values.path_of, "", '"" is no path'),
        (values.path_of, "a\x00b", "is no path"),
        (values.path_of, "~/x", "~ is not expanded"),
        (values.path_of, ["a"], "must be text, not a list"),
        (values.path_of, datetime.date(1979, 5, 27), "must be text, not a date or time"),
        (values.socket_path, "/" + "s" * 107, "has 108 bytes, Unix allows 107"),
        (values.socket_path, "/" + "\u00e9" * 54, "has 109 bytes"),
        (values.address, "gandalf", "is no IP address"),
        (values.address, "1.2.3.4:5", "is no IP address"),
        (values.address, "224.0.0.251", "is a multicast address"),
        (values.interface, "a" * 16, "is no network interface"),
        (values.interface, "e th", "is no network interface"),
        (values.interface, "", "is no network interface"),
        (values.node_name, "n" * 64, "has 64 characters"),
        (values.node_name, "", "is no node name"),
        (values.node_name, "-a", "is no node name"),
        (values.node_name, "gandalf the grey", "is no node name"),
        (values.node_name, "a/b", "is no node name"),
        (values.node_name, "a\n", "is no node name"),
        (values.node_name, "a@", "is no host name"),
        (values.node_name, "a@b..c", "is no host name"),
        (values.node_name, "a@::1", "is no host of a name"),
        (values.node_name, "a@b.", "is no host name"),
        (values.node_name, "a@-b", "is no host name"),
        (values.node_name, "a@192.168.1.700", "is no host name"),
        (values.node_name, "a@" + "b." * 63 + "c", "has 129 characters"),
        (values.peer, "bilbo", "is not name@host:port"),
        (values.peer, "bilbo@host", "is not name@host:port"),
        (values.peer, "@host:1", "is no node name"),
        (values.peer, "a@:1", "is not name@host:port"),
        (values.peer, "a@h:0", '"0" is no port'),
        (values.peer, "a@h:65536", '"65536" is no port'),
        (values.peer, "a@h:x", '"x" is no port'),
        (values.peer, "a@h:\u0661", "is no port"),
        (values.peer, "a@::1:4370", "needs brackets"),
        (values.peer, "a@[h]:1", "is no IPv6 address"),
        (values.peer, "a@[1.2.3.4]:1", "is no IPv6 address"),
        (values.peer, "a@b c:1", "is no host name"),
        (values.one_of("x", "y"), "z", '"z" is not known'),
        (values.one_of("x", "y"), 3, "must be text"),
    ],
)
def test_bad_values(check: Check, value: object, what: str) -> None:
    with pytest.raises(BadValue) as caught:
        check(value, BASE)
    assert what in caught.value.what
    assert caught.value.mend
    assert caught.value.what.isprintable()


def test_a_number_too_long_for_str_is_refused_like_others() -> None:
    with pytest.raises(BadValue, match="that number is no port"):
        values.port(16**5000, BASE)


def test_a_node_name_leaves_room_for_mission_and_function_in_a_target() -> None:
    host = ("b" * 60 + ".") * 2
    name = "a@" + host + "c" * (values.NODE_NAME_CHARS_MAX - len(host) - 2)
    assert values.node_name(name, BASE) == name
    target = "/".join([name, "m" * limits.NAME_CHARS_MAX, "f" * limits.NAME_CHARS_MAX])
    assert len(target) == limits.TARGET_BYTES_MAX
    with pytest.raises(BadValue, match="has 128 characters"):
        values.node_name(name + "c", BASE)


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="aZ0-_.@:[]/ \n\u00e9", max_size=12))
def test_a_node_name_is_a_name_on_the_wire_too(word: str) -> None:
    try:
        values.node_name(word, BASE)
    except BadValue:
        return
    assert ids.check_name(word) == word


def test_lists_have_bounds_and_no_doubles() -> None:
    check = values.list_of(values.port, 2, "[1]", count_min=1)
    assert check([1, 2], BASE) == (1, 2)
    for value, what in [([], "has 0 entries"), ([1, 2, 3], "has 3"), ([1, 1], "1 stands twice")]:
        with pytest.raises(BadValue, match=what):
            check(value, BASE)
    with pytest.raises(BadValue, match="must be a list, not a whole number"):
        check(1, BASE)


def test_a_peer_is_written_as_it_is_read() -> None:
    for text in ("a@h:1", "a@[fe80::1%eth0]:4370", "a@10.0.0.1:2"):
        assert str(values.peer(text, BASE)) == text


def test_what_is_shown_is_one_short_printable_line() -> None:
    assert values.show("a\nb\x07") == '"a\\nb\\u0007"'
    assert values.show("\u202e") == '"?"'
    assert len(values.show("x" * 200)) == 80


@pytest.mark.parametrize(
    "text",
    ["relay.example.org", "http://relay.example.org", "https://", "https://x/y", "https://x:0",
     "https://x:65536", "ftp://x", "https://a b", "https://192.168.1.700"],
)  # fmt: skip
def test_what_is_no_address_of_a_relay(text: str) -> None:
    with pytest.raises(BadValue):
        values.relay_url(text, Path("/"))


def test_addresses_of_relays_and_invites() -> None:
    for text in ("", "https://x", "https://[::1]:8443", "http://127.0.0.1:80", "http://localhost"):
        assert values.relay_url(text, Path("/")) == text
    assert values.relay_urls("", BASE) == () == values.relay_urls([], BASE)
    assert values.relay_urls("https://x/", BASE) == ("https://x",)
    four = [f"https://relay{number}.example.org" for number in range(limits.RELAY_URLS_MAX)]
    assert values.relay_urls(four, BASE) == tuple(four)
    for wrong in ([*four, "https://x"], ["https://x", "https://x/"], [""], [1], 1, "x", ["x"]):
        with pytest.raises(BadValue):
            values.relay_urls(wrong, BASE)
    assert values.email("", BASE) == ""
    longest = "a@" + "b" * (limits.RELAY_EMAIL_CHARS_MAX - 2)
    for text in ("alice@example.org", longest):
        assert values.email(text, BASE) == text
    for wrong in (longest + "b", "alice", "a@b@c", "@", "a b@c", "a@\u202eb"):
        with pytest.raises(BadValue, match="no email address"):
            values.email(wrong, BASE)
    assert values.invite_code("", Path("/")) == ""
    assert values.optional_path("", Path("/")) is None
    for wrong in ("x", "a" * 25, "a" * 27, "1" * 26, "a" * 25 + "b"):
        with pytest.raises(BadValue, match="no invite's code"):
            values.invite_code(wrong, Path("/"))


def test_rates_and_numbers() -> None:
    for text in ("1000/s", "10/m", "3/20s", "1000000/d"):
        assert values.rate(text, BASE) == text
    for wrong in ("1000", "0/s", "1/x", "1000001/s", "1/2d", "", "1000/s/s", 1_000, ["1/s"]):
        with pytest.raises(BadValue) as caught:
            values.rate(wrong, BASE)
        assert "1000/s" in caught.value.mend
    check = values.number(1, 1_024)
    assert [check(each, BASE) for each in (1, 256, 1_024)] == [1, 256, 1_024]
    for wrong in (0, 1_025, -1, True, "256", 1.0):
        with pytest.raises(BadValue):
            check(wrong, BASE)
