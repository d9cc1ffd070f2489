"""The internet in namespaces: a public network, homes behind NAT, and a relay that all can reach.

    web  203.0.113.1           the relay, and whoever else is outside
     |-- router 203.0.113.11 -- home 0: 192.168.1.2
     |-- router 203.0.113.12 -- home 1: 192.168.2.2 ...

Each home's router hides it behind its own address (masquerade) and drops what begins outside, as
routers that people buy do. `forward` opens a port, `cut` takes a home's way to somebody away (or all
of it), `heal` gives it back. `probe` says what a TCP connection from somewhere to somewhere meets.

A relay is the real program with a certificate of a test's own authority; nodes are real daemons,
started in a home by `Houses`. Needs root, iproute2, nft and openssl.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from tests.integration.cluster import Cluster, RealNode
from tests.netns.conftest import COMMAND_S, REPOSITORY, Namespaces

WEB = "203.0.113.1"
LINK_PORT = 4370
RELAY_PORT = 8443
LIMIT_S = 60.0  # for what takes a second or two on a machine that does nothing else
PROBE_S = 2
PROGRAMS = ("ip", "nft", "openssl")
# What begins inside goes out; what begins outside is dropped, at the router and behind it.
_RULES = """
table inet filter {{
  chain cuts {{ }}
  chain opened {{ }}
  chain forward {{
    type filter hook forward priority 0; policy drop;
    jump cuts
    ct state established,related accept
    iifname "inside" accept
    jump opened
  }}
  chain input {{
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    iifname {{ "lo", "inside" }} accept
    ip protocol icmp accept
  }}
}}
table ip nat {{
  chain prerouting {{ type nat hook prerouting priority -100; }}
  chain postrouting {{
    type nat hook postrouting priority 100;
    oifname "outside" masquerade
  }}
}}
"""
_PROBE = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), {}).close()
    print("open")
except TimeoutError:
    print("silence")
except OSError as error:
    print(type(error).__name__)
"""
