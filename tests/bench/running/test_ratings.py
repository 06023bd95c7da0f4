"""The protocols that read ratings, from the command to the record, the report and the search of options."""

import numpy as np
import pytest

import recscale
from recscale.cli import main
from recscale.contract import Filter
from recscale.errors import UsageError
from recscale.records.store import Store
from recscale.running.references import resolve_data
from recscale.running.suite import Suite, check_suite, combinations

ERRORS = ["mse", "rmse", "mae"]


@pytest.fixture(name="rated_file")
def _rated_file(tmp_path, monkeypatch):
    """A csv of 60 users and 30 items, rated from 0 to 5 by how good the item is and how kind the user."""
    monkeypatch.setenv("RECSCALE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    exact = rng.normal(0, 1, 60)[:, None] + rng.normal(2.5, 1, 30) + rng.normal(0, 0.3, (60, 30))
    ratings = np.clip(np.rint(exact), 0, 5).astype(int)
    lines = ["user,item,rating"]
    for user, item in zip(*np.nonzero(rng.random((60, 30)) < 0.6), strict=True):
        lines.append(f"u{user},i{item},{ratings[user, item]}")
    path = tmp_path / "rated.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(path, protocol, *models, **suite):
    data = {"file": {"path": str(path)}}
    return recscale.run(data, store=path.parent / "s", progress=False, protocol=protocol, models=list(models), **suite)


def test_a_run_leaves_records_of_errors_and_sizes_and_nothing_of_rankings(rated_file):
    frame = run(rated_file, "ratings", "rating_means[item_damping=1,1000]")

    (damped_less, damped_more) = (frame.iloc[0], frame.iloc[1])
    assert [name for name in frame.columns if name in ERRORS] == ERRORS
    assert damped_less["mse"] < 0.5 * damped_more["mse"]
    assert damped_less["rmse"] == pytest.approx(damped_less["mse"] ** 0.5)
    assert damped_less["n_parameters"] == 31 and damped_less["n_bytes"] == 124
    assert frame[["tied_target_share", "mrr_optimistic", "mrr_pessimistic"]].isna().all(axis=None)
    store = Store(rated_file.parent / "s")
    for record in store.records():
        vectors = store.per_user(record)
        assert set(vectors) == {"mse", "mae"} and len(vectors["mse"]) == record.n_test_users
        assert vectors["mse"].mean() == pytest.approx(record.metrics["mse"], rel=1e-5)
        assert 0 < record.standard_errors["mse"] < record.metrics["mse"]
        by_user = store.by_user(record)
        assert by_user["mse"].shares is not None and by_user["mae"].mean() == pytest.approx(record.metrics["mae"])
        assert not record.warnings


def test_a_report_puts_the_least_error_first_and_says_so(rated_file):
    run(rated_file, "ratings", "rating_means[item_damping=1000,1,30]")

    written = recscale.report(rated_file.parent / "s")

    page = next(path for path in written if path.suffix == ".md").read_text()
    assert "Best mse: rating_means item_damping=1" in page
    table = [line for line in page.splitlines() if line.startswith("|") and "item_damping=" in line]
    assert ["=1.0" in table[0] or "=1 " in table[0], "=30" in table[1], "=1000" in table[2]] == [True] * 3
    figure = next(path for path in written if path.name.endswith("parameters.svg"))
    assert "mse (less is better), mean over the ratings of 58 test users" in figure.read_text()


def test_a_table_of_a_run_has_the_errors(rated_file, capsys):
    data = ["--data", str(rated_file), "--store", str(rated_file.parent / "s")]

    with pytest.raises(SystemExit) as ended:
        main(["run", *data, "--protocol", "ratings", "-m", "rating_means"])

    assert ended.value.code == 0
    assert "model         mse     rmse    mae     parameters" in capsys.readouterr().out


def test_without_named_models_each_protocol_takes_those_that_it_is_for():
    taken = {
        protocol: {entry.name for entry, *_ in combinations(Suite(), resolve_data("gowalla", protocol, []))}
        for protocol in ("fold-in", "hold-one-out", "fixed", "ratings")
    }

    assert {"rating_means", "cel_ratings"} <= taken["ratings"]
    assert {"popularity", "ease"} <= taken["fold-in"] == taken["hold-one-out"] == taken["fixed"]
    assert not taken["ratings"] & taken["fold-in"]


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_a_profile_runs_the_sizes_of_rating_models(profile):
    suite = Suite(profile=profile)

    found = combinations(suite, resolve_data("ml-100k", "ratings", []))

    sizes = [options["clusters"] for entry, _, options in found if entry.name == "cel_ratings"]
    assert sizes == {"quick": [5, 20, 200], "full": [5, 10, 20, 50, 100, 200]}[profile]


@pytest.mark.parametrize(
    ("suite", "reason"),
    [
        (
            {"protocols": ["ratings"], "models": ["popularity"]},
            "popularity predicts no ratings; the protocol ratings takes",
        ),
        (
            {"protocols": ["fold-in"], "models": ["rating_means"]},
            "rating_means predicts ratings, and fold-in keeps none",
        ),
        ({"protocols": ["fold-in", "ratings"], "models": ["rating_means"]}, "and fold-in keeps none"),
        ({"protocols": ["ratings"], "metrics": ["ndcg@10"]}, "the metric ndcg@10 is of ranked items"),
        ({"metrics": ["mse"]}, "the metric mse is of predicted ratings"),
        ({"metrics": ["rated_precision@50"]}, "needs to know what was rated too low"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_runs(suite, reason):
    with pytest.raises(UsageError, match=reason):
        check_suite(Suite(**suite))


def test_models_for_ratings_are_named_where_another_is_asked_for():
    with pytest.raises(UsageError, match=r"takes cel_ratings, rating_means$"):
        check_suite(Suite(protocols=["ratings"], models=["ease"]))


def test_protocols_that_read_low_ratings_leave_out_the_filter_that_drops_them():
    assert resolve_data("ml-100k", "fold-in", []).text == "ml-100k[filter=liang-ml]"
    assert resolve_data("ml-100k", "ratings", []).text == "ml-100k"
    assert resolve_data("ml-100k", "fold-in[liked=4]", []).text == "ml-100k"
    asked = resolve_data("ml-100k[min_user_items=5]", "ratings", [])
    assert asked.text == "ml-100k[min_user_items=5]" and Filter(**asked.filter) == Filter(min_user_items=5)


def test_options_are_searched_by_errors_on_validation_ratings(rated_file, capsys):
    pytest.importorskip("optuna")
    common = ["tune", "--data", str(rated_file), "--store", str(rated_file.parent / "s"), "-m", "rating_means"]
    common += ["--trials", "3", "--sampler", "random"]

    with pytest.raises(SystemExit) as refused:
        main([*common, "--protocol", "ratings"])
    with pytest.raises(SystemExit) as done:
        main([*common, "--protocol", "ratings[valid_share=0.2]"])

    told = capsys.readouterr()
    assert (refused.value.code, done.value.code) == (2, 0)
    assert "has no validation ratings to tune on; use --protocol 'ratings[valid_share=0.1]'" in told.err
    assert "tuned by mse of the validation users" in told.out
    trials = Store(rated_file.parent / "s").trials()
    (test,) = Store(rated_file.parent / "s").records()
    best = min(trials, key=lambda trial: trial.metrics["mse"])
    assert len(trials) == 3 and test.parameters == best.parameters


def test_precision_over_rated_items_stands_beside_that_over_the_whole_list(rated_file):
    metrics = ["precision@10", "rated_precision@10"]

    frame = run(rated_file, "fold-in[liked=4]", "popularity", metrics=metrics)

    (row,) = frame.to_dict("records")
    assert row["protocol"] == "fold-in[liked=4.0]"
    assert 0 < row["precision@10"] < 0.5 * row["rated_precision@10"] < 0.5
