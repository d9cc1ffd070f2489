"""Hello, process

A process is a small worker inside your program: it has a mailbox, and does one thing at a time.
Nobody can reach into it: the only way in is a message that lands in its mailbox.
spawn(function) starts one and gives you its pid: its address. self() is your own address.
send(pid, message) puts a message into its mailbox; receive() takes the next one out of yours,
and waits until there is one. Wherever something may wait, Python wants the word await.
"""

from drupelet import receive, self, send, spawn


async def greeter():
    name, sender = await receive()
    await send(sender, f"hello, {name}")


async def main():
    pid = await spawn(greeter)
    await send(pid, ("process", self()))
    print(await receive())
