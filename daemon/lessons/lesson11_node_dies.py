"""A node dies

When a node dies (or its cable is pulled: from here that looks the same), everything on it is gone.
Who asked for it with monitor_node gets NodeDown(node). Every monitor of a process over there gives
its Down, with the reason "noconnection". So a server that lends something watches the borrower:
when the borrower or its whole node goes, the thing is free again. Nobody has to clean up by hand.
cluster is the hand that pulls the plug in this lesson: cluster.kill(name).
"""

from drupelet import Down, NodeDown, Request, ask, monitor, monitor_node, nodes
from drupelet import receive, reply, self, send, spawn


async def toy_box(toys):
    lent = {}
    while True:
        match await receive():
            case Request(caller, "borrow") if toys:
                lent[monitor(caller[0])] = toys[-1]
                await reply(caller, toys.pop())
            case Request(caller, "borrow"):
                await reply(caller, "nothing")
            case Down(ref=ref):
                toys.append(lent.pop(ref))


async def child(box, parent):
    await send(parent, await ask(box, "borrow"))
    await receive("time for bed")


async def main(cluster):
    there = nodes()[0]
    box = await spawn(toy_box, ["a ball"])
    await spawn(child, box, self(), node=there)
    print("a child on", there, "gets", await receive())
    print("I get", await ask(box, "borrow"))
    await monitor_node(there)
    await cluster.kill(there)
    down = await receive(NodeDown)
    print(down.node, "is down")
    print("I get", await ask(box, "borrow"))
