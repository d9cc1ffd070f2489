"""A mission `ledger` that writes down each time that it ran: the proof of once."""

from __future__ import annotations

import os
from pathlib import Path

from drupelet.node import Node
from drupelet.wire.codec import dumps, loads
from drupelet.wire.keys import key_to_text

CODE = """
import os
import trio
from drupelet import mission

def wrote(text):
    descriptor = os.open("ran", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, text.encode() + b"\\n")
    os.close(descriptor)

@mission("ledger")
def note(text: str) -> int:
    wrote(text)
    return len(text)

@mission("ledger")
def fail(text: str) -> None:
    wrote(text)
    raise ValueError(text)

@mission("ledger")
async def slow(text: str, seconds: float) -> str:
    wrote(text)
    await trio.sleep(seconds)
    return text

@mission("ledger", once=True)
def pay(text: str) -> str:
    wrote(text)
    return "paid " + text
"""
NAMES = ("note", "fail", "slow", "pay")


def offer(directory: Path, name: str, *, code: str = CODE) -> None:
    """Before the node starts."""
    missions = directory / name / "missions.d"
    missions.mkdir(parents=True, exist_ok=True)
    exports = ", ".join(f'"{each}"' for each in NAMES)
    (missions / "ledger.toml").write_text(f'module = "ledger.py"\nexports = [{exports}]\n')
    (missions / "ledger.py").write_text(code)


def ran(directory: Path, name: str) -> list[str]:
    """What it wrote down."""
    path = directory / name / "missions" / "ledger" / "ran"
    return path.read_text().splitlines() if os.path.exists(path) else []


async def granted(alice: Node, bob: Node, **terms: object) -> str:
    """To bob, who keeps it; its id."""
    made = await alice.grants.issue("ledger", key_to_text(bob.key), terms)
    await bob.grants.accept(str(made["text"]))
    return str(made["id"])


async def ask(
    node: Node, where: str, function: str, key: bytes, *args: object, mission: str = "ledger"
) -> object:
    """As a program there does."""
    target = f"{mission}/{function}"
    return loads(await node.outbox.ask(where, target, key, dumps(list(args))))


async def post(
    node: Node, where: str, function: str, *args: object, key: bytes | None = None
) -> bool:
    """The same for a cast."""
    return await node.outbox.post(where, f"ledger/{function}", key, dumps(list(args)))
