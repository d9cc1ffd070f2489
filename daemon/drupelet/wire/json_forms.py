"""Values of the codec as JSON, both ways: for the command line, and for calls over HTTP.

JSON has no bytes, tuples, NaN or int keys. Decided, and the same everywhere:

| value                       | JSON                                                     |
|-----------------------------|----------------------------------------------------------|
| bytes                       | ``{"$bytes": "base64"}``                                 |
| NaN, infinities             | ``{"$float": "nan" | "inf" | "-inf"}``                    |
| datetime, UUID              | ``{"$datetime": "ISO 8601"}``, ``{"$uuid": ...}``         |
| Pid, ProxyPid, Ref          | ``{"$pid": ...}``, ``{"$proxypid": ...}``, ``{"$ref": ...}`` |
| Down and other notices      | ``{"$down": {"ref": ..., "pid": ..., "reason": ...}}``    |
| map with int keys, or with one key that starts with "$" | ``{"$map": [[key, value], ...]}`` |
| tuple, list                 | array                                                    |

An argument may use ``$bytes``, ``$float``, ``$datetime``, ``$uuid`` and ``$map`` too. So everything
but the difference between tuple and list (and pids and refs, which a shell cannot own) survives a
trip through a shell script. The text itself is `json`'s affair. Idea rejected: Python's bare NaN,
which no other JSON parser takes.
"""

from __future__ import annotations

import math

_NOTICES = "drupelet.wire.notices"


class BadValue(ValueError):
    """A JSON text with a malformed ``$`` form."""


def to_json(value: object) -> object:
    """`value` as what `json.dumps` takes."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return {"$float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value) or _looks_special(value):
            return {"$map": [[key, to_json(item)] for key, item in value.items()]}
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, bytes | bytearray | memoryview):
        import base64

        return {"$bytes": base64.b64encode(value).decode()}
    name = type(value).__name__.lower()
    if type(value).__module__ == _NOTICES:
        import dataclasses

        fields = dataclasses.fields(value)  # type: ignore[arg-type]
        return {f"${name}": {one.name: to_json(getattr(value, one.name)) for one in fields}}
    isoformat = getattr(value, "isoformat", None)
    return {f"${name}": isoformat() if isoformat is not None else str(value)}


def from_json(value: object) -> object:
    """The reverse of `to_json`. Raises: `BadValue`."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if _looks_special(value):
            [(key, item)] = value.items()
            return _special(key, item)
        return {key: from_json(item) for key, item in value.items()}
    return value


def _looks_special(value: dict[object, object]) -> bool:
    return (
        len(value) == 1 and next(iter(value)).__class__ is str and str(next(iter(value)))[:1] == "$"
    )


def _special(key: str, item: object) -> object:
    try:
        match key, item:
            case "$bytes", str(text):
                import base64

                return base64.b64decode(text, validate=True)
            case "$float", "nan" | "inf" | "-inf":
                return float(str(item))
            case "$datetime", str(text):
                import datetime

                return datetime.datetime.fromisoformat(text)
            case "$uuid", str(text):
                import uuid

                return uuid.UUID(text)
            case "$map", list(pairs):
                return {_key(key): from_json(value) for key, value in pairs}
    except (ValueError, TypeError) as error:
        raise BadValue(f"{key}: {error}") from None
    raise BadValue(
        f'{{"{key}": ...}} is not a form that an argument can have; '
        f'a map with just that key is {{"$map": [["{key}", ...]]}}'
    )


def _key(key: object) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise BadValue(f"a key is a string or an integer, not {type(key).__name__}")
