"""Junk as a configuration file: an error that names the place, or a configuration."""

from __future__ import annotations

import harness

with harness.instrumented():
    from drupelet.config import parse
    from drupelet.errors import ConfigError


def one_input(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        parse(text, "/etc/drupelet/drupelet.toml", host_name="node")
    except ConfigError as error:
        assert str(error).startswith("/etc/drupelet/drupelet.toml:"), error


if __name__ == "__main__":
    harness.fuzz("config", one_input)
