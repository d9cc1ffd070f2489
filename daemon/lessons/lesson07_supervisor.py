"""Let it crash

No program handles every mistake. A supervisor does not even try: it starts its children, is linked
to them, and when one crashes it starts a new one, fresh and in order. The crash costs one answer,
not the whole program. So write what the server is for, and let the strange cases crash:
the caller gets ProcessDown, the log has the reason, and the next caller finds a new server.
More than one restart within 5 seconds is too many: then the supervisor itself gives up.
"""

from drupelet import Child, GenServer, ProcessDown, Supervisor, receive, self, send


class Calculator(GenServer):
    async def init(self, boss):
        await send(boss, "ready")

    def share(self, sweets, children):
        return sweets // children


async def main():
    child = Child("calculator", (Calculator, (self(),)), name="calculator")
    await Supervisor.start_link([child])
    await receive("ready")
    print("12 sweets for 4:", await GenServer.call("calculator", "share", 12, 4))
    try:
        await GenServer.call("calculator", "share", 12, 0)
    except ProcessDown as error:
        print("12 sweets for 0:", error.reason[0])
    await receive("ready")
    print("12 sweets for 3:", await GenServer.call("calculator", "share", 12, 3))
