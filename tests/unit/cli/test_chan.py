"""``drupelet chan CONF``: what it says, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.chan import parse_conf
from drupelet.cli import chan as verb
from drupelet.cli.output import Failed
from drupelet.errors import EXIT_BAD_CONFIGURATION
from drupelet.process import exit, processes
from drupelet.process.running import open_runtime
from tests.unit.cli.conftest import Run

SERVICE = '{service, nameServer, password, "ABXy45", mfa, mod_name_server, start_me_up, x}.\n'


def conf_file(directory: Path, text: str, mode: int = 0o600) -> str:
    file = directory / "chan.conf"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (SERVICE, 0o600, "no port; add a line {port, 1234}."),
        ("{port,0}.\n" + SERVICE, 0o644, "chmod 600"),
        ("{port,0}.\n{service, x\n" + SERVICE, 0o600, "chan.conf:2: "),
        ("{port,0}.\n" + SERVICE.replace("mod_name_server", "nowhere"), 0o600, "chan.conf:2: "),
    ],
)
def test_a_conf_that_cannot_be_used(
    run: Run, tmp_path: Path, text: str, mode: int, words: str
) -> None:
    code, out, err = run("chan", conf_file(tmp_path, text, mode))
    assert (code, out) == (EXIT_BAD_CONFIGURATION, "")
    assert words in err
    assert "ABXy45" not in err


def test_a_port_that_is_taken(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, err = run("chan", conf_file(tmp_path, f"{{port,{port}}}.\n{SERVICE}"))
    assert (code, f"port {port}" in err) == (EXIT_BAD_CONFIGURATION, True)


async def test_it_says_what_it_serves_and_sigterm_ends_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with open_runtime(), trio.open_nursery() as nursery:
        nursery.start_soon(verb._serve, parse_conf("{port,0}.\n" + SERVICE))
        out = ""
        with trio.fail_after(5):
            while "Ctrl-C" not in out:
                await trio.lowlevel.checkpoint()
                out += capsys.readouterr().out
        assert out.startswith("chan: serving nameServer on port ")
        await trio.testing.wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGTERM)


async def test_a_server_that_ends_by_itself_is_a_failure() -> None:
    failed: list[Failed] = []

    async def serve() -> None:
        with pytest.raises(Failed, match="the server ended: 'killed'") as caught:
            await verb._serve(parse_conf("{port,0}.\n" + SERVICE))
        failed.append(caught.value)

    async with open_runtime(), trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        servers = [each for each in await processes() if "_Server.run" in str(each["function"])]
        exit(servers[0]["pid"], "kill")
    assert failed
