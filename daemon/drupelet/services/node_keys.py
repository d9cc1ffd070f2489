"""Node keys: the identity of a node, and the cookies that it takes.

Decides which cookies are in force: those of the cookie file, until pairing brought another one; the
newest first, and the one before it, for members that have not changed theirs yet.

Owns: nothing that runs; reading a chosen cookie takes 50 ms and is done in a thread.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Final

import trio

from drupelet import __version__
from drupelet.config import Config
from drupelet.errors import ConfigError
from drupelet.store.cookie import Cookie, load_or_make_cookie, psk_from_text
from drupelet.store.identity import Identity, board_serial, load_or_make_identity
from drupelet.store.paired import FILE, cookies_in_force, keep_paired_cookie, text_of
from drupelet.wire.handshake import Credentials, make_credentials

_log = logging.getLogger("drupelet")

INCARNATION_BITS: Final = 31  # people read it in pids; one start in 2**31 is like the last one


class NodeKeys:
    """Those of one node. `on_cookie`: told those that new links take. Raises: `ConfigError`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.identity, cookies, self._file_cookie = _read(config)
        self._psks = tuple(each.psk for each in cookies)
        self._paired_file = config.node.state_dir / FILE
        self.on_cookie: Callable[[tuple[bytes, ...]], None] = lambda psks: None

    def credentials(self, port: int) -> Credentials:
        """Of this start of the node, whose links are at `port`."""
        return make_credentials(
            self.identity.seed,
            secrets.token_bytes(32),
            name=self._config.node.name,
            incarnation=secrets.randbits(INCARNATION_BITS) + 1,
            port=port,
            software=__version__,
            psks=self._psks,
        )

    async def set_cookie(self, text: str) -> None:
        """A new cookie for new links; the former one stays accepted while others change too."""
        environment = self._config.node.environment
        psk = await trio.to_thread.run_sync(lambda: psk_from_text(text, environment))
        self._psks = (psk, *(each for each in self._psks if each != psk))[:2]
        self.on_cookie(self._psks)
        _log.info("cookie_changed accepted=%d", len(self._psks))

    async def cookie_text(self) -> str:
        """The cookie that this node uses; "": it is in no file. Raises: `ConfigError`."""
        files = (self._paired_file, self._config.link.cookie_file)
        psk, environment = self._psks[0], self._config.node.environment
        return await trio.to_thread.run_sync(lambda: text_of(psk, files, environment=environment))

    async def keep_cookie(self, text: str) -> None:
        """As `set_cookie`, also after a restart. Raises: `ConfigError`."""
        former = await self.cookie_text()
        if text == former:
            return
        await trio.to_thread.run_sync(
            keep_paired_cookie, self._paired_file, text, former, self._file_cookie
        )
        await self.set_cookie(text)


def _read(config: Config) -> tuple[Identity, tuple[Cookie, ...], Cookie]:
    """The key, the cookies in force, and the first one of the cookie file."""
    state_dir = config.node.state_dir
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make {state_dir}: {error.strerror or error}",
            mend="choose a directory that this user may write",
            key="[node] state_dir",
        ) from None
    identity = load_or_make_identity(state_dir, board_serial=board_serial())
    file = config.link.cookie_file
    had_cookie = file.exists()
    cookies = load_or_make_cookie(file, environment=config.node.environment)
    if not had_cookie:
        _log.warning("cookie_made file=%s, copy it to the other nodes: alone until then", file)
    paired = state_dir / FILE
    in_force = cookies_in_force(paired, cookies, environment=config.node.environment)
    if in_force is cookies and paired.exists():
        _log.warning("paired_cookie_ignored file=%s, the cookie file changed since", paired)
    return identity, in_force, cookies[0]
