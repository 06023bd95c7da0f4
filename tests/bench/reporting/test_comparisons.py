import statistics

import pytest

from recscale.errors import UnknownName, UsageError
from recscale.reporting.comparisons import compare, filter_text


def test_no_records_are_a_usage_error_in_one_line():
    with pytest.raises(UsageError) as caught:
        compare([])

    assert "\n" not in str(caught.value)


def test_data_sets_and_protocols_are_compared_apart(realistic_records):
    records = [
        *realistic_records("gowalla", "fixed"),
        *realistic_records("ml-1m", "fold-in"),
        *realistic_records("ml-1m", "hold-one-out"),
    ]

    found = compare(records)

    assert [c.title for c in found] == ["gowalla · fixed", "ml-1m · fold-in", "ml-1m · hold-one-out"]
    assert [c.metric for c in found] == ["recall_all@20", "ndcg@100", "mrr"]


def test_the_order_of_the_records_does_not_matter(realistic_records):
    records = realistic_records()

    assert compare(records) == compare(records[::-1])


def test_the_best_comes_first_and_failures_last(record):
    records = [
        record("slow", status="timeout", reason="late"),
        record("weak", score=0.1),
        record("strong", score=0.9),
        record("middling", score=0.5),
    ]

    (found,) = compare(records)

    assert [c.model for c in found.configurations] == ["strong", "middling", "weak", "slow"]


def test_a_metric_that_is_better_when_low_sorts_the_other_way(record):
    (found,) = compare([record("a", score=0.1), record("b", score=0.9)], higher_is_better=False)

    assert [c.model for c in found.configurations] == ["a", "b"]


def test_a_score_that_is_not_a_number_comes_after_the_others_and_before_failures(record):
    records = [record("a", status="error"), record("b", score=float("nan")), record("c", score=0.1)]

    (found,) = compare(records)

    assert [c.model for c in found.configurations] == ["c", "b", "a"]


def test_seeds_become_one_configuration_with_mean_error_and_spread(record):
    scores = [0.50, 0.52, 0.57]

    (found,) = compare([record("wrmf", score=score, seed=seed) for seed, score in enumerate(scores)])

    (configuration,) = found.configurations
    quantity = configuration.quantity("ndcg@100")
    assert quantity.mean == pytest.approx(0.53)
    assert quantity.standard_error == pytest.approx(0.009)
    assert quantity.spread == pytest.approx(statistics.stdev(scores))


def test_the_headlines_are_the_main_metric_and_what_papers_report_as_far_as_it_was_measured(record):
    metrics = {"mrr": 0.1, "hr@10": 0.2, "hr@50": 0.3, "gini@100": 0.4}
    one, other = (record(protocol="hold-one-out", metrics=metrics) for _ in range(2))
    one.protocol, other.protocol = "hold-one-out[target=random]", "of my own"

    assert compare([one])[0].headlines == ("mrr", "hr@50")
    assert compare([one], metric="hr@10")[0].headlines == ("hr@10", "mrr", "hr@50")
    assert compare([other])[0].headlines == ("mrr",)
    assert compare([record(status="error")])[0].headlines == ()


def test_the_name_of_the_data_is_the_title_without_the_protocol(record):
    records = [record(split_fingerprint=split * 64) for split in "56"]

    assert [c.data for c in compare(records)] == ["debian-depends · split 55555555", "debian-depends · split 66666666"]


def test_a_failed_seed_stands_beside_those_that_finished(record):
    records = [record("bpr", seed=0), record("bpr", seed=1), record("bpr", seed=2, status="error", reason="NaN")]

    (found,) = compare(records)

    finished, failed = found.configurations
    assert (finished.status, len(finished.records), finished.n_planned) == ("ok", 2, 3)
    assert (failed.status, failed.reason, failed.n_planned) == ("error", "NaN", 3)


def test_runs_that_differ_in_a_parameter_are_told_apart_by_it_and_by_nothing_else(record):
    parameters = {"k": 50, "l2": 100.0, "order": "popular"}
    records = [
        record("chol", size_knob="k", parameters=parameters),
        record("chol", size_knob="k", parameters=parameters | {"l2": 200.0}),
        record("ease", parameters={"l2": 5.0}),
    ]

    (found,) = compare(records)

    assert {c.label for c in found.configurations} == {"chol k=50, l2=100.0", "chol k=50, l2=200.0", "ease"}


def test_runs_of_two_machines_and_of_two_versions_of_the_code_are_never_averaged(record):
    records = [record(), record(machine={"cpu": "other"}), record(code_fingerprint="e" * 64)]

    (found,) = compare(records)

    assert len(found.configurations) == 3
    assert found.machines == ("A", "B")


def test_runs_on_two_gpus_of_a_machine_are_one_configuration(record):
    devices = ("cuda", "cuda:1", "cuda:0,1", "cuda:2,3")
    records = [record(device_requested=device, seed=seed) for seed, device in enumerate(devices)]

    (found,) = compare(records)

    assert sorted((c.label, len(c.records)) for c in found.configurations) == [
        ("ease device=cuda:0", 2), ("ease device=cuda:0,1", 2),
    ]  # fmt: skip


def test_different_splits_are_never_in_one_comparison_and_say_so(record):
    records = [record("a", split_fingerprint="1" * 64), record("b", split_fingerprint="2" * 64)]

    first, second = compare(records)

    assert first.title.endswith("split 11111111")
    assert second.title.endswith("split 22222222")
    assert "not comparable" in first.notes[0]
    assert [c.model for c in first.configurations] == ["a"]


def test_two_filters_of_one_data_set_have_titles_of_their_own(record):
    records = [record(filter={"min_user_items": 5}), record(filter={"min_user_items": 10})]

    assert [c.title for c in compare(records)] == [
        "debian-depends · fold-in · min_user_items=10",
        "debian-depends · fold-in · min_user_items=5",
    ]


def test_another_metric_can_lead(record):
    records = [record("a", metrics={"x": 0.1, "y": 0.9}), record("b", metrics={"x": 0.2, "y": 0.3})]

    (found,) = compare(records, metric="y")

    assert found.metrics == ("y", "x")
    assert [c.model for c in found.configurations] == ["a", "b"]


def test_an_unknown_metric_names_the_nearest_known_one(record):
    with pytest.raises(UnknownName, match="did you mean 'ndcg@100'"):
        compare([record()], metric="ndgc@100")


def test_a_metric_that_one_protocol_lacks_is_said_to_be_missing_there(record):
    found = compare([record(), record(protocol="hold-one-out")], metric="mrr")

    assert [(c.metric, c.missing_metric) for c in found] == [("ndcg@100", "mrr"), ("mrr", None)]


def test_a_filter_is_told_in_one_line_without_what_is_off():
    assert filter_text({"min_rating": 4, "min_user_items": 5, "order": "items-first", "repeat": True}) == (
        "min_rating=4, min_user_items=5, order=items-first, repeat"
    )
    assert (
        filter_text({"min_rating": None, "min_user_items": 0, "order": "items-first", "repeat": False}) == "no filter"
    )
