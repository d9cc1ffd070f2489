"""What a relay keeps on disk: accounts, invites, and messages until they are taken.

Decides tables and transactions. A transaction is `commit(jobs)`: all of them, durable when it
returns, so what was answered "accepted" outlives kill -9 and a power cut. One process serves;
`drupelet-relay invite` and the like write the same file beside it, and `changed` tells the server.

Rules
- WAL with synchronous=FULL: nothing that was committed is lost in a power cut.
- One connection writes, one reads, each by one thread at a time.
- Each row has a checksum. A row that does not hold is deleted and counted, never delivered.
- A failed write is never tried again on the same file: `StoreFailed` ends the program; after its
  restart SQLite recovers what was committed.
- No wall clock: a message's time is counted in seconds that a relay has served, saved at each
  `tick`. While the relay is down no message grows older.

References: sqlite.org/wal.html, sqlite.org/atomiccommit.html; Rebello et al., "Can Applications
Recover from fsync Failures?" (2020).
Rejected: a file for each message (an fsync for each, and for its directory); NORMAL (loses the
last commits); a commit for each message (batches make 20 times as many of them a second).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, TypeAlias

from drupelet.core.relay import Account, Standing
from drupelet.errors import DrupeletError
from drupelet.wire.codec import dumps
from drupelet.wire.limits import MAILBOX_KEPT_S, RELAY_INVITES_MAX
from drupelet.wire.relay import EXPIRED, MESSAGE, RECEIPT

FILE_NAME: Final = "relay.sqlite3"
_INVITE_PERSON: Final = b"drupelet invite"
_SWEPT: Final = 256  # messages of one transaction that are over

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS accounts (
    key BLOB PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, standing TEXT NOT NULL,
    lifts INTEGER NOT NULL, version INTEGER NOT NULL, sum BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS invites (
    digest BLOB PRIMARY KEY, uses INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, recipient BLOB NOT NULL, sender BLOB NOT NULL,
    kind INTEGER NOT NULL, id BLOB NOT NULL, re BLOB, receipt INTEGER NOT NULL,
    until INTEGER NOT NULL, body BLOB NOT NULL, sum BLOB NOT NULL,
    UNIQUE (recipient, sender, kind, id)
) STRICT;
CREATE INDEX IF NOT EXISTS messages_in_order ON messages (recipient, number);
CREATE INDEX IF NOT EXISTS messages_by_end ON messages (until);
CREATE TABLE IF NOT EXISTS peers (
    key BLOB PRIMARY KEY, url TEXT NOT NULL, state TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER NOT NULL)
STRICT, WITHOUT ROWID;
"""
_ACCOUNT: Final = "key, name, email, standing, lifts, version, sum"
_FIELDS: Final = "number, recipient, sender, kind, id, re, receipt, until, body, sum"


class StoreFailed(DrupeletError):
    """The disk does not take writes; nothing more may be accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message in a mailbox. `number`: its place; 0 before it has one."""

    recipient: bytes
    sender: bytes
    kind: int
    id: bytes
    re: bytes | None
    receipt: bool
    until: int
    body: bytes
    number: int = 0

    def checksum(self) -> bytes:
        fields = [self.recipient, self.sender, self.kind, self.id, self.re, self.receipt]
        return _sum([*fields, self.until, self.body])


@dataclass(frozen=True, slots=True)
class Gone:
    """A message that has left its mailbox; its body is not needed any more."""

    sender: bytes
    recipient: bytes
    kind: int
    id: bytes
    receipt: bool
    size: int


Job: TypeAlias = Callable[["Store"], Any]


class Store:
    """The file in `directory`. Methods block; those that write are for jobs of `commit`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / FILE_NAME
        path.touch(mode=0o600)
        self.corrupt = 0  # rows that were found broken
        self._failed = False
        self._reader: sqlite3.Connection | None = None
        self._writer = _connect(path)
        try:
            _migrate(self._writer)
            self._writer.executescript(_SCHEMA)
            self._reader = _connect(path)
            self._reader.execute("PRAGMA query_only=ON")
            self._version = self._data_version()
            self._served_before = self._state("served_s")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()

    # -- transactions

    def commit(self, jobs: Sequence[Job]) -> list[Any]:
        """Run the jobs in one transaction; their results, when all is durable.

        Raises: `StoreFailed`, now and ever after.
        """
        if self._failed:
            raise StoreFailed("an earlier write failed")
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            results = [job(self) for job in jobs]
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._failed = True
            raise StoreFailed(str(error)) from error
        except BaseException:
            self._failed = True  # a bug in a job: what the transaction holds is unknown
            raise
        return results

    def changed(self) -> bool:
        """Whether another program has written since the last time."""
        before, self._version = self._version, self._data_version()
        return before != self._version

    def _data_version(self) -> int:
        # The writer's own view: it does not count its own commits.
        return int(self._writer.execute("PRAGMA data_version").fetchone()[0])

    # -- accounts and invites

    def accounts(self) -> list[Account]:
        """All of them that are whole."""
        rows = self._read(f"SELECT {_ACCOUNT} FROM accounts ORDER BY key")
        found = [_account(row) for row in rows]
        self.corrupt += found.count(None)
        return [account for account in found if account is not None]

    def put_account(self, account: Account, *, over_denied: bool = True) -> Account | None:
        """What is there now: it, written over what was there; None: that is denied, and stays so.

        Its `lifts` and `version` follow from what was there.
        """
        known = self._account(account.key)
        if known is not None and known.standing is Standing.DENIED and not over_denied:
            return None
        return self._write_account(account.after(known), known)

    def merge_account(self, account: Account) -> Account:
        """What is there now: another relay's word, or ours: that of higher rank."""
        known = self._account(account.key)
        if known is not None and known.rank >= account.rank:
            return known
        return self._write_account(account, known)

    def _account(self, key: bytes) -> Account | None:
        rows = self._writer.execute(f"SELECT {_ACCOUNT} FROM accounts WHERE key = ?", [key])
        return next((_account(row) for row in rows.fetchall()), None)

    def _write_account(self, account: Account, known: Account | None) -> Account:
        if account != known:
            fields = _account_fields(account)
            self._writer.execute(
                f"INSERT OR REPLACE INTO accounts ({_ACCOUNT}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [*fields, _sum(fields)],
            )
        return account

    def add_invite(self, code: bytes, uses: int) -> bool:
        """Take `code` for so many accounts; False: there are too many invites."""
        (count,) = self._writer.execute("SELECT count(*) FROM invites").fetchone()
        if count >= RELAY_INVITES_MAX:
            return False
        self._writer.execute("INSERT INTO invites VALUES (?, ?)", (_digest(code), uses))
        return True

    def use_invite(self, code: bytes) -> bool:
        """Whether `code` was good; it is used up by one."""
        digest = _digest(code)
        used = self._writer.execute("UPDATE invites SET uses = uses - 1 WHERE digest = ?", [digest])
        self._writer.execute("DELETE FROM invites WHERE uses <= 0")
        return used.rowcount == 1

    # -- messages

    def add(self, message: Message) -> bool:
        """Put it into its mailbox; False: it is there already."""
        row = self._writer.execute(
            "INSERT OR IGNORE INTO messages"
            " (recipient, sender, kind, id, re, receipt, until, body, sum)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                message.recipient,
                message.sender,
                message.kind,
                message.id,
                message.re,
                int(message.receipt),
                message.until,
                message.body,
                message.checksum(),
            ),
        )
        return row.rowcount == 1

    def read(
        self, recipient: bytes, after: int, count: int, size: int
    ) -> tuple[list[Message], list[int]]:
        """Messages after the number `after`, oldest first: at most `count`, and about `size` bytes.

        Besides, the numbers of broken ones, for `drop`.
        """
        found: list[Message] = []
        broken: list[int] = []
        assert self._reader is not None
        rows = self._reader.execute(
            f"SELECT {_FIELDS} FROM messages WHERE recipient = ? AND number > ? ORDER BY number",
            (recipient, after),
        )
        try:
            for row in rows:
                message = _message(row)
                if message.checksum() != row[-1]:
                    broken.append(message.number)
                    continue
                found.append(message)
                size -= len(message.body)
                if len(found) >= count or size <= 0:
                    break
        finally:
            rows.close()
        return found, broken

    def take(self, recipient: bytes, number: int) -> list[Gone]:
        """The recipient has all up to `number`."""
        where = "recipient = ? AND number <= ?"
        return self._delete(where, (recipient, number))

    def drop(self, numbers: Iterable[int]) -> list[Gone]:
        """Messages that are broken, or lie elsewhere now."""
        gone: list[Gone] = []
        for number in numbers:
            gone += self._delete("number = ?", (number,))
        return gone

    def expire(self, served_s: int) -> list[Gone]:
        """Messages whose time is over; some of them: call it again when there are any."""
        inner = "SELECT number FROM messages WHERE until <= ? ORDER BY until LIMIT ?"
        return self._delete(f"number IN ({inner})", (served_s, _SWEPT))

    def clear(self, recipient: bytes) -> list[Gone]:
        """All of a mailbox: its account is gone."""
        return self._delete("recipient = ?", (recipient,))

    def waiting(self) -> Iterable[tuple[bytes, bytes, int]]:
        """(sender, recipient, bytes of the body) of each message."""
        return self._read("SELECT sender, recipient, length(body) FROM messages")

    def _delete(self, where: str, arguments: tuple[Any, ...]) -> list[Gone]:
        rows = self._writer.execute(
            f"DELETE FROM messages WHERE {where}"
            " RETURNING sender, recipient, kind, id, receipt, length(body)",
            arguments,
        ).fetchall()
        return [Gone(s, r, kind, ident, bool(rec), size) for s, r, kind, ident, rec, size in rows]

    # -- other relays, for the owner to see

    def put_peers(self, peers: Iterable[tuple[bytes, str, str]]) -> None:
        """(key, address, how it stands) of each, instead of those before."""
        self._writer.execute("DELETE FROM peers")
        self._writer.executemany("INSERT INTO peers VALUES (?, ?, ?)", peers)

    def peers(self) -> list[tuple[bytes, str, str]]:
        """The same, as a relay has written it down that serves or served."""
        return [tuple(row) for row in self._read("SELECT key, url, state FROM peers ORDER BY url")]

    # -- time

    def served_s(self, running_s: float) -> int:
        """Seconds that relays have served with this file; this one for `running_s`."""
        return self._served_before + int(running_s)

    def tick(self, served_s: int) -> None:
        """Remember the time."""
        self._writer.execute("INSERT OR REPLACE INTO state VALUES ('served_s', ?)", [served_s])

    def _state(self, name: str) -> int:
        rows = list(self._read("SELECT value FROM state WHERE name = ?", name))
        return int(rows[0][0]) if rows else 0

    def _read(self, query: str, *arguments: Any) -> list[Any]:
        assert self._reader is not None
        return self._reader.execute(query, arguments).fetchall()


def receipt_of(gone: Gone, kind: int, served_s: int) -> Message | None:
    """What its sender is told, if he asked; `kind`: RECEIPT or EXPIRED."""
    assert kind in (RECEIPT, EXPIRED)
    if not gone.receipt or gone.kind != MESSAGE:
        return None
    return Message(
        recipient=gone.sender,
        sender=gone.recipient,
        kind=kind,
        id=gone.id,
        re=gone.id,
        receipt=False,
        until=served_s + MAILBOX_KEPT_S,
        body=b"",
    )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "busy_timeout=5000",
            "wal_autocheckpoint=1000",
            "journal_size_limit=4194304",
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "cell_size_check=ON",
            "cache_size=-512",  # KB; what is read again, the kernel has
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """The file of a relay that stood alone: its accounts had no `lifts` and `version`."""
    connection.execute("BEGIN IMMEDIATE")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(accounts)").fetchall()]
    if columns and "version" not in columns:
        rows = connection.execute("SELECT key, name, email, standing, sum FROM accounts").fetchall()
        for change in (
            "DELETE FROM accounts",
            "ALTER TABLE accounts ADD COLUMN lifts INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE accounts ADD COLUMN version INTEGER NOT NULL DEFAULT 1",
        ):
            connection.execute(change)
        for *fields, checksum in rows:
            if _sum(fields) == checksum:
                new = [*fields, 0, 1]
                connection.execute(
                    f"INSERT INTO accounts ({_ACCOUNT}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [*new, _sum(new)],
                )
    connection.execute("COMMIT")


def _account(row: tuple[Any, ...]) -> Account | None:
    """The account in a row; None: it does not hold."""
    *fields, checksum = row
    if _sum(fields) != checksum:
        return None
    key, name, email, standing, lifts, version = fields
    return Account(
        key=key,
        name=name,
        email=email,
        standing=Standing(standing),
        lifts=lifts,
        version=version,
    )


def _account_fields(account: Account) -> list[Any]:
    fields = [account.key, account.name, account.email, account.standing.value]
    return [*fields, account.lifts, account.version]


def _message(row: tuple[Any, ...]) -> Message:
    number, recipient, sender, kind, ident, re, receipt, until, body, _ = row
    return Message(
        recipient=recipient,
        sender=sender,
        kind=kind,
        id=ident,
        re=re,
        receipt=bool(receipt),
        until=until,
        body=body,
        number=number,
    )


def _sum(fields: list[Any]) -> bytes:
    return blake2b(dumps(fields), digest_size=8).digest()


def _digest(code: bytes) -> bytes:
    return blake2b(code, digest_size=16, person=_INVITE_PERSON).digest()
