"""What the verbs that run jobs share: their flags made a suite, the run or the search, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recscale.errors import UsageError

if TYPE_CHECKING:
    from recscale._flags import RunFlags, ScaleFlags
    from recscale.records.record import RunRecord
    from recscale.running.runner import Runner
    from recscale.running.suite import Suite

EXIT_FAILED_JOB = 1


def require_models(datasets: Sequence[str], flags: RunFlags, other: str = "") -> None:
    """Raise UsageError where no model is named."""
    if not (flags.model or flags.suite):
        hint = _misplaced(datasets) or f"name one with -m (recscale list shows them){other}"
        raise UsageError(f"no model given; {hint}")


def _misplaced(datasets: Sequence[str]) -> str | None:
    """Return what to write instead, if a model or a file stands where data sets are named."""
    from recscale.registry import canonical_name, entries

    for written in datasets:
        if canonical_name("model", written.partition("[")[0]) in entries("model"):
            return f'{written} is a model: write -m "{written}"'
        if Path(written).is_file():
            return f"{written} is a file: write --data {written}"
    return None


def suite_of(datasets: Sequence[str], flags: RunFlags) -> Suite:
    """Return the suite of a file with the flags laid over it."""
    import msgspec

    from recscale.running.suite import Suite, load_suite

    suite = load_suite(flags.suite) if flags.suite else Suite()
    own = flags.own_file.reference()
    named: list[Any] = [*datasets, *flags.dataset, *([own] if own else [])]
    changes: dict[str, Any] = {
        "datasets": named,
        "protocols": list(flags.protocol),
        "models": list(flags.model),
        "seeds": list(flags.seeds),
        "metrics": list(flags.metric),
        "plugins": [*suite.plugins, *(str(Path(p).resolve()) for p in flags.plugin)],
        "profile": flags.profile,
        "device": flags.device,
        "timeout": flags.timeout,
        "max_memory": flags.max_memory,
        "max_gpu_memory": flags.max_gpu_memory,
        "jobs": flags.jobs,
        "threads": flags.threads,
        "executor": flags.executor,
        "ray_address": flags.ray_address,
    }
    return msgspec.structs.replace(suite, **{k: v for k, v in changes.items() if v not in (None, [])})


def runner_of(datasets: Sequence[str], flags: RunFlags) -> Runner:
    """Return the runner of a suite of these flags."""
    from recscale.running.display import display_for
    from recscale.running.runner import Runner, open_store

    suite = suite_of(datasets, flags)
    return Runner(suite, open_store(flags.store), display_for(quiet=False), flags.overwrite, flags.any_machine)


def run_jobs(datasets: Sequence[str], flags: RunFlags) -> int:
    """Run the jobs, or the search where the suite asks for one, print the records, and return the exit code."""
    from recscale.running.printing import print_records

    runner = runner_of(datasets, flags)
    if runner.suite.is_tuned:
        return search(runner.suite, flags)
    records = runner.run()
    print_records(records, as_json=flags.json)
    return EXIT_FAILED_JOB if flags.strict and _any_failed(records) else 0


def search(suite: Suite, flags: RunFlags) -> int:
    """Search the options of the models of a suite, run the best, print both, and return the exit code."""
    from recscale.running.display import display_for
    from recscale.running.printing import print_records, print_studies
    from recscale.running.runner import open_store
    from recscale.running.tuning import Tuner

    tuner = Tuner(suite, open_store(flags.store), display_for(quiet=False), suite.tuning(), flags.overwrite)
    studies, records = tuner.run()
    print_studies(studies, as_json=flags.json)
    print_records(records, as_json=flags.json)
    failed = _any_failed(records) or any(s.best is None and _any_failed(s.trials) for s in studies)
    return EXIT_FAILED_JOB if flags.strict and failed else 0


def scale_jobs(datasets: Sequence[str], flags: RunFlags, sizes: ScaleFlags) -> int:
    """Run the jobs at every size, print how what they take grows, and return the exit code."""
    from dataclasses import asdict

    from recscale._parameters import build
    from recscale.records.scaling import families, scaling
    from recscale.running.display import display_for
    from recscale.running.runner import open_store
    from recscale.running.scale_printing import print_scalings
    from recscale.running.scaling import ScaleOptions, scale

    if flags.any_machine:
        raise UsageError("scale compares times, and those of other machines are no times of this one: no --any-machine")
    suite, options = suite_of(datasets, flags), build(ScaleOptions, "scale", sizes.given())
    records = scale(suite, open_store(flags.store), display_for(quiet=False), options, flags.overwrite)
    metric, limits = suite.metrics[0] if suite.metrics else None, asdict(suite.limits())
    print_scalings([scaling(family, metric, limits) for family in families(records)], as_json=flags.json)
    return EXIT_FAILED_JOB if flags.strict and _any_failed(records) else 0


def _any_failed(records: Sequence[RunRecord]) -> bool:
    return any(record.status not in ("ok", "skipped") for record in records)
