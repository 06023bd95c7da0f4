"""The command line: `recscale VERB ...`. Imports inside the verbs keep `--help` and `list` instant."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from recscale import __version__
from recscale._flags import (
    DEFAULT_STORE,
    CompareFlags,
    EstimateFlags,
    ExplainFlags,
    HistoryFlags,
    Plugins,
    ReportFlags,
    ReproFlags,
    RunFlags,
    ScaleFlags,
    TuneFlags,
)
from recscale._jobs import EXIT_FAILED_JOB, require_models, run_jobs, runner_of, scale_jobs, search, suite_of
from recscale.errors import RecscaleError, UsageError

if TYPE_CHECKING:
    from recscale.registry import Entry
    from recscale.reporting.page import Options

EXIT_REGRESSION = EXIT_OUTSIDE = 1
EXIT_WRONG_USE = 2
EXIT_INTERRUPTED = 130

app = App(
    name="recscale",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # what was kept is said below
    default_parameter=Parameter(negative_iterable=(), show_default=False),
    help="Measure recommenders: accuracy against parameters, bytes, memory, time and energy.",
    help_epilogue="""Examples:
  recscale run-all --profile quick
  recscale run gowalla --protocol fixed -m "ease[l2=80]" -m popularity
  recscale run --data ratings.csv --min-rating 4 -m "ease[k=50,200]" -m wrmf
  recscale report --store results
""",
)


@app.command(
    help_epilogue="""Examples:
  recscale run gowalla --protocol fixed -m "ease[l2=80]" -m popularity
  recscale run ml-100k -m "ease[k=20,50,200]" -m wrmf --timeout 10m --max-memory 8GB
  recscale run ml-100k --protocol ratings -m "cel_ratings[clusters=5,50,none]" -m rating_means
  recscale run --data ratings.csv --min-rating 4 -m item_knn
  recscale run --suite suite.yaml
  recscale run --suite suite.yaml --executor ray --ray-address auto --jobs 4
""",
)
def run(*datasets: str, flags: RunFlags = RunFlags()) -> int:
    """Run models on data sets, one record a job; finished jobs are skipped."""
    require_models(datasets, flags, ", or use run-all")
    return run_jobs(datasets, flags)


@app.command(
    name="run-all",
    help_epilogue="""Examples:
  recscale run-all --profile quick
  recscale run-all gowalla ml-1m --protocol fold-in --protocol hold-one-out --timeout 1h
""",
)
def run_all(*datasets: str, flags: RunFlags = RunFlags()) -> int:
    """Run every model over its sizes, then write the report."""
    code = run_jobs(datasets, flags)
    _write_report(ReportFlags(store=flags.store))
    return code


@app.command(
    help_epilogue="""Examples:
  recscale tune gowalla --protocol hold-one-out -m elfm -m ease -m wrmf --trials 20
  recscale tune ml-1m -m "ease[k=50,200]" --time 30m --timeout 10m --seeds 0 1 2
  recscale tune --suite suite.yaml --pruner median
""",
)
def tune(*datasets: str, flags: RunFlags = RunFlags(), tuning: TuneFlags = TuneFlags()) -> int:
    """Search the options of models on validation users, as much for each, and run the best on the test users.

    Options that are given are held fast, and the size stays at its default unless it is given; a list of values is a
    study each. A search that was interrupted goes on, and the same command in several processes shares it.
    """
    import msgspec

    require_models(datasets, flags)
    suite = suite_of(datasets, flags)
    return search(msgspec.structs.replace(suite, tune=tuning.over(suite.tune or {})), flags)


@app.command(
    help_epilogue="""Examples:
  recscale scale gowalla -m ease -m wrmf --max-memory 8GB --timeout 1h
  recscale scale gowalla -m "ease[k=50]" --by items --shares 0.1 0.2 0.4 0.8 --seeds 0 1 2
  recscale report                       the same as figures and tables
""",
)
def scale(*datasets: str, flags: RunFlags = RunFlags(), sizes: ScaleFlags = ScaleFlags()) -> int:
    """Run models on shares of a data set, and fit how memory, time and size grow and where the budget ends.

    The smaller subsamples are parts of the larger ones; each is a data set as any other, as in "gowalla[users=0.25]".
    """
    require_models(datasets, flags)
    return scale_jobs(datasets, flags, sizes)


@app.command(
    help_epilogue="""Example:
  recscale plan web35m-like -m ease -m popularity --max-memory 8GB
""",
)
def plan(*datasets: str, flags: RunFlags = RunFlags()) -> None:
    """Show what each job is expected to need, and which ones will be refused; runs nothing."""
    from recscale.running.printing import print_plan

    with contextlib.closing(runner_of(datasets, flags)) as runner:
        found = runner.plan()
    print_plan(found, as_json=flags.json)


@app.command(
    help_epilogue="""Examples:
  recscale estimates
  recscale estimates --store results/reference -m ease -m slim
""",
)
def estimates(*, flags: EstimateFlags = EstimateFlags()) -> None:
    """Show how good the estimates of memory and time are: the fits of a store, predicted from other data sets."""
    from recscale.measuring.machine import fingerprint
    from recscale.registry import find
    from recscale.running.estimate_printing import print_estimates
    from recscale.running.estimating import PastFits
    from recscale.running.runner import open_store

    models = [find("model", name, flags.plugin).name for name in flags.model]
    past = PastFits(open_store(flags.store), fingerprint(), list(flags.plugin))
    print_estimates(past, models, as_json=flags.json)


@app.command(
    help_epilogue="""Example:
  recscale prepare ml-20m --protocol fold-in
""",
)
def prepare(*datasets: str, flags: RunFlags = RunFlags()) -> None:
    """Download, filter and split data sets into the cache, and print their figures."""
    from recscale.running.printing import print_prepared

    print_prepared(runner_of(datasets, flags).prepare(), as_json=flags.json)


@app.command(
    name="list",
    help_epilogue="""Example:
  recscale list models --plugin my_model.py
""",
)
def list_(kind: Literal["all", "models", "datasets"] = "all", *, plugin: Plugins = ()) -> None:
    """List the models and data sets that can be used by name, and where each comes from."""
    from recscale.registry import entries

    lines = []
    for title, one in (("models", "model"), ("datasets", "dataset")):
        if kind not in ("all", title):
            continue
        found = entries(one, plugin)  # type: ignore[arg-type]
        lines.append(f"{title.capitalize() if one == 'model' else 'Data sets'}:")
        rows = [(entry.name, _called(entry), str(entry.literals.get("cite", ""))) for entry in found.values()]
        widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
        lines += [f"  {name:<{widths[0]}}  {called:<{widths[1]}}  {cite}".rstrip() for name, called, cite in rows]
    _print("\n".join(lines))


def _called(entry: Entry) -> str:
    """Return the title of what is listed, and what it needs or where it lies if it is not built in."""
    extra = entry.literals.get("extra")
    notes = [f"extra: {extra}"] * bool(extra) + [entry.origin] * (entry.origin != "built in")
    return " ".join([entry.title, *(f"({note})" for note in notes)])


@app.command(
    help_epilogue="""Example:
  recscale info ease
""",
)
def info(name: str, *, plugin: Plugins = ()) -> None:
    """Describe a model or a data set: options, ranges, source."""
    from recscale.running.printing import describe

    _print(describe(name, list(plugin)))


@app.command(
    help_epilogue="""Example:
  recscale report --store results --out report --metric ndcg@100
  recscale report --format pdf --format tex
  recscale report --serve
""",
)
def report(*, flags: ReportFlags = ReportFlags()) -> None:
    """Write tables, figures and a page from the records of a store, or serve the page while runs go on."""
    if flags.serve:
        from recscale._report import live_page
        from recscale.reporting.serving import serve

        serve(live_page(flags.store, _options(flags), _warn), flags.port, _print)
    else:
        _write_report(flags)


@app.command(
    help_epilogue="""Examples:
  recscale compare results/baselines/ci results
  recscale compare before after --time 0.5 --markdown summary.md
""",
)
def compare(baseline: Path, candidate: Path, /, *, flags: CompareFlags = CompareFlags()) -> int:
    """Compare the records of two stores job by job; the exit code is 1 if something got worse.

    Sizes are compared exactly, accuracy by paired tests over the same users, memory by a tolerance, times as multiples
    of the machine's calibration. Runs on other data or another split are named and not compared.
    """
    from recscale._parameters import build
    from recscale.records.pairs import Tolerances
    from recscale.records.regression import regressions
    from recscale.records.store import Store
    from recscale.running.compare_printing import print_findings, write_summary

    names = ("level", "memory", "time", "repeats")
    tolerances = build(Tolerances, "compare", {name: getattr(flags, name) for name in names})
    found = regressions(Store(baseline), Store(candidate), tolerances)
    print_findings(found, as_json=flags.json, with_level=flags.all)
    if flags.markdown is not None:
        write_summary(found, flags.markdown)
    if all(finding.quantity == "run" for finding in found):
        raise UsageError("no job could be compared, for the reasons above; make the baseline anew where it is outdated")
    return EXIT_REGRESSION if any(finding.verdict == "worse" for finding in found) else 0


@app.command(
    help_epilogue="""Examples:
  recscale history
  recscale history --out history -m ease -m wrmf
  recscale history results/baselines/ci before after --dataset debian-depends --metric recall@20
""",
)
def history(*stores: Path, flags: HistoryFlags = HistoryFlags()) -> None:
    """Show each figure of each job over the commits that it was run at, and the steps that got worse or better.

    A store keeps the runs of every version of the code; several stores, one for each commit say, are read as one.
    """
    from recscale.records.history import Wanted, histories
    from recscale.records.store import Store
    from recscale.running.history_printing import print_histories

    opened = {str(store): Store(store) for store in stores or (DEFAULT_STORE,)}
    found = histories(opened, Wanted(flags.model, flags.dataset, flags.metric))
    print_histories(found, as_json=flags.json)
    if flags.out is not None:
        from recscale.reporting.history import write_figures

        for path in write_figures(found, flags.out):
            sys.stderr.write(f"wrote {path}\n")


@app.command(
    help_epilogue="""Examples:
  recscale repro
  recscale repro chol --table table-3 --max-memory 20GB
  recscale repro chol --stored --markdown chol.md
"""
)
def repro(paper: str | None = None, *, flags: ReproFlags = ReproFlags()) -> int:
    """Run the tables of a paper on the data that is here, and hold our cells against the published ones.

    PAPER may be a YAML file of your own; without one, papers are listed, with what of them can run here.
    """
    from recscale.running.repro_printing import Asked, answer

    is_outside = answer(paper, Asked(limits=flags.limits(), **flags.asked(paper)))
    return EXIT_OUTSIDE if flags.strict and is_outside else 0


@app.command(
    help_epilogue="""Examples:
  recscale explain                      the keys of the records that can be explained
  recscale explain 3f2a9c1b vim         why vim gets what it gets, by the record whose key begins so
  recscale explain 3f2a9c1b vim --top 10 --clusters 2 --json
""",
)
def explain(key: str | None = None, user: str | None = None, *, flags: ExplainFlags = ExplainFlags()) -> None:
    """Show the co-clusters that the recommendations for a user came from; a model is fitted again if it is not kept."""
    from recscale.running.explain import ExplainOptions, explainable
    from recscale.running.explain import explain as answer
    from recscale.running.explain_printing import Patient, print_explainable, print_explanation
    from recscale.running.runner import open_store

    options = ExplainOptions(flags.top, flags.clusters, flags.items, flags.plugin)
    if key is None:
        print_explainable(explainable(open_store(flags.store), flags.plugin), as_json=flags.json)
        return
    explanation = answer(open_store(flags.store), key, user, options, Patient())
    for warning in explanation.warnings:
        sys.stderr.write(f"recscale: warning: {warning}\n")
    print_explanation(explanation, as_json=flags.json)


@app.command(
    help_epilogue="""Examples:
  recscale check ease
  recscale check --plugin my_model.py
""",
)
def check(*names: str, plugin: Plugins = (), seed: Annotated[int, Parameter(help="of the models (0)")] = 0) -> int:
    """Run the conformance suite on models; without a name, on those of --plugin."""
    from recscale.running.printing import print_checks

    names = names or tuple(Path(p).stem for p in plugin)
    if not names:
        raise UsageError("name a model to check, or give a file by --plugin; recscale list models shows the names")
    return 0 if print_checks(names, list(plugin), seed) else EXIT_FAILED_JOB


@app.command(help_epilogue="Example:\n  recscale doctor\n")
def doctor() -> None:
    """Show what this machine has, which extras are there, and how fast it is."""
    from recscale.running.printing import print_doctor

    print_doctor()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 fine, 1 a failed job under --strict, 2 wrong use, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        sys.exit(_complain(f"{' '.join(str(error).split())} (see recscale --help)"))
    except RecscaleError as error:
        sys.exit(_complain(" ".join(str(error).split())))
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: finished jobs are kept; run the same command again to go on\n")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(number: int, frame: object) -> None:
    """Turn a polite request to end into an interrupt, so that workers are ended and their folders removed."""
    raise KeyboardInterrupt


def _complain(message: str) -> int:
    sys.stderr.write(f"recscale: {message}\n")
    return EXIT_WRONG_USE


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _write_report(flags: ReportFlags) -> None:
    from recscale._report import write_report

    for path in write_report(flags.store, flags.out, _options(flags), _warn):
        if path.suffix in (".html", ".md") or path.name == "report.tex":
            sys.stderr.write(f"wrote {path}\n")


def _options(flags: ReportFlags) -> Options:
    from recscale._report import options_of

    return options_of(flags.metric, flags.format, False if flags.static else None)


def _warn(line: str) -> None:
    sys.stderr.write(f"recscale: {line}\n")
