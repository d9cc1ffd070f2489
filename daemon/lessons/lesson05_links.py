"""Links: one rope

Two processes that are linked are like climbers on one rope: when one falls, the other falls too.
What runs along the rope is an exit signal with a reason. So a group of processes that need each
other ends together, and nothing half alive is left over.
A process that called trap_exit(True) does not fall: it gets the message Exit(pid, reason) instead.
spawn_link starts a process and links it to you, in one step.
"""

from drupelet import Exit, exit, receive, self, send, spawn_link, trap_exit


async def first():
    await receive("slip")
    exit("slipped")


async def second(base_camp):
    await send(base_camp, await spawn_link(first))
    await receive("nothing ever comes")


async def main():
    trap_exit(True)
    my_neighbour = await spawn_link(second, self())
    leader = await receive()
    await send(leader, "slip")
    match await receive():
        case Exit(pid=pid, reason=reason):
            print("on my rope fell:", "the second" if pid == my_neighbour else "the first")
            print("because somebody", reason)
