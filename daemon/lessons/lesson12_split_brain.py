"""Split brain

Cut a network in two, and both halves live on. Neither can know whether the other one is dead or
only out of sight: it hears nothing, and that is all. If each half now does what it would do after a
death, there are two of something that must be one: two kings, two owners, two bank accounts.
That is split brain, and mending the cable does not mend it. The cure is a rule that only one half
can fulfil: act only while you see more than half of all nodes. Two halves cannot both be more.
"""

from drupelet import Down, NodeDown, Request, ask, monitor, monitor_node, node, nodes
from drupelet import receive, reply, self, send, spawn


async def knight(king, herald):
    monitor(king)
    await send(herald, "ready")
    lost = await receive(Down)
    seen = {node(), *nodes()} - {lost.pid.node}
    crown = node() == min(seen)
    while True:
        request = await receive(Request)
        await reply(request.caller, (node(), crown, sorted(seen)))


async def main(cluster):
    others = nodes()[:2]
    knights = [await spawn(knight, self(), self(), node=name) for name in others]
    for name in others:
        await receive("ready")
        await monitor_node(name)
    await cluster.cut(node())
    lost = sorted([(await receive(NodeDown)).node for _ in others])
    print(node(), "is king, and has lost", *lost)
    await cluster.heal()
    for pid in knights:
        name, crown, seen = await ask(pid, "are you king?")
        print(name, "is king," if crown else "is no king,", "and saw", *seen)
