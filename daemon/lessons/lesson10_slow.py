"""A slow receiver

A mailbox is not endless: Mailbox(limit=5) holds five messages, an ordinary one 10,000.
When it is full, send waits until there is room. So a fast sender is slowed down to the speed of a
slow receiver, and nothing is lost and no memory fills up: that is back-pressure.
Who must not wait uses send_nowait: it raises MailboxFull, and you decide what to leave out.
It is the same when the receiver lives on another node.
"""

import trio

from drupelet import Mailbox, MailboxFull, Request, receive, reply, send, send_nowait, spawn
from drupelet import ask


async def tortoise():
    eaten = 0
    while True:
        match await receive():
            case Request(caller, "how many?"):
                await reply(caller, eaten)
            case _:
                await trio.sleep(0.1)
                eaten += 1


async def main():
    pid = await spawn(tortoise, mailbox=Mailbox(limit=5))
    for leaf in range(100):
        try:
            send_nowait(pid, leaf)
        except MailboxFull:
            print("the mailbox is full after", leaf, "leaves")
            break
    start = trio.current_time()
    for leaf in range(5):
        await send(pid, leaf)
    print("send waited:", trio.current_time() - start > 0.3)
    print("eaten in the end:", await ask(pid, "how many?"))
