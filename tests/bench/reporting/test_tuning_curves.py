from xml.etree import ElementTree

import pytest

from recscale.records.record import Trial
from recscale.reporting.canvas import render
from recscale.reporting.comparisons import compare
from recscale.reporting.page import Options, build_report
from recscale.reporting.palette import styles
from recscale.reporting.tables import NOTHING
from recscale.reporting.tuning_curves import tuning_section


@pytest.fixture
def study(record):
    """Return a function that makes the trials of one study: a score each, None for a failure, "pruned" for that."""

    def make(name, scores, *, seconds=10.0, metric="ndcg@100", sampler="tpe", seed=0, first=0, **changes):
        found = []
        for number, score in enumerate(scores, start=first):
            failed = {"status": "pruned" if score == "pruned" else "error", "reason": "r"}
            found.append(
                record(
                    name.partition("[")[0], evaluated_on="validation", parameters={"l2": float(number)},
                    trial=Trial(study=name, number=number, metric=metric, sampler=sampler, seed=seed),
                    configuration=f"{name} l2={number}", job_wall_seconds=seconds,
                    **({"score": score} if isinstance(score, float) else failed), **changes,
                )
            )  # fmt: skip
        return found

    return make


def rows(part):
    return {row[0].text: [cell.text for cell in row[1:]] for row in part.table.rows}


def test_the_ledger_has_the_cost_and_the_gain_of_each_study(study, record):
    trials = [*study("ease", [0.4, None, 0.5, "pruned", 0.45]), *study("wrmf", [0.2, 0.1], seconds=100.0)]
    tested = [
        record("ease", score=0.47, parameters={"l2": 2.0}),
        record("ease", score=0.49, parameters={"l2": 2.0}, seed=1),
        record("ease", score=0.9, parameters={"l2": 4.0}),  # other options
        record("ease", score=0.8, parameters={"l2": 2.0}, split_fingerprint="6" * 64),
    ]

    (part,) = tuning_section(trials, tested)

    assert rows(part) == {
        "ease": ["5", "1", "1", "50 s", "0.4000", "0.5000", "+25 %", "ease l2=2", "0.4800"],
        "wrmf": ["2", "0", "0", "3.33 min", "0.2000", "0.2000", "+0 %", "wrmf l2=0", NOTHING],
    }
    best, test = part.table.rows[0][6], part.table.rows[0][9]
    assert (best.is_best, best.note, test.note) == (True, "trial 3", "2 seeds")
    assert "All 7 trials together took 4.17 min" in part.table.note
    assert part.belongs_to(compare(tested[:3])[0]) and not part.belongs_to(compare(tested[3:])[0])


def test_a_line_is_the_best_so_far_after_each_trial_and_after_its_time(study):
    (part,) = tuning_section(study("ease", [None, 0.4, 0.3, 0.5], seconds=3.0), [])

    by_trial, by_time = part.figure.axes
    assert by_trial.lines[0].get_xydata().tolist() == [[2.0, 0.4], [3.0, 0.4], [4.0, 0.5]]
    assert by_time.lines[0].get_xydata().tolist() == [[6.0, 0.4], [9.0, 0.4], [12.0, 0.5]]
    assert by_trial.lines[1].get_xydata().tolist() == [[2.0, 0.4], [4.0, 0.5]]  # where it got better
    assert by_trial.lines[2].get_xydata().tolist() == [[1.0, 0.4]]  # the failure
    assert by_trial.lines[2].get_marker() == "x"


def test_of_an_error_the_lower_is_the_better(study):
    trials = [
        *study("cel", [0.9, 0.7, 0.8], metric="mse", protocol="fold-in"),
    ]
    for trial, value in zip(trials, (0.9, 0.7, 0.8), strict=True):
        trial.metrics["mse"] = value

    (part,) = tuning_section(trials, [])

    assert rows(part)["cel"][4:7] == ["0.9000", "0.7000", "+22 %"]
    assert part.figure.axes[0].lines[0].get_xydata()[:, 1].tolist() == [0.9, 0.7, 0.7]


def test_studies_of_one_model_share_its_colour_and_differ_in_their_line(study):
    trials = [*study("ease[k=5]", [0.1, 0.2]), *study("ease[k=50]", [0.3, 0.4]), *study("wrmf", [0.2, 0.3])]

    (part,) = tuning_section(trials, [])

    looks = styles(["ease", "wrmf"])
    lines = part.figure.axes[0].lines[::2]
    assert [(line.get_color(), line.get_linestyle()) for line in lines] == [
        (looks["ease"].colour, "-"), (looks["ease"].colour, "--"), (looks["wrmf"].colour, "-"),
    ]  # fmt: skip
    assert [text.get_text() for text in part.figure.legends[0].get_texts()] == ["ease[k=5]", "ease[k=50]", "wrmf"]


def test_a_study_goes_over_machines_and_counts_what_two_of_them_did_once(study, record):
    one, other = {"machine": {"cpu": "one"}}, {"machine": {"cpu": "other"}}
    again = study("ease", [0.4, 0.5], **other)
    trials = [*study("ease", [0.4, 0.5], **one), *again, *study("ease", [0.6], first=2, **other)]
    keys = {0: "a" * 64, 1: "b" * 64, 2: "c" * 64}
    for trial in trials:
        trial.key = keys[trial.trial.number]

    (part,) = tuning_section(trials, [record("ease", score=0.55, parameters={"l2": 2.0}, **one)])

    assert rows(part) == {"ease": ["3", "0", "0", "30 s", "0.4000", "0.6000", "+50 %", "ease l2=2", "0.5500"]}


def test_a_study_goes_over_the_gpus_of_a_machine(study, record):
    trials = [
        *study("ease", [0.4, 0.5], device_requested="cuda"),
        *study("ease", [0.6], first=2, device_requested="cuda:1"),
    ]

    (part,) = tuning_section(trials, [record("ease", score=0.55, parameters={"l2": 2.0}, device_requested="cuda:0")])

    assert rows(part) == {"ease": ["3", "0", "0", "30 s", "0.4000", "0.6000", "+50 %", "ease l2=2", "0.5500"]}


def test_other_samplers_seeds_and_versions_of_the_code_are_studies_of_their_own(study):
    trials = [
        *study("ease", [0.1, 0.2]),
        *study("ease", [0.3], sampler="random", first=1),
        *study("ease", [0.4], seed=3, first=1),
        *study("ease", [0.5], code_fingerprint="f" * 64, first=2),
    ]

    (part,) = tuning_section(trials, [])

    assert [row[0].note for row in part.table.rows] == [
        "random sampler, sampler seed 0, code cccccccc",
        "tpe sampler, sampler seed 0, code cccccccc",
        "tpe sampler, sampler seed 0, code ffffffff",
        "tpe sampler, sampler seed 3, code cccccccc",
    ]
    assert [row[5].text for row in part.table.rows] == [
        NOTHING,
        "0.1000",
        NOTHING,
        NOTHING,
    ]  # defaults stand with their study


def test_a_trial_that_studies_share_stands_with_each_and_counts_once(study):
    trials = [*study("ease", [0.4, 0.5]), *study("ease", [0.3], seed=3, first=2)]
    default = trials[0]
    default.metrics["mrr"] = 0.2
    default.other_trials = [
        Trial(study="ease", number=0, metric="ndcg@100", sampler="tpe", seed=3),
        Trial(study="ease", number=0, metric="mrr", sampler="tpe", seed=0),
    ]

    by_mrr, by_ndcg = sorted(tuning_section(trials, []), key=lambda part: part.metric)

    assert [[cell.text for cell in row[1:7]] for row in by_ndcg.table.rows] == [
        ["2", "0", "0", "20 s", "0.4000", "0.5000"], ["2", "0", "0", "20 s", "0.4000", "0.4000"],
    ]  # fmt: skip
    assert "All 3 trials together took 30 s" in by_ndcg.table.note
    assert [row[5].text for row in by_mrr.table.rows] == ["0.2000"]


def test_each_data_set_and_each_metric_has_its_own_part(study):
    trials = [
        *study("ease", [0.1]),
        *study("ease", [0.1], dataset="gowalla", dataset_name="gowalla"),
        *study("wrmf", [0.1], metric="recall@50"),
    ]

    titles = [part.title for part in tuning_section(trials, [])]

    assert titles == [
        "debian-depends · fold-in · by ndcg@100", "debian-depends · fold-in · by recall@50", "gowalla · fold-in",
    ]  # fmt: skip


def test_where_every_trial_failed_there_is_a_ledger_and_no_figure(study):
    (part,) = tuning_section(study("ease", [None, None]), [])

    assert part.figure is None
    assert rows(part)["ease"] == ["2", "2", "0", "20 s", NOTHING, NOTHING, NOTHING, NOTHING, NOTHING]


def test_nothing_tuned_gives_nothing_and_trials_without_a_place_are_a_study_of_their_model(record):
    assert tuning_section([], [record()]) == []

    (part,) = tuning_section([record("ease", evaluated_on="validation", score=0.3)], [])
    assert rows(part)["ease"][0] == "1"


def test_a_figure_is_the_same_each_time_and_takes_names_as_they_are(study):
    trials = [*study("_hid$x$den", [0.1, 0.2], seconds=0.0), *study("<b>", [0.3] * 3, seconds=4000.0)]

    first, second = (render(tuning_section(trials, [])[0].figure, "svg") for _ in range(2))

    assert first == second
    ElementTree.fromstring(first)
    legend = tuning_section(trials, [])[0].figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["<b>", "\u200b_hid$x$den"]


def test_a_trial_that_took_no_time_has_a_place_on_the_axis_of_time(study):
    (part,) = tuning_section(study("ease", [0.1, 0.2], seconds=0.0), [])

    assert part.figure.axes[1].lines[0].get_xydata()[:, 0].tolist() == [0.1, 0.1]
    low, high = part.figure.axes[1].get_xlim()
    assert 0 < low < 0.1 < high


def test_the_report_shows_what_was_tuned_with_the_comparison_on_its_split(study, record):
    trials = [*study("ease", [0.4, 0.5]), *study("never_run", [0.1])]
    records = [record("ease", score=0.47, parameters={"l2": 1.0}), record("ease", score=0.3, dataset="other")]

    files = build_report(records, Options(formats=("md", "html", "svg"), trials=trials, interactive=False))

    assert "debian-depends-fold-in-tuning.svg" in files and "other-fold-in-tuning.svg" not in files
    assert files["report.html"].count(b"debian-depends-fold-in-tuning-") > 5  # ids of the figure inside the page
    assert b"(debian-depends-fold-in-tuning.svg)" in files["report.md"]
    assert b"| never\\_run" in files["report.md"] or b"| never_run" in files["report.md"]
    without = build_report(records, Options(formats=("md", "svg")))
    assert "debian-depends-fold-in-tuning.svg" not in without
