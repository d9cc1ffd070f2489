"""Code in a request to a behaviour: the class of a new child, an event handler.

Decides how it gets there, since messages are data. Within a runtime the thing itself waits in a
table under a ref, and the ref travels; to another node its module, name and digest travel, as in
`spawn` (there it is looked up, and other code is `CodeMismatch`).

Rule: a parcel lives as long as its request, and can be opened once.
Rejected: classes as messages (a local send would take what one to another node refuses).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from drupelet.errors import RemoteError
from drupelet.process.nodes import function_address
from drupelet.process.runtime import Runtime, To
from drupelet.process.table import Process
from drupelet.wire.ids import Ref

HERE: Final = "$here"
CODE: Final = "$code"

_parcels: dict[Ref, Any] = {}  # at most one per request under way


@contextmanager
def pack(runtime: Runtime, to: To, thing: Any) -> Iterator[tuple[object, ...]]:
    """`thing` as data for one request to `to`. Raises: `NotSendable` for what has no name there."""
    if not isinstance(runtime.target(to), Process):
        module, name = function_address(thing)
        yield (CODE, module, name, runtime.digest_of(module))
        return
    ref = runtime.ref(runtime.new_ref())
    _parcels[ref] = thing
    try:
        yield (HERE, ref)
    finally:
        _parcels.pop(ref, None)


def unpack(runtime: Runtime, data: object) -> Any:
    """What was packed. Raises: `RemoteError` ("undef"...), `CodeMismatch`."""
    match data:
        case ("$here", Ref() as ref) if ref in _parcels:
            return _parcels.pop(ref)
        case ("$code", str(module), str(name), bytes(digest)):
            return runtime.resolve(module, name, digest)
    raise RemoteError("undef", "that is no code, or nobody waits for it any more")
