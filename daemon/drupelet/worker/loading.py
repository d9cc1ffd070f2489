"""Loading: from the source of a mission to the table of what may be called.

Decides whether a module is fit to serve. Code alone exposes nothing: a name is served when the
operator listed it *and* the code marks it (`drupelet run` lists all that is marked).

The problems carry the names that WTD (seed 004) gave them, each with file and line, all at once:

| kind                    | when                                                                   |
|-------------------------|------------------------------------------------------------------------|
| `file_wont_compile`     | no such file, not Python, or it raised while it was loaded             |
| `invalid_export`        | a listed name is missing, not public, no function, or there twice      |
| `invalid_fn_and_arity`  | a signature that calls from another node cannot fill                   |
| `function_not_exported` | listed, but not marked for this mission                                |

A marked class that is a behaviour is a process (`servers.py`), started when its mission is, whether
its verbs are listed or not; other classes are one object each. ``Oven.heat`` is the name of a
method, or ``heat`` where the class was marked with ``prefix=False``.

Rules: the digest is of exactly the bytes that were compiled. Bundled modules are the files beside
this package (`drupelet/bundled`, in a checkout a link to ``daemon/missions``). A module given by
path may import its neighbours; they are searched last, so they cannot stand in for the library.
Code that a member shipped comes instead of those files (`shipped.py`); a version that does not
load leaves no trace.
"""

from __future__ import annotations

import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import drupelet
from drupelet.errors import RemoteProtocolError
from drupelet.mission import CALLBACKS, THREAD, Mark, is_at_start, is_cast, marks_of
from drupelet.wire.bundles import Bundle, sources_of
from drupelet.wire.messages import workers
from drupelet.wire.messages.workers import (
    DIGEST_BYTES,
    FILE_WONT_COMPILE,
    FUNCTION_NOT_EXPORTED,
    INVALID_EXPORT,
    INVALID_FN_AND_ARITY,
    ExportEntry,
    Problem,
    WorkerFailure,
    WorkerHello,
    WorkerOrder,
)
from drupelet.worker.targets import Target, argument_checks, signature_problems

if TYPE_CHECKING:
    from drupelet.process.serving import Face

try:
    from _blake2 import blake2b  # hashlib would load OpenSSL: 3.6 MB in every worker
except ImportError:
    from hashlib import blake2b

SOURCE_BYTES_MAX: Final = 4 * 1024 * 1024  # a log given by mistake stops here
_BEHAVIOURS: Final = frozenset(
    f"drupelet.process.{name}" for name in ("gen_server", "gen_statem", "gen_event", "supervisor")
)
_LABEL_CHARS: Final = 8  # of a digest, for people

_Function = Callable[..., object]


class LoadError(Exception):
    """The mission is not fit to serve; `problems` says why."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)

    def hello(self) -> WorkerFailure:
        """What the daemon is told."""
        return WorkerFailure(self.problems[: workers.PROBLEMS_MAX])


@dataclass(frozen=True, slots=True)
class Loaded:
    """Missions ready to serve: mission name -> export name -> target; and what they are from.

    `servers`: the marked classes that are behaviours, by the name of their process; `starts`: the
    functions that are marked with `at_start`, by module and name.
    """

    missions: dict[str, dict[str, Target]]
    digest: bytes
    modules: tuple[types.ModuleType, ...] = ()
    servers: Mapping[str, type] = field(default_factory=dict)
    starts: Mapping[str, _Function] = field(default_factory=dict)

    @property
    def needs_processes(self) -> bool:
        """Whether processes are to run before the first call."""
        return bool(self.servers or self.starts)

    def hello(self) -> WorkerHello:
        """What the daemon is told."""
        return WorkerHello(
            {
                mission: tuple(
                    ExportEntry(name, target.is_cast, target.shown, target.once)
                    for name, target in targets.items()
                )
                for mission, targets in self.missions.items()
            },
            self.digest,
        )

    def table(self) -> dict[bytes, Target]:
        """``b"kitchen/boil"`` -> target."""
        return {
            f"{mission}/{name}".encode(): target
            for mission, targets in self.missions.items()
            for name, target in targets.items()
        }


def load(order: WorkerOrder, former: Sequence[types.ModuleType] = ()) -> Loaded:
    """Load what `order` names; `former` are the modules it comes after. Raises: `LoadError`."""
    if order.shipped:
        return _load_shipped(order, former)
    digest = blake2b(digest_size=DIGEST_BYTES)
    modules = []
    problems: list[Problem] = []
    for name in order.modules:
        path = module_path(name)
        try:
            source = _read(path)
            digest.update(source)
            modules.append(_execute(path, source, is_file=path == name))
        except LoadError as error:
            problems.extend(error.problems)
    if problems:
        raise LoadError(problems)
    return _choose(order, modules, digest.digest(), tuple(modules))


def _load_shipped(order: WorkerOrder, former: Sequence[types.ModuleType]) -> Loaded:
    from drupelet.worker import shipped  # most workers run files

    try:
        bundle = shipped.read_bundle(order.shipped)
    except (OSError, RemoteProtocolError) as error:
        raise _wont_compile(order.shipped, 0, f"cannot be read: {error}") from None
    digest = shipped_digest(bundle)
    label = digest.hex()[:_LABEL_CHARS]
    imported = shipped.Imported(label, bundle, former)
    try:
        modules = []
        for name in bundle.load:
            try:
                modules.append(imported.load(name))
            except (Exception, SystemExit) as error:
                place = _shipped_place(shipped.shown_path(label, ""), error)
                path, line = place or (shipped.shown_path(label, name), 0)
                message = getattr(error, "msg", "") if isinstance(error, SyntaxError) else ""
                message = message or f"{type(error).__name__}: {error}"
                raise _wont_compile(path, line, message) from None
        return _choose(order, modules, digest, imported.modules())
    except LoadError:
        imported.undo()
        raise


def shipped_digest(bundle: Bundle) -> bytes:
    """The digest of shipped code: that of the files, had it come as files."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for source in sources_of(bundle):
        digest.update(source)
    return digest.digest()


def _shipped_place(shown: str, error: BaseException) -> tuple[str, int] | None:
    """(file, line) of shipped code where `error` arose, the innermost."""
    folder = shown.removesuffix(".py")
    if isinstance(error, SyntaxError) and (error.filename or "").startswith(folder):
        return str(error.filename), error.lineno or 0
    place = None
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename.startswith(folder):
            place = (step.tb_frame.f_code.co_filename, step.tb_lineno)
        step = step.tb_next
    return place


def _choose(
    order: WorkerOrder,
    modules: Sequence[types.ModuleType],
    digest: bytes,
    files: tuple[types.ModuleType, ...],
) -> Loaded:
    """The targets that the order asks for, and the processes. Raises: `LoadError`."""
    finder = _Finder(modules)
    servers: dict[str, type] = {}
    starts: dict[str, _Function] = {}
    if order.exports is None:
        wanted = list(dict.fromkeys(finder.all_marked()))
    else:
        wanted = [(order.mission, name) for name in order.exports]
    missions: dict[str, dict[str, Target]] = {order.mission: {}} if order.mission else {}
    for mission, name in wanted:
        target = finder.find(mission, name)
        if target is not None:
            missions.setdefault(mission, {})[name] = target
    if order.exports != ():  # nothing is listed: code that members may spawn, and no mission
        _check_counts(missions, finder, modules[0])
        servers = finder.servers(order.mission)
        starts = finder.starts()
    if finder.problems:
        raise LoadError(finder.problems)
    return Loaded(missions, digest, files, servers, starts)


def _check_counts(
    missions: dict[str, dict[str, Target]], finder: _Finder, module: types.ModuleType
) -> None:
    count = sum(map(len, missions.values()))
    what = ""
    if not count and not finder.problems:
        what = 'nothing is marked with @mission("..."), so there is nothing to serve'
    elif count > workers.EXPORTS_MAX:
        what = f"{count} exports; a worker serves at most {workers.EXPORTS_MAX}"
    elif len(missions) > workers.MISSIONS_MAX:
        what = f"{len(missions)} missions; a file has at most {workers.MISSIONS_MAX}"
    if what:
        finder.add(INVALID_EXPORT, _file(module), 0, what)


def module_path(name: str) -> str:
    """The file of a module: `name` itself when it is a path, else the bundled one."""
    if name.endswith(".py"):
        return name
    return os.path.join(os.path.dirname(drupelet.__file__), "bundled", f"{name}.py")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            source = stream.read(SOURCE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise _wont_compile(path, 0, f"cannot be read: {what}") from None
    if len(source) > SOURCE_BYTES_MAX:
        raise _wont_compile(path, 0, f"is larger than {SOURCE_BYTES_MAX} bytes")
    return source


def _execute(path: str, source: bytes, *, is_file: bool) -> types.ModuleType:
    """The module, loaded. Its own exceptions become problems, with the line in *this* file."""
    name = os.path.basename(path).removesuffix(".py")
    try:
        code = compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise _wont_compile(path, error.lineno or 0, error.msg) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise _wont_compile(path, 0, f"{type(error).__name__}: {error}") from None
    if is_file:
        directory = os.path.dirname(path)
        if directory not in sys.path:
            sys.path.append(directory)
    module = types.ModuleType(name)
    module.__file__ = path
    # Its own name, for pickles and get_type_hints; never in place of a module that is there.
    if name in sys.modules:
        module.__name__ = f"mission_{name}"
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        message = f"{type(error).__name__}: {error}"
        raise _wont_compile(path, _line_in(path, error), message) from None
    return module


def _line_in(path: str, error: BaseException) -> int:
    line = 0
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == path:
            line = step.tb_lineno
        step = step.tb_next
    return line


def _wont_compile(path: str, line: int, message: str) -> LoadError:
    return LoadError([_problem(FILE_WONT_COMPILE, path, line, message)])


def _problem(kind: str, file: str, line: int, message: str) -> Problem:
    message = message[: workers.PROBLEM_CHARS_MAX]
    return Problem(kind=kind, file=file[-workers.PATH_CHARS_MAX :], line=line, message=message)


def _file(module: types.ModuleType) -> str:
    return module.__file__ or module.__name__


def _line(target: object) -> int:
    """Where a function or class stands; 0 when nobody knows."""
    code = getattr(inspect.unwrap(target) if callable(target) else target, "__code__", None)
    if code is not None:
        return int(code.co_firstlineno)
    if isinstance(target, type):
        lines = [
            member.__code__.co_firstlineno
            for member in vars(target).values()
            if isinstance(member, types.FunctionType)
        ]
        return max(min(lines) - 1, 1) if lines else 0
    return 0


class _Finder:
    """Looks names up in the modules of one mission and gathers what is wrong."""

    def __init__(self, modules: Sequence[types.ModuleType]) -> None:
        self.problems: list[Problem] = []
        self._modules = modules
        self._instances: dict[type, object] = {}

    def add(self, kind: str, file: str, line: int, message: str) -> None:
        """One more problem."""
        self.problems.append(_problem(kind, file, line, message))

    def all_marked(self) -> list[tuple[str, str]]:
        """(mission, export) of everything that is marked."""
        names = []
        for module in self._modules:
            for name, value in list(vars(module).items()):
                for mark in marks_of(value):
                    if isinstance(value, type):
                        prefix = f"{name}." if mark.prefix else ""
                        names += [(mark.mission, prefix + verb) for verb in _verbs(value)]
                    else:
                        names.append((mark.mission, name))
        return names

    def servers(self, mission: str) -> dict[str, type]:
        """The marked classes that are behaviours; of all missions when `mission` is ""."""
        found: dict[str, type] = {}
        for module in self._modules:
            for value in list(vars(module).values()):
                face = _face(value)
                for mark in marks_of(value) if face is not None else ():
                    if mission in ("", mark.mission):
                        found[f"{mark.mission}.{value.__name__}"] = value
                        self._check_server(module, value, mark)
        return found

    def _check_server(self, module: types.ModuleType, cls: type, mark: Mark) -> None:
        if mark.where == THREAD:
            face = _face(cls)
            assert face is not None
            what = f"{cls.__name__} is {face.what}, which runs in the loop; spawn what computes"
            self._invalid(what, module, _line(cls))
        takes = Target("init", object.__new__(cls).init)
        if takes.arity_min:
            what = f"{cls.__name__}.{takes.shown}: the worker starts it without arguments"
            self.add(INVALID_FN_AND_ARITY, _file(module), _line(cls), what)

    def starts(self) -> dict[str, _Function]:
        """The functions that are marked with `at_start`."""
        found: dict[str, _Function] = {}
        for module in self._modules:
            for name, value in list(vars(module).items()):
                if not is_at_start(value):
                    continue
                found[f"{module.__name__}.{name}"] = value
                if Target(name, value).arity_min:
                    what = f"{name} is marked with @at_start, which calls it without arguments"
                    self.add(INVALID_FN_AND_ARITY, _file(module), _line(value), what)
        return found

    def find(self, mission: str, name: str) -> Target | None:
        """The target of an export, or None after noting what is wrong."""
        root, _, verb = name.partition(".")
        if any(not part.isidentifier() or part.startswith("_") for part in name.split(".")):
            self._invalid(f"{name!r} is not public; only names without a leading _ can be exported")
            return None
        holders = [module for module in self._modules if root in vars(module)]
        bare = self._bare(mission, name)
        if bare and (len(bare) > 1 or any(_mark(vars(m)[root], mission) for m in holders)):
            places = " and ".join(f"{_file(m)}:{_line(cls)}" for m, cls, _ in bare)
            self._invalid(f"{name!r} is there twice, once as a method: {places}; rename one")
            return None
        if bare:
            module, cls, its_mark = bare[0]
            return self._method(module, cls, name, name, its_mark)
        if not holders:
            self._invalid(f"there is no {root!r}{self._hint(mission, name)}")
            return None
        marked = [(m, mark) for m in holders if (mark := _mark(vars(m)[root], mission))]
        if not marked:
            self._not_marked(mission, name, holders[0], vars(holders[0])[root])
            return None
        module, mark = marked[0]
        value = vars(module)[root]
        if any(vars(other)[root] is not value for other, _ in marked[1:]):
            places = " and ".join(f"{_file(m)}:{_line(vars(m)[root])}" for m, _ in marked)
            self._invalid(f"{root!r} is marked twice: {places}; rename one", module, _line(value))
            return None
        if isinstance(value, type):
            return self._method(module, value, verb, name, mark)
        if verb:
            self._invalid(f"{root!r} is a function; export it as {root!r}", module, _line(value))
            return None
        return self._target(module, name, value, mark)

    def _bare(self, mission: str, name: str) -> list[tuple[types.ModuleType, type, Mark]]:
        """The classes marked with ``prefix=False`` that have a method of that name."""
        found: dict[type, tuple[types.ModuleType, type, Mark]] = {}
        for module in self._modules:
            for value in list(vars(module).values()):
                mark = _mark(value, mission) if isinstance(value, type) else None
                if mark is not None and not mark.prefix and name in _verbs(value):
                    found.setdefault(value, (module, value, mark))
        return list(found.values())

    def _method(
        self, module: types.ModuleType, cls: type, verb: str, name: str, mark: Mark
    ) -> Target | None:
        face, verbs = _face(cls), _verbs(cls)
        listed = ", ".join(f"{cls.__name__}.{known}" for known in verbs) or "it has none"
        if not verb or "." in verb:
            what = f"{name!r} is a class; export its methods: {listed}"
        elif face is not None and verb in verbs:
            server = f"{mark.mission}.{cls.__name__}"
            return self._target(module, name, face.verbs[verb], mark, server=server)
        elif verb in CALLBACKS:
            what = f"{name!r} is a callback of the runtime, never callable from outside"
        elif face is not None and face.by_marks and hasattr(cls, verb):
            what = (
                f"{name!r} is no verb of {face.what}; write @verb above a method without a body "
                f"that says what callers may ask. Its verbs: {listed}"
            )
        elif verb not in verbs:
            what = f"class {cls.__name__} has no public method {verb!r}; its methods: {listed}"
        else:
            instance = self._instance(module, cls)
            if instance is None:
                return None
            return self._target(module, name, getattr(instance, verb), mark, instance)
        self._invalid(what, module, _line(cls))
        return None

    def _instance(self, module: types.ModuleType, cls: type) -> object:
        """The one object that keeps the state of a class; None when it cannot be made."""
        if cls not in self._instances:
            try:
                self._instances[cls] = cls()
            except (Exception, SystemExit) as error:  # the author's __init__
                line = _line_in(_file(module), error) or _line(cls)
                message = f"{cls.__name__}() raised {type(error).__name__}: {error}"
                self.add(FILE_WONT_COMPILE, _file(module), line, message)
                self._instances[cls] = None
        return self._instances[cls]

    def _target(
        self,
        module: types.ModuleType,
        name: str,
        function: _Function,
        mark: Mark,
        owner: object = None,
        server: str = "",
    ) -> Target | None:
        problems = list(signature_problems(name, function))
        for what in problems:
            self.add(INVALID_FN_AND_ARITY, _file(module), _line(function), what)
        if problems:
            return None
        if len(name) > workers.EXPORT_CHARS_MAX:
            self._invalid(f"{name!r} is too long; {workers.EXPORT_CHARS_MAX} characters at most")
            return None
        return Target(
            name,
            function,
            where=mark.where,
            is_cast=is_cast(function),
            owner=owner,
            server=server,
            checks=argument_checks(function),
            once=mark.once,
        )

    def _not_marked(self, mission: str, name: str, module: types.ModuleType, value: object) -> None:
        others = marks_of(value)
        if not callable(value):
            what = f"{name!r} is {type(value).__name__} and no function"
            self._invalid(what, module, _line(value))
            return
        what = f'{name!r} is listed but not marked; write @mission("{mission}") above it'
        if others:
            what = f'{name!r} is marked for mission "{others[0].mission}", not for "{mission}"'
        self.add(FUNCTION_NOT_EXPORTED, _file(module), _line(value), what)

    def _hint(self, mission: str, name: str) -> str:
        known = [known for owner, known in self.all_marked() if owner == mission]
        import difflib  # rare, and it would stay in memory

        near = difflib.get_close_matches(name, known, n=1)
        if near:
            return f"; did you mean {near[0]!r}?"
        return f"; marked for {mission}: {', '.join(known[:8]) or 'nothing'}"

    def _invalid(self, what: str, module: types.ModuleType | None = None, line: int = 0) -> None:
        self.add(INVALID_EXPORT, _file(module or self._modules[0]), line, what)


def _mark(value: object, mission: str) -> Mark | None:
    for mark in marks_of(value):
        if mark.mission == mission:
            return mark
    return None


def _face(value: object) -> Face | None:
    """How a class of behaviours serves calls; most workers never load what knows it."""
    if not isinstance(value, type) or all(
        base.__module__ not in _BEHAVIOURS for base in value.__mro__
    ):
        return None
    from drupelet.process.serving import face_of

    return face_of(value)


def _verbs(cls: type) -> list[str]:
    """The methods of a class that calls may reach."""
    face = _face(cls)
    if face is not None:
        return list(face.verbs)
    return [
        name
        for name, member in inspect.getmembers_static(cls)
        if not name.startswith("_")
        and name not in CALLBACKS
        and isinstance(member, types.FunctionType | staticmethod | classmethod)
    ]
