"""Requests at both ends: run once, honest about what may have run, over a hostile relay."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from math import inf

import pytest

from drupelet.core import once as core_once
from drupelet.core import requests as core
from drupelet.core.freshness import KEPT_MAX, TOKEN_S, TOKENS_MAX
from drupelet.core.once import ONCE_KEPT_S, OnceRecord, content_of
from drupelet.core.requests import (
    STALE_S,
    WAITING_MAX,
    Answer,
    Caller,
    Outcome,
    Run,
    Sent,
)
from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    RateLimited,
    RemoteError,
    Revoked,
    Timeout,
    error_to_fields,
)
from drupelet.wire import sodium
from drupelet.wire.codec import dumps, loads
from drupelet.wire.grants import Grant, Terms
from drupelet.wire.idempotency import DONE_TARGET
from drupelet.wire.limits import DONE_KEYS_MAX, REPLY_VALUE_BYTES_MAX, REQUEST_BYTES_MAX
from drupelet.wire.requests import Reply, encode_reply
from tests.unit.core.requested import ALICE, ANNE, BOB, EVE, KEY, ONCE, Node, Pair

SEEDS = 1_000


def test_a_call_and_its_value() -> None:
    pair = Pair()
    sent = pair.sent()
    assert sent.to == KEY[ALICE] and len(pair.bob) == 1
    run = pair.run(sent)
    assert (run.target, loads(run.arguments), run.span_s) == ("kitchen/boil", [1], 100.0)
    assert run.right.caller == KEY[BOB] and run.record is None
    [answer], record = pair.alice.callee.finish(run.ticket, dumps("hot"), 1.0)
    assert record is None and answer.re == sent.id
    assert pair.reply(answer) == Outcome(call=sent.call, result=dumps("hot"))
    assert len(pair.bob) == 0 and pair.bob.next_timer() == inf
    assert pair.reply(answer) is None and pair.bob.dropped_count == 1  # a second time
    assert pair.alice.callee.finish(run.ticket, dumps("hot"), 1.0) == ([], None)


def test_a_replay_gets_the_reply_that_was_kept_and_does_not_run() -> None:
    pair = Pair()
    sent = pair.sent()
    run = pair.run(sent)
    assert pair.receive(sent) is None  # it runs: its reply comes
    [answer], _ = pair.alice.callee.finish(run.ticket, dumps("hot"), 1.0)
    assert pair.receive(sent, 2.0) == answer
    late = TOKENS_MAX * TOKEN_S + 1
    assert pair.receive(sent, late) == answer
    forgotten = pair.receive(sent, KEPT_MAX * TOKEN_S + 1)
    assert isinstance(forgotten, Answer) and forgotten != answer  # stale; but nothing runs
    assert isinstance(pair.reply(answer), Outcome)


@pytest.mark.parametrize("refusal", [NotPermitted, RateLimited, Revoked])
def test_what_was_refused_stays_refused(refusal: type[CallError]) -> None:
    pair = Pair(terms=Terms(functions=("boil",), rate=(1, 100)))
    target = "kitchen/wipe" if refusal is NotPermitted else "kitchen/boil"
    if refusal is RateLimited:
        pair.run(pair.sent())
    if refusal is Revoked:
        pair.alice.grants.revoke(pair.grant.id, 0.0)
    sent = pair.sent(target=target)
    answer = pair.receive(sent)
    assert pair.receive(sent, 110.0) == answer  # the rate would allow it now
    assert type(pair.error(answer)) is refusal


def test_what_is_revoked_while_it_waits_at_the_relay_does_not_run() -> None:
    pair = Pair()
    queued, running = pair.sent(), pair.sent()
    run = pair.run(running)
    revocation = pair.alice.grants.revoke(pair.grant.id, 1.0)
    assert revocation.tickets == (run.ticket,)
    assert type(pair.error(pair.receive(queued, 2.0))) is Revoked
    [answer], _ = pair.alice.callee.finish(run.ticket, Revoked(), 2.0)
    assert type(pair.error(answer)) is Revoked


def test_only_the_holder_calls_and_only_the_callee_it_named() -> None:
    pair = Pair()
    stolen = pair.sent(seed=EVE)
    assert type(pair.error(pair.receive(stolen))) is NotPermitted
    other = pair.sent(target="cellar/boil")
    assert type(pair.error(pair.receive(other))) is NotPermitted
    garbage = pair.sent(grant=b"no grant")
    assert type(pair.error(pair.receive(garbage))) is NotPermitted
    passed_on = pair.sent(callee=KEY[ANNE])  # sealed to Alice, signed for Anne
    assert pair.receive(passed_on) is None and pair.alice.callee.dropped_count == 1
    pair.alice.boot(1.0)
    assert pair.receive(pair.sent(boot_key=Node(ANNE, 9).callee.boot_key)) is None
    assert pair.alice.callee.dropped_count == 1


def test_told_that_its_token_is_old_it_signs_once_more() -> None:
    pair = Pair()
    sent = pair.sent()
    answer = pair.receive(sent, 70.0)
    again = pair.reply(answer, STALE_S - 1)
    assert isinstance(again, Sent) and again.call == sent.call and again.id != sent.id
    assert pair.reply(answer, STALE_S - 1) is None  # of the first request: of no use now
    run = pair.run(again, 71.0)
    [value], _ = pair.alice.callee.finish(run.ticket, dumps(2), 72.0)
    assert pair.reply(value) == Outcome(call=sent.call, result=dumps(2))


def test_a_second_old_token_ends_the_call_which_did_not_run() -> None:
    pair = Pair()
    again = pair.reply(pair.receive(pair.sent(), 70.0), 1.0)
    assert isinstance(again, Sent)
    error = pair.error(pair.receive(again, 140.0), 2.0)
    assert isinstance(error, Timeout) and not error.maybe_ran


def test_a_late_word_that_the_token_is_old_is_no_proof_that_nothing_ran() -> None:
    pair = Pair()
    sent = pair.sent()
    pair.run(sent)
    late = KEPT_MAX * TOKEN_S + 1
    stale = pair.receive(sent, late)  # the callee has forgotten that it ran
    assert pair.reply(stale, STALE_S) is None
    [outcome] = pair.bob.handle_timer(100.0)
    assert isinstance(outcome.result, Timeout) and outcome.result.maybe_ran
    once = pair.sent(0.0, idempotency_key=ONCE)
    old = pair.receive(once, 2 * late)
    again = pair.reply(old, STALE_S)
    assert isinstance(again, Sent)  # its key stands for it


def test_deadlines_cancelling_and_a_relay_that_refuses() -> None:
    pair = Pair()
    with pytest.raises(Timeout) as early:
        pair.sent(100.0)
    assert not early.value.maybe_ran
    sent, given_up = pair.sent(), pair.sent()
    not_taken = pair.sent(deadline=50.0)
    assert pair.bob.next_timer() == 50.0
    refused = NoConnection("no_such_node")
    assert pair.bob.refused(not_taken.call, refused) == Outcome(call=not_taken.call, result=refused)
    assert pair.bob.refused(not_taken.call, refused) is None
    pair.bob.cancel(given_up.call)
    pair.bob.cancel(given_up.call)
    assert pair.bob.handle_timer(99.9) == []
    [outcome] = pair.bob.handle_timer(100.0)
    assert outcome.call == sent.call
    assert isinstance(outcome.result, Timeout) and outcome.result.maybe_ran
    assert len(pair.bob) == 0


def test_a_relay_that_refuses_the_second_request_says_nothing_of_the_first() -> None:
    pair = Pair()
    sent = pair.sent(idempotency_key=ONCE)
    again = pair.reply(pair.receive(sent, 70.0), STALE_S)  # late: the first may have run
    assert isinstance(again, Sent)
    outcome = pair.bob.refused(again.call, NoConnection("no_such_node"))
    assert outcome is not None and isinstance(outcome.result, Timeout)
    assert outcome.result.maybe_ran


@pytest.mark.parametrize("refusal", [Revoked(), NotPermitted(), RateLimited(1.0)])
def test_a_callee_that_refuses_the_second_request_says_nothing_of_the_first(
    refusal: CallError,
) -> None:
    """It looks at the right before it looks at the idempotency key."""
    pair = Pair()
    sent = pair.sent(idempotency_key=ONCE)
    run = pair.run(sent)  # and its reply is lost
    pair.alice.callee.finish(run.ticket, dumps("hot"), 1.0)
    again = pair.reply(pair.receive(sent, 130.0), 99.0)
    assert isinstance(again, Sent)
    pair.alice.grants.revoke(pair.grant.id, 130.0)
    error = pair.error(pair.receive(again, 130.0), 99.0)
    assert isinstance(error, Timeout) and error.maybe_ran

    second = pair.bob.call(
        replace(pair.alice.wanted(pair.grant, 1), idempotency_key=ONCE),
        pair.alice.callee.token,
        0.0,
    )
    call = pair.bob._by_id[second.id]
    call.maybe_ran = True
    fields = dumps(error_to_fields(refusal))
    reply = encode_reply(ALICE, Reply(request_hash=call.hash, error=fields))
    sealed = sodium.seal(b"e" * 32, sodium.x25519_public(call.private), reply)
    outcome = pair.bob.on_reply(second.id, sealed, 1.0)
    assert isinstance(outcome, Outcome) and isinstance(outcome.result, Timeout)
    assert outcome.result.maybe_ran


def test_crossed_and_forged_replies_are_dropped() -> None:
    pair = Pair()
    one, two = pair.sent(), pair.sent()
    answers = []
    for sent in (one, two):
        [answer], _ = pair.alice.callee.finish(pair.run(sent).ticket, dumps(sent.call), 1.0)
        answers.append(answer)
    assert pair.reply(replace(answers[0], re=two.id)) is None
    assert pair.reply(replace(answers[1], body=answers[1].body[:-1] + b"\0")) is None
    assert pair.reply(replace(answers[0], re=b"?" * 16)) is None
    assert pair.bob.dropped_count == 3
    assert [pair.reply(each) for each in answers] == [
        Outcome(call=one.call, result=dumps(one.call)),
        Outcome(call=two.call, result=dumps(two.call)),
    ]


def test_a_callee_that_answers_nonsense_may_have_run_it() -> None:
    for nonsense in (dumps("?"), b"\xff", dumps([0, b"short"]), dumps([99])):
        pair = Pair()
        sent = pair.sent()
        call = pair.bob._by_id[sent.id]
        public = sodium.x25519_public(call.private)
        reply = encode_reply(ALICE, Reply(request_hash=call.hash, error=nonsense))
        outcome = pair.bob.on_reply(sent.id, sodium.seal(b"e" * 32, public, reply), 1.0)
        assert isinstance(outcome, Outcome) and isinstance(outcome.result, Timeout)
        assert outcome.result.maybe_ran


def test_one_run_for_one_idempotency_key() -> None:
    pair = Pair()
    run = pair.run(pair.sent(idempotency_key=ONCE))
    assert run.record is not None
    assert run.record == OnceRecord(
        caller=KEY[BOB], key=ONCE, content=run.record.content, left_s=ONCE_KEPT_S
    )
    waiting = pair.sent(idempotency_key=ONCE)
    assert pair.receive(waiting) is None
    answers, record = pair.alice.callee.finish(run.ticket, dumps("hot"), 1.0)
    assert record is not None and record.outcome == (dumps("hot"), None)
    results = [pair.reply(each) for each in answers]
    assert [each.result for each in results if isinstance(each, Outcome)] == [dumps("hot")] * 2
    later = pair.reply(pair.receive(pair.sent(idempotency_key=ONCE), 2.0))
    assert isinstance(later, Outcome) and later.result == dumps("hot")
    other = pair.error(pair.receive(pair.sent(idempotency_key=ONCE, arguments=dumps([2])), 2.0))
    assert isinstance(other, RemoteError) and other.kind == "badarg"
    pair.alice.callee.handle_timer(1.0 + ONCE_KEPT_S)
    pair.run(pair.sent(idempotency_key=ONCE), 2.0 + ONCE_KEPT_S)  # a week later it is another


def test_idempotency_keys_outlive_the_callee() -> None:
    pair = Pair()
    run = pair.run(pair.sent(idempotency_key=ONCE))
    assert run.record is not None
    pair.alice.boot(5.0, (run.record,))
    error = pair.error(pair.receive(pair.sent(idempotency_key=ONCE), 5.0))
    assert isinstance(error, Timeout) and error.maybe_ran  # it was begun, and is not run again
    pair.alice.grants.finish(run.ticket)
    done = replace(run.record, outcome=(dumps("hot"), None))
    pair.alice.boot(6.0, (done,))
    outcome = pair.reply(pair.receive(pair.sent(idempotency_key=ONCE), 6.0))
    assert isinstance(outcome, Outcome) and outcome.result == dumps("hot")


def test_a_run_that_came_on_another_way_is_answered_here_too() -> None:
    pair = Pair()
    now, place, arguments = 0.0, (KEY[BOB], ONCE), dumps([1])
    table = pair.alice.callee.once
    content = content_of("kitchen/boil", arguments)
    assert isinstance(table.begin(*place, content, now), OnceRecord)
    assert pair.receive(pair.sent(idempotency_key=ONCE)) is None  # waits for that one
    table.end(place, dumps("hot"), None, 1.0)
    [answer] = pair.alice.callee.told(place, dumps("hot"), None, 1.0)
    outcome = pair.reply(answer)
    assert isinstance(outcome, Outcome) and outcome.result == dumps("hot")
    assert pair.alice.callee.told(place, dumps("hot"), None, 1.0) == []
    table.begin(KEY[BOB], b"2" * 16, content, 2.0)
    table.end((KEY[BOB], b"2" * 16), bytes(REPLY_VALUE_BYTES_MAX + 1), None, 2.0)
    error = pair.error(pair.receive(pair.sent(2.0, idempotency_key=b"2" * 16), 2.0))
    assert isinstance(error, RemoteError) and error.kind == "too_large"


def test_keys_that_are_never_sent_again() -> None:
    pair = Pair(terms=Terms(functions=("boil",), rate=(1, 1_000), burst=1))
    told: list[OnceRecord] = []
    pair.alice.callee.on_done = told.extend
    run = pair.run(pair.sent(idempotency_key=ONCE))
    pair.alice.callee.finish(run.ticket, dumps("hot"), 1.0)
    other = b"2" * 16
    pair.alice.callee.once.begin(KEY[EVE], other, b"", 1.0)
    pair.alice.callee.once.end((KEY[EVE], other), b"", None, 1.0)
    done = pair.sent(1.0, target=DONE_TARGET, arguments=dumps([[ONCE, other, b"3" * 16]]))
    outcome = pair.reply(pair.receive(done, 1.0))  # it costs nothing of the rate
    assert isinstance(outcome, Outcome) and outcome.result == dumps(True)
    assert [(each.caller, each.key) for each in told] == [(KEY[BOB], ONCE)]  # nobody else's
    for bad in ([], [[b"short"]], [[ONCE] * (DONE_KEYS_MAX + 1)], [[1]]):
        sent = pair.sent(1.0, target=DONE_TARGET, arguments=dumps(bad))
        error = pair.error(pair.receive(sent, 1.0))
        assert isinstance(error, RemoteError) and error.kind == "badarg"
    most = pair.sent(1.0, target=DONE_TARGET, arguments=dumps([[ONCE] * DONE_KEYS_MAX]))
    assert isinstance(pair.receive(most, 1.0), Answer)


def test_a_run_that_never_began_uses_no_idempotency_key() -> None:
    pair = Pair()
    run = pair.run(pair.sent(idempotency_key=ONCE))
    [answer], record = pair.alice.callee.finish(run.ticket, NotPermitted(), 1.0, ran=False)
    assert record is None and type(pair.error(answer)) is NotPermitted
    pair.run(pair.sent(idempotency_key=ONCE))


def test_waiting_for_one_key_at_the_maximum_and_one_above() -> None:
    pair = Pair()
    pair.run(pair.sent(idempotency_key=ONCE))
    for _ in range(WAITING_MAX):
        assert pair.receive(pair.sent(idempotency_key=ONCE)) is None
    assert type(pair.error(pair.receive(pair.sent(idempotency_key=ONCE)))) is RateLimited


@pytest.mark.parametrize("name", ["ONCE_KEYS_MAX", "ONCE_KEYS_PER_CALLER_MAX"])
def test_idempotency_keys_at_the_maximum_and_one_above(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(core_once, name, 2)
    pair = Pair()
    for number in range(2):
        pair.run(pair.sent(idempotency_key=bytes([number]) * 16))
    sent = pair.sent(idempotency_key=b"3" * 16)
    assert type(pair.error(pair.receive(sent))) is RateLimited
    pair.run(pair.sent())  # without one it goes on


def test_bytes_of_idempotency_keys_at_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_once, "ONCE_BYTES_MAX", 1_000)
    pair = Pair()
    run = pair.run(pair.sent(idempotency_key=ONCE))
    _, record = pair.alice.callee.finish(run.ticket, bytes(1_001), 1.0)
    assert record is not None and record.outcome is not None
    assert record.outcome[0] is None  # that it ran is kept; not what it gave
    error = pair.error(pair.receive(pair.sent(idempotency_key=ONCE), 2.0))
    assert isinstance(error, Timeout) and error.maybe_ran


def test_kept_replies_at_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    calls = [pair.sent() for _ in range(3)]
    for sent in calls[:2]:
        pair.alice.callee.finish(pair.run(sent).ticket, bytes(1_000), 1.0)
    monkeypatch.setattr(core, "REPLIES_KEPT_BYTES_MAX", pair.alice.callee._reply_bytes)
    assert isinstance(pair.receive(calls[0]), Answer)
    pair.alice.callee.finish(pair.run(calls[2]).ticket, bytes(1_000), 1.0)
    assert pair.receive(calls[0]) is None  # known, so it does not run; its reply is gone
    assert isinstance(pair.receive(calls[2]), Answer)
    pair.alice.callee.handle_timer(2.0 + KEPT_MAX * TOKEN_S)
    assert pair.alice.callee._reply_bytes == 0


def test_calls_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "RELAY_CALLS_MAX", 2)
    pair = Pair()
    pair.sent()
    pair.sent()
    with pytest.raises(NoConnection, match="^overloaded"):
        pair.sent()


def test_values_and_arguments_at_the_maximum_and_one_above() -> None:
    pair = Pair()
    for size in (REPLY_VALUE_BYTES_MAX, REPLY_VALUE_BYTES_MAX + 1):
        run = pair.run(pair.sent())
        [answer], _ = pair.alice.callee.finish(run.ticket, bytes(size), 1.0)
        assert len(answer.body) <= REQUEST_BYTES_MAX
        outcome = pair.reply(answer)
        assert isinstance(outcome, Outcome)
        fits = size == REPLY_VALUE_BYTES_MAX
        assert (outcome.result == bytes(size)) is fits
        assert fits or "too_large" in str(outcome.result)
    with pytest.raises(RemoteError, match="^badarg: arguments of"):
        pair.sent(arguments=bytes(REQUEST_BYTES_MAX))
    assert len(pair.bob) == 0


def test_keys_of_low_order_are_no_keys() -> None:
    pair = Pair()
    with pytest.raises(NoConnection):
        pair.sent(boot_key=bytes(32))
    assert len(pair.bob) == 0


# -- a hostile relay


class World:
    """Bob and Eve call Alice and Anne, through a relay that does what it likes, for minutes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.nodes = [Node(ALICE, seed), Node(ANNE, seed + 1)]
        self.callers = {who: Caller(self.random.randbytes) for who in (BOB, EVE)}
        self.seen: list[tuple[bytes, bytes, bytes]] = []  # to, re or id, body: all that went by
        self.ran: Counter[int] = Counter()  # by what the arguments say
        self.ran_once: Counter[tuple[bytes, bytes]] = Counter()
        self.outcomes: dict[tuple[bytes, int], bytes | CallError] = {}
        self.said: dict[tuple[bytes, int], int] = {}
        self.records: dict[int, dict[bytes, OnceRecord]] = {0: {}, 1: {}}
        self.late: list[tuple[Node, int, Run]] = []
        self.held: dict[tuple[Node, bytes], Grant] = {}

    def call(self, number: int, once: bool) -> None:
        who = self.random.choice((BOB, EVE))
        node = self.random.choice(self.nodes)
        argument = 0 if once else number  # with a key, one content
        if (node, who) not in self.held:
            self.held[node, who] = node.grant(who)
        wanted = node.wanted(self.held[node, who], argument, holder=who)
        wanted = replace(wanted, deadline=self.now + self.random.choice((20.0, 90.0, 600.0)))
        if once:
            wanted = replace(wanted, idempotency_key=ONCE)
        sent = self.callers[who].call(wanted, node.callee.token, self.now)
        self.said[who, sent.call] = argument
        self.seen.append((sent.to, sent.id, sent.body))

    def deliver(self, to: bytes, ident: bytes, body: bytes) -> None:
        for place, node in enumerate(self.nodes):
            if to == KEY[node.seed]:
                got = node.callee.receive(KEY[BOB], ident, body, self.now)
                if isinstance(got, Answer):
                    self.seen.append((KEY[BOB], got.re, got.body))
                elif isinstance(got, Run):
                    if got.record is not None:
                        self.records[place][got.right.caller] = got.record
                        self.ran_once[to, got.right.caller] += 1
                    self.ran[loads(got.arguments)[0]] += 1
                    self.late.append((node, place, got))
                return
        for who, caller in self.callers.items():  # the relay does not know whose it is: try both
            told = caller.on_reply(ident, body, self.now)
            if isinstance(told, Sent):
                self.seen.append((told.to, told.id, told.body))
            elif told is not None:
                self.ended(who, told)

    def ended(self, who: bytes, outcome: Outcome) -> None:
        assert (who, outcome.call) not in self.outcomes
        self.outcomes[who, outcome.call] = outcome.result

    def finish(self, node: Node, place: int, run: Run) -> None:
        value = dumps(["of", loads(run.arguments)[0]])
        answers, record = node.callee.finish(run.ticket, value, self.now)
        if record is not None:
            self.records[place][record.caller] = record
        self.seen += [(KEY[BOB], each.re, each.body) for each in answers]

    def step(self, hostile: bool) -> None:
        draw = self.random.random
        if not hostile:
            for message in self.seen:
                self.deliver(*message)
            return
        self.now += draw() * (20 if draw() < 0.7 else 130)  # it may hold all for two minutes
        for message in self.random.sample(self.seen, min(len(self.seen), 4)):  # drops, reorders
            to, ident, body = message
            match self.random.randrange(8):
                case 0:
                    ident = self.random.choice(self.seen)[1]  # crossed
                case 1:
                    at = self.random.randrange(len(body))
                    body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
                case 2:
                    to = self.random.choice(self.seen)[0]
            self.deliver(to, ident, body)  # and it keeps it: replays, duplicates
        if draw() < 0.05:  # a power cut: what was not durable is gone
            place = self.random.randrange(2)
            node = self.nodes[place]
            kept = tuple(self.records[place].values())
            for _, _, run in [each for each in self.late if each[0] is node]:
                node.grants.finish(run.ticket)
            self.late = [each for each in self.late if each[0] is not node]
            node.boot(self.now, kept)

    def time_passes(self) -> None:
        for who, caller in self.callers.items():
            for outcome in caller.handle_timer(self.now):
                self.ended(who, outcome)

    def work(self, chance: float) -> None:
        for each in list(self.late):
            if self.random.random() < chance:
                self.late.remove(each)
                self.finish(*each)

    def check(self) -> None:
        for place, result in self.outcomes.items():
            argument = self.said[place]
            if isinstance(result, bytes):
                assert loads(result) == ["of", argument]  # never another call's
                assert self.ran[argument]
            else:
                assert isinstance(result, Timeout)  # no refused right
                if argument and not result.maybe_ran:
                    assert not self.ran[argument]
        assert all(count == 1 for argument, count in self.ran.items() if argument)
        assert all(count == 1 for count in self.ran_once.values())


def test_an_honest_relay_loses_nothing() -> None:
    for seed in range(50):
        world = World(seed)
        for number in range(1, 6):
            world.call(number, once=False)
        requests, world.seen = world.seen, []
        for message in requests:
            world.deliver(*message)
        world.work(1.0)
        world.step(hostile=False)
        world.check()
        assert len(world.outcomes) == 5
        assert all(isinstance(result, bytes) for result in world.outcomes.values())


def test_a_hostile_relay_gets_no_wrong_value_and_no_second_run() -> None:
    values = timeouts = 0
    for seed in range(SEEDS):
        world = World(seed)
        for number in range(1, 8):
            if number < 5:
                world.call(number, once=number > 2)
            world.step(hostile=True)
            world.work(0.7)
            world.time_passes()
        world.now += 600.0
        world.time_passes()
        world.check()
        assert len(world.outcomes) == 4
        values += sum(isinstance(result, bytes) for result in world.outcomes.values())
        timeouts += sum(not isinstance(result, bytes) for result in world.outcomes.values())
    assert values > SEEDS and timeouts > SEEDS // 4  # both ends were reached, often
