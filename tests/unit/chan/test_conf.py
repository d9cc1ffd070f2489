"""The conf: the seed's own, and each mistake with its line and without a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from drupelet.chan.conf import LISTEN_MAX, Conf, Service, normal, parse_conf, read_conf
from drupelet.errors import ConfigError
from drupelet.wire import limits

SEED = """\
{port,1234}.
{service, nameServer, password, "ABXy45", mfa, mod_name_server, start_me_up, notUsed}.
"""
SERVICE = '{service, s, password, "p4ss", mfa, mod, fun, []}.\n'


def test_the_seeds_conf() -> None:
    assert parse_conf(SEED, "chan.conf") == Conf(
        port=1234,
        services=(
            Service(
                name="nameServer",
                password=b"ABXy45",
                module="mod_name_server",
                function="start_me_up",
                extra="notUsed",
                line=2,
            ),
        ),
        listen=("127.0.0.1",),
        file="chan.conf",
    )


def test_no_password_in_a_repr() -> None:
    assert "ABXy45" not in repr(parse_conf(SEED))


def test_without_dots_with_listen_and_comments() -> None:
    conf = parse_conf('% ours\n{port,0}\n{listen,["0.0.0.0","::"]} % all\n' + SERVICE[:-2])
    assert (conf.port, conf.listen) == (0, ("0.0.0.0", "::"))
    assert conf.services[0].extra == []
    assert parse_conf('{listen,"::1"}.{port,1}.' + SERVICE).listen == ("::1",)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("{port,1234\n" + SERVICE, 1, "is missing after"),
        ('{port,1234}.\n{service, s, password, "p4ss, mfa, mod, fun, []}.', 2, "does not end"),
        ('{port,1234}.\n{service, s, password, "p4ss", mfa, mod, fun}.', 2, "looks like"),
        ('{port,1}.\n{service, s, "p4ss", mod, fun, []}.', 2, "looks like"),
        ("{port,1}.\n{service, s, password, p4ss, mfa, mod, fun, []}.", 2, "not in quotes"),
        ("{port,1}.\n{service, s, password, none, mfa, mod, fun, []}.", 2, "open to everybody"),
        ('{port,1}.\n{service, s, password, "", mfa, mod, fun, []}.', 2, "1 to 1024 bytes"),
        ('{port,1}.\n{service, "", password, "p4ss", mfa, mod, fun, []}.', 2, "1 to 63"),
        ("{port,1}.\n{service, s, password, \"p4ss\", mfa, 'a.b', fun, []}.", 2, "no module"),
        ("{port,1}.\n{service, s, password, \"p4ss\", mfa, mod, '_f', []}.", 2, "no function"),
        (f"{{port,1}}.\n\n{SERVICE}{SERVICE}", 4, "a second service 's'"),
        ("{port,65536}.\n" + SERVICE, 1, "no port number"),
        ("{port,-1}.\n" + SERVICE, 1, "no port number"),
        ('{port,"1234"}.\n' + SERVICE, 1, "no port number"),
        (SERVICE + "{port,1}.\n{port,1}.", 3, "a second port"),
        ('{listen,"::"}.\n{listen,"::"}.', 2, "a second listen"),
        ("{listen,all}.", 1, "no address"),
        ("{listen,[all]}.", 1, "1 to 8 addresses"),
        ("{listen,[]}.", 1, "1 to 8 addresses"),
        ("{ports,1}.", 1, "'ports' is not known"),
        ("[port,1].", 1, "no tuple"),
        ("port.", 1, "no tuple"),
        ("{1,2}.", 1, "no tuple"),
        ("{}.", 1, "no tuple"),
    ],
)
def test_a_malformed_line_is_named(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_conf(text, "chan.conf")
    assert str(caught.value).startswith(f"chan.conf:{line}: ")
    assert words in str(caught.value)
    assert "p4ss" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(("text", "words"), [("", "no port"), ("{port,1}.", "no service")])
def test_what_is_missing(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_conf(text)


def _service(name: str = "s", password: str = "p") -> str:
    return f'{{service, "{name}", password, "{password}", mfa, mod, fun, []}}.\n'


def test_maxima_and_one_above() -> None:
    most = limits.CHAN_SERVICES_MAX
    many = "{port,1}.\n" + "".join(_service(f"s{number}") for number in range(most))
    assert len(parse_conf(many).services) == most
    with pytest.raises(ConfigError, match=f"more than {most} services") as caught:
        parse_conf(many + _service("one more"))
    assert caught.value.line == most + 2
    for size, field in (
        (limits.NAME_CHARS_MAX, "name"),
        (limits.CHAN_PASSWORD_BYTES_MAX, "password"),
    ):
        parse_conf("{port,1}." + _service(**{field: "x" * size}))
        with pytest.raises(ConfigError):
            parse_conf("{port,1}." + _service(**{field: "x" * (size + 1)}))
    addresses = ",".join(['"::"'] * LISTEN_MAX)
    parse_conf(f"{{port,1}}.{{listen,[{addresses}]}}." + SERVICE)
    with pytest.raises(ConfigError):
        parse_conf(f'{{port,1}}.{{listen,[{addresses},"::"]}}.' + SERVICE)


def test_texts_are_normalised() -> None:
    decomposed = "Ba\u0308rbel"
    conf = parse_conf("{port,1}." + _service(decomposed, decomposed))
    assert conf.services[0].name == "B\xe4rbel" == normal(decomposed)
    assert conf.services[0].password == "B\xe4rbel".encode()
    with pytest.raises(ValueError):
        normal("\ud800")


def _file(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    file = directory / "chan.conf"
    file.write_bytes(content)
    file.chmod(mode)
    return file


def test_a_file_of_mode_0600(tmp_path: Path) -> None:
    file = _file(tmp_path, SEED.encode())
    assert read_conf(file) == parse_conf(SEED, str(file)) == read_conf(str(file))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600"):
        read_conf(_file(tmp_path, SEED.encode(), mode))


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_conf(tmp_path / "none.conf")
    with pytest.raises(ConfigError, match="not UTF-8") as caught:
        read_conf(_file(tmp_path, b"{port,1}.\n\xff"))
    assert caught.value.line == 2


def test_the_largest_file_and_one_byte_more(tmp_path: Path) -> None:
    content = SEED.encode().ljust(limits.CHAN_CONF_BYTES_MAX)
    assert read_conf(_file(tmp_path, content)).port == 1234
    with pytest.raises(ConfigError, match="longer than"):
        read_conf(_file(tmp_path, content + b" "))
