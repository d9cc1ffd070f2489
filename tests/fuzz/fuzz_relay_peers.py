"""Junk from another relay: logins, batches, answers; and batches that hold, through the decisions.

After each batch a relay must still be able to tell its peer all there is, in batches that hold.
"""

from __future__ import annotations

from contextlib import suppress

import harness

with harness.instrumented():
    from drupelet.core.relay import Accounts, Catalogue
    from drupelet.core.relay_peers import Peers, of_peer
    from drupelet.errors import LocalProtocolError, NotSendable, RemoteProtocolError
    from drupelet.wire.announcements import decode_announcement
    from drupelet.wire.codec import dumps, loads
    from drupelet.wire.limits import RELAY_VERSION_TOP
    from drupelet.wire.relay import RelayRefused
    from drupelet.wire.relay_peers import (
        Batch,
        PeerAccount,
        PeerAnnounce,
        PeerMail,
        PeerPresent,
        PeerWithdraw,
        decode_account,
        decode_answers,
        decode_batch,
        decode_login,
        encode_answers,
        encode_batch,
        encode_peer,
        keys_in,
        open_welcome,
    )

HERE, THERE = b"h" * 32, b"t" * 32  # the two relays
RUN, THEIRS = b"r" * 16, bytes(16)


def one_input(data: bytes) -> None:
    _decoders(data)
    batch = _batch(data)
    if batch is None:  # the same, as a list of messages that are not encoded yet
        try:
            parts = loads(data)
            if isinstance(parts, list) and len(parts) <= 64:
                batch = _batch(dumps([0, [dumps(part) for part in parts]]))
        except (RemoteProtocolError, LocalProtocolError, NotSendable):
            pass
    if batch is not None:
        _hear(batch)


def _decoders(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        assert encode_peer(decode_login(data)) == data
    with suppress(RemoteProtocolError):
        assert encode_answers(decode_answers(data, 2)) == data
    for value in (data, [data[:32], data[32:96], len(data)]):
        with suppress(RemoteProtocolError):
            open_welcome(value, THERE, HERE, bytes(32))
    with suppress(RemoteProtocolError):
        assert encode_peer(decode_account(data)) == data


def _batch(data: bytes) -> Batch | None:
    try:
        batch = decode_batch(data)
    except RemoteProtocolError:
        return None
    assert encode_batch(batch.idle_ms, [encode_peer(said) for said in batch.messages]) == data
    return batch


def _hear(batch: Batch) -> None:
    peers, accounts, catalogue = Peers([THERE]), Accounts(), Catalogue(RUN)
    catalogue.begin(THERE, THEIRS)
    peers.entered(THERE, THEIRS, 0.0)
    peers.linked(THERE, 0, [], [])
    now = 1.0
    assert 0.0 <= peers.heard(THERE, batch.idle_ms / 1_000, now) <= now
    told = set()
    for said in batch.messages:
        now += 0.5
        match said:
            case PeerAccount():
                account = of_peer(said)
                known = accounts.get(account.key)
                if known is None or account.rank > known.rank:
                    accounts.put(account)
                told.add(said.key)
                written = account.after(known)  # as if our owner said it
                if known is not None and RELAY_VERSION_TOP not in (known.lifts, known.version):
                    assert written is known or written.rank > known.rank
            case PeerAnnounce(announcement=data, age_ms=age_ms):
                try:
                    shown = decode_announcement(data)
                    catalogue.announce_from(THERE, shown, age_ms / 1_000, now)
                except (RemoteProtocolError, RelayRefused):
                    pass
            case PeerWithdraw(key=key):
                catalogue.withdraw_from(THERE, key)
            case PeerPresent(come=come, gone=gone):
                peers.hear_gone(THERE, keys_in(gone))
                for key in peers.hear_presence(THERE, said, keys_in(come)):
                    assert peers.wanted(key)
            case PeerMail(to=to):
                peers.came(to)
        while to := peers.next_mail(THERE):
            if peers.may_move(THERE, to, 1, now):
                peers.moved(THERE, to, "not_found", now)
    peers.handle_timer(now)
    assert peers.next_timer() > now
    found = set()
    while batch_told := peers.batch(THERE, accounts, catalogue, now):
        decode_batch(encode_batch(0, [one.data for one in batch_told]))
        for one in batch_told:
            peers.answered(THERE, one, "")
            if isinstance(one.message, PeerAccount):
                found.add(one.message.key)
    assert found == told


if __name__ == "__main__":
    harness.fuzz("relay_peers", one_input)
