"""Mission modules for tests, written to a directory."""

from __future__ import annotations

from hashlib import blake2s
from pathlib import Path

import pytest

from drupelet.wire.bundles import Bundle, encode_bundle
from drupelet.wire.codec import dumps
from drupelet.wire.messages.workers import Problem, WorkerOrder
from drupelet.worker.loading import Loaded, LoadError, load


def write(directory: Path, name: str, text: str) -> str:
    """The path of module `name`; every module begins with the imports of an author."""
    path = directory / f"{name}.py"
    path.write_text("from drupelet import cast, mission\n" + text)
    return str(path)


def load_order(*modules: str, exports: str | None, mission: str = "m") -> Loaded:
    names = None if exports is None else tuple(exports.split())
    return load(WorkerOrder(mission=mission, modules=modules, exports=names))


def problems_of(*modules: str, exports: str | None, mission: str = "m") -> tuple[Problem, ...]:
    with pytest.raises(LoadError) as caught:
        load_order(*modules, exports=exports, mission=mission)
    return caught.value.problems


def ship(directory: Path, *load: str, name: str = "m", **sources: str) -> str:
    """The path of a kept bundle of mission `name`; `sources` begin with an author's imports."""
    modules = {
        module: ("from drupelet import cast, mission\n" + text).encode()
        for module, text in sources.items()
    }
    bundle = Bundle(mission=name, load=load or tuple(modules), modules=modules)
    content = encode_bundle(bundle)
    path = directory / f"{blake2s(content).hexdigest()[:16]}.bundle"
    path.write_bytes(dumps({"content": content, "more": b""}))
    return str(path)
