"""The text of a grant's file: both ways, through mail, and refused when it is another thing."""

from __future__ import annotations

import base64
import quopri
import textwrap
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.codec import dumps, loads
from drupelet.wire.grant_files import (
    PREFIX,
    GrantFile,
    decode_grant_file,
    encode_grant_file,
)
from drupelet.wire.grants import Grant, Terms, issue
from drupelet.wire.limits import (
    GRANT_ADDRESSES_MAX,
    GRANT_FILE_CHARS_MAX,
    RELAY_URL_CHARS_MAX,
    RELAY_URLS_MAX,
)

ALICE, BOB = b"a" * 32, b"b" * 32
ADDRESS = st.tuples(st.sampled_from(["192.168.1.7", "fd00::1", "pi.local"]), st.integers(1, 65_535))


def grant(*, bearer: bool = False) -> Grant:
    terms = Terms(functions=("temp",), rate=(10, 60))
    key = sodium.ed25519_public(BOB)
    return issue(ALICE, key, "kitchen", terms, b"12345678", sequence=1, bearer=bearer)


FILE = GrantFile(grant=grant(), name="alice", addresses=(("192.168.1.7", 4370),))
SECRET = GrantFile(grant=grant(bearer=True), name="alice", seed=BOB)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(ADDRESS, max_size=GRANT_ADDRESSES_MAX).map(tuple), st.booleans())
def test_what_is_written_is_read(addresses: tuple[tuple[str, int], ...], bearer: bool) -> None:
    seed = BOB if bearer else None
    file = GrantFile(grant=grant(bearer=bearer), name="alice", addresses=addresses, seed=seed)
    assert decode_grant_file(encode_grant_file(file)) == file


def test_it_says_in_words_what_it_is() -> None:
    lines = encode_grant_file(FILE).splitlines()
    assert lines[0].startswith("# The holder of key ")
    assert lines[0].endswith("may call temp of the mission kitchen on alice, 10 times a minute, "
                             "until it is revoked.")  # fmt: skip
    assert lines[1].startswith(PREFIX)
    assert encode_grant_file(SECRET).splitlines()[1] == "# Keep it secret: it is a key."
    assert "seed" not in repr(SECRET) and repr(BOB) not in repr(SECRET)


def test_it_survives_mail() -> None:
    text = encode_grant_file(FILE)
    for changed in (text.replace("\n", "\r\n"), f"\n\n{text}\n# bye\n", text.strip(), f"  {text}"):
        assert decode_grant_file(changed.replace("  #", "#")) == FILE


@pytest.mark.parametrize(
    "text",
    ["", "# only words", "hello", f"{PREFIX}", f"{PREFIX}!!!", f"{PREFIX}AAAA", "drupelet-grant"],
)
def test_what_is_no_file(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_grant_file(text)


@pytest.mark.parametrize("width", [40, 72, 76])
@pytest.mark.parametrize("file", [FILE, SECRET])
def test_lines_that_mail_broke(file: GrantFile, width: int) -> None:
    words, *_, line = encode_grant_file(file).splitlines()
    broken = [line[at : at + width] for at in range(0, len(line), width)]
    wrapped = "\n".join([*textwrap.wrap(words, width), *broken])
    quoted = "\r\n".join(f"> > {each}" for each in wrapped.splitlines())
    printable = quopri.encodestring(encode_grant_file(file).encode()).decode()
    for text in (wrapped, f"Hello,\n{wrapped}\n\nBye", f"{wrapped}\n-- \nAlice", quoted, printable):
        assert decode_grant_file(text) == file
    for missing in range(len(broken)):  # each of its lines counts
        parts = broken[:missing] + broken[missing + 1 :]
        with pytest.raises(RemoteProtocolError, match=r"begins with|attached to a mail"):
            decode_grant_file("\n".join(parts))


def test_what_was_changed_on_its_way_says_what_to_do() -> None:
    line = encode_grant_file(FILE).splitlines()[-1]
    changed = line[:200] + ("A" if line[200] != "A" else "B") + line[201:]
    for text in (line[:-9], changed):
        with pytest.raises(RemoteProtocolError, match="ask for it again, as a file attached"):
            decode_grant_file(text)


def test_two_lines_and_cut_lines() -> None:
    line = encode_grant_file(FILE).splitlines()[-1]
    with pytest.raises(RemoteProtocolError, match="one line"):
        decode_grant_file(f"{line}\n{line}")
    for length in range(len(PREFIX), len(line) - 1, 7):
        with pytest.raises(RemoteProtocolError):
            decode_grant_file(line[:length])


def rewritten(**changes: object) -> str:
    body = encode_grant_file(SECRET).splitlines()[-1].removeprefix(PREFIX)
    fields = loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))) | changes
    fields = {key: value for key, value in fields.items() if value is not None}
    return PREFIX + base64.urlsafe_b64encode(dumps(fields)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "later version"),
        ({"version": True}, "later version"),
        ({"name": "no such name"}, "not a name"),
        ({"seed": ALICE}, "not the holder's"),
        ({"seed": b"short"}, "malformed key"),
        ({"seed": None}, "is missing"),
        ({"grant": b"junk"}, "."),
        ({"addresses": [["host"]]}, "malformed address"),
        ({"addresses": [["host", 0]]}, "malformed address"),
        ({"addresses": [["", 1]]}, "malformed address"),
        ({"addresses": [["host", True]]}, "malformed address"),
        ({"addresses": [["host", 1]] * (GRANT_ADDRESSES_MAX + 1)}, "more than 8"),
        ({"more": 1}, "later version"),
    ],
)
def test_fields_are_checked(changes: dict[str, object], words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        decode_grant_file(rewritten(**changes))
    assert decode_grant_file(rewritten()) == SECRET


def test_size_at_the_maximum_and_one_above() -> None:
    text = encode_grant_file(FILE)
    most = text + "#" + "x" * (GRANT_FILE_CHARS_MAX - len(text) - 1)
    assert decode_grant_file(most) == FILE
    with pytest.raises(RemoteProtocolError, match="at most"):
        decode_grant_file(most + "x")


def test_the_relay_of_its_node_is_in_it() -> None:
    file = replace(FILE, relays=("https://relay.example.org",))
    assert decode_grant_file(encode_grant_file(file)) == file
    longest = replace(FILE, relays=("r" * RELAY_URL_CHARS_MAX,))
    assert decode_grant_file(encode_grant_file(longest)) == longest
    too_long = encode_grant_file(replace(FILE, relays=("r" * (RELAY_URL_CHARS_MAX + 1),)))
    with pytest.raises(RemoteProtocolError, match="malformed relay"):
        decode_grant_file(too_long)


def test_several_relays_of_its_node() -> None:
    urls = tuple(f"https://relay{number}.example.org" for number in range(RELAY_URLS_MAX))
    for count in range(RELAY_URLS_MAX + 1):
        file = replace(FILE, relays=urls[:count])
        assert decode_grant_file(encode_grant_file(file)) == file
        assert file.relay == (urls[0] if count else "")
    too_many = replace(FILE, relays=(*urls, "https://one.more"))
    with pytest.raises(RemoteProtocolError, match="malformed relay"):
        decode_grant_file(encode_grant_file(too_many))


@pytest.mark.parametrize("relay", [[], ["https://one"], ["https://one", ""], ["https://one", 1], 1])
def test_relays_that_are_written_otherwise(relay: object) -> None:
    """One as text and more as a list: a file that came before lists reads as it did."""
    fields = {"addresses": [], "grant": FILE.grant.data, "name": "alice", "version": 1}
    body = base64.urlsafe_b64encode(dumps({**fields, "relay": relay})).rstrip(b"=").decode()
    with pytest.raises(RemoteProtocolError, match="malformed relay"):
        decode_grant_file(f"{PREFIX}{body}\n")
    body = base64.urlsafe_b64encode(dumps({**fields, "relay": "https://one"})).rstrip(b"=").decode()
    assert decode_grant_file(f"{PREFIX}{body}\n").relays == ("https://one",)
