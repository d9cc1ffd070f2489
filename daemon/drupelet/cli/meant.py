"""What somebody meant who mistyped a name.

Decides where it is looked for: in what is visible where a `NameError` was raised, and in `drupelet`
for an import of it. Python tells it too, but only of what its own interpreter prints; its
`traceback` module does from 3.12 on, and of imports then.
"""

from __future__ import annotations

import difflib
import re
from typing import Final

import drupelet

_IMPORT: Final = re.compile(r"cannot import name '(\w+)' from 'drupelet'")
_NAME_CHARS_MAX: Final = 80


def meant(error: BaseException) -> str:
    """The name that is nearest to the one that is not there; "" when none is near."""
    names: set[str] = set()
    if isinstance(error, NameError):
        wanted = error.name or ""
        step = error.__traceback__
        while step is not None and step.tb_next is not None:
            step = step.tb_next
        if step is not None:
            frame = step.tb_frame
            names = {*frame.f_locals, *frame.f_globals, *frame.f_builtins}
    elif isinstance(error, ImportError) and (found := _IMPORT.match(str(error))):
        wanted = found[1]
        names = set(drupelet.__all__)
    else:
        return ""
    near = difflib.get_close_matches(wanted[:_NAME_CHARS_MAX], sorted(names), n=1)
    return near[0] if near else ""


__all__ = ["meant"]
