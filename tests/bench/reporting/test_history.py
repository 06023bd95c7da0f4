"""Figures over versions: what is joined, what is marked, and the same bytes from the same records."""

import pytest

from recscale.errors import StoreError
from recscale.records.history import JobHistory, Series, Step, Version
from recscale.reporting.canvas import render
from recscale.reporting.history import charts, draw_history, write_figures
from recscale.reporting.palette import styles


def job(name="ease", *, days=(1, 2, 3), verdicts=("level", "worse"), joined=(True, True), **changes):
    versions = [
        Version(label=f"commit{d}", commit=f"commit{d}", code_fingerprint="c", started_at=f"2026-01-{d:02}",
                status="ok", seeds=[0])
        for d in days
    ]  # fmt: skip

    def series(quantity, unit, values):
        steps = [
            Step(version=v.label, verdict=verdict, is_joined=join)
            for v, verdict, join in zip(versions[1:], verdicts, joined, strict=True)
        ]
        return Series(quantity=quantity, unit=unit, values=list(values), steps=steps)

    found = [
        series("ndcg@100", "score", [0.5, 0.5, 0.4][: len(days)]),
        series("parameters", "", [1_000, 1_000, 1_100][: len(days)]),
        series("bytes", "bytes", [8_000, 8_000, 8_800][: len(days)]),
        series("memory of fit", "bytes", [1e6, 2e6, 3e7][: len(days)]),
        series("time of fit", "seconds", [0.0, 1.0, None][: len(days)]),
    ]
    fields = {"dataset": "shop", "protocol": "fold-in", "model": name, "job": f"{name}[k=50]"}
    return JobHistory(**(fields | {"versions": versions, "series": found} | changes))


def drawn(*jobs):
    (chart,) = charts(jobs)
    figure = draw_history(chart, styles(one.job for one in jobs))
    return {axes.get_title(loc="left"): axes for axes in figure.axes}, figure


def lines(axes):
    return [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "-"]


def test_there_is_a_panel_for_the_metric_and_each_cost_with_a_line_a_job():
    panels, _ = drawn(job(), job("wrmf"))

    assert list(panels) == [
        "ndcg@100", "parameters", "memory of the fit, beyond what it began with", "fit time, calibrated to 100 GFLOP/s",
    ]  # fmt: skip
    assert lines(panels["ndcg@100"]) == [[0, 1, 2], [0, 1, 2]]
    assert [tick.get_text() for tick in panels["ndcg@100"].get_xticklabels()] == ["commit1", "commit2", "commit3"]


def test_a_job_that_lacks_a_version_stands_at_the_places_of_its_own():
    panels, _ = drawn(job(), job("wrmf", days=(1, 3), verdicts=("level",), joined=(True,)))

    assert lines(panels["ndcg@100"]) == [[0, 1, 2], [0, 2]]


def test_no_line_joins_what_ran_on_another_split_or_goes_over_a_failure():
    panels, _ = drawn(job(joined=(False, True), verdicts=("not compared", "level")))
    assert lines(panels["ndcg@100"]) == [[0], [1, 2]]

    holed = job()
    holed.series[0].values[1] = None
    panels, _ = drawn(holed)
    assert lines(panels["ndcg@100"]) == [[0], [2]]


def test_steps_that_count_and_failures_are_marked():
    failed = job("wrmf", verdicts=("worse", "better"))
    failed.versions[1] = Version(
        label="commit2", commit="commit2", code_fingerprint="c", started_at="2026-01-02", status="timeout", seeds=[0]
    )
    failed.series[0].values[1] = None

    panels, figure = drawn(job(), failed)

    marks = [(line.get_marker(), list(line.get_xdata())) for line in panels["ndcg@100"].lines if len(line.get_xdata())]
    assert ("o", [2]) in marks  # worse
    assert ("s", [2]) in marks  # better
    assert ("x", [1]) in marks  # failed
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "ease[k=50]", "wrmf[k=50]", "worse", "better", "failed",
    ]  # fmt: skip


def test_values_of_one_order_are_on_a_linear_axis_and_others_on_a_logarithmic_one():
    panels, _ = drawn(job())

    assert panels["parameters"].get_yscale() == "linear"
    assert panels["memory of the fit, beyond what it began with"].get_yscale() == "log"


def test_many_versions_have_readable_labels_with_the_last_among_them():
    days = tuple(range(1, 41))
    many = job(days=days[:3])
    versions = [
        Version(label=f"commit{d}", commit=None, code_fingerprint="", started_at=f"{d:03}", status="ok", seeds=[0])
        for d in days
    ]
    steps = [Step(version=v.label, verdict="level") for v in versions[1:]]
    series = [Series(quantity="mrr", unit="score", values=[0.5] * 40, steps=steps)]
    panels, _ = drawn(JobHistory(**{**{f: getattr(many, f) for f in ("dataset", "protocol", "model", "job")},
                                    "versions": versions, "series": series}))  # fmt: skip

    labels = [tick.get_text() for tick in panels["mrr"].get_xticklabels()]
    assert len(labels) <= 16
    assert labels[-1] == "commit40"


def test_what_was_never_measured_is_said():
    nothing = job()
    nothing.series[4].values[:] = [None, None, None]

    panels, _ = drawn(nothing)

    assert "not measured" in [text.get_text() for text in panels["fit time, calibrated to 100 GFLOP/s"].texts]


def test_one_version_alone_is_no_chart_and_data_sets_have_charts_of_their_own():
    assert charts([job(days=(1,), verdicts=(), joined=())]) == []
    assert [chart.dataset for chart in charts([job(), job(dataset="web")])] == ["shop", "web"]


def test_the_same_histories_give_the_same_bytes(tmp_path):
    (chart,) = charts([job()])
    looks = styles([job().job])

    assert render(draw_history(chart, looks), "svg") == render(draw_history(chart, looks), "svg")
    paths = write_figures([job(), job(dataset="Shop")], tmp_path)
    assert [path.name for path in paths] == [
        "history-shop-fold-in.svg", "history-shop-fold-in.png", "history-shop-fold-in-2.svg",
        "history-shop-fold-in-2.png",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="choose another folder"):
        write_figures([job()], tmp_path / "file")
