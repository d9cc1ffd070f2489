"""A relay over a WebSocket: against the relay itself, and against one that breaks every rule."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from wsproto import events as ws

from drupelet.net import relay_socket
from drupelet.net.relay_socket import ENDED, open_socket
from drupelet.net.relay_way import ANSWER_S, NotPassed, Place, RelayCut, RelayGone, RelaySilent
from drupelet.wire import relay as wire
from drupelet.wire.limits import (
    RELAY_ASKED_MAX,
    RELAY_FRAME_BYTES_MAX,
    RELAY_INBOX_BYTES_MAX,
    RELAY_MESSAGE_BYTES_MAX,
    RELAY_UNSENT_BYTES_MAX,
    RELAY_WINDOW_MESSAGES,
)
from drupelet.wire.relay import RelayRefused
from tests.unit.net.fake_relay import (
    RUN,
    Fake,
    Script,
    against,
    closed_with,
    greeted,
    passing,
    raw,
)
from tests.unit.relay import nodes
from tests.unit.relay.nodes import ALICE, BOB, TRUDY, Node, relay_at, send

# -- the relay itself


@asynccontextmanager
async def relay(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *known: Node
) -> AsyncIterator[str]:
    """A relay that goes by the name 127.0.0.1; its address."""
    monkeypatch.setattr(nodes, "NAME", "127.0.0.1")
    with trio.fail_after(60):
        async with relay_at(directory, *known) as (_, port):
            yield f"http://127.0.0.1:{port}"


async def test_messages_and_their_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with relay(tmp_path, monkeypatch, ALICE, BOB) as url:
        async with (
            open_socket(Place(url, ALICE.seed)) as alice,
            open_socket(Place(url, BOB.seed)) as bob,
        ):
            await alice.login()
            await bob.login()
            assert len(alice.run_id) == 16 and alice.run_id == bob.run_id
            largest, small = send(BOB, os.urandom(RELAY_MESSAGE_BYTES_MAX)), send(BOB, b"small")
            for said in (largest, small):
                assert await alice.ask(said) is None
            got: list[wire.Deliver] = []
            while len(got) < 2:
                got += await bob.messages()
            assert [each.id for each in got] == [largest.id, small.id]
            assert (got[0].body, got[0].sender) == (largest.body, ALICE.key)
            await bob.ask(wire.Ack(ref=0, number=got[1].number))


async def test_many_questions_are_under_way_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relay(tmp_path, monkeypatch, ALICE, BOB) as url:
        async with open_socket(Place(url, ALICE.seed)) as alice:
            await alice.login()
            said = [send(ALICE if number % 3 else TRUDY) for number in range(RELAY_ASKED_MAX)]
            asked = [await alice.begin(each) for each in said]
            for number, each in enumerate(asked):
                if number % 3:
                    assert await each.value() is None
                else:
                    with pytest.raises(RelayRefused, match="not_found"):
                        await each.value()
            got: list[wire.Deliver] = []
            while len(got) < len(said) - len(said[::3]):
                got += await alice.messages()
            assert [each.id for each in got] == [
                each.id for number, each in enumerate(said) if number % 3
            ]


async def test_registering_by_address_waits_for_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relay(tmp_path, monkeypatch) as url:
        async with open_socket(Place(url, TRUDY.seed)) as trudy:
            with pytest.raises(RelayRefused, match="^not_registered"):
                await trudy.login()
            with pytest.raises(RelayRefused, match="^not_verified"):
                await trudy.register("trudy", email="trudy@example.org")
            with pytest.raises(RelayRefused, match="^not_verified"):
                await trudy.login()
            with pytest.raises(RelayGone, match="its owner denied this node, or other"):
                await trudy.messages()  # three tries


# -- a relay that breaks the rules


def deliver(number: int, body: bytes = b"") -> wire.Deliver:
    return wire.Deliver(number=number, kind=0, sender=BOB.key, id=bytes(16), re=None, body=body)


def frames(*parts: bytes) -> Script:
    async def script(fake: Fake) -> None:
        for part in parts:
            await fake.stream.send_all(part)

    return script


def messages(*said: Any) -> Script:
    async def script(fake: Fake) -> None:
        for each in said:
            await fake.tell(each)

    return script


def text() -> Script:
    async def script(fake: Fake) -> None:
        await fake.say(ws.TextMessage(data="hello"))

    return script


@pytest.mark.parametrize(
    ("script", "why", "code"),
    [
        (text(), "messages are binary", 1003),
        (frames(b"\x82\x85abcdefghi"), "no WebSocket", 1002),  # masked, which only nodes do
        (frames(b"\x83\x00"), "no WebSocket", 1002),  # an opcode that is none
        (frames(b"\xc2\x00"), "no WebSocket", 1002),  # compressed, which nobody asked for
        (frames(b"\x89\x7e\x00\xff"), "no WebSocket", 1002),  # a long ping
        (frames(b"\x82\x03abc"), "no relay's language", 1002),
        (messages(wire.Done(ref=7, value=None)), "another question", 1002),
        (messages(wire.Hello(version=1, nonce=bytes(32), run=RUN)), "hello twice", 1002),
        (messages(deliver(5), deliver(5)), "delivers more than it may", 1002),
    ],
)
async def test_what_breaks_the_rules_ends_the_way(
    monkeypatch: pytest.MonkeyPatch, script: Script, why: str, code: int
) -> None:
    told: list[int | None] = []
    heard = trio.Event()

    async def whole(fake: Fake) -> None:
        await script(fake)
        told.append(await closed_with(fake))
        heard.set()

    with trio.fail_after(20):
        async with raw(monkeypatch, greeted(whole)) as place:
            async with open_socket(place) as way:
                with pytest.raises(RelayGone, match=why):
                    while True:
                        await way.messages()
                with pytest.raises(RelayGone, match=why):
                    await way.ask(send(BOB))
            await heard.wait()
    assert told == [code]


@pytest.mark.parametrize("above", [0, 1])
async def test_a_message_of_the_greatest_size_and_one_above(
    monkeypatch: pytest.MonkeyPatch, above: int
) -> None:
    size = RELAY_FRAME_BYTES_MAX + above

    async def script(fake: Fake) -> None:
        part = size // 3
        for number in range(3):  # in fragments
            data = bytes(part if number < 2 else size - 2 * part)
            await fake.say(ws.BytesMessage(data=data, message_finished=number == 2))

    async with against(monkeypatch, script) as way:
        with pytest.raises(RelayGone, match="too long" if above else "no relay's language"):
            await way.messages()


async def test_as_many_messages_as_may_wait_and_one_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, told = trio.Event(), [trio.Event(), trio.Event()]

    async def script(fake: Fake) -> None:
        for number in range(RELAY_WINDOW_MESSAGES):
            await fake.tell(deliver(number + 1))
        told[0].set()
        await gate.wait()
        for number in range(RELAY_WINDOW_MESSAGES + 1):
            await fake.tell(deliver(number + 1_000))
        told[1].set()

    async with against(monkeypatch, script) as way:
        await told[0].wait()
        await trio.testing.wait_all_tasks_blocked()
        assert len(await way.messages()) == RELAY_WINDOW_MESSAGES
        gate.set()
        await told[1].wait()
        await trio.testing.wait_all_tasks_blocked()
        assert len(await way.messages()) == RELAY_WINDOW_MESSAGES  # what came is not lost
        with pytest.raises(RelayGone, match="delivers more than it may"):
            await way.messages()


async def test_as_many_bytes_as_may_wait_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = RELAY_INBOX_BYTES_MAX // len(wire.encode(deliver(1, bytes(RELAY_MESSAGE_BYTES_MAX))))
    told = trio.Event()

    async def script(fake: Fake) -> None:
        for number in range(fit + 1):
            await fake.tell(deliver(number + 1, bytes(RELAY_MESSAGE_BYTES_MAX)))
        told.set()

    async with against(monkeypatch, script) as way:
        await told.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert len(await way.messages()) == fit
        with pytest.raises(RelayGone, match="delivers more than it may"):
            await way.messages()


@pytest.mark.parametrize("code", sorted(ENDED))
async def test_close_codes_are_told_in_words(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    async def script(fake: Fake) -> None:
        await fake.say(ws.CloseConnection(code=code, reason="why"))

    async with against(monkeypatch, script) as way:
        with pytest.raises(RelayGone) as caught:
            await way.messages()
    assert str(caught.value) == f"{ENDED[code]}: why"
    assert not isinstance(caught.value, RelayCut)


async def test_a_refusal_without_a_question_is_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(fake: Fake) -> None:
        await fake.questions(1)
        await fake.tell(wire.Refused(ref=0, code="denied", text="", retry_after_ms=0))
        await fake.say(ws.CloseConnection(code=4403))

    async with against(monkeypatch, script) as way:
        for _ in range(2):
            with pytest.raises(RelayRefused, match="^denied"):
                await way.ask(send(BOB))
        with pytest.raises(RelayRefused, match="^denied"):
            await way.messages()


async def test_an_end_in_the_middle_of_a_frame_is_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(fake: Fake) -> None:
        [question] = await fake.questions(1)
        data = fake.ws.send(ws.BytesMessage(data=wire.encode(deliver(1, bytes(1_000)))))
        await fake.done(question)
        await fake.stream.send_all(data[:500])
        await fake.stream.aclose()

    async with against(monkeypatch, script) as way:
        await way.ask(send(BOB))
        asked = await way.begin(send(BOB))
        with pytest.raises(RelayCut):
            await way.messages()
        with pytest.raises(RelayCut):
            await asked.value()


async def test_a_reset_is_a_cut() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve(stream: trio.SocketStream) -> None:
        await Fake(stream).greet()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    async def accept() -> None:
        await serve(await listeners[0].accept())

    url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            async with open_socket(Place(url, ALICE.seed)) as way:
                with pytest.raises(RelayCut):
                    await way.messages()
    await listeners[0].aclose()


# -- the beginning

_ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "cut"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "HTTP status 403"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nlog in at", "HTTP status 200"),
        (b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", "HTTP status 426"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n", "302"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no WebSocket"),
        (_ACCEPTED + b"\r\n", "no WebSocket"),  # without the proof that it read our key
        (_ACCEPTED + b"Sec-WebSocket-Accept: bm8=\r\n\r\n", "no WebSocket"),
        (_ACCEPTED + b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: {}\r\n\r\n", "no Web"),
        (_ACCEPTED + b"Sec-WebSocket-Protocol: \xff\r\nSec-WebSocket-Accept: {}\r\n\r\n", "no Web"),
        (
            _ACCEPTED + b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
            b"Sec-WebSocket-Accept: {}\r\n\r\n",
            "no WebSocket",
        ),
        (b"HTTP/1.1 101 " + b"x" * 70_000, "no WebSocket|cut"),
        (_ACCEPTED + b"Sec-WebSocket-Accept: {}\r\n\r\n", "cut"),  # and no hello
    ],
)
async def test_where_no_websocket_passes(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, why: str
) -> None:
    from wsproto.utilities import generate_accept_token

    async def script(fake: Fake) -> None:
        asked = await fake.stream.receive_some()
        key = asked.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        await fake.stream.send_all(answer.replace(b"{}", generate_accept_token(key)))
        await fake.stream.aclose()

    with trio.fail_after(20):
        async with raw(monkeypatch, script) as place:
            with pytest.raises(NotPassed, match=why):
                async with open_socket(place):
                    pass


async def test_a_proxy_without_its_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(fake: Fake) -> None:
        await fake.stream.receive_some()
        await fake.stream.send_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    async with raw(monkeypatch, script) as place:
        with pytest.raises(RelayGone, match="the relay does not: status 502") as caught:
            async with open_socket(place):
                pass
    assert not isinstance(caught.value, NotPassed)


async def test_what_we_ask_names_the_host_and_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ws.Event] = []

    async def script(fake: Fake) -> None:
        await fake.hear()
        seen.extend(fake.heard)
        await fake.stream.aclose()

    for url, host in (
        ("https://relay.example.org", "relay.example.org"),
        ("https://relay.example.org:8443", "relay.example.org:8443"),
        ("http://[::1]:81", "[::1]:81"),
    ):
        async with raw(monkeypatch, script):
            with pytest.raises(NotPassed):
                async with open_socket(Place(url, ALICE.seed)):
                    pass
        request = seen.pop()
        assert isinstance(request, ws.Request)
        assert (request.host, request.target) == (host, "/v1/link")
        assert not request.subprotocols and not request.extensions


async def test_silence_at_the_beginning(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(fake: Fake) -> None:
        await trio.sleep_forever()

    async with raw(monkeypatch, script) as place:
        with pytest.raises(NotPassed, match="no answer"):
            async with open_socket(place):
                pass
    assert trio.current_time() <= ANSWER_S + 1


# -- a connection that is dead, and the kernel does not know


async def test_a_silent_relay_is_found_dead(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(fake: Fake) -> None:
        await trio.sleep_forever()

    async with against(monkeypatch, script) as way:
        started = trio.current_time()
        with pytest.raises(RelaySilent, match="is silent: the connection is dead"):
            await way.messages()
        assert trio.current_time() - started == pytest.approx(relay_socket.SILENT_S)


async def test_a_relay_that_pings_is_not_dead_and_each_ping_is_answered(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    pongs: list[bytes] = []

    async def script(fake: Fake) -> None:
        for number in range(20):
            await passing(30.0)
            await fake.say(ws.Ping(payload=b"%d" % number))
            while not fake.heard:
                await fake.hear()
            pong = fake.heard.pop()
            assert isinstance(pong, ws.Pong)
            pongs.append(bytes(pong.payload))
        await fake.say(ws.CloseConnection(code=1001))

    async with against(monkeypatch, script) as way:
        with pytest.raises(RelayGone, match="stops or restarts"):
            await way.messages()
    assert pongs == [b"%d" % number for number in range(20)]
    assert trio.current_time() >= 600


async def test_a_question_without_an_answer_finds_a_dead_relay(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(fake: Fake) -> None:
        await trio.sleep_forever()

    async with against(monkeypatch, script) as way:
        await passing(20.0)
        started = trio.current_time()
        with pytest.raises(RelaySilent, match="does not answer: the connection is dead"):
            await way.ask(send(BOB))
        assert trio.current_time() - started == pytest.approx(ANSWER_S)


async def test_later_questions_do_not_hide_that_the_first_has_no_answer(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(fake: Fake) -> None:
        await trio.sleep_forever()

    async with against(monkeypatch, script) as way:
        started = trio.current_time()
        with pytest.raises(RelayGone, match="does not answer"):
            while True:
                await way.begin(send(BOB))
                await passing(1.0)
        assert trio.current_time() - started <= ANSWER_S + 1.1


async def test_a_relay_that_takes_no_bytes_is_found_dead_and_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(fake: Fake) -> None:
        await trio.sleep_forever()

    async with against(monkeypatch, script, lockstep=True) as way:
        started, begun = trio.current_time(), 0
        with pytest.raises(RelaySilent, match="takes no bytes|does not answer"):
            while True:
                await way.begin(send(BOB, bytes(100_000)))
                begun += 1
                assert way._unsent_bytes < RELAY_UNSENT_BYTES_MAX + 101_000
        assert begun <= RELAY_UNSENT_BYTES_MAX // 100_000 + 3
        assert trio.current_time() - started <= ANSWER_S + 1


async def test_a_flood_of_pings_to_a_relay_that_reads_nothing_is_one_pong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(fake: Fake) -> None:
        for number in range(2_000):
            await fake.say(ws.Ping(payload=b"%04d" % number * 30))
        await fake.say(ws.CloseConnection(code=1001))

    async with against(monkeypatch, script, lockstep=True) as way:
        with pytest.raises(RelayGone, match="stops or restarts"):
            await way.messages()
        assert len(way._pong) < 140 and not way._unsent


# -- several tasks


async def test_questions_are_sent_ahead_of_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as may be; one more waits for the first answer."""
    counted = trio.Event()

    async def script(fake: Fake) -> None:
        questions = await fake.questions(RELAY_ASKED_MAX)  # before any is answered
        counted.set()
        await trio.testing.wait_all_tasks_blocked()
        await fake.done(questions[0])
        questions += await fake.questions(1)
        await fake.done(*questions[1:])

    async with against(monkeypatch, script) as way:
        asked = [await way.begin(send(BOB)) for _ in range(RELAY_ASKED_MAX)]
        with trio.move_on_after(0) as scope:
            await way.begin(send(BOB))
        assert scope.cancelled_caught
        with trio.fail_after(20):
            await counted.wait()
            asked.append(await way.begin(send(BOB)))
            for each in asked:
                assert await each.value() is None


async def test_an_answer_to_another_question_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(fake: Fake) -> None:
        first, second = await fake.questions(2)
        await fake.done(second)
        await fake.done(first)

    async with against(monkeypatch, script) as way:
        asked = [await way.begin(send(BOB)) for _ in range(2)]
        for each in asked:
            with pytest.raises(RelayGone, match="another question"):
                await each.value()


async def test_who_gives_up_leaves_the_others_their_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(fake: Fake) -> None:
        questions = await fake.questions(2)
        for number, each in enumerate(questions):
            await fake.tell(wire.Done(ref=each.ref, value=number))

    async with against(monkeypatch, script, lockstep=True) as way:
        with trio.move_on_after(0) as scope:
            await way.ask(send(BOB, bytes(200_000)))
        assert scope.cancelled_caught
        with trio.fail_after(20):
            assert await way.ask(send(BOB)) == 1


async def test_our_end_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int | None] = []
    heard = trio.Event()

    async def script(fake: Fake) -> None:
        told.append(await closed_with(fake))
        heard.set()

    async with raw(monkeypatch, greeted(script)) as place:
        async with open_socket(place) as way:
            pass
        await heard.wait()
        with pytest.raises(RelayGone, match="closed"):
            await way.messages()
    assert told == [1000]
