"""The mailbox

Messages wait in the mailbox in the order in which they came; receive() takes the oldest.
receive(pattern) takes the oldest one that fits and leaves the others where they are.
("parcel", ANY) fits every pair that begins with "parcel". This is selective receive:
a process decides what it wants to hear next, whoever shouts first.
receive(timeout=1) gives up after one second: then it raises ReceiveTimeout.
"""

from drupelet import ANY, ReceiveTimeout, receive, self, send, spawn


async def postman(house):
    await send(house, ("letter", "from Ada"))
    await send(house, ("letter", "from Bob"))
    await send(house, ("parcel", "a book"))


async def main():
    await spawn(postman, self())
    kind, what = await receive(("parcel", ANY))
    print("first the parcel:", what)
    while True:
        try:
            kind, what = await receive(timeout=1)
        except ReceiveTimeout:
            print("the mailbox is empty")
            break
        print(f"then a {kind}:", what)
