"""Names and groups

A pid is a good address for a process that you know; for others there are names and groups.
register("singer") gives this process a name on its node: write to it as ("singer", "bilbo").
One name, one node, one process. A group has members on many nodes: pg.join("choir") and you are in;
pg.get_members("choir") lists all of them, wherever they are. Who ends has left.
Every node learns of a new member a moment later, so wait for the "join" messages of pg.monitor.
"""

from drupelet import ANY, node, nodes, pg, receive, register, self, send, spawn


async def singer():
    await register("singer")
    pg.join("choir")
    while True:
        word, who = await receive()
        await send(who, (word, node()))


async def main():
    places = [node(), *nodes()][:3]
    ref, members = pg.monitor("choir")
    for place in places:
        await spawn(singer, node=place)
        await receive((ref, "join", "choir", ANY))
    await send(("singer", places[1]), ("solo", self()))
    print(*await receive())
    for pid in pg.get_members("choir"):
        await send(pid, ("la", self()))
    print(*sorted([await receive(("la", ANY)) for _ in places]))
