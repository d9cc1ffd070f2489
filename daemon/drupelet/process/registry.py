"""Registry: processes by keys of any data, one or many to a key.

    await Registry.start_link("unique", name="rooms")
    await Registry.register("rooms", ("kitchen", 2))             # this process
    pid = await Registry.whereis("rooms", ("kitchen", 2))

    await Registry.start_link("duplicate", name="topics")
    await Registry.register("topics", "weather", "short")        # with a value
    await Registry.dispatch("topics", "weather", tell)           # tell([(pid, "short")])

Decides who stands under a key, as Elixir's Registry does: a process registers itself and nobody
else, under as many keys as it likes; its entries go when it ends. With unique keys the first one
has it, and another is refused with ``("already_registered", pid)``.

A registry is a process of one node; others of the cluster may use it and stand in it. It is not a
name: `send` takes a pid, a name, or (name, node), so a key is looked up first.

References: Elixir's `Registry` (register/3, dispatch/3, "Registrations").
Rejected: ``("registry", key)`` as an address of `send` (it cannot be told from (name, node)); a
table beside the processes, as ETS is there (a look-up from another node would need a process).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from drupelet.process import api
from drupelet.process.behaviours import ask_verb, run_callback, stop
from drupelet.process.current import this_process
from drupelet.process.gen_server import GenServer, Stop
from drupelet.process.runtime import To
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.limits import REGISTRY_ENTRIES_MAX
from drupelet.wire.notices import Down

UNIQUE: Final = "unique"
DUPLICATE: Final = "duplicate"

Entry = tuple[Pid, Any]


class Registry:
    """The functions of a registry; see the top of this file, and BEHAVIOURS.md."""

    @staticmethod
    async def start_link(keys: str = UNIQUE, *, name: str | None = None) -> Pid:
        """Start one, linked. `keys`: "unique", "duplicate". Raises: `ProcessDown`, `NameTaken`."""
        return await Entries.start_link(keys, name=name)

    @staticmethod
    async def start(keys: str = UNIQUE, *, name: str | None = None) -> Pid:
        """As `start_link`, without a link."""
        return await Entries.start(keys, name=name)

    stop = staticmethod(stop)

    @staticmethod
    async def register(registry: To, key: Any, value: Any = None) -> None:
        """This process stands under `key` from now on, with a value.

        Raises: `Refused`: ``("already_registered", pid)``, "system_limit", "badarg" (a key must be
        hashable: no list or dict).
        """
        this_process()
        await ask_verb(registry, "register", key, value)

    @staticmethod
    async def unregister(registry: To, key: Any) -> None:
        """This process does not stand under `key` any more, if it did."""
        this_process()
        await ask_verb(registry, "unregister", key)

    @staticmethod
    async def update_value(registry: To, key: Any, value: Any) -> None:
        """Another value for this process under `key`. Raises: `Refused` "not_registered"."""
        this_process()
        await ask_verb(registry, "update_value", key, value)

    @staticmethod
    async def lookup(registry: To, key: Any) -> list[Entry]:
        """``(pid, value)`` of each that stands under `key`, the first one first."""
        return cast(list[Entry], await ask_verb(registry, "lookup", key))

    @staticmethod
    async def whereis(registry: To, key: Any) -> Pid | None:
        """Who stands under a unique key. Raises: `Refused` "duplicate"."""
        return cast("Pid | None", await ask_verb(registry, "whereis", key))

    @staticmethod
    async def keys(registry: To, pid: Pid) -> list[Any]:
        """The keys under which a process stands; one that it has twice, twice."""
        return cast(list[Any], await ask_verb(registry, "keys", pid))

    @staticmethod
    async def count(registry: To) -> int:
        """How many entries there are."""
        return cast(int, await ask_verb(registry, "count"))

    @staticmethod
    async def dispatch(registry: To, key: Any, function: Callable[[list[Entry]], Any]) -> None:
        """Call a function, plain or async, with the entries of `key`, here; not when none is."""
        entries = await Registry.lookup(registry, key)
        if entries:
            await run_callback(function, entries)


class Entries(GenServer):
    """The process. Answers are those of `ask_verb`."""

    def init(self, keys: str) -> None:
        """An empty registry."""
        if keys not in (UNIQUE, DUPLICATE):
            raise Stop(("badarg", f"keys={keys!r:.80}: use {UNIQUE!r} or {DUPLICATE!r}"))
        self.unique = keys == UNIQUE
        self.size = 0
        self._entries: dict[Any, list[Entry]] = {}
        self._keys: dict[Pid, list[Any]] = {}
        self._watched: dict[Pid, Ref] = {}

    def register(self, key: Any, value: Any) -> object:
        """Add the caller."""
        pid = self._caller()
        try:
            there = self._entries.get(key)
        except TypeError:
            return ("error", ("badarg", "a key is hashable: no list, no dict"))
        if self.unique and there:
            return ("error", ("already_registered", there[0][0]))
        if self.size >= REGISTRY_ENTRIES_MAX:
            return ("error", "system_limit")
        self.size += 1
        self._entries.setdefault(key, []).append((pid, value))
        if pid not in self._watched:
            self._watched[pid] = api.monitor(pid)
        self._keys.setdefault(pid, []).append(key)
        return ("ok", None)

    def unregister(self, key: Any) -> object:
        """Remove the caller."""
        pid = self._caller()
        keys = self._keys.get(pid, [])
        if key in keys:
            self._remove(pid, key)
            self._keys[pid] = [each for each in keys if each != key]
            if not self._keys[pid]:
                del self._keys[pid]
                api.demonitor(self._watched.pop(pid), flush=True)
        return ("ok", None)

    def update_value(self, key: Any, value: Any) -> object:
        """Another value for the caller."""
        pid = self._caller()
        if key not in self._keys.get(pid, []):
            return ("error", "not_registered")
        entries = self._entries[key]
        entries[:] = [(pid, value) if each[0] == pid else each for each in entries]
        return ("ok", None)

    def lookup(self, key: Any) -> object:
        """Who stands there."""
        return ("ok", list(self._find(key)))

    def whereis(self, key: Any) -> object:
        """The one who does."""
        if not self.unique:
            return ("error", DUPLICATE)
        entries = self._find(key)
        return ("ok", entries[0][0] if entries else None)

    def keys(self, pid: Any) -> object:
        """Where it stands."""
        return ("ok", list(self._keys.get(pid, [])) if isinstance(pid, Pid) else [])

    def count(self) -> object:
        """How many."""
        return ("ok", self.size)

    def handle_info(self, message: Any) -> None:
        """The end of a process."""
        match message:
            case Down(ref, Pid() as pid) if self._watched.get(pid) == ref:
                del self._watched[pid]
                for key in set(self._keys.pop(pid, [])):
                    self._remove(pid, key)
            case _:
                super().handle_info(message)

    def _caller(self) -> Pid:
        assert self.caller is not None
        return self.caller[0]

    def _find(self, key: Any) -> list[Entry]:
        try:
            return self._entries.get(key, [])
        except TypeError:  # no key that could be there
            return []

    def _remove(self, pid: Pid, key: Any) -> None:
        entries = self._entries[key]
        kept = [each for each in entries if each[0] != pid]
        self.size -= len(entries) - len(kept)
        if kept:
            self._entries[key] = kept
        else:
            del self._entries[key]

    def format_status(self) -> dict[str, Any]:
        """What `process_info` shows; keys may be anybody's."""
        return {"unique": self.unique, "entries": self.size, "processes": len(self._keys)}
