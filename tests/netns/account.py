"""An account at a relay, without a node: blocking, and also what a good node would never say.

    python -m tests.netns.account calls URL CA_FILE TICKS FILE...

`calls`: one account for each grant's file, the holder of file N has `seed_of(N)` and is
approved. On each of TICKS
ticks of 0.1 s each calls light/on once, through the relay. Prints how many were answered with what.

http.client, and the sans-IO machines of `core` and `wire`: nothing of the daemon's own code for
relays.
"""

from __future__ import annotations

import functools
import http.client
import itertools
import json
import os
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from drupelet.core.requests import Caller, Outcome, Sent, Wanted
from drupelet.errors import CallError
from drupelet.relay.main import invite_code
from drupelet.wire import relay as wire
from drupelet.wire import sodium
from drupelet.wire.announcements import Beacon, decode_beacon, encode_announcement, encode_offers
from drupelet.wire.codec import dumps, loads, loads_canonical
from drupelet.wire.grant_files import GrantFile, decode_grant_file
from tests.netns.internet import connect_from
from tests.netns.stranger import key_of, seed_of

ANSWER_S = 30.0
TICK_S = 0.1
CALL_S = 50.0
BEACON_S = 10.0


class _Https(http.client.HTTPSConnection):
    namespace = ""

    def connect(self) -> None:
        """Out of the namespace, where there is one."""
        if not self.namespace:
            super().connect()
            return
        plain = connect_from(self.namespace, self.host, self.port, ANSWER_S)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(plain, server_hostname=self.host)


class Account:
    """The one of the holder `number`, at a relay. `namespace`: out of which it connects."""

    def __init__(self, url: str, ca_file: Path, number: int, namespace: str = "") -> None:
        self.seed = seed_of(number)
        self.key = sodium.ed25519_public(self.seed)
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.host = parts.hostname
        context = ssl.create_default_context(cafile=str(ca_file))
        self._http = _Https(self.host, parts.port, timeout=ANSWER_S, context=context)
        self._http.namespace = namespace
        self._refs = itertools.count(1)
        self._session = b""
        self._sequence = 0
        self.run_id = b""

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    # -- the relay's protocol

    def login(self, *, seed: bytes | None = None, key: bytes | None = None) -> None:
        """Prove a key. Raises: `RelayRefused`."""
        nonce = self._hello()
        proof = wire.prove(seed or self.seed, "login", self.host, nonce)
        said = wire.Login(ref=0, key=key or self.key, audience=self.host, signature=proof)
        self._session = self._say(said, {"Drupelet-Nonce": nonce.hex()})

    def register(self, *, invite: str = "", email: str | None = None) -> None:
        """Make the account. Raises: `RelayRefused`."""
        nonce = self._hello()
        proof = wire.prove(self.seed, "register", self.host, nonce)
        said = wire.Register(
            ref=0,
            key=self.key,
            audience=self.host,
            signature=proof,
            name="stranger",
            invite=invite_code(invite) if invite else None,
            email=email,
        )
        self._say(said, {"Drupelet-Nonce": nonce.hex()})

    def ask(self, message: Any) -> Any:
        """The answer's value. Raises: `RelayRefused`."""
        return self._say(message, {"Authorization": f"Bearer {self._session.hex()}"})

    def announcement(self, offers: dict[str, tuple[bytes, ...]]) -> bytes:
        """One of a node with this key, newer than the last."""
        self._sequence += 1
        return encode_announcement(
            self.seed,
            name="stranger",
            boot_key=sodium.x25519_public(self.seed),
            token=bytes(16),
            run=self.run_id,
            sequence=self._sequence,
            offers=encode_offers(self.key, offers),
            with_offers=True,
        )

    def catalogue(self) -> dict[str, list[str]]:
        """Whom this account sees: name -> missions."""
        entries = self.ask(wire.Catalogue(ref=0, after=b""))
        return {name: missions for _, name, _, missions in entries}

    def beacon(self, file: GrantFile) -> Beacon:
        """Of the node that issued a grant."""
        entry = self.ask(wire.Find(ref=0, node=file.grant.issuer, grant=file.grant.data))
        return decode_beacon(entry[2])

    def send(self, sent: Sent) -> None:
        """A request; waits as long as the relay says."""
        said = wire.Send(
            ref=0, to=sent.to, id=sent.id, re=None, kept_s=600, receipt=False, body=sent.body
        )
        while True:
            try:
                self.ask(said)
                return
            except wire.RelayRefused as refusal:
                if refusal.code not in ("rate_limited", "busy", "mailbox_full"):
                    raise
                time.sleep(max(refusal.retry_after_s, 0.05))

    def poll(self, after: int, wait_s: float) -> list[wire.Deliver]:
        """What came behind that number; it is acknowledged."""
        headers = {"Authorization": f"Bearer {self._session.hex()}"}
        body = self._request("GET", f"/v1/messages?after={after}&wait_s={wait_s}", b"", headers)
        parts = loads_canonical(body)
        assert isinstance(parts, list), wire.decode_from_relay(body)
        messages = [wire.decode_from_relay(each) for each in parts]
        found = [each for each in messages if isinstance(each, wire.Deliver)]
        if found:
            self.ask(wire.Ack(ref=0, number=found[-1].number))
        return found

    def _hello(self) -> bytes:
        hello = wire.decode_from_relay(self._request("GET", "/v1/hello", b"", {}))
        assert isinstance(hello, wire.Hello)
        self.run_id = hello.run
        return hello.nonce

    def _say(self, message: Any, headers: dict[str, str]) -> Any:
        message = replace(message, ref=next(self._refs))
        told = wire.decode_from_relay(
            self._request("POST", "/v1/say", wire.encode(message), headers)
        )
        if isinstance(told, wire.Refused):
            raise wire.RelayRefused(told.code, told.text, told.retry_after_ms / 1_000)
        assert isinstance(told, wire.Done) and told.ref == message.ref
        return told.value

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        self._http.request(method, path, body=body or None, headers=headers)
        with self._http.getresponse() as response:
            return response.read()


def call_at_a_pace(account: Account, file: GrantFile, ticks: int, outcomes: Counter[str]) -> None:
    """One call on each tick, whatever is answered; the answers are counted."""
    caller = Caller(os.urandom)
    began = time.monotonic()
    beacon, beacon_until = account.beacon(file), began + BEACON_S
    last, waiting, looked = 0, 0, began
    for tick in itertools.count(1):
        now = time.monotonic()
        if tick <= ticks:
            if now > beacon_until:
                beacon, beacon_until = account.beacon(file), now + BEACON_S
            wanted = Wanted(
                callee=file.grant.issuer,
                boot_key=beacon.boot_key,
                grant=file.grant.data,
                seed=account.seed,
                target="light/on",
                arguments=dumps([]),
                deadline=now + CALL_S,
            )
            account.send(caller.call(wanted, beacon.token, now))
            waiting += 1
        elif not waiting:
            return
        if tick > ticks or now > looked + 1.0:
            looked = now
            for message in account.poll(last, 1.0 if tick > ticks else 0.0):
                last = message.number
                assert message.re is not None
                told = caller.on_reply(message.re, message.body, time.monotonic())
                if isinstance(told, Sent):
                    account.send(told)
                elif told is not None:
                    outcomes[name_of(told)] += 1
                    waiting -= 1
        for due in caller.handle_timer(time.monotonic()):
            outcomes[name_of(due)] += 1
            waiting -= 1
        if tick <= ticks:
            time.sleep(max(0.0, began + tick * TICK_S - time.monotonic()))


def patiently(what: Callable[[], object], code: str) -> None:
    """Try until the relay does not refuse with that code any more. Raises: `RelayRefused`."""
    until = time.monotonic() + ANSWER_S
    while True:
        try:
            what()
            return
        except wire.RelayRefused as refusal:
            if refusal.code != code or time.monotonic() > until:
                raise
        time.sleep(0.3)


def name_of(outcome: Outcome) -> str:
    """The class of its error, or "ok"."""
    result = outcome.result
    if isinstance(result, CallError):
        return type(result).__name__
    assert loads(result) == "on"
    return "ok"


def calls(url: str, ca_file: Path, ticks: int, files: list[str]) -> None:
    """All of them at once, one thread each."""
    accounts = [Account(url, ca_file, number) for number in range(len(files))]
    for account in accounts:
        patiently(account.login, "not_registered")  # the relay hears of it within a second
    outcomes: list[Counter[str]] = [Counter() for _ in files]
    made = [decode_grant_file(Path(file).read_text()) for file in files]
    for account, file in zip(accounts, made, strict=True):
        patiently(functools.partial(account.beacon, file), "not_found")  # so does its node
    threads = [
        threading.Thread(target=call_at_a_pace, args=(account, file, ticks, counter))
        for account, file, counter in zip(accounts, made, outcomes, strict=True)
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total: Counter[str] = sum(outcomes, Counter())
    print(json.dumps({"outcomes": total, "span_s": time.monotonic() - began}))


def main(argv: list[str]) -> None:
    """See above."""
    what, url, ca_file, ticks, *files = argv
    assert what == "calls"
    calls(url, Path(ca_file), int(ticks), files)


__all__ = ["Account", "key_of"]

if __name__ == "__main__":
    main(sys.argv[1:])
