"""JSON to frozen dataclasses, strictly: every key known, present and of the right type, or a `PackError` naming it."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from scanside.errors import PackError

T = TypeVar("T")

MAX_NUMBER = 1e15
"""No number of a manifest comes near; beyond it, JSON readers disagree."""

_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a string"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
}


def json_object(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `text`. Duplicate keys, NaN and infinities are refused, as is anything but an object.

    Raises
    ------
    PackError
        The text is no such object.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise PackError("broken JSON", where=where, found=str(error), remedy=_REMEDY) from None
    if not isinstance(value, dict):
        raise PackError("broken JSON", where=where, expected="an object", found=_kind(value), remedy=_REMEDY)
    return value


def parse(cls: type[T], value: Any, where: str) -> T:
    """`value` (parsed JSON) as an instance of the dataclass `cls`; `where` prefixes the key paths in errors.

    Raises
    ------
    PackError
        An unknown or missing key, a wrong type, or a value the dataclass itself refuses.
    """
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise PackError(f"unknown key {_shown(key)}", where=where, expected=", ".join(fields), remedy=_REMEDY)
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _convert(hints[name], value[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise PackError(f"missing key {name!r}", where=where, remedy=_REMEDY)
    return cls(**arguments)


def plain(value: Any) -> Any:
    """The JSON form of a parsed dataclass: the inverse of `parse`."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if hint in _SCALARS:
        accepted, named = _SCALARS[hint]
        if not isinstance(value, accepted) or (hint is not bool and isinstance(value, bool)):
            raise _wrong(where, named, value)
        if isinstance(value, int | float) and not abs(value) < MAX_NUMBER:
            raise _wrong(where, f"a number below {MAX_NUMBER:g}", value)
        return hint(value)
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None else _convert(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {key: _convert(args[1], item, f"{where}.{_shown(key)}") for key, item in value.items()}
    return parse(hint, value, where)


_REMEDY = "the pack is damaged or of another version: install it again"


def _wrong(where: str, expected: str, value: Any) -> PackError:
    return PackError("wrong type", where=where, expected=expected, found=_kind(value), remedy=_REMEDY)


def _kind(value: Any) -> str:
    if isinstance(value, str | int | float) or value is None:
        return _shown(json.dumps(value))
    return "a list" if isinstance(value, list) else "an object"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {_shown(key)} appears twice")
        result[key] = value
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
