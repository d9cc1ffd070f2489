"""The same, as a GenServer

Every server has the loop of lesson 3. GenServer is that loop, written once and tested well.
You write a class: init makes the state, and each method is something that others may ask for.
call sends a request and waits for the answer; what the method returns is the answer.
cast sends and goes on at once: nobody waits, so mark such a method with @cast.
A call that gets no answer within 5 seconds raises Timeout, so you never wait for ever.
"""

from drupelet import GenServer, cast


class Counter(GenServer):
    def init(self, number):
        self.number = number

    def get(self):
        return self.number

    @cast
    def more(self):
        self.number += 1


async def main():
    pid = await Counter.start(0)
    for _ in range(3):
        await GenServer.cast(pid, "more")
    print("number", await GenServer.call(pid, "get"))
