"""Mailboxes at their bounds, and what a process's record says of itself."""

from __future__ import annotations

import pytest

from drupelet.process.table import (
    DEFAULT_MAILBOX,
    LIMIT_MAX,
    RELATIONS_MAX,
    SLACK,
    WAITED,
    Mailbox,
    Process,
)
from drupelet.wire.ids import Pid, Ref
from tests.unit.process.values import Sans


@pytest.mark.parametrize("limit", [1, 2, LIMIT_MAX])
@pytest.mark.parametrize("policy", ["block", "drop_new", "drop_old", "exit"])
def test_every_mailbox_that_may_be(limit: int, policy: str) -> None:
    mailbox = Mailbox(limit=limit, policy=policy)
    assert (mailbox.limit, mailbox.policy) == (limit, policy)


@pytest.mark.parametrize("limit", [0, -1, LIMIT_MAX + 1, True, 1.0, "10", None])
def test_a_limit_that_is_none(limit: object) -> None:
    with pytest.raises(ValueError, match=r"a mailbox holds 1 to 1,000,000 messages, not"):
        Mailbox(limit=limit)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["", "Block", "drop", None, 1])
def test_a_policy_that_is_none(policy: object) -> None:
    with pytest.raises(ValueError, match=r"is not known; use one of \('block', 'drop_new'"):
        Mailbox(policy=policy)  # type: ignore[arg-type]


def test_the_default_is_the_one_of_the_design() -> None:
    assert (DEFAULT_MAILBOX.limit, DEFAULT_MAILBOX.policy) == (10_000, "block")
    assert WAITED < SLACK


def test_who_is_alive() -> None:
    kernel = Sans()
    process = kernel.new_process(None)
    assert process.alive
    process.exiting = True
    assert not process.alive
    process.exiting = False
    kernel.end(process, "normal")
    assert not process.alive
    assert not Process(kernel, Pid("gandalf", 1, 5), None, DEFAULT_MAILBOX).alive


def test_relations_are_counted_both_ways() -> None:
    process = Sans().new_process(None)
    assert process.relations == 0 < RELATIONS_MAX
    pid = Pid("gandalf", 1, 5)
    process.links = {pid}
    process.monitors = {Ref("gandalf", 1, 6): pid, Ref("gandalf", 1, 7): pid}
    process.watchers = {5: pid}
    assert process.relations == 4


def test_an_idle_process_has_no_containers() -> None:
    process = Sans().new_process(None)
    for name in ("messages", "senders", "silenced", "links", "monitors", "watchers", "names"):
        assert getattr(process, name) is None
