"""A node's connection to its relay: what it costs while nothing happens, over TLS.

    python -m tests.bench.bench_way [--seconds 180]

Real processes on loopback: a relay with a certificate, a node that granted something (it is in the
catalogue, so it announces itself), one that granted nothing, and one without a relay beside them.
Bytes are the kernel's own count of the connection (ss -ti): what TLS carries, and as packets of
IPv4 with TCP's timestamps, 52 bytes each, acknowledgements too. Memory is RSS after the same rest.

Bars: <= 2,000 bytes a minute as packets; drupeletd with a relay <= 45 MB.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.bench_footprint import RSS_MB_MAX, rss_mb
from tests.bench.bench_links import goal
from tests.integration.cluster import Cluster, RealNode, free_port
from tests.integration.test_grants import grant, key_of, start
from tests.integration.test_relay import drupelet_relay

BYTES_A_MINUTE_MAX = 2_000
PACKET_BYTES = 52  # IPv4 20, TCP 20, timestamps 12
UP_S = 30.0
_COUNTS = re.compile(r"\b(bytes_sent|bytes_received|segs_out|segs_in):(\d+)")


@contextmanager
def relay_with_tls(directory: Path, port: int) -> Iterator[None]:
    """A relay called localhost, whose certificate is in cert.pem."""
    directory.mkdir(exist_ok=True)
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = ["openssl", *made.split(), *names.split(), "-keyout", "key.pem", "-out", "cert.pem"]
    if not (directory / "cert.pem").exists():
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
    lines = [
        'names = ["localhost"]',
        'state_dir = "state"',
        f'listen = ["127.0.0.1:{port}"]',
        'tls_certificate = "cert.pem"',
        'tls_key = "key.pem"',
    ]
    (directory / "r.toml").write_text("\n".join(["[relay]", *lines, ""]))
    command = [sys.executable, "-m", "drupelet.relay.main", "--config", str(directory / "r.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            yield
        finally:
            process.kill()


def at_relay(node: RealNode, lines: str) -> None:
    """Start it again with these lines under [relay]."""
    node.stop()
    folder = node.directory / "conf.d"
    folder.mkdir(exist_ok=True)
    (folder / "relay.toml").write_text(f"[relay]\n{lines}\n")
    node.start()


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=180.0)
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory(prefix="drupelet-bench-") as name:
        port, directory = free_port(), Path(name) / "relay"
        with Cluster(Path(name)) as cluster, relay_with_tls(directory, port):
            nodes = dict(
                zip(("offers", "quiet", "alone"), start(cluster, "a", "b", "c"), strict=True)
            )
            grant(nodes["offers"], "--to", key_of(nodes["quiet"]))
            invite = drupelet_relay(directory, "invite", "--uses", "2").strip()
            lines = [f'url = "https://localhost:{port}"', f'invite = "{invite}"']
            lines.append(f'ca_file = "{directory / "cert.pem"}"')
            for role in ("offers", "quiet"):
                at_relay(nodes[role], "\n".join(lines))
                wait_logged(nodes[role], "relay_up")
            time.sleep(5.0)
            before = {role: counts(nodes[role], port) for role in ("offers", "quiet")}
            started = time.monotonic()
            time.sleep(options.seconds)
            minutes = (time.monotonic() - started) / 60
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
            alone = rss_mb(nodes["alone"].pid)
            for role in ("offers", "quiet"):
                have = rss_mb(nodes[role].pid)
                words = f"{role}: {have:.1f} MB RSS, without a relay {alone:.1f}"
                good &= goal(have <= RSS_MB_MAX, f"{words} (goal <= {RSS_MB_MAX:.0f})")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
