"""Endpoints without a channel."""

from __future__ import annotations

from pathlib import Path

from drupelet.errors import CallError, NotPermitted
from drupelet.services.ends import End
from tests.unit.services.nodes import open_small_node


async def test_who_called_is_answered_by_a_function(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:
        answers: list[tuple[int, bytes | CallError]] = []
        end = End(
            alice.calls,
            alice.deadlines,
            lambda ident, outcome: answers.append((ident, outcome)),
            key=b"k" * 32,
        )
        assert not end.direct and end.ring == "stranger" and not end.closed
        end.reply(4, b"value")
        refusal = NotPermitted()
        end.reply_error(6, refusal)
        assert answers == [(4, b"value"), (6, refusal)]
        end.channel.queue(b"frame")
        end.channel.send_now()
        end.close(NotPermitted())
        assert end.closed
