"""The limits a worker puts on itself, tried in processes of their own."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    head = "from drupelet.worker import sandbox\nimport os, resource\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", head + code], capture_output=True, text=True, timeout=20
    )
    return done.stdout + done.stderr


def test_memory_above_the_limit_is_a_memory_error_and_below_it_is_not() -> None:
    code = (
        "sandbox.limit(64 << 20)\nprint(len(bytearray(48 << 20)))\n"
        "try: bytearray(72 << 20)\nexcept MemoryError: print('refused')\n"
        "for what in 'CORE', 'NOFILE': \\\n"
        "    print(resource.getrlimit(getattr(resource, 'RLIMIT_' + what)))"
    )
    assert run(code).splitlines() == [str(48 << 20), "refused", "(0, 0)", "(256, 256)"]


def test_no_limit() -> None:
    assert run("sandbox.limit(0)\nprint(len(bytearray(300 << 20)))").strip() == str(300 << 20)


def test_a_worker_whose_daemon_is_gone_ends() -> None:
    assert "is gone" in run("sandbox.die_with(1 if os.getppid() != 1 else 2)\nprint('lives')")
    assert run("sandbox.die_with(os.getppid())\nprint('lives')").strip() == "lives"
    assert run("sandbox.die_with(0)\nprint('lives')").strip() == "lives"


def test_the_name_in_ps() -> None:
    code = "sandbox.show_name('kitchen-with-a-long-name')\nprint(open('/proc/self/comm').read())"
    assert run(code).strip() == "m:kitchen-with-"
