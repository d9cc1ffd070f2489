"""The conf of a chan server, in lib_chan's shape.

    {port, 1234}.
    {listen, "0.0.0.0"}.              % not in lib_chan; without it: this machine only
    {service, nameServer, password, "ABXy45", mfa, mod_name_server, start_me_up, notUsed}.

Decides what such a file may say. The file holds passwords, so it must be a plain file of mode 0600
(`store.secret_files`). Every mistake is a `ConfigError` that names file and line; no password is in
a message or a `repr`. lib_chan's ``password, none`` is refused: such a service is everybody's.

Passwords and names are NFC-normalised, so that two keyboards write the same one.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from drupelet.chan.terms import Atom, Term, TermError, parse_terms, to_data
from drupelet.errors import ConfigError
from drupelet.store.secret_files import read_secret_file
from drupelet.wire import limits

LISTEN_DEFAULT: Final = ("127.0.0.1",)
LISTEN_MAX: Final = 8
_WHAT: Final = "the chan conf"
_SERVICE: Final = (
    '{service, NAME, password, "SECRET", mfa, MODULE, FUNCTION, ARGUMENT}.  (see docs/CHAN.md)'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service: who has `password` gets a process ``module.function(mm, argument, extra)``.

    `line`: where it stands in the conf.
    """

    name: str
    password: bytes = field(repr=False)
    module: str
    function: str
    extra: object = None
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conf:
    """A whole conf. `file`: where it came from, for messages and for the services' modules."""

    port: int
    services: tuple[Service, ...]
    listen: tuple[str, ...] = LISTEN_DEFAULT
    file: str = ""


def read_conf(path: str | os.PathLike[str]) -> Conf:
    """The conf in a file of mode 0600. Raises: `ConfigError`."""
    file = Path(path)
    content = read_secret_file(file, what=_WHAT, bytes_max=limits.CHAN_CONF_BYTES_MAX)
    if content is None:
        raise ConfigError("there is no such file", mend="see docs/CHAN.md", file=str(file))
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            "this line is not UTF-8 text", mend="save it as UTF-8", file=str(file), line=line
        ) from None
    return parse_conf(text, str(file))


def parse_conf(text: str, file: str = "conf") -> Conf:
    """The conf that `text` is. Raises: `ConfigError`."""
    try:
        terms = parse_terms(text)
    except TermError as error:
        raise ConfigError(
            str(error), mend="each term is like {port, 1234}.", file=file, line=error.line
        ) from None
    return _Reader(file).read(terms)


def normal(text: str) -> str:
    """A name or a password as both sides hash it. Raises: `ValueError` for what is no text."""
    normalised = unicodedata.normalize("NFC", text)
    normalised.encode()  # a lone surrogate: UnicodeEncodeError, a ValueError
    return normalised


class _Reader:
    def __init__(self, file: str) -> None:
        self._file = file
        self._line = 0
        self._port: int | None = None
        self._listen: tuple[str, ...] | None = None
        self._services: dict[str, Service] = {}

    def read(self, terms: list[tuple[int, Term]]) -> Conf:
        for self._line, term in terms:
            self._read_term(term)
        self._line = 0
        if self._port is None:
            raise self._error("no port", "add a line {port, 1234}.")
        if not self._services:
            raise self._error("no service", f"add a line {_SERVICE}")
        return Conf(
            port=self._port,
            services=tuple(self._services.values()),
            listen=self._listen or LISTEN_DEFAULT,
            file=self._file,
        )

    def _read_term(self, term: Term) -> None:
        match term if isinstance(term, tuple) else ():
            case (Atom("port"), int(port)) if 0 <= port <= 65_535:
                if self._port is not None:
                    raise self._error("a second port", "take one of them out")
                self._port = port
            case (Atom("port"), *_):
                raise self._error("no port number", "write {port, 1234}. (0: any free port)")
            case (Atom("listen"), str(address)):
                self._take_listen([address])
            case (Atom("listen"), list(addresses)):
                self._take_listen(addresses)
            case (Atom("listen"), *_):
                raise self._error("no address to listen on", 'write {listen, "0.0.0.0"}.')
            case (Atom("service"), *rest):
                self._take_service(rest)
            case (Atom(word), *_):
                raise self._error(
                    f"{word[:40]!r} is not known here", "a conf has port, listen and service"
                )
            case _:
                raise self._error(
                    "this is no tuple that begins with a word",
                    "write {port, 1234}. or {service, ...",
                )

    def _take_listen(self, addresses: list[Term]) -> None:
        if self._listen is not None:
            raise self._error("a second listen", "write {listen, [ADDRESS, ADDRESS]}.")
        texts = tuple(address for address in addresses if isinstance(address, str))
        if not 0 < len(texts) == len(addresses) <= LISTEN_MAX:
            raise self._error(
                f"listen takes 1 to {LISTEN_MAX} addresses in quotes", 'such as "0.0.0.0" or "::"'
            )
        self._listen = texts

    def _take_service(self, rest: list[Term]) -> None:
        match rest:
            case [
                Atom(name) | str(name),
                Atom("password"),
                str(password),
                Atom("mfa"),
                Atom(module),
                Atom(function),
                extra,
            ]:
                pass
            case [_, Atom("password"), Atom("none"), *_]:
                raise self._error(
                    "a service without a password is open to everybody", "give it a password"
                )
            case [_, Atom("password"), Atom() | int() | tuple() | list(), *_]:
                raise self._error("the password is not in quotes", 'write password, "SECRET"')
            case _:
                raise self._error("this is not what a service looks like", f"write {_SERVICE}")
        name = normal(name)
        if not 0 < len(name) <= limits.NAME_CHARS_MAX:
            raise self._error(
                f"a service's name has 1 to {limits.NAME_CHARS_MAX} characters", "shorten it"
            )
        if name in self._services:
            raise self._error(f"a second service {name!r}", "give it another name")
        if len(self._services) >= limits.CHAN_SERVICES_MAX:
            raise self._error(
                f"more than {limits.CHAN_SERVICES_MAX} services", "start a second server"
            )
        secret = normal(password).encode()
        if not 0 < len(secret) <= limits.CHAN_PASSWORD_BYTES_MAX:
            raise self._error(
                f"a password has 1 to {limits.CHAN_PASSWORD_BYTES_MAX} bytes", "choose another"
            )
        for word, what in ((module, "module"), (function, "function")):
            if not word.isidentifier() or word.startswith("_"):
                raise self._error(f"no {what} is named {word[:40]!r}", f"write {_SERVICE}")
        self._services[name] = Service(
            name=name,
            password=secret,
            module=module,
            function=function,
            extra=to_data(extra),
            line=self._line,
        )

    def _error(self, what: str, mend: str) -> ConfigError:
        return ConfigError(what, mend=mend, file=self._file, line=self._line)
