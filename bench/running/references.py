"""Reading `name[option=value,...]`: how models, data sets and protocols are written on a command line and in YAML."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from recscale import registry
from recscale._parameters import build, convert_option, option_types
from recscale.contract import Filter
from recscale.errors import UnknownName, UsageError
from recscale.evaluation.filtering import NAMED_FILTERS, resolve_filter
from recscale.evaluation.protocols import ProtocolOptions, protocol_text, resolve_protocol
from recscale.evaluation.subsampling import WAYS, Subsample
from recscale.running.job import Data

_REFERENCE = re.compile(r"^\s*([^\[\]]+?)\s*(?:\[(.*)\])?\s*$", re.DOTALL)


def parse_reference(written: str | Mapping[str, Any]) -> tuple[str, dict[str, list[Any]]]:
    """Return the name and, for each option, the list of values asked for.

    `written` is text such as `ease[l2=80,100,k=50]`, or a mapping of one name to its options as YAML gives it.
    Raises UsageError.
    """
    if isinstance(written, Mapping):
        if len(written) != 1:
            raise UsageError(f"expected one name with its options, such as {{ease: {{l2: 80}}}}, not {dict(written)}")
        name, options = next(iter(written.items()))
        options = options or {}
        if not isinstance(options, Mapping):
            raise UsageError(f"the options of {name} must be a mapping, not {options!r}")
        return str(name), {str(k): v if isinstance(v, list) else [v] for k, v in options.items()}
    matched = _REFERENCE.match(written)
    if not matched:
        raise UsageError(f"cannot read {written!r}; expected name or name[option=value,value,other=value]")
    return matched[1], _parse_options(written, matched[2] or "")


def parse_single(written: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the value of each option. Raises UsageError, also for an option with several values."""
    name, options = parse_reference(written)
    for key, values in options.items():
        if len(values) != 1:
            raise UsageError(f"{name}: {key} takes one value, not {len(values)}")
    return name, {key: value for key, (value,) in options.items()}


def _parse_options(written: str, inside: str) -> dict[str, list[Any]]:
    options: dict[str, list[Any]] = {}
    current = ""
    for piece in filter(None, (p.strip() for p in re.split(r"[,;]", inside))):
        key, equals, value = piece.partition("=")
        if equals:
            current = key.strip()
            if current in options:
                raise UsageError(f"{written!r} gives {current} twice")
            options[current] = [value.strip()]
        elif current:
            options[current].append(piece)
        else:
            raise UsageError(f"cannot read {written!r}: {piece!r} is no option=value")
    return options


def grid(options: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the listed values, in the order in which they were written."""
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def text_of(name: str, options: Mapping[str, Any]) -> str:
    """Return the canonical text of a name with options."""
    inside = ",".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in sorted(options.items()))
    return f"{name}[{inside}]" if inside else name


def without_defaults(instance: Any) -> dict[str, Any]:
    """Return the options of a dataclass instance that differ from its defaults."""
    return {f.name: v for f in fields(instance) if (v := getattr(instance, f.name)) != f.default}


def resolve_data(dataset: str | Mapping[str, Any], protocol: str, plugins: list[str]) -> Data:
    """Return a data set with its options, filter, subsample and protocol, checked against their declarations.

    An option of a data set is one of its own, a field of Filter, `filter`, the name of a filter, or a field of
    Subsample. Raises UnknownName or UsageError.
    """
    written, given = parse_single(dataset)
    name = registry.canonical_name("dataset", written)
    spec = registry.dataset_spec(name, plugins)
    own, rules, kept = _divide(name, given, option_types(spec.source))
    held = _protocol(protocol)
    if held.name == "fixed" and not spec.has_fixed_split:
        raise UsageError(f"{name} has no published split; use --protocol fold-in or hold-one-out")
    filter_name = str(rules.pop("filter", "none" if held.takes_everything or rules else spec.filter))
    rule = resolve_filter(filter_name, rules)
    source = build(spec.source, name, own)
    shown = without_defaults(source) | _filter_text(rule)
    shares = without_defaults(build(Subsample, name, kept))
    return Data(
        name=name,
        text=text_of(name, shown | shares),
        options={f.name: getattr(source, f.name) for f in fields(source)},
        filter=asdict(rule),
        filter_name=next((n for n, named in NAMED_FILTERS.items() if named == rule), None),
        protocol=held.name,
        protocol_options={f.name: getattr(held, f.name) for f in fields(type(held))},  # type: ignore[arg-type]
        protocol_text=protocol_text(held),
        shares=shares,
        sampled_from=text_of(name, shown) if shares else None,
    )


def known_options(own: Iterable[str]) -> list[str]:
    """Return the options that a reference to a data set may have, by the names of its own."""
    return [*own, *option_types(Filter), "filter", *WAYS]


def _filter_text(rule: Filter) -> dict[str, Any]:
    if rule == Filter():
        return {}
    named = next((n for n, known in NAMED_FILTERS.items() if known == rule), None)
    return {"filter": named} if named else without_defaults(rule)


def _divide(
    name: str, given: Mapping[str, Any], own_types: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Separate the options of a data set from those of its filter and of a subsample."""
    filter_types, known = option_types(Filter), known_options(own_types)
    for key in given:
        if key not in known:
            raise UnknownName(f"option of {name}", key, known)
    own = {k: v for k, v in given.items() if k in own_types}
    kept = {k: v for k, v in given.items() if k in WAYS and k not in own_types}
    rules = {
        k: convert_option(name, k, v, filter_types[k]) if k in filter_types else v
        for k, v in given.items()
        if k not in own_types and k not in WAYS
    }
    return own, rules, kept


def _protocol(written: str) -> ProtocolOptions:
    return resolve_protocol(*parse_single(written))
