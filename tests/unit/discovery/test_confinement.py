"""What a confined process still has; each test in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from drupelet.discovery import confinement

CONFINED = """
import json, os, resource, sys
from drupelet.discovery import confinement
os.open("/dev/null", os.O_RDONLY); os.open("/dev/null", os.O_RDONLY)
confinement.close_inherited()
open_now = [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
confinement.set_name(b"a name that is too long for it")
confinement.confine()
confinement.die_with_parent()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
try:
    block = bytearray(confinement.DATA_BYTES_MAX)
except MemoryError:
    block = None
try:
    os.fork()
except OSError:
    forked = False
except BaseException:
    raise
else:
    forked = True
json.dump({
    "open": sorted(open_now), "environment": dict(os.environ), "block": block is not None,
    "user": os.geteuid(), "new": status["NoNewPrivs"].strip(), "name": status["Name"].strip(),
    "nice": os.nice(0), "core": resource.getrlimit(resource.RLIMIT_CORE), "cwd": os.getcwd(),
    "forked": forked,
}, sys.stderr)
"""


def test_confined() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONFINED],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == b""  # descriptor 1 leads nowhere
    told = json.loads(done.stderr)
    assert told["open"] == ["0", "1", "2"]
    assert told["environment"] == {} and told["cwd"] == "/"
    assert told["block"] is False and told["forked"] is False
    assert told["new"] == "1" and told["core"] == [0, 0]
    assert told["name"] == "a name that is"
    assert told["nice"] >= confinement.NICENESS
    assert told["user"] == (confinement.NOBODY if os.geteuid() == 0 else os.geteuid())


def test_a_refused_prctl_names_itself() -> None:
    with pytest.raises(OSError, match="prctl 9999"):
        confinement._prctl(9999, 0)
