"""A suite: what to run, from a YAML file or from flags, and its expansion into jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from recscale import registry
from recscale._parameters import build
from recscale.abilities import PredictsRatings, Shrinkable
from recscale.contract import Model, ModelSpec, Shape
from recscale.errors import Skipped, UnknownName, UsageError
from recscale.evaluation.metrics import DEFAULT_METRICS, check_metrics
from recscale.evaluation.protocols import resolve_protocol
from recscale.measuring.budget import Budget, parse_bytes, parse_seconds
from recscale.measuring.machine import each_device, torch_device, usable_cores
from recscale.running.executor import ExecutorName, load_ray
from recscale.running.job import Data, Job, Prepared
from recscale.running.peers import for_all
from recscale.running.references import grid, parse_reference, resolve_data, text_of, without_defaults
from recscale.running.tune_options import TuneOptions, tune_options

Profile = Literal["quick", "standard", "full"]
DEFAULT_DATASET = "debian-depends"
QUICK_SIZES = 3
FULL_SEEDS = [0, 1, 2]


class Suite(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to run. In `models`, a list of values is a grid; no models at all means every model that fits the protocol.

    With a `profile`, and always where no models are named, a model without options runs over its sizes. With `tune`
    (keys of TuneOptions; an empty mapping takes the defaults) the best options of each are searched and then run; the
    profile `full` does so without being told to, and over three seeds.
    """

    datasets: list[Any] = msgspec.field(default_factory=lambda: [DEFAULT_DATASET])
    protocols: list[str] = msgspec.field(default_factory=lambda: ["fold-in"])
    models: list[Any] = []
    seeds: list[int] = []
    metrics: list[str] = []
    device: str = "auto"
    timeout: str | float | None = None
    max_memory: str | int | None = None
    max_gpu_memory: str | int | None = None
    jobs: int = 1
    threads: int | None = None
    executor: ExecutorName = "local"
    ray_address: str | None = None
    profile: Profile | None = None
    plugins: list[str] = []
    tune: dict[str, Any] | None = None

    @property
    def is_tuned(self) -> bool:
        """Whether options are searched before the test users are looked at."""
        return self.tune is not None or self.profile == "full"

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of the models: those given, or 0, or three of them in `full`."""
        return self.seeds or (FULL_SEEDS if self.profile == "full" else [0])

    def tuning(self) -> TuneOptions:
        """Return how the options of the models are searched. Raises UsageError or UnknownName."""
        return tune_options(self.tune or {})

    def limits(self) -> Budget:
        """Return the budget in seconds and bytes. Raises UsageError."""
        return Budget(
            timeout_seconds=None if self.timeout is None else parse_seconds(self.timeout),
            max_memory_bytes=None if self.max_memory is None else parse_bytes(self.max_memory),
            max_gpu_memory_bytes=None if self.max_gpu_memory is None else parse_bytes(self.max_gpu_memory),
        )


def load_suite(path: str | Path) -> Suite:
    """Read a suite from a YAML file. Raises UsageError or UnknownName in one line."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the suite {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"the suite {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise UsageError(f"the suite {path} must be a mapping of keys such as datasets and models")
    known = Suite.__struct_fields__
    for key in content:
        if key not in known:
            raise UnknownName(f"key of a suite ({path})", str(key), known)
    if "tune" in content and content["tune"] is None:  # the key alone asks for it, too
        content = {**content, "tune": {}}
    try:
        return msgspec.convert(content, Suite, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"the suite {path}: {error}") from None


def all_data(suite: Suite) -> list[Data]:
    """Return every data set under every protocol, checked."""
    return [resolve_data(d, p, suite.plugins) for d in suite.datasets for p in suite.protocols]


def check_suite(suite: Suite) -> None:
    """Check everything that can be checked without reading data. Raises UsageError, UnknownName or MissingExtra."""
    for data in all_data(suite):
        check_metrics(suite.metrics, resolve_protocol(data.protocol, data.protocol_options))
        _configurations(suite, data)
    if suite.jobs < 1:
        raise UsageError("at least one job at a time is needed")
    if suite.threads is not None and suite.threads < 1:
        raise UsageError(f"a job needs at least one thread; --threads is {suite.threads}")
    if suite.ray_address is not None and suite.executor != "ray":
        raise UsageError(f"--ray-address {suite.ray_address} is that of --executor ray; add it, or leave it out")
    if suite.executor == "ray":
        load_ray()
    suite.limits()
    suite.tuning()


def expand(
    suite: Suite, data: Data, prepared: Prepared, device_of: Callable[[str, tuple[str, ...]], str] = torch_device
) -> list[Job]:
    """Return the jobs of a suite on one prepared split, models in the order written, sizes from small to large.

    `device_of` returns the device for the one requested and those that a model can use, as `torch_device` does here.
    """
    shape = Shape(prepared.n_train_users, prepared.n_items, prepared.n_train_interactions, prepared.n_train_pairs)
    n_threads = suite.threads or max(1, usable_cores() // suite.jobs)
    metrics = suite.metrics or list(DEFAULT_METRICS[data.protocol])
    jobs = []
    for entry, spec, model in _configurations(suite, data):
        device, unavailable = _device(suite.device, spec, device_of)
        estimate = for_all(spec.estimate(model, shape), device or "cpu") if spec.estimate else None
        for seed in suite.all_seeds:
            jobs.append(
                Job(
                    model=entry.name,
                    model_title=spec.title,
                    text=text_of(entry.name, _told(spec, model)),
                    parameters=model.parameters(),
                    size_knob=spec.size_knob,
                    data=data,
                    prepared=prepared,
                    seed=seed,
                    device_requested=suite.device,
                    device=device,
                    unavailable=unavailable,
                    n_threads=n_threads,
                    metrics=metrics,
                    limits=suite.limits(),
                    code_fingerprint=registry.code_fingerprint(entry),
                    plugins=suite.plugins,
                    estimated_peak_bytes=estimate.peak_bytes if estimate else None,
                    estimated_model_bytes=estimate.model_bytes if estimate else None,
                    estimated_fit_seconds=estimate.fit_seconds if estimate else None,
                    family=_family(spec, model, f"{data.text} {data.protocol_text} {seed}")
                    if device == "cpu"
                    else None,
                )
            )
    return jobs


def _family(spec: ModelSpec, model: Model, run: str) -> str | None:
    """Return what sizes that share a fit have in common; None if they cannot. On the CPU alone: there models load."""
    if spec.size_knob is None or not isinstance(model, Shrinkable):
        return None
    parameters = model.parameters()
    size = parameters.pop(spec.size_knob)
    if size is not None and type(size) not in (int, float):
        return None
    return f"{type(model).__qualname__} {sorted(parameters.items())} {run}"


def _configurations(suite: Suite, data: Data) -> list[tuple[registry.Entry, ModelSpec, Model]]:
    return [(entry, spec, build(spec.model, entry.name, options)) for entry, spec, options in combinations(suite, data)]


def combinations(suite: Suite, data: Data) -> list[tuple[registry.Entry, ModelSpec, dict[str, Any]]]:
    """Return each model with each combination of the options that the suite gives it.

    Where the suite names no models, those that the protocol of `data` is for. Raises UnknownName, and UsageError for a
    named model that it is not for.
    """
    known = registry.entries("model", suite.plugins)
    wants_ratings = "ratings" in resolve_protocol(data.protocol, data.protocol_options).judged
    found = []
    for written in suite.models or known:
        name, options = parse_reference(written)
        name = registry.canonical_name("model", name)
        entry = registry.find("model", name, suite.plugins)
        spec = registry.model_spec(name, suite.plugins)
        if isinstance(spec.model(), PredictsRatings) != wants_ratings:
            if not suite.models:
                continue
            raise UsageError(_misfit(name, data, suite.plugins))
        if not options and (suite.profile or not suite.models):
            options = _sizes(spec, suite.profile or "standard")
        found += [(entry, spec, combination) for combination in grid(options)]
    return found


def _misfit(name: str, data: Data, plugins: list[str]) -> str:
    """Say why a model and a protocol do not go together."""
    if "ratings" not in resolve_protocol(data.protocol, data.protocol_options).judged:
        return f"{name} predicts ratings, and {data.protocol_text} keeps none; use --protocol ratings"
    others = registry.entries("model", plugins)
    takes = [other for other in others if isinstance(registry.model_spec(other, plugins).model(), PredictsRatings)]
    return f"{name} predicts no ratings; the protocol ratings takes {', '.join(takes)}"


def _sizes(spec: ModelSpec, profile: Profile) -> dict[str, list[Any]]:
    """Return the sizes of a model that a profile runs: three evenly spaced in `quick`, otherwise all."""
    if spec.size_knob is None or not spec.sizes:
        return {}
    sizes: Sequence[Any] = spec.sizes
    if profile == "quick" and len(sizes) > QUICK_SIZES:
        last = len(sizes) - 1
        sizes = [sizes[round(i * last / (QUICK_SIZES - 1))] for i in range(QUICK_SIZES)]
    return {spec.size_knob: list(sizes)}


def _told(spec: ModelSpec, model: Model) -> dict[str, Any]:
    """Return the options that a person has to be told: the size, and what differs from the defaults."""
    size = {spec.size_knob: getattr(model, spec.size_knob)} if spec.size_knob else {}
    return size | without_defaults(model)


def _device(
    requested: str, spec: ModelSpec, device_of: Callable[[str, tuple[str, ...]], str]
) -> tuple[str | None, str | None]:
    try:
        device = device_of(requested, spec.devices)
    except Skipped as error:
        return None, str(error)
    if len(each_device(device)) > 1 and not spec.is_parallel:
        return None, f"{requested} was asked for, but this model is trained on one device alone"
    return device, None
