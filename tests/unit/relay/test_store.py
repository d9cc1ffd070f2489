"""The relay's file: what was committed is there, and nothing else."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drupelet.core.relay import Account, Standing
from drupelet.relay import store as stores
from drupelet.relay.store import FILE_NAME, Message, Store, StoreFailed, receipt_of
from drupelet.wire.codec import dumps
from drupelet.wire.limits import RELAY_INVITES_MAX
from drupelet.wire.relay import EXPIRED, MESSAGE, RECEIPT

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
CODE = b"i" * 16


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


def message(number: int, **changed: object) -> Message:
    made = Message(
        recipient=A,
        sender=B,
        kind=MESSAGE,
        id=number.to_bytes(16, "big"),
        re=None,
        receipt=False,
        until=100,
        body=b"body",
    )
    return replace(made, **changed)  # type: ignore[arg-type]


def add(store: Store, *messages: Message) -> list[bool]:
    return store.commit([lambda store, one=one: store.add(one) for one in messages])


def ids(store: Store, recipient: bytes = A, after: int = 0) -> list[int]:
    found, _ = store.read(recipient, after, 1_000, 10_000_000)
    return [int.from_bytes(one.id, "big") for one in found]


def test_messages_come_in_order_and_go_when_taken(store: Store) -> None:
    assert add(store, message(1), message(2), message(3), message(9, recipient=C)) == [True] * 4
    found, broken = store.read(A, 0, 2, 1_000)
    assert [one.id[-1] for one in found] == [1, 2] and broken == []
    assert replace(found[0], number=0) == message(1)
    assert ids(store, after=found[1].number) == [3]
    assert len(store.read(A, 0, 10, 8)[0]) == 2  # bytes count as well
    [gone] = store.commit([lambda store: store.take(A, found[1].number)])
    assert [(one.sender, one.recipient, one.size) for one in gone] == [(B, A, 4)] * 2
    assert ids(store) == [3] and ids(store, C) == [9]
    assert sorted(store.waiting()) == [(B, A, 4), (B, C, 4)]


def test_the_same_message_again_is_one(store: Store) -> None:
    assert add(store, message(1)) == [True]
    assert add(store, message(1), message(1, sender=C), message(1, kind=RECEIPT)) == [
        False,
        True,
        True,
    ]


def test_numbers_are_not_used_again(store: Store) -> None:
    add(store, message(1))
    first = store.read(A, 0, 1, 1)[0][0].number
    store.commit([lambda store: store.take(A, first)])
    add(store, message(2))
    assert store.read(A, 0, 1, 1)[0][0].number > first


def test_what_is_over_goes(store: Store) -> None:
    add(store, message(1, until=10, receipt=True), message(2, until=11), message(3, until=12))
    [gone] = store.commit([lambda store: store.expire(11)])
    assert [one.id[-1] for one in gone] == [1, 2]
    assert ids(store) == [3]
    receipt = receipt_of(gone[0], EXPIRED, 11)
    assert receipt is not None and (receipt.recipient, receipt.re) == (B, gone[0].id)
    assert receipt_of(gone[1], EXPIRED, 11) is None
    assert receipt_of(replace(gone[0], kind=RECEIPT), RECEIPT, 11) is None
    [cleared] = store.commit([lambda store: store.clear(A)])
    assert len(cleared) == 1 and ids(store) == []


def test_a_flipped_bit_is_found(store: Store, tmp_path: Path) -> None:
    add(store, message(1), message(2), message(3))
    with sqlite3.connect(tmp_path / FILE_NAME) as other:
        other.execute("UPDATE messages SET body = x'626f6479ff' WHERE number = 2")
    other.close()
    found, broken = store.read(A, 0, 10, 100)
    assert [one.id[-1] for one in found] == [1, 3]
    [gone] = store.commit([lambda store: store.drop(broken)])
    assert len(gone) == 1 and ids(store) == [1, 3]


def test_accounts_are_kept_and_a_denied_one_stays_denied(tmp_path: Path) -> None:
    alice = Account(key=A, name="alice", email="a@b", standing=Standing.PENDING)
    denied = replace(alice, key=B, standing=Standing.DENIED)
    store = Store(tmp_path)
    store.commit([lambda store: store.put_account(alice), lambda store: store.put_account(denied)])
    again = replace(denied, standing=Standing.APPROVED)
    assert store.commit([lambda store: store.put_account(again, over_denied=False)]) == [None]
    store.close()
    store = Store(tmp_path)
    assert store.accounts() == [alice, denied]
    lifted = replace(again, lifts=1, version=2)
    assert store.commit([lambda store: store.put_account(again)]) == [lifted]
    assert store.accounts() == [alice, lifted]
    with sqlite3.connect(tmp_path / FILE_NAME) as other:
        other.execute("UPDATE accounts SET standing = 'approved' WHERE key = ?", [A])
    other.close()
    assert store.accounts() == [lifted] and store.corrupt == 1
    store.close()


def test_of_two_relays_words_the_one_of_higher_rank_is_kept(store: Store) -> None:
    pending = Account(key=A, name="alice", email="a@b", standing=Standing.PENDING)
    approved = replace(pending, standing=Standing.APPROVED, version=2)
    merge = store.merge_account
    assert store.commit([lambda _: merge(pending), lambda _: merge(approved)])[1] == approved
    assert store.commit([lambda _: merge(pending)]) == [approved]
    denied = replace(pending, standing=Standing.DENIED, version=2)
    assert store.commit([lambda _: merge(denied), lambda _: merge(approved)])[1] == denied
    assert store.accounts() == [denied]


def test_the_file_of_a_relay_that_stood_alone_is_taken_over(tmp_path: Path) -> None:
    fields = [A, "alice", "a@b", "denied"]
    with sqlite3.connect(tmp_path / FILE_NAME) as old:
        old.execute(
            "CREATE TABLE accounts (key BLOB PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL,"
            " standing TEXT NOT NULL, sum BLOB NOT NULL) STRICT, WITHOUT ROWID"
        )
        sums = [hashlib.blake2b(dumps(fields), digest_size=8).digest(), b"is broken"]
        old.execute("INSERT INTO accounts VALUES (?, ?, ?, ?, ?)", [*fields, sums[0]])
        old.execute("INSERT INTO accounts VALUES (?, ?, ?, ?, ?)", [B, *fields[1:], sums[1]])
    old.close()
    account = Account(key=A, name="alice", email="a@b", standing=Standing.DENIED)
    for _ in range(2):
        store = Store(tmp_path)
        assert store.accounts() == [account]
        store.close()


def test_how_the_peers_stand(store: Store) -> None:
    assert store.peers() == []
    both = [(A, "https://a", "in step"), (B, "https://b", "away: x")]
    store.commit([lambda store: store.put_peers(both)])
    store.commit([lambda store: store.put_peers(both[1:])])
    assert store.peers() == both[1:]


def test_an_invite_is_used_up(store: Store, tmp_path: Path) -> None:
    assert store.commit([lambda store: store.add_invite(CODE, 2)]) == [True]
    use = [lambda store: store.use_invite(CODE)]
    assert [store.commit(use)[0] for _ in range(3)] == [True, True, False]
    assert store.commit([lambda store: store.use_invite(b"x" * 16)]) == [False]
    store.commit([lambda store: store.add_invite(CODE, 1)])
    assert CODE not in (tmp_path / FILE_NAME).read_bytes()  # who reads the file cannot use it


def test_invites_at_the_maximum_and_one_above(store: Store) -> None:
    def code(number: int) -> stores.Job:
        return lambda store: store.add_invite(number.to_bytes(16, "big"), 1)

    assert all(store.commit([code(number) for number in range(RELAY_INVITES_MAX)]))
    assert store.commit([code(RELAY_INVITES_MAX)]) == [False]


def test_the_words_of_another_program_are_noticed(store: Store, tmp_path: Path) -> None:
    add(store, message(1))
    assert not store.changed()
    other = Store(tmp_path)
    other.commit([lambda store: store.add_invite(CODE, 1)])
    other.close()
    assert store.changed() and not store.changed()


def test_time_is_counted_on_after_a_restart(store: Store, tmp_path: Path) -> None:
    assert store.served_s(5.9) == 5
    store.commit([lambda store: store.tick(7_000)])
    again = Store(tmp_path)
    assert again.served_s(3.0) == 7_003
    again.close()


def test_after_a_failed_write_nothing_is_accepted(store: Store) -> None:
    def failing(store: Store) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(StoreFailed, match="I/O"):
        store.commit([lambda store: store.add(message(1)), failing])
    with pytest.raises(StoreFailed, match="earlier"):
        add(store, message(2))
    assert ids(store) == []


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    Store(tmp_path / "new").close()
    assert (tmp_path / "new" / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_the_file_is_durable_by_its_settings(store: Store) -> None:
    found = {
        name: store._writer.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "trusted_schema", "cell_size_check")
    }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "trusted_schema": 0,
        "cell_size_check": 1,
    }


ACCEPTING = """
import os, sys, trio
from pathlib import Path
from drupelet.relay.store import Message, Store
from drupelet.relay.writing import Writer

def message(number):
    return Message(recipient=b"a" * 32, sender=b"b" * 32, kind=0, id=number.to_bytes(16, "big"),
                   re=None, receipt=False, until=100, body=bytes(3_000))

async def accept(writer, first):
    for number in range(first, first + 10_000):
        await writer.write(lambda store: store.add(message(number)))
        os.write(1, b"%d\\n" % number)

async def main():
    writer = Writer(Store(Path(sys.argv[1])))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        for task in range(8):
            nursery.start_soon(accept, writer, int(sys.argv[2]) + task * 10_000)

trio.run(main)
"""


def test_a_killed_program_loses_nothing_that_it_accepted(tmp_path: Path) -> None:
    accepted: set[int] = set()
    for life in range(4):
        first = life * 100_000
        command = [sys.executable, "-c", ACCEPTING, str(tmp_path), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            lines = [program.stdout.readline() for _ in range(40 + 7 * life)]
            os.kill(program.pid, signal.SIGKILL)
            lines += program.stdout.read().splitlines(keepends=True)  # said before it died
        accepted |= {int(line) for line in lines if line.endswith(b"\n")}
    store = Store(tmp_path)
    missing = accepted - set(ids(store))
    store.close()
    assert len(accepted) >= 160 and not missing
