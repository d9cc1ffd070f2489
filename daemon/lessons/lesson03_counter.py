"""A server by hand

A process that stays in a loop is a server: it waits for a message, does something, waits again.
What it remembers is an ordinary variable in its function: its state. Only this process can see it,
and it looks at one message at a time. So two others can never change the number at once,
and there is nothing to lock. Who wants to know the number asks: a message with the asker's own
pid in it, so that the server knows where the answer goes.
"""

from drupelet import receive, self, send, spawn


async def counter(number):
    while True:
        match await receive():
            case "more":
                number += 1
            case ("get", asker):
                await send(asker, ("number", number))


async def main():
    pid = await spawn(counter, 0)
    for _ in range(3):
        await send(pid, "more")
    await send(pid, ("get", self()))
    print(await receive())
