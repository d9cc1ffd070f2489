"""Monitors: told, not pulled down

A monitor is a link for watching only: when the other process ends you get one message,
Down(ref, pid, reason), and nothing happens to you. It comes exactly once.
The reason says how it ended: "normal" when its function returned; the name and the text of the
exception when it crashed; "noproc" when nobody was there to begin with.
spawn_monitor starts a process and watches it from its first moment; it gives its pid and a ref.
"""

from drupelet import Down, exit, monitor, receive, spawn_monitor


async def worker(job):
    if job == "too hard":
        raise ValueError("I cannot do that")
    if job == "too late":
        exit("tired")


async def main():
    for job in ("easy", "too hard", "too late"):
        await spawn_monitor(worker, job)
        down = await receive(Down)
        print(job, "->", down.reason)
    monitor("nobody")
    down = await receive(Down)
    print("nobody ->", down.reason)
