"""What the verbs of the command line print: plans, descriptions, records, checks and the state of the machine."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, fields
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from recscale import __version__, registry
from recscale._parameters import option_types
from recscale.contract import Choice, DatasetSpec, Filter, ModelSpec, Range
from recscale.errors import RecscaleError, UnknownName
from recscale.evaluation.filtering import NAMED_FILTERS
from recscale.evaluation.subsampling import Subsample
from recscale.measuring.machine import calibrate, fingerprint, versions
from recscale.measuring.size import MISSING as NOTHING
from recscale.measuring.size import format_bytes, format_count, format_seconds
from recscale.records.estimates import Corrected
from recscale.records.record import RunRecord
from recscale.running.display import figures, summary
from recscale.running.job import Data, Job, Prepared
from recscale.running.runner import Plan
from recscale.running.tuning import Study
from recscale.testing.conformance import check

SHOWN_METRICS = 5
NOT_KNOWN = "not known"
SHOWN_KEY_LETTERS = 8  # of the 64: enough to tell the records of a store apart
EXTRAS = {"cholmod": "sksparse", "gpu": "pynvml", "tune": "optuna", "ray": "ray", "report": "plotly", "peers": "sansa"}


def print_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a line a job: what it is expected to need, by formula and corrected, and what will become of it."""
    rows: list[dict[str, Any]] = []
    for job in plan.jobs:
        forecast = plan.forecasts.get(job.key)
        rows.append(
            {
                "job": job.label,
                "device": job.device or job.device_requested,
                "estimated_peak_bytes": job.estimated_peak_bytes,
                "estimated_fit_seconds": job.estimated_fit_seconds,
                "estimated_model_bytes": job.estimated_model_bytes,
                "memory": forecast and forecast.memory,
                "time": forecast and forecast.time,
                "fate": _fate(plan, job),
            }
        )
    if as_json:
        _out_json(rows)
        return
    shown = [
        [
            row["job"],
            row["device"],
            _bytes(row["estimated_peak_bytes"]),
            *_expected(row["memory"], format_bytes),
            NOT_KNOWN if row["estimated_fit_seconds"] is None else format_seconds(row["estimated_fit_seconds"]),
            *_expected(row["time"], format_seconds),
            _bytes(row["estimated_model_bytes"]),
            row["fate"],
        ]
        for row in rows
    ]
    corrected = ["corrected", "9 of 10", "fits"]
    header = ["job", "device", "memory*", *corrected, "fit time", *corrected, "model", "what will happen"]
    _out(columns(header, shown) + "\n* beyond the data, by formula; corrected by so many earlier fits of the store")


def _fate(plan: Plan, job: Job) -> str:
    """Return what will become of a job."""
    if job.key in plan.settled:
        return f"finished before: {plan.settled[job.key].status}"
    if job.key in plan.refusals:
        return f"refused: {plan.refusals[job.key]}"
    if job.unavailable:
        return f"skipped: {job.unavailable}"
    time, limit = plan.forecasts[job.key].time if job.key in plan.forecasts else None, job.limits.timeout_seconds
    if time is not None and limit is not None and time.low > limit:
        return f"run, probably into the limit of {format_seconds(limit)}"
    return "run"


def _expected(estimate: Corrected | None, told: Callable[[float], str]) -> list[str]:
    """Return a corrected estimate, its interval, and the fits that it rests on; dashes where the formula is alone."""
    if estimate is None or not estimate.n_fits:
        return [NOTHING] * 3
    return [told(estimate.value), f"{told(estimate.low)} to {told(estimate.high)}", str(estimate.n_fits)]


def print_prepared(prepared: Sequence[tuple[Data, Prepared]], *, as_json: bool) -> None:
    """Print the figures of prepared splits."""
    for data, one in prepared:
        if as_json:
            _out(msgspec.json.encode({"data": data, "prepared": one}).decode())
        else:
            _out(f"{data.text}, {data.protocol_text}: {figures(one)}\n  split {one.split_fingerprint}")


def print_records(records: Sequence[RunRecord], *, as_json: bool) -> None:
    """Print one line a record: JSON for programs, otherwise a table with failures in place."""
    if as_json:
        _out_json(records)
        return
    by_split: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        by_split.setdefault((record.dataset, record.protocol), []).append(record)
    for (dataset, protocol), group in by_split.items():
        names = list(dict.fromkeys(name for record in group for name in record.metrics))[:SHOWN_METRICS]
        rows = [[_configuration(r, group), *_cells(r, names)] for r in group]
        _out(f"\n{dataset}, {protocol}")
        _out(columns(["model", *names, "parameters", "size", "fit", "fit peak", "users/s", "key"], rows))


def _cells(record: RunRecord, names: Sequence[str]) -> list[str]:
    if record.status != "ok":
        return [summary(record)]
    fit = record.phases["fit"]
    return [
        *(f"{record.metrics[name]:.4f}" if name in record.metrics else NOTHING for name in names),
        format_count(record.n_parameters),
        format_bytes(record.n_bytes),
        format_seconds(fit.wall_seconds),
        format_bytes(fit.peak_rss_bytes),
        format_count(record.users_per_second),
        record.key[:SHOWN_KEY_LETTERS],
    ]


def _configuration(record: RunRecord, group: Sequence[RunRecord]) -> str:
    """Return the model with its size and whatever differs from its defaults, and the seed where there are several."""
    seeds = {r.seed for r in group if r.model == record.model}
    told = record.configuration or record.model
    return f"{told}, seed {record.seed}" if len(seeds) > 1 else told


def print_studies(studies: Sequence[Study], *, as_json: bool) -> None:
    """Print one line a study, with what it took and what it found; as JSON every trial."""
    if as_json:
        _out_json([trial for study in studies for trial in study.trials])
        return
    by_split: dict[tuple[str, str], list[Study]] = {}
    for study in studies:
        by_split.setdefault((study.data.text, study.data.protocol_text), []).append(study)
    for (dataset, protocol), group in by_split.items():
        _out(f"\n{dataset}, {protocol}: tuned by {group[0].metric} of the validation users")
        header = ["model", "trials", "failed", "pruned", "time", "defaults", "best", "found"]
        _out(columns(header, [_study(s) for s in group]))


def _study(study: Study) -> list[str]:
    best, first = study.best, study.trials[0]
    values = [
        f"{trial.metrics[study.metric]:.4f}" if trial and trial.status == "ok" else NOTHING for trial in (first, best)
    ]
    counts = [str(n) for n in (len(study.trials), study.n_failed, study.n_pruned)]
    told = (best.configuration or best.model) if best else summary(study.trials[-1])
    return [study.text, *counts, format_seconds(study.seconds), *values, told]


def describe(name: str, plugins: list[str]) -> str:
    """Return what there is to know of a model or data set of that name. Raises UnknownName."""
    models, datasets = registry.entries("model", plugins), registry.entries("dataset", plugins)
    if registry.canonical_name("model", name) in models:
        return _describe_model(registry.canonical_name("model", name), plugins)
    if registry.canonical_name("dataset", name) in datasets:
        return _describe_dataset(registry.canonical_name("dataset", name), plugins)
    raise UnknownName("model or data set", name, [*models, *datasets])


def _describe_model(name: str, plugins: list[str]) -> str:
    spec: ModelSpec = registry.model_spec(name, plugins)
    doc = inspect.getdoc(spec.model) or ""
    types, rows = option_types(spec.model), []
    for f in fields(spec.model):  # type: ignore[arg-type]
        searched = searched_text(spec.space.get(f.name, ""))
        if f.name == spec.size_knob and spec.sizes:
            searched = f"sizes: {searched_text(spec.sizes)}"
        rows.append([f.name, type_text(types[f.name]), str(f.default), searched])
    lines = [f"{name}: {spec.title}", spec.cite, "", doc, "", columns(["option", "type", "default", "searched"], rows)]
    devices = ", ".join(spec.devices) + (" (also several at once)" if spec.is_parallel else "")
    lines.append(f"\nsize knob: {spec.size_knob}; devices: {devices}; extra: {spec.extra or 'none'}")
    return "\n".join(lines)


def _describe_dataset(name: str, plugins: list[str]) -> str:
    spec: DatasetSpec = registry.dataset_spec(name, plugins)
    rows = [
        [option, type_text(annotation), _default(spec.source, option)]
        for option, annotation in option_types(spec.source).items()
    ]
    rules = [
        [option, type_text(kind), _default(cls, option)]
        for cls in (Filter, Subsample)
        for option, kind in option_types(cls).items()
    ]
    lines = [f"{name}: {spec.title}", spec.cite, spec.url, f"licence: {spec.licence or 'not stated'}", ""]
    lines += [columns(["option", "type", "default"], [*rows, ["filter", "str", spec.filter], *rules])]
    for named, published in spec.statistics.items():
        lines.append(f"published, filter {named}: {asdict(published)}")
    lines.append("filters: " + "; ".join(f"{name}: {rule_text(rule)}" for name, rule in NAMED_FILTERS.items()))
    lines.append(f"published split (--protocol fixed): {'yes' if spec.has_fixed_split else 'no'}")
    return "\n".join(lines)


def rule_text(rule: Filter) -> str:
    """Return a filter in words: the fields that differ from no filter at all."""
    told = [f"{f.name}={value}" for f in fields(Filter) if (value := getattr(rule, f.name)) != f.default]
    return ", ".join(told) or "everything is kept"


def type_text(annotation: Any) -> str:
    """Return an option's type as a person would say it, such as `float > 0` or `int >= 1 or none`."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, arguments))
    if get_origin(annotation) is Annotated:
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        bounds = [(s, v) for a in arguments[1:] for n, s in signs.items() if (v := getattr(a, n, None)) is not None]
        return " ".join([type_text(arguments[0]), ", ".join(f"{sign} {value}" for sign, value in bounds)])
    if arguments:
        return " or ".join(type_text(argument) for argument in arguments)
    return "none" if annotation is type(None) else str(getattr(annotation, "__name__", annotation))


def searched_text(searched: Any) -> str:
    """Return the values over which a hyper-parameter is searched."""
    if isinstance(searched, Range):
        return f"{searched.low} to {searched.high}{', log' if searched.log else ''}"
    values = searched.values if isinstance(searched, Choice) else searched
    return ", ".join("none" if value is None else str(value) for value in values)


def _default(cls: Any, option: str) -> str:
    value = next(f.default for f in fields(cls) if f.name == option)
    return "required" if value is MISSING else str(value)


def print_checks(names: Sequence[str], plugins: list[str], seed: int) -> bool:
    """Run the conformance suite on each model and print a line a check; return whether all passed."""
    fine = True
    for name in names:
        spec = registry.model_spec(name, plugins)
        _out(f"{name}: {spec.title}")
        for result in check(spec, seed=seed):
            fine = fine and result.passed
            _out(f"  {'passed' if result.passed else 'FAILED'}  {result.name}{_detail(result)}")
    _out("every check passed" if fine else "some checks FAILED")
    return fine


def _detail(result: Any) -> str:
    return f": {result.detail}" if result.detail and not result.passed else ""


def print_doctor() -> None:
    """Print what this machine has and how fast it is."""
    rows = [[key, str(value)] for key, value in {"recscale": __version__, **fingerprint()}.items()]
    rows += [[key, value] for key, value in versions().items()]
    for extra, module in EXTRAS.items():
        rows.append([f"extra {extra}", _state_of(extra, module)])
    rows += [[key, f"{value:.1f}"] for key, value in calibrate().items()]
    rows.append(["RECSCALE_DATA", os.environ.get("RECSCALE_DATA", "not set: data sets are downloaded")])
    _out(columns(["what", "found"], rows))


def _state_of(extra: str, module: str) -> str:
    import importlib

    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"not usable ({error}); pip install 'recscale[{extra}]'"
    except Exception as error:
        raise RecscaleError(f"the package {module} of the extra {extra} is broken: {error}") from error
    return "there"


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under a header in aligned columns; a short row's last cell may run on."""
    table = [list(header), *[list(row) for row in rows]]
    full = [row for row in table if len(row) == len(header)]
    widths = [max((len(row[i]) for row in full), default=0) for i in range(len(header))]
    widths[0] = max(len(row[0]) for row in table)
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)).rstrip() for row in table]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _bytes(value: int | None) -> str:
    return NOT_KNOWN if value is None else format_bytes(value)


def _out_json(rows: Sequence[Any]) -> None:
    for row in rows:
        _out(msgspec.json.encode(row).decode())


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")
