"""Which function a service is: where it is looked for, and each mistake with its line."""

from __future__ import annotations

import bisect
import sys
from pathlib import Path

import pytest

from drupelet.chan.conf import Conf, Service
from drupelet.chan.loading import find_function
from drupelet.errors import ConfigError


def conf_in(directory: Path, module: str, function: str = "start") -> tuple[Conf, Service]:
    service = Service(name="s", password=b"p4ss", module=module, function=function, line=3)
    return Conf(port=0, services=(service,), file=str(directory / "chan.conf")), service


def test_a_bundled_module(tmp_path: Path) -> None:
    function = find_function(*conf_in(tmp_path, "mod_name_server", "start_me_up"))
    assert function.__name__ == "start_me_up"
    assert function is find_function(*conf_in(tmp_path, "mod_name_server", "start_me_up"))


def test_a_module_beside_the_conf_comes_first(tmp_path: Path) -> None:
    (tmp_path / "mod_name_server.py").write_text("def start_me_up(mm, a, e): return 'ours'\n")
    function = find_function(*conf_in(tmp_path, "mod_name_server", "start_me_up"))
    assert function(None, None, None) == "ours"


def test_a_module_on_the_path(tmp_path: Path) -> None:
    assert find_function(*conf_in(tmp_path, "bisect", "insort")) is bisect.insort
    assert "chan_service_bisect" not in sys.modules


@pytest.mark.parametrize(
    ("source", "function", "words"),
    [
        (None, "start", "there is no module kitchen"),
        ("def start(mm, a, e:\n", "start", "does not load: SyntaxError"),
        ("1 / 0\n", "start", "does not load: ZeroDivisionError"),
        ("", "start", "has no function start"),
        ("start = 1\n", "start", "has no function start"),
        ("def start(mm, a): ...\n", "start", "does not take three"),
        ("def start(mm, a, e, *, x): ...\n", "start", "does not take three"),
    ],
)
def test_mistakes_name_the_line(
    tmp_path: Path, source: str | None, function: str, words: str
) -> None:
    if source is not None:
        (tmp_path / "kitchen.py").write_text(source)
    with pytest.raises(ConfigError, match=words) as caught:
        find_function(*conf_in(tmp_path, "kitchen", function))
    assert caught.value.line == 3


@pytest.mark.parametrize("signature", ["mm, a, e", "*args", "mm, a, e, more=1", "a=1, b=2, c=3"])
def test_signatures_that_do(tmp_path: Path, signature: str) -> None:
    (tmp_path / "kitchen.py").write_text(f"async def start({signature}): ...\n")
    assert callable(find_function(*conf_in(tmp_path, "kitchen")))
