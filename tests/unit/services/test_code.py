"""Shipping code between nodes of this process, with real workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.core.code import bundle_digest
from drupelet.core.missions import MissionSpec
from drupelet.errors import (
    CodeMismatch,
    NotPermitted,
    RemoteError,
)
from drupelet.node import Node, open_node
from drupelet.services.code import LOADS_MAX, SHIP_TRIES
from drupelet.wire.bundles import Bundle, encode_bundle
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import (
    BUNDLE_BYTES_MAX,
    BUNDLE_MODULE_BYTES_MAX,
    BUNDLE_MODULES_MAX,
)
from drupelet.wire.signing import BUNDLE_DOMAIN, Signed, sign, sign_bundle
from tests.unit.services.kettles import TEXT, digest, install, ship, source, states, two
from tests.unit.services.nodes import make_config, open_small_node, wait_up


async def test_a_mismatch_is_told_and_shipping_mends_it(tmp_path: Path) -> None:
    async with two(tmp_path, "new", "old") as (alice, bob):
        with pytest.raises(CodeMismatch) as caught:
            await alice.call("bob", "kettle", "boil")
        assert (caught.value.have, caught.value.want) == (digest(bob), digest(alice))
        answer = await ship(alice, "kettle")
        assert states(answer) == {"alice": "loaded", "bob": "loaded"}
        assert answer["digest"] == digest(alice) == digest(bob)
        assert await alice.call("bob", "kettle", "boil") == "new"
        assert bob.missions.snapshot()[-1]["restarts"] == 0
        (listed,) = bob.code.list_versions()
        assert (listed["mission"], listed["modules"]) == ("kettle", ["kettle"])
        assert listed["shipper"] == alice.identity.key_text


async def test_shipped_code_outlives_worker_and_daemon(tmp_path: Path) -> None:
    async with two(tmp_path) as (alice, bob):
        assert states(await ship(alice, kettle=source("new"))) == {
            "alice": "loaded", "bob": "loaded"
        }  # fmt: skip
        before = bob.missions.start_count(bob.missions.specs()[0])
        bob.missions.kill(bob.missions.specs()[0])
        while bob.missions.start_count(bob.missions.specs()[0]) == before:
            await trio.lowlevel.checkpoint()
        assert await _boil(bob) == "new"
    async with two(tmp_path) as (alice, bob):
        assert await _boil(bob) == "new"
        assert await alice.call("bob", "kettle", "boil") == "new"
        assert states(await ship(bob, "kettle")) == {"alice": "loaded", "bob": "loaded"}


async def _boil(node: Node) -> object:
    """Once the worker that starts is there."""
    while True:
        try:
            return await node.call(node.name, "kettle", "boil")
        except RemoteError as error:
            if error.kind not in ("mission_backoff", "mission_crashed"):
                raise
            await trio.lowlevel.checkpoint()


async def test_a_file_that_the_operator_edits_wins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(tmp_path) as (alice, _):
        await ship(alice, kettle=source("shipped"))
    install(tmp_path, "bob", "edited")
    async with two(tmp_path, "old", "edited") as (alice, bob):
        assert (await _boil(alice), await _boil(bob)) == ("shipped", "edited")
        assert bob.code.list_versions() == []
        assert not (tmp_path / "bob" / "code" / "kettle.bundle").exists()
    assert "code_dropped mission=kettle" in caplog.text
    assert caplog.text.count("code_dropped") == 1


async def test_a_damaged_file_is_named_and_the_operators_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(tmp_path) as (alice, bob):
        await ship(alice, kettle=source("shipped"))
        path = tmp_path / "bob" / "code" / "kettle.bundle"
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes((good[-1] ^ 1,)))
        bob.missions.kill(bob.missions.specs()[0])
        while await _boil(bob) != "old":
            await trio.lowlevel.checkpoint()
        assert f"code_damaged file={path}" in caplog.text
        caplog.clear()
    async with two(tmp_path) as (alice, bob):
        assert (await _boil(alice), await _boil(bob)) == ("shipped", "old")
        assert f"code_damaged file={path}" in caplog.text


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        (b"def boil(:\n", "file_wont_compile", 1),
        (b"\n1 / 0\n", "file_wont_compile", 2),
        (b"import nowhere_at_all\n", "file_wont_compile", 1),
        (b"x = 1\n", "invalid_export", 0),
    ],
)
async def test_code_that_does_not_load_changes_nothing(
    tmp_path: Path, text: bytes, kind: str, line: int
) -> None:
    async with two(tmp_path) as (alice, bob):
        before = digest(alice)
        with pytest.raises(RemoteError) as caught:
            await ship(alice, kettle=text)
        assert caught.value.kind == kind
        assert (f"kettle.py:{line}:" if line else "kettle.py:") in caught.value.message
        assert digest(alice) == digest(bob) == before
        assert await alice.call("bob", "kettle", "boil") == "old"
        assert list((tmp_path / "alice" / "code").iterdir()) == []
        assert not (tmp_path / "bob" / "code").exists()


async def test_one_node_where_it_does_not_load(tmp_path: Path) -> None:
    """Bob's operator lists another export, which the new code has not."""
    install(tmp_path, "bob", "old")
    async with two(tmp_path) as (alice, bob):
        pass
    (tmp_path / "bob" / "missions.d" / "kettle.toml").write_text(
        'module = "kettle.py"\nexports = ["boil", "pour"]\n'
    )
    (tmp_path / "bob" / "missions.d" / "kettle.py").write_text(
        TEXT.format("old") + '@mission("kettle")\ndef pour():\n    return 1\n'
    )
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            async with open_small_node(tmp_path, "bob", alice) as bob:
                await wait_up(alice, "bob")
                answer = await ship(alice, kettle=source("new"))
                assert states(answer) == {"alice": "loaded", "bob": "invalid_export"}
                assert "'pour'" in str(answer["nodes"])
                assert await bob.call("bob", "kettle", "boil") == "old"


async def test_code_mends_a_mission_that_did_not_load(tmp_path: Path) -> None:
    install(tmp_path, "alice", "x").write_text("1 / 0")
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            with pytest.raises(RemoteError, match="ZeroDivisionError"):
                await alice.call("alice", "kettle", "boil")
            with pytest.raises(RemoteError, match="NameError"):
                await ship(alice, kettle=b"nothing\n")
            assert states(await ship(alice, kettle=source("mended"))) == {"alice": "loaded"}
            assert await alice.call("alice", "kettle", "boil") == "mended"


async def test_code_without_a_mission_runs_and_exports_nothing(tmp_path: Path) -> None:
    text = source("shipped")
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            assert states(await ship(alice, kettle=text)) == {"alice": "loaded"}
            assert alice.missions.snapshot()[-1]["exports"] == []
            assert alice.missions.snapshot()[-1]["state"] == "ready"
            with pytest.raises(RemoteError, match="undef"):
                await alice.call("alice", "kettle", "boil")
            first = digest(alice)
            with pytest.raises(RemoteError, match="ZeroDivisionError"):
                await ship(alice, broken=b"1 / 0")
            names = [shown["name"] for shown in alice.missions.snapshot()]
            assert "kettle" in names and "broken" not in names
        async with open_small_node(tmp_path, "alice") as alice:
            assert digest(alice) == first
            await ship(alice, kettle=source("again"))
            assert digest(alice) != first
        install(tmp_path, "alice", "the operator's")
        async with open_small_node(tmp_path, "alice") as alice:
            assert await _boil(alice) == "the operator's"
            assert alice.code.list_versions() == []


async def test_helpers_go_along_and_stay(tmp_path: Path) -> None:
    main = b"import pot\n" + source("x").replace(b"'x'", b"pot.WATER")
    async with two(tmp_path) as (alice, bob):
        await ship(alice, kettle=main, pot=b"WATER = 1\n")
        assert await bob.call("bob", "kettle", "boil") == 1
        await ship(bob, pot=b"WATER = 2\n")
        assert await alice.call("bob", "kettle", "boil") == 2
        assert await alice.call("alice", "kettle", "boil") == 2
        assert bob.code.list_versions()[0]["modules"] == ["kettle", "pot"]


async def test_the_newest_wins_everywhere(tmp_path: Path) -> None:
    async with two(tmp_path) as (alice, bob):
        answer = await ship(alice, kettle=source("one"))
        assert answer["sequence"] == 1
        old = sign_bundle(
            alice.identity.seed,
            Bundle(mission="kettle", load=("kettle",), modules={"kettle": source("one")}),
        )
        parts = (old.content, old.key, old.signature)
        assert await alice.call("bob", "code", "load", *parts) == {
            "state": "known", "digest": digest(bob)
        }  # fmt: skip
        assert (await ship(bob, kettle=source("two")))["sequence"] == 2
        with pytest.raises(RemoteError, match="superseded: kettle runs version 2 here") as caught:
            await alice.call("bob", "code", "load", *parts)
        assert bob.identity.key_text[:16] in caught.value.message
        assert await bob.call("alice", "kettle", "boil") == "two"


async def test_a_member_alone_was_elsewhere_when_it_was_shipped(tmp_path: Path) -> None:
    install(tmp_path, "bob", "old")
    install(tmp_path, "alice", "old")
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            for value in ("one", "two", "three"):
                await ship(alice, kettle=source(value))
        async with open_small_node(tmp_path, "bob") as bob:
            assert (await ship(bob, kettle=source("bob's")))["sequence"] == 1
    async with two(tmp_path) as (alice, bob):
        with pytest.raises(CodeMismatch):
            await alice.call("bob", "kettle", "boil")
        answer = await ship(bob, "kettle")
        assert answer["sequence"] == 4
        assert await alice.call("bob", "kettle", "boil") == "bob's"
        assert await bob.call("alice", "kettle", "boil") == "bob's"


async def test_two_ship_at_the_same_moment(tmp_path: Path) -> None:
    """Both nodes end with the same one."""
    async with two(tmp_path) as (alice, bob):
        kinds: list[object] = []

        async def one(node: Node, value: str) -> None:
            try:
                kinds.append(list(states(await ship(node, kettle=source(value))).values()))
            except RemoteError as error:
                kinds.append(error.kind)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, alice, "alice's")
            nursery.start_soon(one, bob, "bob's")
        assert digest(alice) == digest(bob)
        assert await alice.call("bob", "kettle", "boil") == await alice.call(
            "alice", "kettle", "boil"
        )
        assert ["loaded", "loaded"] in kinds


async def test_somebody_was_quicker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version with the same number came while ours stood in line."""
    install(tmp_path, "alice", "old")
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            bundles = [
                Bundle(mission="kettle", load=("kettle",), modules={"kettle": source(number)})
                for number in range(9)
            ]
            smallest, *larger = sorted(bundles, key=bundle_digest)
            take = alice.code._take
            numbers: list[int] = []

            async def another_first(signed: Signed, bundle: Bundle) -> dict[str, object]:
                numbers.append(bundle.sequence)
                if len(numbers) <= quicker:
                    await take(*_signed(alice, replace(larger[0], sequence=bundle.sequence)))
                return await take(signed, bundle)

            monkeypatch.setattr(alice.code, "_take", another_first)
            quicker = SHIP_TRIES - 1
            answer = await ship(alice, kettle=smallest.modules["kettle"])
            assert (answer["sequence"], numbers) == (3, [1, 2, 3])
            quicker = 99
            with pytest.raises(RemoteError, match="superseded"):
                await ship(alice, kettle=smallest.modules["kettle"])
            assert len(numbers) == 2 * SHIP_TRIES


async def test_the_marks_of_a_file_that_runs(tmp_path: Path) -> None:
    """`drupelet run FILE`: what the new code marks is served, what it no longer marks is not."""
    file = tmp_path / "kettle.py"
    file.write_bytes(source("old"))
    spec = MissionSpec(name="", modules=(str(file),), directory=str(tmp_path))
    with trio.fail_after(30):
        async with open_node(make_config(tmp_path, "alice"), [spec]) as alice:
            assert await _boil(alice) == "old"
            answer = await ship(
                alice, kettle=source("new") + source("pour").replace(b"boil", b"pour")
            )
            assert answer["mission"] == "kettle"
            assert await alice.call("alice", "kettle", "pour") == "pour"
            assert await alice.call("alice", "kettle", "boil") == "new"
            await ship(alice, kettle=source("pour").replace(b"boil", b"pour"))
            with pytest.raises(RemoteError, match="undef"):
                await alice.call("alice", "kettle", "boil")


# -- who may


async def test_only_members_signatures_count(tmp_path: Path) -> None:
    async with two(tmp_path) as (alice, bob):
        bundle = Bundle(mission="kettle", load=("kettle",), modules={"kettle": source("evil")})
        mallory = sign_bundle(bytes(32), bundle)
        with pytest.raises(NotPermitted, match="no member"):
            await alice.call("bob", "code", "load", mallory.content, mallory.key, mallory.signature)
        with pytest.raises(RemoteError, match="bad_bundle: signature"):
            await alice.call("bob", "code", "load", mallory.content, alice.key, mallory.signature)
        with pytest.raises(RemoteError, match="badarg"):
            await alice.call("bob", "code", "load", "a", b"", b"")
        by_bob = sign_bundle(bob.identity.seed, replace(bundle, modules={"kettle": source("good")}))
        await alice.call("bob", "code", "load", by_bob.content, by_bob.key, by_bob.signature)
        assert await _boil(bob) == "good"


async def test_rings(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            exports = alice.missions.exports
            assert exports[b"code/ship"].rings == {"operator", "worker"}
            assert exports[b"code/load"].rings == {"member"}
            assert "stranger" not in exports[b"code/list"].rings
            for target in (b"code/ship", b"code/load", b"code/list"):
                with pytest.raises(NotPermitted):
                    alice.calls.permit(target, "stranger", b"")
            async with open_small_node(tmp_path, "bob", alice) as bob:
                await wait_up(bob, "alice")
                with pytest.raises(NotPermitted, match="not for a member"):
                    await bob.call("alice", "code", "ship", [["kettle", b""]])


# -- what is refused

_EMPTY = encode_bundle(Bundle(mission="m", load=("m",), modules={"m": b""}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xa0",
        bytes(BUNDLE_BYTES_MAX + 1),
        dumps(loads(_EMPTY) | {"load": ["os"], "modules": {"os": b""}}),
        dumps(loads(_EMPTY) | {"load": ["../m"], "modules": {"../m": b""}}),
    ],
)
async def test_bad_bundles_of_a_member(tmp_path: Path, content: bytes) -> None:
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            signed = sign(alice.identity.seed, BUNDLE_DOMAIN, content)
            with pytest.raises(RemoteError, match="bad_bundle"):
                await alice.code.load(signed.content, signed.key, signed.signature)
            assert not (tmp_path / "alice" / "code").exists()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([], "badarg"),
        ("kettle", "badarg"),
        ([["kettle"]], "badarg"),
        ([["kettle", "text"]], "badarg"),
        ([["kettle", b""], ["kettle", b""]], "badarg"),
        ([["nowhere", None]], "undef: no mission or module 'nowhere' here"),
        ([["kettle", None], ["nowhere", None]], "undef"),
        ([["../kettle", b""]], "bad_bundle: .*no mission name"),
        ([["a.b", b""]], "bad_bundle"),
        ([["sitecustomize", b""]], "bad_bundle"),
        ([["kettle", b""], ["json", b""]], "bad_bundle: .*stand in"),
        ([["kettle", b""], ["trio", b""]], "bad_bundle: .*stand in"),
        ([["kettle", bytes(BUNDLE_MODULE_BYTES_MAX + 1)]], "bad_bundle: .*262145 bytes"),
        ([[f"m{n}", bytes(BUNDLE_MODULE_BYTES_MAX)] for n in range(5)], "bad_bundle: .*in all"),
        ([[f"m{n}", b""] for n in range(BUNDLE_MODULES_MAX + 1)], "ship 1 to 64"),
    ],
)
async def test_what_cannot_be_shipped(tmp_path: Path, named: object, message: str) -> None:
    install(tmp_path, "alice", "old")
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            with pytest.raises(RemoteError, match=message):
                await alice.code.ship(named)
            with pytest.raises(RemoteError, match="badarg"):
                await alice.code.ship([["kettle", b""]], "../x")
            assert await _boil(alice) == "old"


async def test_files_that_cannot_be_shipped(tmp_path: Path) -> None:
    file = install(tmp_path, "alice", "old", "json")
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            with pytest.raises(RemoteError, match="bad_bundle: 'json' would stand in"):
                await ship(alice, "kettle")
            file.unlink()
            with pytest.raises(RemoteError, match="bad_bundle: .*No such file"):
                await ship(alice, "kettle")
            missions = alice.missions._missions
            spec = MissionSpec(name="kettle", modules=("kvs", "/x/kvs.py"), exports=("boil",))
            missions[0].spec = spec
            with pytest.raises(RemoteError, match="two files named kvs.py|No such file"):
                await ship(alice, "kettle")


# -- when something fails on the way


async def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "alice", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            for step in ("prepare", "commit"):
                with monkeypatch.context() as patch:
                    patch.setattr(alice.code._store, step, full)
                    with pytest.raises(RemoteError, match="not_durable: .*No space"):
                        await ship(alice, kettle=source("new"))
                while await _boil(alice) != "old":
                    await trio.lowlevel.checkpoint()
                assert alice.code.list_versions() == []
            await ship(alice, kettle=source("new"))
            assert await _boil(alice) == "new"


async def test_a_worker_that_ends_between_loading_and_keeping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "alice", "old")
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            (spec,) = alice.missions.specs()
            load_code = alice.missions.load_code

            async def then_die(*args: object) -> int:
                count = await load_code(*args)  # type: ignore[arg-type]
                alice.missions.kill(spec)
                while alice.missions.start_count(spec) == count:
                    await trio.lowlevel.checkpoint()
                return count

            monkeypatch.setattr(alice.missions, "load_code", then_die)
            await ship(alice, kettle=source("new"))
            while await _boil(alice) != "new":
                await trio.lowlevel.checkpoint()


async def test_a_caller_that_goes_away_does_not_stop_a_load(tmp_path: Path) -> None:
    install(tmp_path, "alice", "old")
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            with trio.CancelScope() as scope:
                scope.cancel()
                await alice.code._take(
                    *_signed(
                        alice,
                        Bundle(
                            mission="kettle", load=("kettle",), modules={"kettle": source("new")}
                        ),
                    )
                )
            assert alice.code.list_versions() == []  # it had not begun
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ship_quietly, alice)
                await trio.testing.wait_all_tasks_blocked(0.001)
                nursery.cancel_scope.cancel()
            assert await _boil(alice) == ("new" if alice.code.list_versions() else "old")


async def ship_quietly(node: Node) -> None:
    await ship(node, kettle=source("new"))


def _signed(node: Node, bundle: Bundle) -> tuple[Signed, Bundle]:
    return sign_bundle(node.identity.seed, bundle), bundle


async def test_a_node_that_stops_while_code_waits_for_a_worker(tmp_path: Path) -> None:
    install(tmp_path, "alice", "old").write_text("import time\ntime.sleep(20)\n")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            async with open_small_node(tmp_path, "alice") as alice:
                nursery.start_soon(_refused, alice, "the node is stopping")
                await trio.testing.wait_all_tasks_blocked()


async def _refused(node: Node, words: str) -> None:
    with pytest.raises(RemoteError, match=words):
        await ship(node, kettle=source("new"))


async def test_a_load_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drupelet.services.code.TAKE_S", 0.05)
    install(tmp_path, "alice", "old").write_text("import time\ntime.sleep(20)\n")
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            await _refused(alice, "mission_stuck: kettle took longer")
            assert not alice.code._lock.locked()


async def test_loads_wait_in_a_line_of_bounded_length(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            bundle = Bundle(mission="kettle", load=("kettle",), modules={"kettle": b"1 / 0"})
            kinds: list[str] = []

            async def one() -> None:
                with pytest.raises(RemoteError) as caught:
                    await alice.code._take(*_signed(alice, bundle))
                kinds.append(caught.value.kind)

            async with alice.code._lock, trio.open_nursery() as nursery:
                for _ in range(LOADS_MAX):
                    nursery.start_soon(one)
                await trio.testing.wait_all_tasks_blocked()
                assert kinds == []
                await one()
                assert kinds == ["overloaded"]
                nursery.cancel_scope.cancel()


async def test_missions_at_the_maximum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drupelet.core.code.SHIPPED_MISSIONS_MAX", 1)
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            await ship(alice, kettle=b"")
            with pytest.raises(RemoteError, match="too many missions have shipped code"):
                await ship(alice, pot=b"")


async def test_a_name_that_another_mission_has(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_small_node(tmp_path, "alice") as alice:
            await ship(alice, kettle=b"")
            alice.serve("pot", {"f": lambda: 1})
            with pytest.raises(RemoteError, match='bad_bundle: .*"pot" is there already'):
                await ship(alice, pot=b"")
