"""What the command line does, for Python: run, report, and the pieces one at a time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recscale import registry
from recscale._parameters import build
from recscale.contract import Dataset, Filter, HeldOut, Model, Split
from recscale.errors import UnknownName

if TYPE_CHECKING:
    import pandas as pd

    from recscale.evaluation.evaluate import Evaluation
    from recscale.running.explain import Explanation


def run(
    *datasets: Any,
    store: str | Path = "results",
    overwrite: str = "never",
    any_machine: bool = False,
    progress: bool = True,
    **suite: Any,
) -> pd.DataFrame:
    """Run models on data sets and return the records, a row a job, failures included.

    `suite` takes the keys of a suite file: models, protocols (or protocol), seeds, metrics, device, timeout,
    max_memory, max_gpu_memory, jobs, threads, executor, ray_address, profile, plugins, tune. No models at all means
    every model over its sizes. With `any_machine` the finished records of other machines count as well: accuracy and
    sizes are the same, the times are not of this machine. Raises UsageError, UnknownName, DataError, MissingExtra or
    StoreError; a job that fails is a row, not an error.
    """
    import msgspec
    import pandas as pd

    from recscale.errors import UsageError
    from recscale.running.display import display_for
    from recscale.running.runner import open_store
    from recscale.running.suite import Suite
    from recscale.running.tuning import run_suite

    if overwrite not in ("never", "failed", "always"):
        raise UnknownName("way to overwrite", overwrite, ["never", "failed", "always"])
    if "protocol" in suite:
        suite["protocols"] = [suite.pop("protocol")]
    for key in suite:
        if key not in Suite.__struct_fields__:
            raise UnknownName("key of a suite", key, Suite.__struct_fields__)
    wanted = {**suite, **({"datasets": list(datasets)} if datasets else {})}
    try:
        checked = msgspec.convert(wanted, Suite, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from None
    display = display_for(quiet=not progress)
    found = run_suite(checked, open_store(store), display, overwrite, any_machine)  # type: ignore[arg-type]
    return pd.DataFrame([record.flat() for record in found])


def records(store: str | Path = "results") -> pd.DataFrame:
    """Return every record of a store, a row a record. Raises StoreError."""
    from recscale.records.store import Store

    frame: pd.DataFrame = Store(store).frame()
    return frame


def report(
    store: str | Path = "results",
    out: str | Path | None = None,
    *,
    metric: str | None = None,
    formats: Sequence[str] = (),
    interactive: bool | None = None,
) -> list[Path]:
    """Write tables, figures and a page from the records of a store; return the files written.

    `formats` are among md, html, tex, svg, png and pdf (no formats: md, html, svg and png). The page is interactive
    where the extra `report` is installed (None), always or never. Warns of files that hold no record, and of a missing
    extra. Raises UsageError, UnknownName, StoreError or MissingExtra.
    """
    from recscale._report import options_of, write_report

    folder = Path(out) if out else None
    return write_report(Path(store), folder, options_of(metric, formats, interactive), warnings.warn)


def explain(
    key: str, user: str | int, *, store: str | Path = "results", progress: bool = True, **options: Any
) -> Explanation:
    """Return what the model of a record recommends to a user, and the co-clusters that it came from.

    `key` is the beginning of the record's key, `user` an id of the data set. `options` are those of ExplainOptions:
    top, clusters, items, plugins. The model is kept in the store; where it is not, it is fitted again.
    Raises UsageError for a key, model, user or option that cannot be, DataError, StoreError or DeviceUnavailable.
    """
    from recscale.running.display import Silent
    from recscale.running.explain import ExplainOptions
    from recscale.running.explain import explain as answer
    from recscale.running.explain_printing import Patient
    from recscale.running.runner import open_store

    wanted = build(ExplainOptions, "explain", options)
    return answer(open_store(store), key, str(user), wanted, Patient() if progress else Silent())


def model(name: str, *, plugins: Sequence[str] = (), **parameters: Any) -> Model:
    """Return an unfitted model by name, `ease` or `ease[l2=500]`. Raises UnknownName or UsageError."""
    from recscale.running.references import parse_single

    written, given = parse_single(name)
    built: Model = build(registry.model_spec(written, plugins).model, written, given | parameters)
    return built


def dataset(name: str, *, filter: str | Filter | None = None, plugins: Sequence[str] = (), **options: Any) -> Dataset:
    """Load a data set by name, `gowalla` or `gowalla[filter=none,users=0.25]`, through its own filter or the one given.

    Raises UnknownName, UsageError or DataError.
    """
    from recscale.evaluation.filtering import apply_filter
    from recscale.evaluation.subsampling import Subsample, take_subsample
    from recscale.running.references import parse_single, resolve_data

    written, given = parse_single(name)
    named = {"filter": filter} if isinstance(filter, str) else {}
    data = resolve_data({written: given | options | named}, "fold-in", list(plugins))
    loaded = build(registry.dataset_spec(data.name, plugins).source, data.name, data.options).load()
    rule = filter if isinstance(filter, Filter) else Filter(**data.filter)
    return take_subsample(apply_filter(loaded, rule), Subsample(**data.shares))


def split(data: Dataset, protocol: str = "fold-in", **options: Any) -> Split:
    """Return the training rows and held-out users of a data set under a protocol, `fold-in` or `fold-in[liked=4]`.

    Raises UnknownName or UsageError.
    """
    from recscale.evaluation.protocols import resolve_protocol
    from recscale.evaluation.splitting import split as divide
    from recscale.running.references import parse_single

    name, given = parse_single(protocol)
    return divide(data, resolve_protocol(name, given | options))


def evaluate(fitted: Model, held_out: HeldOut, metrics: Sequence[str]) -> Evaluation:
    """Rank the whole catalogue for held-out users, or predict their ratings; return the metrics, in the mean too."""
    from recscale.evaluation.evaluate import evaluate as measure

    return measure(fitted.score, held_out, metrics)


__all__ = ["dataset", "evaluate", "explain", "model", "records", "report", "run", "split"]
