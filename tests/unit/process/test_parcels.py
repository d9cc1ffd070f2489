"""Code in a request: by ref within a runtime, by name and digest elsewhere."""

from __future__ import annotations

import pytest

from drupelet.errors import NotSendable, RemoteError
from drupelet.process import Pid, run, self
from drupelet.process.current import this_runtime
from drupelet.process.parcels import pack, unpack

ELSEWHERE = Pid("bob", 7, 42)


def test_a_parcel_within_a_runtime_is_opened_once() -> None:
    async def main() -> None:
        runtime = this_runtime()
        thing = object()
        with pack(runtime, self(), thing) as data:
            assert unpack(runtime, data) is thing
            with pytest.raises(RemoteError, match="undef"):
                unpack(runtime, data)

    run(main)


def test_a_parcel_lives_as_long_as_its_request() -> None:
    async def main() -> None:
        runtime = this_runtime()
        with pack(runtime, self(), object()) as data:
            pass
        with pytest.raises(RemoteError, match="nobody waits"):
            unpack(runtime, data)

    run(main)


def test_elsewhere_a_name_and_a_digest_travel() -> None:
    async def main() -> None:
        runtime = this_runtime()
        runtime.digest_of = lambda module: module.encode()
        for to in (ELSEWHERE, ("kitchen", "bob")):
            with pack(runtime, to, test_elsewhere_a_name_and_a_digest_travel) as data:
                name = test_elsewhere_a_name_and_a_digest_travel.__name__
                assert data == ("$code", __name__, name, __name__.encode())
                assert unpack(runtime, data) is test_elsewhere_a_name_and_a_digest_travel
        with pytest.raises(NotSendable, match="no name"), pack(runtime, ELSEWHERE, lambda: None):
            raise AssertionError("not reached")

    run(main)


@pytest.mark.parametrize("data", [None, (), ("$here", 1), ("$code", "os"), ["$here"], "text"])
def test_what_is_no_parcel(data: object) -> None:
    async def main() -> None:
        with pytest.raises(RemoteError, match="no code"):
            unpack(this_runtime(), data)

    run(main)


def test_code_that_is_not_there() -> None:
    async def main() -> None:
        with pytest.raises(RemoteError, match="no_such"):
            unpack(this_runtime(), ("$code", "no_such", "x", b""))

    run(main)
