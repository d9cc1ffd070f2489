"""``drupelet-relay``: the relay's program, and its owner's verbs.

    drupelet-relay --config FILE                    serve, in the foreground
    drupelet-relay --config FILE invite [--uses N]  a code that lets so many nodes in
    drupelet-relay --config FILE accounts           who is in, who waits, who is denied; its peers
    drupelet-relay --config FILE approve WHO        WHO: a key, an email address, or "all"
    drupelet-relay --config FILE deny WHO
    drupelet-relay --config FILE key                this relay's key, for the peers of another

Decides flags, what is printed, and exit codes: 0 done, 1 failed, 2 usage, 78 bad configuration. The
verbs write the file that a running relay serves from; it hears of it within a second.
"""

from __future__ import annotations

import argparse
import base64
import logging
import os
import random
import resource
import signal
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from drupelet.core.relay import Account, Standing, sends
from drupelet.core.relay_peers import Peers
from drupelet.errors import (
    EXIT_BAD_CONFIGURATION,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_USAGE,
    ConfigError,
    DrupeletError,
)
from drupelet.net import notify
from drupelet.relay.config import RelayConfig, load
from drupelet.relay.serving import is_served, serving
from drupelet.relay.store import Job, Store
from drupelet.store.identity import Identity, load_or_make_identity
from drupelet.wire.keys import key_from_text, key_to_text
from drupelet.wire.relay import INVITE_BYTES

NOT_RUNNING: Final = "not known: this relay does not run"
_USES_TOP: Final = 1_000_000
_NEEDS: Final = (
    "to serve, type in its checkout, in a virtual environment: "
    "pip install --require-hashes -r daemon/requirements/relay.lock"
)


def main(argv: list[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        config = load(arguments.config)
        match arguments.verb:
            case "invite":
                return _invite(config, arguments.uses)
            case "accounts":
                return _accounts(config)
            case "approve":
                return _judge(config, arguments.who, Standing.APPROVED)
            case "deny":
                return _judge(config, arguments.who, Standing.DENIED)
            case "key":
                print(_identity(config).key_text)
                return EXIT_DONE
        return _serve(config, arguments.log_level)
    except ConfigError as error:
        _note(str(error))
        return EXIT_BAD_CONFIGURATION
    except (DrupeletError, OSError) as error:
        _note(str(error))
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drupelet-relay",
        description="A relay for nodes that cannot be reached. Without a verb: serve.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--log-level", choices=("debug", "info", "warning"), default="info")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    invite = verbs.add_parser("invite", help="print a code that lets nodes in")
    invite.add_argument("--uses", type=_uses, default=1, metavar="N", help="how many (1)")
    verbs.add_parser("accounts", help="list all accounts, and how the other relays stand")
    verbs.add_parser("key", help="print this relay's key, for the configuration of another")
    for verb, help_text in (("approve", "let a node in"), ("deny", "keep a node out")):
        judge = verbs.add_parser(verb, help=help_text)
        judge.add_argument("who", metavar="WHO", help='a key, an email address, or "all" waiting')
    return parser


def _uses(text: str) -> int:
    number = int(text)
    if not 0 < number <= _USES_TOP:
        raise ValueError
    return number


def _note(text: str) -> None:
    print(f"drupelet-relay: {text}", file=sys.stderr)


# -- the owner's verbs


def invite_text(code: bytes) -> str:
    """An invite's code as people send it: 26 letters and digits, in lower case."""
    return base64.b32encode(code).decode().rstrip("=").lower()


def invite_code(text: str) -> bytes:
    """The reverse. Raises: `ValueError`."""
    letters = "".join(text.split()).upper()
    code = base64.b32decode(letters + "=" * (-len(letters) % 8))
    if len(code) != INVITE_BYTES or invite_text(code) != letters.lower():
        raise ValueError("that is no invite's code")
    return code


def _invite(config: RelayConfig, uses: int) -> int:
    code = os.urandom(INVITE_BYTES)
    store = Store(config.state_dir)
    try:
        added = store.commit([lambda store: store.add_invite(code, uses)])[0]
    finally:
        store.close()
    if not added:
        _note("there are too many invites that nobody has used")
        return EXIT_FAILED
    print(invite_text(code))
    return EXIT_DONE


def _accounts(config: RelayConfig) -> int:
    state = config.state_dir
    store = Store(state)
    try:
        accounts = store.accounts()
        for account in accounts:
            print(_line(account))
        if not accounts and not config.peers:
            _note("no accounts yet; `invite` prints a code for a node to register with")
        told = {key: state for key, _, state in store.peers()} if is_served(state) else {}
        for peer in config.peers:
            standing = told.get(peer.key, NOT_RUNNING)
            print("  ".join(["peer".ljust(8), key_to_text(peer.key), peer.url, standing]))
    finally:
        store.close()
    return EXIT_DONE


def _identity(config: RelayConfig) -> Identity:
    # Bound to no board: a relay moves to another machine by copying its state.
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return load_or_make_identity(config.state_dir, board_serial="")


def _line(account: Account) -> str:
    # Names and addresses came from strangers; both were checked to be printable.
    words = [account.standing.value.ljust(8), key_to_text(account.key), account.name]
    return "  ".join([*words, account.email]).rstrip()


def _judge(config: RelayConfig, who: str, standing: Standing) -> int:
    store = Store(config.state_dir)
    try:
        accounts = store.accounts()
        if who == "all":
            found = [account for account in accounts if account.standing is Standing.PENDING]
        elif "@" in who:
            found = [account for account in accounts if account.email == who]
        else:
            try:
                key = key_from_text(who)
            except ValueError as error:
                _note(str(error))
                return EXIT_USAGE
            found = [account for account in accounts if account.key == key]
            if not found:  # known before it comes: a node of the owner's, or one to keep out
                found = [Account(key=key, name="", email="", standing=standing)]
        if not found and who != "all":
            _note(f"nobody has registered with {who}")
            return EXIT_FAILED
        judged = [replace(account, standing=standing) for account in found]
        store.commit([_putting(account) for account in judged])
        for account in judged:
            print(_line(account))
    finally:
        store.close()
    return EXIT_DONE


def _putting(account: Account) -> Job:
    return lambda store: store.put_account(account)


# -- serving


def _serve(config: RelayConfig, log_level: str) -> int:
    logging.basicConfig(
        level=log_level.upper(),
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a descriptor for each connection
    identity = _identity(config)
    if identity.public_key in [peer.key for peer in config.peers]:
        raise ConfigError("relay.peers has this relay's own key", mend="give the other relay's")
    code = EXIT_DONE
    try:
        with serving(config.state_dir), closing(Store(config.state_dir)) as store:
            trio.run(_run, config, store, identity)
    except* (OSError, DrupeletError) as group:  # a port that is taken, a disk that is full ...
        for error in _leaves(group):
            _note(str(error))
        code = EXIT_FAILED
    except* ModuleNotFoundError as group:  # a node's installation, which does without them
        for error in _leaves(group):
            _note(f"{getattr(error, 'name', error)} is not installed; {_NEEDS}")
        code = EXIT_FAILED
    return code


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _run(config: RelayConfig, store: Store, identity: Identity) -> None:
    # Starlette is only needed to serve: the owner's verbs are quicker without it.
    from drupelet.relay.listening import Server, open_listeners, tls_context
    from drupelet.relay.peers import Peering
    from drupelet.relay.service import Relay
    from drupelet.relay.web import Web
    from drupelet.wire.limits import RELAY_CONNECTIONS_MAX

    tls = None
    if config.tls_certificate is not None and config.tls_key is not None:
        tls = tls_context(str(config.tls_certificate), str(config.tls_key))
    rates = {"send": sends(config.sends_per_second)}
    peers = Peers(peer.key for peer in config.peers)
    relay = Relay(store, names=config.names, entropy=os.urandom, rates=rates, peers=peers)
    peering = Peering(relay, config.peers, identity, entropy=os.urandom, random=random.random)
    web = Web(relay, entropy=os.urandom, behind_proxy=config.behind_proxy, peering=peering)
    per_address = RELAY_CONNECTIONS_MAX if config.behind_proxy else config.connections_per_address
    server = Server(web.app, tls=tls, per_address_max=per_address)
    async with open_listeners(config.listen) as listeners, trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            nursery.start_soon(relay.run)
            nursery.start_soon(server.serve, listeners)
            nursery.start_soon(peering.run)
            for listener in listeners:
                host, port = listener.socket.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                print(f"listening on {shown}:{port}", flush=True)
            notify.ready(f"{config.names[0]}: {len(relay.accounts)} accounts")
            nursery.start_soon(_watchdog)
            async for _ in signals:
                break
        notify.stopping()
        nursery.cancel_scope.cancel()


async def _watchdog() -> None:
    interval_s = notify.watchdog_interval_s()
    while interval_s is not None:
        await trio.sleep(interval_s / 2)
        notify.watchdog()


if __name__ == "__main__":
    sys.exit(main())
