"""Junk as a bundle of shipped code: what is accepted has good names and encodes to itself."""

from __future__ import annotations

import contextlib

import harness

with harness.instrumented():
    from drupelet.errors import RemoteProtocolError
    from drupelet.wire.bundles import bundle_problem, decode_bundle, encode_bundle
    from drupelet.wire.signing import Signed, open_bundle

TAKEN = frozenset({"os", "json"})


def one_input(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        bundle = decode_bundle(data, TAKEN)
        assert encode_bundle(bundle) == data
        assert not bundle_problem(bundle, TAKEN)
        for name in (*bundle.modules, *bundle.load, bundle.mission):
            assert name.replace("-", "_").isidentifier() or name[0].isdigit()
            assert not set("/\\.\0 ") & set(name)
    with contextlib.suppress(RemoteProtocolError):
        open_bundle(Signed(data[96:], data[:32], data[32:96]))


if __name__ == "__main__":
    harness.fuzz("bundles", one_input)
