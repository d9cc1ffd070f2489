"""Errors: the wire form of each failure of a call, and the exit codes."""

from __future__ import annotations

import pytest

from drupelet import errors
from drupelet.errors import (
    AuthFail,
    BadService,
    CallError,
    CodeMismatch,
    ConfigError,
    NoConnection,
    NotPermitted,
    NotSendable,
    RateLimited,
    RemoteError,
    RemoteProtocolError,
    Revoked,
    Timeout,
    error_from_fields,
    error_to_fields,
)
from drupelet.wire import limits
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import HEADER_BYTES

TEXT_MAX = errors._TEXT_CHARS_MAX
EACH: list[CallError] = [
    RemoteError("undef", "no such function"),
    RemoteError("ValueError", "", "Traceback ..."),
    Timeout(True),
    Timeout(False),
    NoConnection("down", True),
    NoConnection("no_such_node"),
    NotPermitted(),
    NotPermitted("why"),
    CodeMismatch("ab" * 32, "cd" * 32),
    RateLimited(2.5),
    Revoked(),
    Revoked("expired"),
]


@pytest.mark.parametrize("error", EACH, ids=lambda error: f"{type(error).__name__} {error}")
def test_each_failure_crosses_the_wire(error: CallError) -> None:
    came = error_from_fields(loads(dumps(error_to_fields(error))))
    assert type(came) is type(error)
    assert vars(came) == vars(error)
    assert str(came) == str(error)


@pytest.mark.parametrize("error", EACH, ids=lambda error: f"{type(error).__name__} {error}")
def test_each_failure_has_a_form_in_json(error: CallError) -> None:
    found = errors.error_document(error)
    fields = {name: value for name, value in vars(error).items() if name != "traceback_text"}
    assert found["kind"] == fields.pop("kind", type(error).__name__)
    assert found["message"] == fields.pop("message", str(error))
    assert found.get("traceback", "") == getattr(error, "traceback_text", "")
    assert fields.items() <= found.items()


def test_every_kind_of_failure_has_a_wire_form() -> None:
    assert {type(error) for error in EACH} == set(CallError.__subclasses__())
    with pytest.raises(errors.LocalProtocolError, match="CallError has no wire form"):
        error_to_fields(CallError())


def test_text_at_the_maximum_and_one_above() -> None:
    most = RemoteError("k" * 128, "m" * TEXT_MAX, "t" * TEXT_MAX)
    assert vars(error_from_fields(error_to_fields(most))) == vars(most)
    longer = RemoteError("k" * 129, "m" * (TEXT_MAX + 1), "first" + "t" * TEXT_MAX)
    assert vars(error_from_fields(error_to_fields(longer))) == vars(most)
    for fields in ([1, "k", "m" * (TEXT_MAX + 1), ""], [4, "m" * (TEXT_MAX + 1)]):
        with pytest.raises(RemoteProtocolError, match="too long"):
            error_from_fields(fields)


def test_the_longest_error_fits_its_frame() -> None:
    for letter in ("x", "é", "語", "\U0001f347"):
        error = RemoteError(letter * 20_000, letter * 20_000, letter * 20_000)
        data = dumps(error_to_fields(error))
        assert len(data) <= limits.FRAME_BYTES_MAX - HEADER_BYTES
        assert len(data) <= limits.CONTROL_BYTES_MAX
        assert letter in error_from_fields(loads(data)).message  # type: ignore[attr-defined]


def test_text_that_is_no_unicode_is_made_so() -> None:
    odd = RemoteError("OSError", "no file \udcff", "in \udcff")
    assert loads(dumps(error_to_fields(odd))) == [1, "OSError", "no file ?", "in ?"]
    assert loads(dumps(error_to_fields(NotPermitted("\ud800")))) == [4, "?"]


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        "1",
        [0],
        [1],
        [6, "x"],
        [True, "kind", "message", ""],
        [1.0, "kind", "message", ""],
        (1, "kind", "message", ""),
        [1, "kind", "message"],
        [1, "kind", "message", "", ""],
        [1, b"kind", "message", ""],
        [2, 1],
        [2, None],
        [3, "down"],
        [3, "down", 0],
        [4, None],
        [5, "a"],
        [6, -1.0],
        [6, float("inf")],
        [6, float("nan")],
        [6, 1],
        [7],
        [7, None],
        ["1", "kind", "message", ""],
    ],
)
def test_other_fields_are_refused(fields: object) -> None:
    with pytest.raises(RemoteProtocolError):
        error_from_fields(fields)


def test_every_reason_has_its_sentence() -> None:
    for reason, sentence in errors.REASONS.items():
        assert sentence in str(NoConnection(reason))
        assert reason.isidentifier()
    assert "cannot be reached" in str(NoConnection("a reason of a later version"))


def test_exit_codes() -> None:
    expected = {
        NotPermitted(): 3,
        AuthFail("wrong password"): 3,
        NoConnection("down"): 5,
        Timeout(True): 6,
        ConfigError("what", mend="mend"): 78,
        RemoteError("undef", ""): 1,
        ValueError(): 1,
    }
    for error, code in expected.items():
        assert errors.exit_code(error) == code


def test_configuration_errors_name_place_and_mend() -> None:
    error = ConfigError("no such key", mend="did you mean port?", file="a.toml", line=3, key="prt")
    assert str(error) == "a.toml:3: prt: no such key; did you mean port?"
    assert str(ConfigError("w", mend="m", file="a.toml")) == "a.toml: w; m"
    assert str(ConfigError("w", mend="m")) == "w; m"


def test_what_cannot_be_sent_names_its_place() -> None:
    assert str(NotSendable("is code", '[0]["f"]')) == '[0]["f"]: is code'
    assert str(NotSendable("is code")) == "is code"


def test_whether_it_ran_is_said() -> None:
    assert "may have run" in str(Timeout(True))
    assert "did not run" in str(Timeout(False))


def test_refusals_of_a_chan_begin_with_lib_chans_word() -> None:
    assert str(AuthFail("wrong password")) == "authFail: wrong password"
    assert AuthFail("wait", 7.0).retry_after_s == 7.0
    bad = BadService("n" * 100)
    assert str(bad) == f"badService: the server has no service '{'n' * 80}'"
    assert (AuthFail.word, bad.word, bad.service) == ("authFail", "badService", "n" * 100)
    assert not isinstance(bad, CallError), "it has no wire form"


def test_a_process_that_cannot_be_asked_is_told_apart() -> None:
    assert "gone: ('ValueError', 'bad')" in str(errors.ProcessDown(("ValueError", "bad")))
    assert "no such process, or not any more: 'noproc'" in str(errors.ProcessDown("noproc"))
    assert "asks itself" in str(errors.ProcessDown("calling_self"))
