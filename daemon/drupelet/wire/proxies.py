"""Where pids are in values that cross the border between strangers.

Decides how they are found, not what becomes of them (services/proxies.py): a body without the tag
of one is passed on unopened, and costs 0.1 us.

Rule: what `codec.loads` takes for a tag is found here, also in a longer form than `dumps` writes. A
body that looks as if, for the same bytes may be text, is decoded, and then it is known.

References: RFC 8949, 3 (heads), 3.4 (tags).
Rejected: decoding every body at the border (60 us for 1 KiB of small values).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from drupelet.wire.codec import TAG_NOTICE, TAG_PID, TAG_PROXY
from drupelet.wire.ids import Pid, ProxyPid
from drupelet.wire.notices import CLASSES, Notice

_TAGS: Final = bytes((TAG_PID, TAG_NOTICE, TAG_PROXY))
_TAGGED: Final = re.compile(
    rb"(?:\xd8|\xd9\x00|\xda\x00{3}|\xdb\x00{7})[" + re.escape(_TAGS) + rb"]", re.DOTALL
)
_NOTICES: Final = frozenset(CLASSES)

Found = Pid | ProxyPid | Notice


def may_hold_pids(body: bytes) -> bool:
    """False: there is no pid, proxy pid or notice in this encoded value."""
    if 0xD8 in body or 0xD9 in body or 0xDA in body or 0xDB in body:  # as numbers: 0.1 us, not 0.6
        return _TAGGED.search(body) is not None
    return False


def replace_pids(value: object, instead: Callable[[Found], object]) -> object:
    """`value` with what `instead` gives for each; what is inside of a notice is not looked at.

    `value` is what `loads` gave: no deeper than VALUE_DEPTH_MAX.
    """
    kind = type(value)
    if kind is list:
        return [replace_pids(each, instead) for each in value]  # type: ignore[attr-defined]
    if kind is tuple:
        return tuple(replace_pids(each, instead) for each in value)  # type: ignore[attr-defined]
    if kind is dict:
        return {key: replace_pids(each, instead) for key, each in value.items()}  # type: ignore[attr-defined]
    if kind is Pid or kind is ProxyPid or kind in _NOTICES:
        return instead(value)  # type: ignore[arg-type]
    return value
