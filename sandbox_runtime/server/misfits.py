"""Why a body does not fit: the field by its whole name, and what is right in words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect as shapes

from sandbox_runtime.server.faults import FieldError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_ABSENT_OR_UNKNOWN = re.compile(r"(required|unknown) field `([^`]+)`")
_REGEX = "matching regex"
_ENUM = "Invalid enum value"


def misfit(error: msgspec.ValidationError, kind: type[Any]) -> FieldError:
    """The error for a body that is not of its shape, from what msgspec says of it."""
    told = str(error)
    found = _PLACE.search(told)
    place = found[1].replace("[...]", "") if found else ""
    about = _ABSENT_OR_UNKNOWN.search(told)
    if _ENUM in told and (values := _values_at(kind, place)):
        return FieldError(place, f"{told}; known: {', '.join(values)}")
    if about is None:
        meaning = _description_at(kind, place) if _REGEX in told else ""
        return FieldError(place, f"{place}: {meaning}" if meaning else told)
    name = f"{place}.{about[2]}" if place else about[2]
    known = _fields_at(kind, place) if about[1] == "unknown" else ()
    return FieldError(name, f"{told}; known: {', '.join(known)}" if known else told)


def _fields_at(kind: type[Any], place: str) -> Sequence[str]:
    """The names of the fields of an object in a body."""
    for shape in _shapes_at(kind, place):
        if isinstance(shape, shapes.StructType):
            return [field.encode_name for field in shape.fields]
    return ()


def _values_at(kind: type[Any], place: str) -> Sequence[str]:
    """The values of a field that takes only some."""
    for shape in _shapes_at(kind, place):
        if isinstance(shape, shapes.LiteralType):
            return [str(value) for value in shape.values]
    return ()


def _description_at(kind: type[Any], place: str) -> str:
    """What the wire says in words of a value in a body; may be empty."""
    for shape in _shapes_at(kind, place):
        if isinstance(shape, shapes.Metadata):
            return str((shape.extra_json_schema or {}).get("description", ""))
    return ""


def _shapes_at(kind: type[Any], place: str) -> list[shapes.Type]:
    """What may stand at a place like `mounts[0].path`."""
    found = [*_alternatives(shapes.type_info(kind))]
    for step in re.findall(r"\[\d+\]|[^.\[]+", place):
        found = [inner for shape in found for inner in _step(shape, step)]
    return found


def _step(shape: shapes.Type, step: str) -> Iterator[shapes.Type]:
    if isinstance(shape, shapes.StructType):
        for field in shape.fields:
            if field.encode_name == step:
                yield from _alternatives(field.type)
    elif isinstance(shape, shapes.CollectionType) and step.startswith("["):
        yield from _alternatives(shape.item_type)


def _alternatives(shape: shapes.Type) -> Iterator[shapes.Type]:
    """A shape itself, and those that it stands for."""
    yield shape
    if isinstance(shape, shapes.Metadata):
        yield from _alternatives(shape.type)
    elif isinstance(shape, shapes.UnionType):
        for one in shape.types:
            yield from _alternatives(one)
