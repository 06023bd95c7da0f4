"""What a person sees while a job runs."""

import io
import os
from types import SimpleNamespace

import msgspec
import pytest

from recscale.running import display
from recscale.running.display import Bars, Lines
from recscale.running.worker import Reporter

JOB = SimpleNamespace(key="k", label="elfm on data, hold-one-out, seed 0")
EPOCH = [
    {"event": "log", "phase": "fit", "name": name, "step": 3, "value": value}
    for name, value in (("loss", 4.5391), ("validation mrr", 0.1634), ("dead co-clusters", 2.0))
]


@pytest.fixture
def at_once(monkeypatch):
    """Let lines follow one another without a pause."""
    monkeypatch.setattr(display, "LINE_INTERVAL_SECONDS", -1.0)


def test_a_line_of_progress_tells_the_last_values_that_the_model_logged(at_once):
    stream = io.StringIO()
    lines = Lines(stream)
    lines.event(JOB, {"event": "phase", "name": "fit"})
    lines.event(JOB, {"event": "log", "name": "progress", "step": 1, "value": 40})
    for event in EPOCH:
        lines.event(JOB, event)

    lines.event(JOB, {"event": "log", "name": "progress", "step": 3, "value": 40})

    first, second = stream.getvalue().splitlines()
    assert first == f"  fit 1 of 40  {JOB.label}"
    assert second == f"  fit 3 of 40 (loss 4.539, validation mrr 0.1634, dead co-clusters 2)  {JOB.label}"


def test_the_values_of_one_phase_are_not_told_in_the_next(at_once):
    stream = io.StringIO()
    lines = Lines(stream)
    for event in ({"event": "phase", "name": "fit"}, *EPOCH, {"event": "phase", "name": "score"}):
        lines.event(JOB, event)

    lines.event(JOB, {"event": "log", "name": "progress", "step": 3, "value": 40})

    assert stream.getvalue() == f"  score 3 of 40  {JOB.label}\n"


def test_what_is_planned_is_told_and_the_bar_of_the_last_plan_stands_alone():
    stream = io.StringIO()
    lines, bars = Lines(stream), Bars()

    for plan in ((1, 0), (20, 3), (None, 0, "of ease on ml-1m, by mrr", "trial")):
        lines.planned(*plan)
        bars.planned(*plan)

    assert stream.getvalue().splitlines() == [
        "1 job", "20 jobs, 3 of them finished before", "trials of ease on ml-1m, by mrr",
    ]  # fmt: skip
    (task,) = bars._progress.tasks
    assert (task.description, task.total, task.fields["note"]) == ("all trials", None, "0")
    bars.closed()


def test_a_bar_shows_all_values_beside_the_phase():
    bars = Bars()
    bars.started(JOB)

    for event in ({"event": "phase", "name": "fit"}, *EPOCH):
        bars.event(JOB, event)

    (task,) = bars._progress.tasks
    assert task.fields["note"] == "fit: loss 4.539, validation mrr 0.1634, dead co-clusters 2"


def test_series_that_are_logged_together_are_all_sent_and_each_not_too_often_but_for_validation():
    reading, writing = os.pipe()
    reporter = Reporter(writing)

    for value in range(3):
        for name in ("loss", "validation mrr"):
            reporter.log(name, value, value)

    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        events = [msgspec.json.decode(line) for line in file]
    sent = [(event["name"], event["value"]) for event in events]
    assert sent == [("loss", 0), *[("validation mrr", value) for value in range(3)]]  # a trial may be ended for each
    assert reporter.history["loss"] == [[0, 0], [1, 1], [2, 2]]
