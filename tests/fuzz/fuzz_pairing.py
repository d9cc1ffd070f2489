"""Junk for two that pair: codes, invitations, messages on a link, and words through a relay.

Words are also tried as they are signed by who may sign them, and what is handed over as it is
encrypted by who has the code: only so the parsers behind are reached.
"""

from __future__ import annotations

import contextlib
import hmac

import harness

with harness.instrumented():
    from drupelet.errors import CallError, RemoteProtocolError
    from drupelet.wire import pairing, relayed_pairing, sodium
    from drupelet.wire.codec import dumps
    from drupelet.wire.relayed_pairing import ANSWER_DOMAIN, ASK_DOMAIN
    from drupelet.wire.signing import sign

SEED = bytes(range(32))
KEY = sign(SEED, b"", b"").key
RUN, RE, ISK = bytes(32), bytes(16), bytes(64)


def one_input(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        code = pairing.code_from_text(text)
        assert pairing.code_from_text(pairing.show_code(code)) == code
        assert 0 <= relayed_pairing.plate_of(code) < 4_096
    with contextlib.suppress(ValueError):
        invitation = pairing.decode_invitation(text)
        assert pairing.decode_invitation(pairing.encode_invitation(invitation)) == invitation
    for decode in (
        pairing.decode_start,
        pairing.decode_share,
        pairing.decode_proof,
        pairing.decode_handed,
    ):
        with contextlib.suppress(RemoteProtocolError):
            decode(data)
    _words(data)
    _words(dumps([data, sign(SEED, ASK_DOMAIN, data).signature]))
    _words(dumps([data, sign(SEED, ANSWER_DOMAIN, data).signature]))
    _met(data)
    key, tag_key = relayed_pairing._keys(ISK, "step")
    box = sodium.encrypt(key, 0, data)
    _met(hmac.digest(tag_key, box, "sha256") + box)


def _words(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        ask = relayed_pairing.decode_ask(data, KEY, KEY)
        assert relayed_pairing.encode_ask(SEED, KEY, ask) == data
    with contextlib.suppress(RemoteProtocolError, CallError):
        answer = relayed_pairing.decode_answer(data, KEY, KEY, RUN, RE)
        assert relayed_pairing.encode_answer(SEED, KEY, RUN, RE, answer) == data


def _met(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        met = relayed_pairing.decode_met(ISK, "step", data)
        assert relayed_pairing.encode_met(ISK, "step", met) == data


if __name__ == "__main__":
    harness.fuzz("pairing", one_input)
