"""A resource allocator: a server that is a small network of processes, and its client's functions.

    await start(["ab.12.0"])          # on one node; or drupelet call NODE resa start '["ab.12.0"]'
    await connect("gandalf")          # "connected"
    await allocate("gandalf")         # ("allocated", "ab.12.0"), or "no"
    await free("gandalf", "ab.12.0")  # ("freed", "ab.12.0")
    await stats("gandalf")            # ("stats", {"free": 1, "allocated": 0})

The client knows the server's name and these functions, nothing else. Behind the server, which only
passes on, a handler keeps the resources and a stats provider answers questions about them, to the
asker itself. Both take messages only from those who were told the key when they were started: 16
random bytes that never leave the three of them. A resource belongs to the process that allocated
it and is free again when that process ends, with its node or alone.

Rules
- A message from outside changes nothing, is answered with no data, and stands in the log: without
  the key, of another shape, or a `Down` that nobody here asked for.
- The two inner mailboxes drop what is too much instead of holding the server up: it would wait for
  the handler and the handler for it. A client whose request was dropped gets `Timeout`.

From the prototype "resource allocator" (seed 000); new: ownership, and the key.
"""

from __future__ import annotations

import logging
import secrets
from math import inf

from drupelet import (
    Down,
    Mailbox,
    NameTaken,
    Pid,
    Ref,
    Request,
    ask,
    demonitor,
    mission,
    monitor,
    node,
    receive,
    reply,
    send,
    spawn,
    spawn_link,
)

SERVER = "resa_server"
RESOURCES_MAX = 10_000
CLIENTS_MAX = 10_000
INNER = Mailbox(policy="drop_new")

_log = logging.getLogger("resa")


# -- the client's functions


async def connect(server: str) -> object:
    """ "connected", "already_connected", or "too_many_clients"."""
    return await ask((SERVER, server), "connect")


async def disconnect(server: str) -> object:
    """ "disconnected" or "already_disconnected"; what this process has allocated is free again."""
    return await ask((SERVER, server), "disconnect")


async def allocate(server: str) -> object:
    """("allocated", resource), "no", or "disconnected"."""
    return await ask((SERVER, server), "allocate_resource")


async def free(server: str, resource: str) -> object:
    """("freed", resource), ("error", "not_allocated"), or "disconnected"."""
    return await ask((SERVER, server), ("free_resource", resource))


async def stats(server: str) -> object:
    """("stats", {"free": count, "allocated": count}), from the stats provider itself."""
    return await ask((SERVER, server), "stats")


# -- the server


@mission("resa")
async def start(resources: object) -> str:
    """Start the server on this node with a list of texts; "started", or why not."""
    if not isinstance(resources, list):
        return "expected_data_type_list"
    if not resources:
        return "expected_non_empty_Free_list"
    if not all(isinstance(each, str) for each in resources):
        return "expected_texts"
    if len(resources) > RESOURCES_MAX or len(set(resources)) < len(resources):
        return "expected_different_resources"
    try:
        await spawn(serve, list(resources), name=SERVER)
    except NameTaken:
        return "already_started"
    return "started"


@mission("resa")
async def counts() -> object:
    """How many resources of this node are free and allocated."""
    return await stats(node())


async def serve(resources: list[str]) -> None:
    """The server: passes on what clients ask; they never see who answers."""
    key = secrets.token_bytes(16)
    handler = await spawn_link(handle, key, resources, mailbox=INNER)
    provider = await spawn_link(provide_stats, key, handler, mailbox=INNER)
    while True:
        match await receive():
            case Request(caller, ("connect" | "disconnect" | "allocate_resource") as wanted):
                await send(handler, (key, wanted, caller))
            case Request(caller, ("free_resource", str(resource))):
                await send(handler, (key, "free_resource", caller, resource))
            case Request(caller, "stats"):
                await send(provider, (key, "stats", caller))
            case (reply_key, "answer", caller, value) if reply_key == key:
                await reply(caller, value)
            case message:
                await refuse("server", message)


async def handle(key: bytes, available: list[str]) -> None:
    """The handler: which resource is free, and whose it is otherwise."""
    owners: dict[str, Pid] = {}
    clients: dict[Pid, Ref] = {}
    while True:
        match await receive():
            case (k, "connect", caller) if k == key:
                value: object = "already_connected"
                if caller[0] not in clients:
                    value = "connected" if len(clients) < CLIENTS_MAX else "too_many_clients"
                if value == "connected":
                    clients[caller[0]] = monitor(caller[0])
            case (k, "disconnect", caller) if k == key:
                value = "disconnected" if caller[0] in clients else "already_disconnected"
                if caller[0] in clients:
                    demonitor(clients.pop(caller[0]), flush=True)
                give_back(caller[0], owners, available)
            case (k, "allocate_resource" | "free_resource", caller, *_) if (
                k == key and caller[0] not in clients
            ):
                value = "disconnected"
            case (k, "allocate_resource", caller) if k == key:
                value = "no"
                if available:
                    resource = available.pop(0)
                    owners[resource] = caller[0]
                    value = ("allocated", resource)
            case (k, "free_resource", caller, resource) if k == key:
                value = ("error", "not_allocated")
                if owners.get(resource) == caller[0]:
                    del owners[resource]
                    available.append(resource)
                    value = ("freed", resource)
            case Request(caller, (k, "server_request_data")) if k == key:
                await reply(caller, {"free": len(available), "allocated": len(owners)})
                continue
            case Down(ref=ref, pid=Pid() as pid) if clients.get(pid) == ref:
                del clients[pid]
                give_back(pid, owners, available)
                continue
            case message:
                await refuse("handler", message)
                continue
        await send(SERVER, (key, "answer", caller, value))


def give_back(pid: Pid, owners: dict[str, Pid], available: list[str]) -> None:
    """What belongs to `pid` is free again."""
    for resource in [each for each, owner in owners.items() if owner == pid]:
        del owners[resource]
        available.append(resource)


async def provide_stats(key: bytes, handler: Pid) -> None:
    """The stats provider: asks the handler, and answers the asker itself."""
    while True:
        match await receive():
            case (k, "stats", caller) if k == key:
                data = await ask(handler, (key, "server_request_data"), timeout=inf)
                await reply(caller, ("stats", data))
            case message:
                await refuse("stats", message)


async def refuse(who: str, message: object) -> None:
    """Somebody tried an internal message; nothing is done and nothing is told."""
    sender = message.caller[0] if isinstance(message, Request) else "unknown"
    kind = type(message).__name__
    _log.warning("resa_refused at=%s kind=%s from=%s, ignoring", who, kind, sender)
    if isinstance(message, Request):
        await reply(message.caller, "refused")
