"""Values as words of the command line: an argument that parses as JSON is that value.

The forms that JSON lacks (bytes, NaN...) are `wire/json_forms.py`'s.
"""

from __future__ import annotations

import json

from drupelet.wire.json_forms import BadValue, from_json, to_json

TEXT_CHARS_MAX = 16 * 1024 * 1024  # an argument; execve(2) stops at 128 KiB a piece anyhow


def dump(value: object) -> str:
    """`value` as one line of JSON, without NaN; what is not printable is escaped."""
    text = json.dumps(to_json(value), ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else json.dumps(to_json(value), allow_nan=False)


def parse_argument(text: str) -> object:
    """An argument that parses as JSON is that value, anything else is the string itself.

    Raises: `BadValue` for a malformed ``$`` form, or a JSON text nested too deep.
    """
    try:
        try:
            value = json.loads(text, parse_constant=_refuse)
        except ValueError:
            return text
        return from_json(value)
    except RecursionError:
        raise BadValue("the argument is nested too deep") from None


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


__all__ = ["TEXT_CHARS_MAX", "BadValue", "dump", "from_json", "parse_argument", "to_json"]
