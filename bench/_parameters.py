"""Conversion and range checks of options, by the annotations of their dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import msgspec

from recscale.errors import UnknownName, UsageError

LARGEST = 3.4e38  # of a float32, in which most models compute


def option_types(cls: type) -> dict[str, Any]:
    """Return the annotated type of each dataclass field of `cls`."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}  # type: ignore[arg-type]


def convert_option(owner: str, name: str, value: Any, annotation: Any) -> Any:
    """Return `value` as `annotation` asks (text from a command line is parsed). Raises UsageError."""
    if isinstance(value, str) and value.lower() in ("none", "null"):
        value = None
    try:
        converted = msgspec.convert(value, annotation, strict=not isinstance(value, str))
        if isinstance(converted, float) and abs(converted) > LARGEST:
            raise msgspec.ValidationError("Expected a finite number, of a size that float32 can hold")
        return converted
    except msgspec.ValidationError as error:
        raise UsageError(f"{owner}: {name}={value!r} does not fit: {str(error)[0].lower()}{str(error)[1:]}") from None


def convert_fields(instance: Any) -> None:
    """Check and convert every option of a dataclass instance in place. Raises UsageError."""
    owner = type(instance).__name__
    for name, annotation in option_types(type(instance)).items():
        value = convert_option(owner, name, getattr(instance, name), annotation)
        object.__setattr__(instance, name, value)


def build(cls: type, owner: str, options: Mapping[str, Any]) -> Any:
    """Return `cls(**options)`. Raises UnknownName for an option it does not have, UsageError for a bad value."""
    types: dict[str, Any] = option_types(cls)
    for name in options:
        if name not in types:
            raise UnknownName(f"parameter of {owner}", name, types)
    converted = {name: convert_option(owner, name, value, types[name]) for name, value in options.items()}
    return cls(**converted)
