"""The driver of one link's keepalive: its effects become frames, and the end of the link."""

from __future__ import annotations

from drupelet.core.members import PeerInfo
from drupelet.errors import NoConnection
from drupelet.services.keepalive import Link
from drupelet.wire import frames
from drupelet.wire.codec import loads
from drupelet.wire.limits import KEEPALIVE_MISSED_MAX, KEEPALIVE_S


class Channel:
    def __init__(self) -> None:
        self.sent: list[frames.Frame] = []

    def queue(self, frame: bytes) -> None:
        self.sent += frames.split_record(frame)


class Endpoint:
    def __init__(self) -> None:
        self.channel = Channel()
        self.last_received = 0.0
        self.pings: list[int] = []
        self.closed_with: NoConnection | None = None

    def ping(self, token: int) -> None:
        self.pings.append(token)

    def close(self, error: NoConnection) -> None:
        self.closed_with = error


def make_link() -> tuple[Link, Endpoint]:
    endpoint = Endpoint()
    peer = PeerInfo(key=b"k" * 32, name="bob", incarnation=1, host="127.0.0.1", port=1)
    return Link(1, endpoint, peer, True, 0.0), endpoint  # type: ignore[arg-type]


def run_until(link: Link, end: float) -> None:
    while (due := link.next_timer()) <= end:
        link.handle_timer(due)


def test_silence_is_pinged_and_then_ends_the_link() -> None:
    link, endpoint = make_link()
    run_until(link, KEEPALIVE_S * (KEEPALIVE_MISSED_MAX + 1))
    assert len(endpoint.pings) >= KEEPALIVE_MISSED_MAX
    assert endpoint.closed_with is not None
    assert (endpoint.closed_with.reason, endpoint.closed_with.maybe_ran) == ("down", True)


def test_traffic_that_the_endpoint_saw_counts() -> None:
    link, endpoint = make_link()
    now = 0.0
    while now < 20 * KEEPALIVE_S:
        now += KEEPALIVE_S / 2
        endpoint.last_received = now
        if link.next_timer() <= now:
            link.handle_timer(now)
    assert endpoint.closed_with is None
    assert endpoint.pings == []


def test_an_orderly_end_is_a_goodbye_with_its_reason() -> None:
    link, endpoint = make_link()
    link.connection.goodbye("stopping", 1.0)
    link.perform()
    assert [(each.kind, loads(each.body)) for each in endpoint.channel.sent] == [
        (frames.GOODBYE, "stopping")
    ]
    assert endpoint.closed_with is None
    run_until(link, 10.0)
    assert endpoint.closed_with is not None
    assert endpoint.closed_with.reason == "stopping"
