"""Idempotency keys: one run, one content, one holder; full, lost and old."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drupelet.core import once as core
from drupelet.core.freshness import KEPT_MAX, TOKEN_S
from drupelet.core.once import DONE_KEPT_S, ONCE_KEPT_S, Ended, OnceRecord, OnceTable, content_of
from drupelet.errors import RateLimited, RemoteError, Timeout, error_from_fields
from drupelet.wire.codec import dumps, loads

BOB, DAVE = b"b" * 32, b"d" * 32
KEY = b"k" * 16
BOIL = content_of("kitchen/boil", dumps([1]))


def test_a_key_runs_once_and_keeps_its_outcome() -> None:
    table = OnceTable()
    record = table.begin(BOB, KEY, BOIL, 0.0)
    assert record == OnceRecord(caller=BOB, key=KEY, content=BOIL, left_s=ONCE_KEPT_S)
    assert table.begin(BOB, KEY, BOIL, 1.0) is None
    ended = table.end((BOB, KEY), dumps("hot"), None, 10.0)
    assert ended == replace(record, left_s=ONCE_KEPT_S - 10, outcome=(dumps("hot"), None))
    assert table.begin(BOB, KEY, BOIL, 11.0) == Ended(dumps("hot"), None)


def test_a_key_belongs_to_its_holder() -> None:
    table = OnceTable()
    assert isinstance(table.begin(BOB, KEY, BOIL, 0.0), OnceRecord)
    assert isinstance(table.begin(DAVE, KEY, BOIL, 0.0), OnceRecord)


def test_a_key_has_one_content() -> None:
    table = OnceTable()
    table.begin(BOB, KEY, BOIL, 0.0)
    for other in (content_of("kitchen/boil", dumps([2])), content_of("kitchen/fry", dumps([1]))):
        with pytest.raises(RemoteError, match="used for another call"):
            table.begin(BOB, KEY, other, 0.0)


def test_a_run_that_never_began_uses_no_key() -> None:
    table = OnceTable()
    table.begin(BOB, KEY, BOIL, 0.0)
    table.forget((BOB, KEY))
    assert isinstance(table.begin(BOB, KEY, BOIL, 0.0), OnceRecord) and len(table) == 1


def test_a_key_is_forgotten_after_its_time_but_not_while_it_runs() -> None:
    table = OnceTable()
    table.begin(BOB, KEY, BOIL, 0.0)
    table.handle_timer(ONCE_KEPT_S + 1)
    assert table.begin(BOB, KEY, BOIL, ONCE_KEPT_S + 1) is None
    table.end((BOB, KEY), None, b"", ONCE_KEPT_S + 2)
    table.handle_timer(ONCE_KEPT_S + 2)
    assert len(table) == 0


def test_after_a_start_what_was_begun_may_have_run() -> None:
    former, table = OnceTable(), OnceTable()
    begun = former.begin(BOB, KEY, BOIL, 0.0)
    done = former.begin(DAVE, KEY, BOIL, 0.0)
    assert isinstance(begun, OnceRecord) and isinstance(done, OnceRecord)
    table.restore([begun, done, former.end((DAVE, KEY), dumps(1), None, 5.0)], 100.0)
    ended = table.begin(BOB, KEY, BOIL, 100.0)
    assert isinstance(ended, Ended) and ended.error is not None
    error = error_from_fields(loads(ended.error))
    assert isinstance(error, Timeout) and error.maybe_ran
    assert table.begin(DAVE, KEY, BOIL, 100.0) == Ended(dumps(1), None)
    assert [each.left_s for each in table.records(101.0)] == [ONCE_KEPT_S - 1, ONCE_KEPT_S - 6]
    table.handle_timer(100.0 + ONCE_KEPT_S)
    assert len(table) == 0


def test_in_doubt_what_is_not_known_is_refused_until_the_doubt_is_over() -> None:
    table = OnceTable()
    table.restore([OnceRecord(caller=DAVE, key=KEY, content=BOIL, left_s=9.0)], 0.0)
    table.doubt(10.0)
    assert table.doubt_left_s(4.0) == 6.0 and table.doubt_left_s(11.0) == 0.0
    with pytest.raises(RemoteError, match="may have run") as caught:
        table.begin(BOB, KEY, BOIL, 9.9)
    assert caught.value.kind == "damaged"
    assert isinstance(table.begin(DAVE, KEY, BOIL, 9.9), Ended)  # what is known is answered
    assert isinstance(table.begin(BOB, KEY, BOIL, 10.0), OnceRecord)


@pytest.mark.parametrize("name", ["ONCE_KEYS_MAX", "ONCE_KEYS_PER_CALLER_MAX"])
def test_keys_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(core, name, 2)
    table = OnceTable()
    for number in range(2):
        table.begin(BOB, bytes([number]) * 16, BOIL, 0.0)
    with pytest.raises(RateLimited) as caught:
        table.begin(BOB, KEY, BOIL, 100.0)
    assert caught.value.retry_after_s == ONCE_KEPT_S - 100  # then the first of them goes
    assert table.begin(BOB, bytes(16), BOIL, 0.0) is None  # one that is known is not new
    if name == "ONCE_KEYS_PER_CALLER_MAX":
        assert isinstance(table.begin(DAVE, KEY, BOIL, 0.0), OnceRecord)


def test_bytes_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "ONCE_BYTES_MAX", 1_000)
    for size, kept in ((1_000 - core._ENTRY_BYTES, True), (1_001 - core._ENTRY_BYTES, False)):
        table = OnceTable()
        table.begin(BOB, KEY, BOIL, 0.0)
        record = table.end((BOB, KEY), bytes(size), None, 0.0)
        assert record.outcome is not None and (record.outcome[0] is not None) is kept
    table.end((BOB, KEY), bytes(1_000 - core._ENTRY_BYTES), None, 0.0)
    with pytest.raises(RateLimited):
        table.begin(DAVE, KEY, BOIL, 0.0)


def test_a_key_that_is_never_sent_again_goes_when_nothing_old_is_fresh_any_more() -> None:
    assert DONE_KEPT_S > KEPT_MAX * TOKEN_S
    table = OnceTable()
    place = (BOB, KEY)
    assert table.done(place, 0.0) is None  # it is not known
    table.begin(BOB, KEY, BOIL, 0.0)
    assert table.done(place, 1.0) is None  # it runs
    table.end(place, bytes(1_000), None, 2.0)
    record = table.done(place, 10.0)
    assert record is not None and record.left_s == DONE_KEPT_S
    assert record.outcome is not None and record.outcome[0] is None
    table.handle_timer(10.0 + DONE_KEPT_S - 1)
    assert isinstance(table.begin(BOB, KEY, BOIL, 11.0), Ended)  # a copy on its way
    table.handle_timer(10.0 + DONE_KEPT_S)
    assert len(table) == 0 and table._bytes == 0
    table.begin(BOB, KEY, BOIL, 200.0)
    table.end(place, b"", None, 200.0)
    soon = table.done(place, 200.0 + ONCE_KEPT_S - 1)
    assert soon is not None and soon.left_s == 1.0  # its time is over before


def test_time_is_looked_at_only_when_something_may_be_over() -> None:
    table = OnceTable()
    for number in range(100):
        table.begin(BOB, bytes([number]) * 16, BOIL, float(number))
        table.end((BOB, bytes([number]) * 16), b"", None, float(number))
    table.handle_timer(ONCE_KEPT_S - 1)
    assert len(table) == 100
    for number in range(100):
        table.handle_timer(ONCE_KEPT_S + number)
        assert len(table) == 99 - number
