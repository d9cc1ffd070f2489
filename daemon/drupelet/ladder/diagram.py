"""Message diagrams: a trace as text, one lane per process and one line per message.

    gandalf                        bilbo
    customer                       kitchen
    │                              │
    │────── ("boil", 2) ──────────>│

Decides what is shown of a run and where it stands. Time goes down; a message stands where it was
sent. ``x`` instead of an arrowhead: it reached nobody. A lane begins and ends with its process.

Rules
- At most COLUMNS_MAX columns and ROWS_MAX lines of messages, then a line that counts the rest.
- Up to LANES_MAX processes have a lane each; with more, each node has one.
- Lanes close to each other: what a message says stands at the right, else on its arrow.

References: ITU-T Z.120 (message sequence charts); OTP's `et_viewer`.
Rejected: a line per arrival (twice the lines, and the slope that would show is in the time);
SVG (a terminal is all that a learner has on a Pi).
"""

from __future__ import annotations

import json
from typing import Final

from drupelet.ladder.trace import Event, Message, Trace
from drupelet.process.behaviours import CAST
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.messages.processes import COUNT_MASK
from drupelet.wire.notices import Down, Exit, NodeDown, NodeUp, Request

COLUMNS_MAX: Final = 100
ROWS_MAX: Final = 200
LANES_MAX: Final = 6
_TIME_COLUMNS: Final = 11
_ON_ARROW_COLUMNS: Final = 24  # lanes so far apart have room for words between them
_WORDS_COLUMNS: Final = 36  # at the right, where they have not
_LATE_S: Final = 0.1  # a message that took so long says so
_DEPTH: Final = 6
_FAULTS: Final = frozenset({"cut", "heal", "drop", "dial", "pause", "resume", "kill", "restart"})

Lane = Pid | str  # a process, or a node


def draw(trace: Trace, *, columns: int = COLUMNS_MAX, rows: int = ROWS_MAX) -> str:
    """The diagram of a run; lines are joined by newlines, none is longer than `columns`."""
    return _Drawing(trace, columns, rows).text()


class _Drawing:
    def __init__(self, trace: Trace, columns: int, rows: int) -> None:
        self._entries = trace.entries
        self._left_off = trace.left_off
        self._columns = columns
        self._rows = rows
        self._functions: dict[Pid, str] = {}
        for entry in self._entries:
            if isinstance(entry, Event) and isinstance(entry.where, Pid):
                self._functions.setdefault(entry.where, str(entry.what).rsplit(".", 1)[-1])
        self._lanes = self._find_lanes()
        self._labels = self._find_labels()
        room = columns - _TIME_COLUMNS - 1
        count = max(len(self._lanes), 1)
        self._words_at = columns  # where words at the right begin
        gap = min(60, room // count)
        if gap < _ON_ARROW_COLUMNS:
            self._words_at = columns - _WORDS_COLUMNS
            gap = (room - _WORDS_COLUMNS) // count
        self._gap = gap
        self._at = {lane: _TIME_COLUMNS + index * gap for index, lane in enumerate(self._lanes)}
        self._alive: set[Lane] = {lane for lane in self._lanes if isinstance(lane, str)}

    # -- lanes

    def _find_lanes(self) -> list[Lane]:
        processes: dict[Pid, None] = {}
        for entry in self._entries:
            if isinstance(entry, Message):
                for each in (entry.sender, entry.taker or entry.receiver):
                    if isinstance(each, Pid) and each.number & COUNT_MASK:
                        processes[each] = None
        nodes = list(dict.fromkeys(pid.node for pid in processes))
        if len(processes) > LANES_MAX:
            return list(nodes)
        return [pid for node in nodes for pid in processes if pid.node == node]

    def _find_labels(self) -> dict[Pid, str]:
        """Each process's name in this diagram: its function's, with a number for the next one."""
        used: dict[str, int] = {}
        labels: dict[Pid, str] = {}
        for pid, name in self._functions.items():
            if pid not in self._lanes and self._lanes and isinstance(self._lanes[0], Pid):
                continue
            used[name] = used.get(name, 0) + 1
            labels[pid] = name if used[name] == 1 else f"{name} {used[name]}"
        return labels

    def _lane(self, place: object) -> Lane | None:
        if isinstance(place, Pid):
            lane: Lane = place.node if self._lanes and self._lanes[0].__class__ is str else place
        elif isinstance(place, tuple):
            lane = str(place[1])
        else:
            lane = str(place)
        return lane if lane in self._at else None

    # -- lines

    def text(self) -> str:
        """All of it."""
        lines = self._head()
        begun_s = None
        shown = 0
        for entry in self._entries:
            if isinstance(entry, Message):
                begun_s = entry.sent_s if begun_s is None else begun_s
                line = self._message(entry)
                at_s = entry.sent_s
            else:
                line = self._event(entry, begun_s is not None)
                at_s = entry.at_s
            if not line:
                continue
            shown += 1
            if shown <= self._rows:
                begun_s = at_s if begun_s is None else begun_s
                lines.append((_time(at_s - begun_s) + line[_TIME_COLUMNS:]).rstrip())
        left_off = max(shown - self._rows, 0) + self._left_off
        if left_off:
            lines.append(f"... and {left_off:,} more")
        return "\n".join(lines)

    def _head(self) -> list[str]:
        nodes, names = [" "] * self._columns, [" "] * self._columns
        before = ""
        for lane, at in self._at.items():
            node = lane if isinstance(lane, str) else lane.node
            room = self._gap - 1
            if node != before:
                self._write(nodes, at, node, room)
            if isinstance(lane, Pid):
                self._write(names, at, self._labels.get(lane, "?"), room)
            before = node
        lines = ["".join(nodes).rstrip(), "".join(names).rstrip()]
        return [line for line in lines if line]

    @staticmethod
    def _write(cells: list[str], at: int, words: str, room: int) -> None:
        words = _cut(words, max(min(room, len(cells) - at), 0))
        cells[at : at + len(words)] = words

    def _blank(self) -> list[str]:
        cells = [" "] * self._columns
        for lane, at in self._at.items():
            if lane in self._alive:
                cells[at] = "│"
        return cells

    def _message(self, message: Message) -> str:
        source = self._lane(message.sender)
        target = self._lane(message.taker or message.receiver)
        for lane, seen in ((source, True), (target, message.taker is not None)):
            if lane is not None and seen and isinstance(lane, Pid) and lane not in self._functions:
                self._alive.add(lane)  # its start was not noted
        words = self._words(message)
        source_at = self._at[source] if source is not None else None
        target_at = self._at[target] if target is not None else None
        cells = self._blank()
        if source_at is None or target_at is None or source_at == target_at:
            at = source_at if source_at is not None else target_at
            if at is None:
                return ""
            cells[at] = "o"
            if source_at is None or target_at is None:
                other = message.sender if source_at is None else message.receiver
                way = "from" if source_at is None else "to"
                words += f" ({way} {self._name(other)})"
            self._words_beside(cells, at, words)
            return "".join(cells)
        low, high = sorted((source_at, target_at))
        cells[low + 1 : high] = "─" * (high - low - 1)
        head = target_at - 1 if target_at > source_at else target_at + 1
        cells[head] = "x" if self._is_lost(message) else ">" if target_at > source_at else "<"
        if self._words_at < self._columns:
            self._write(cells, self._words_at, words, _WORDS_COLUMNS)
        else:
            words = _cut(f" {words} ", high - low - 4)
            at = low + 1 + (high - low - 1 - len(words)) // 2
            cells[at : at + len(words)] = words
        return "".join(cells)

    @staticmethod
    def _is_lost(message: Message) -> bool:
        to_process = not isinstance(message.receiver, Pid) or message.receiver.number & COUNT_MASK
        return message.arrived_s is None or (message.taker is None and bool(to_process))

    def _words_beside(self, cells: list[str], at: int, words: str) -> None:
        if self._words_at < self._columns:
            self._write(cells, self._words_at, words, _WORDS_COLUMNS)
            return
        later = [each for each in self._at.values() if each > at]
        self._write(cells, at + 2, words, (min(later) if later else self._columns) - at - 3)

    def _event(self, event: Event, has_begun: bool) -> str:
        if isinstance(event.where, Pid):
            lane = self._lane(event.where)
            if lane is None or not isinstance(lane, Pid):
                return ""
            if event.kind == "start":
                self._alive.add(lane)
                return ""
            cells = self._blank()
            self._alive.discard(lane)
            if event.what == "normal":
                return ""
            cells[self._at[lane]] = "x"
            self._words_beside(cells, self._at[lane], f"ends: {self._value(event.what)}")
            return "".join(cells)
        if event.kind in _FAULTS:
            words = " ".join(str(each) for each in (event.kind, event.where, event.what) if each)
            if event.kind == "kill":
                gone = {x for x in self._alive if isinstance(x, Pid) and x.node == event.where}
                self._alive -= gone
        elif event.kind in ("up", "down") and has_begun:
            words = f"{event.where}: {event.what} is {event.kind}"
        else:
            return ""
        room = self._columns - _TIME_COLUMNS
        words = _cut(f" {words} ", room - 8)
        return " " * _TIME_COLUMNS + "~~~~" + words + "~" * (room - 4 - len(words))

    # -- words

    def _words(self, message: Message) -> str:
        kind, what = message.kind, message.what
        match what:
            case (str(word), request) if kind == "send" and word == CAST:  # GenServer.cast
                kind, what = "cast", request
        value = "" if what is None else self._value(what)
        if kind != "send":
            value = f"{kind} {value}".rstrip()
        elif not value:
            value = "None"
        if self._lanes and isinstance(self._lanes[0], str):
            who = [self._name(message.sender), self._name(message.taker or message.receiver)]
            value = f"{value} ({' > '.join(who)})"
        if message.arrived_s is not None and message.arrived_s - message.sent_s >= _LATE_S:
            value += f" +{_time(message.arrived_s - message.sent_s).strip()}"
        return value

    def _name(self, who: object) -> str:
        if isinstance(who, Pid):
            label = self._labels.get(who)
            if label is None:
                label = self._functions.get(who)
            if label is None:
                return who.node if not who.number & COUNT_MASK else str(who)
            return label
        if isinstance(who, tuple):
            return " on ".join(str(each) for each in who)
        return str(who)

    def _value(self, value: object, depth: int = _DEPTH) -> str:
        if depth == 0:
            return "…"
        match value:
            case Pid():
                return f"<{self._name(value)}>"
            case Ref():
                return f"#{value.number & COUNT_MASK}"
            case Request(_, request):
                return self._value(request, depth)
            case Down() | Exit() | NodeUp() | NodeDown():
                return type(value).__name__
            case tuple() | list():
                parts = [self._value(each, depth - 1) for each in value]
                opening, closing = "()" if isinstance(value, tuple) else "[]"
                comma = "," if isinstance(value, tuple) and len(parts) == 1 else ""
                return opening + ", ".join(parts) + comma + closing
            case dict():
                pairs = (
                    f"{self._value(key, depth - 1)}: {self._value(each, depth - 1)}"
                    for key, each in value.items()
                )
                return "{" + ", ".join(pairs) + "}"
            case str():
                return json.dumps(value, ensure_ascii=False)
        return repr(value)


def _cut(words: str, room: int) -> str:
    if len(words) <= room:
        return words
    return words[: room - 1] + "…" if room > 0 else ""


def _time(span_s: float) -> str:
    text = f"{span_s * 1000:.1f} ms" if span_s < 1.0 else f"{span_s:.3f} s"
    return f"{text:>{_TIME_COLUMNS - 1}} "
