"""A node's connection to its relay: what it costs while nothing happens, over TLS.

    python -m tests.bench.bench_way [--seconds 180]

Real processes on loopback: a relay with a certificate, a node that granted something (it is in the
catalogue, so it announces itself), one that granted nothing, and one without a relay beside them.
Bytes are the kernel's own count of the connection (ss -ti): what TLS carries, and as packets of
IPv4 with TCP's timestamps, 52 bytes each, acknowledgements too. Memory is RSS after the same rest.

Then a call through the relay, one at a time: two messages, each on the relay's disk before it goes
on; the round trip of loopback is nothing.

Bars: <= 2,000 bytes a minute as packets; drupeletd with a relay <= 45 MB.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.bench_footprint import RSS_MB_MAX, rss_mb
from tests.bench.bench_links import goal
from tests.integration.cluster import Cluster, RealNode, free_port
from tests.integration.test_grants import done, grant, key_of, start
from tests.integration.test_relayed_calls import without_addresses
from tests.integration.ways import at_relay, tls_relay

BYTES_A_MINUTE_MAX = 2_000
CALL_MS_MAX = 100.0  # there and back, 50 ms beside the round trip each
CALLS = 50
PACKET_BYTES = 52  # IPv4 20, TCP 20, timestamps 12
UP_S = 30.0
_COUNTS = re.compile(r"\b(bytes_sent|bytes_received|segs_out|segs_in):(\d+)")


def wait_logged(node: RealNode, words: str, count: int = 1) -> None:
    """Until its log has these words, so often."""
    until = time.monotonic() + UP_S
    while node.log.count(words) < count:
        assert time.monotonic() < until, node.log[-2_000:]
        time.sleep(0.05)


def counts(node: RealNode, port: int) -> dict[str, int]:
    """The kernel's, of all connections of that process to that port."""
    command = ["ss", "-tinpHO", f"dport = :{port}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, int] = {}
    for line in told.splitlines():
        if f"pid={node.pid}," in line:
            for name, value in _COUNTS.findall(line):
                found[name] = found.get(name, 0) + int(value)
    return found


def latency_ms(node: RealNode) -> float:
    """The median of calls one after the other."""
    spans = []
    with node.connect() as client:
        client.call("a", "light", "temp", timeout=30.0)
        for _ in range(CALLS):
            began = time.perf_counter()
            client.call("a", "light", "temp", timeout=30.0)
            spans.append(time.perf_counter() - began)
            time.sleep(0.05)  # it takes 50 messages a second
    return statistics.median(spans) * 1_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=180.0)
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory(prefix="drupelet-bench-") as name:
        port = free_port()
        with Cluster(Path(name)) as cluster, tls_relay(Path(name) / "relay", port) as relay:
            nodes = dict(
                zip(("offers", "quiet", "alone"), start(cluster, "a", "b", "c"), strict=True)
            )
            invite = relay.own("invite", "--uses", "2")
            lines = [f'url = "{relay.url}"', f'ca_file = "{relay.ca_file}"']
            lines.append(f'invite = "{invite}"')
            for role in ("offers", "quiet"):
                at_relay(nodes[role], *lines)
                wait_logged(nodes[role], "relay_up")
            _, file = grant(nodes["offers"], "--to", key_of(nodes["quiet"]), "--rate", "100/s")
            time.sleep(5.0)
            before = {role: counts(nodes[role], port) for role in ("offers", "quiet")}
            started = time.monotonic()
            time.sleep(options.seconds)
            minutes = (time.monotonic() - started) / 60
            for role in before:
                ups = nodes[role].log.count("relay_up")
                good &= goal(ups == 1, f"{role}: connected once (it was {ups} times)")
            for role, first in before.items():
                now = counts(nodes[role], port)
                spent = {each: (now[each] - first[each]) / minutes for each in now}
                carried = spent["bytes_sent"] + spent["bytes_received"]
                packets = spent["segs_out"] + spent["segs_in"]
                whole = carried + packets * PACKET_BYTES
                good &= goal(
                    whole <= BYTES_A_MINUTE_MAX,
                    f"{role}: {whole:.0f} bytes a minute in {packets:.1f} packets, of them "
                    f"{carried:.0f} bytes TLS (goal <= {BYTES_A_MINUTE_MAX})",
                )
            done(nodes["quiet"], "accept", without_addresses(file))
            call_ms = latency_ms(nodes["quiet"])
            good &= goal(
                call_ms <= CALL_MS_MAX,
                f"a call through it {call_ms:.1f} ms, median (goal <= {CALL_MS_MAX:.0f}, 2 x 50)",
            )
            alone = rss_mb(nodes["alone"].pid)
            for role in ("offers", "quiet"):
                have = rss_mb(nodes[role].pid)
                words = f"{role}: {have:.1f} MB RSS, without a relay {alone:.1f}"
                good &= goal(have <= RSS_MB_MAX, f"{words} (goal <= {RSS_MB_MAX:.0f})")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
