from recscale.reporting.comparisons import compare
from recscale.reporting.runs import anchors, runs


def shown(*records):
    comparisons = compare(records)
    names = anchors(comparisons)
    return [run for comparison in comparisons for run in runs(comparison, names)]


def test_a_run_says_what_was_asked_what_it_cost_and_where_it_ran(record):
    (run,) = shown(record(warnings=["few users"], n_resumptions=2))

    settings, environment = dict(run.settings), dict(run.environment)
    assert run.label == "ease · seed 0"
    assert run.outcome == "ok" and not run.has_failed
    assert settings["parameters"] == "l2 100"
    assert settings["metrics"] == "ndcg@100 0.5, recall@50 0.6"
    assert settings["warnings"] == "few users"
    assert settings["model size"] == "4.94 MB"
    assert settings["number of parameters"] == "1,234,567"
    assert settings["latency median"] == "1.2 ms"
    assert environment["versions"] == "recscale 0.1.0, numpy 2.4.6"
    assert environment["number of threads"] == "2"


def test_the_phases_of_a_run_say_what_was_measured(record):
    (run,) = shown(record())

    assert [name for name, _ in run.phases] == ["load", "fit", "score"]
    assert dict(run.phases)["fit"] == "time 12.3 s, CPU time 24.7 s, memory before 200 MB, peak memory 3.4 GB"


def test_a_run_that_never_began_has_no_phases(record):
    (run,) = shown(record(status="refused", reason="needs 729 GB"))

    assert run.phases == []
    assert run.has_failed and run.reason == "needs 729 GB"


def test_the_settings_of_a_run_leave_out_what_is_empty_and_what_is_shown_elsewhere(judged_record):
    (run,) = shown(judged_record())

    names = {name for name, _ in run.settings}
    assert not {"warnings", "cocluster examples", "model title", "dataset"} & names
    assert "cocluster.n_dead 2" in dict(run.settings)["coclusters"]


def test_the_log_of_a_run_is_short_and_has_no_control_characters(record):
    (run,) = shown(record(status="error", reason="broken\nhere", log_tail=["\x1b[31mred", "x" * 5_000] * 20))

    assert run.reason == "broken here"
    assert "\x1b" not in run.log
    assert len(run.log) < 10 * 301


def test_each_run_has_an_id_of_its_own_even_where_machines_share_a_key(record):
    records = [record(), record(seed=1), record(machine={"cpu": "other"}), record(dataset="web", key='"><b>')]

    found = [run.anchor for run in shown(*records)]

    assert len(set(found)) == 4
    assert all(name.replace("-", "").isalnum() for name in found)
