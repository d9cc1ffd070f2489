"""Two nodes

A node is one machine of the cluster; nodes() lists the others that yours is connected to.
spawn(function, node=name) starts a process over there. Its pid works like any other: send, ask,
link and monitor do not care where it lives. That is why you can write and test a program on one
machine and run it on many. Only data travels: a message is copied; code has to be there already.
ask(pid, request) sends a Request and waits for the reply: what GenServer.call is made of.
"""

from drupelet import Request, ask, node, nodes, receive, reply, spawn


async def store():
    values = {}
    while True:
        match await receive():
            case Request(caller, ("store", key, value)):
                values[key] = value
                await reply(caller, "stored")
            case Request(caller, ("lookup", key)):
                await reply(caller, values.get(key))


async def main():
    there = nodes()[0]
    pid = await spawn(store, node=there)
    answer = await ask(pid, ("store", "weather", "fine"))
    print(node(), "asks", there, "to keep the weather:", answer)
    answer = await ask(pid, ("lookup", "weather"))
    print(node(), "asks", there, "for the weather:", answer)
    print("the process lives on", pid.node)
