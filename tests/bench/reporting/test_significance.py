import numpy as np
import pytest

from recscale.records.statistics import ByUser, paired
from recscale.records.store import Store
from recscale.reporting.comparisons import compare
from recscale.reporting.matrix import matrices
from recscale.reporting.page import write_report
from recscale.reporting.significance import UserFigures, activity_table, best_against_second, duel_table

N_USERS = 400


class Kept:
    """Per-user vectors by model and seed, as a store keeps them; the mean of each is the record's score."""

    def __init__(self, sizes=None):
        self.sizes = sizes
        self.vectors = {}
        self.n_read = 0

    def add(self, record, noise=0.05, n_users=N_USERS, seed=0):
        users = np.random.default_rng(5).standard_normal(n_users)
        own = np.random.default_rng(seed).standard_normal(n_users)
        spread = 0.05 * (users - users.mean()) + noise * (own - own.mean())
        self.vectors[record.key] = {name: (mean + spread).astype(np.float32) for name, mean in record.metrics.items()}
        return record

    def by_user(self, record):
        self.n_read += 1
        return {name: ByUser.of(values) for name, values in self.vectors.get(record.key, {}).items()}

    def history_sizes(self, record):
        return self.sizes


@pytest.fixture
def kept():
    return Kept(np.arange(N_USERS, dtype=np.int32) % 20)


@pytest.fixture
def three(record, kept):
    return [
        kept.add(record("ease", score=0.50), seed=1),
        kept.add(record("chol", score=0.499), seed=2),
        kept.add(record("popularity", score=0.20), seed=3),
    ]


def rows_of(table):
    return {row[0].text: row[1:] for row in table.rows}


def test_each_model_is_compared_with_the_best_over_the_same_users(three, kept):
    (comparison,) = compare(three)

    table = duel_table(comparison, UserFigures(kept))

    rows = rows_of(table)
    assert list(rows) == ["ease", "chol", "popularity"]
    vectors = [kept.vectors[r.key]["ndcg@100"].astype(float) for r in three]
    chol, popularity = paired(vectors[0], vectors[1:])
    behind, share, p_value, effect, better, level, worse = rows["popularity"][1:]
    assert behind.value == pytest.approx(0.3, abs=1e-6)
    assert behind.note == f"{popularity.low:.4f} to {popularity.high:.4f}"
    assert share.text == "60 %"
    assert (p_value.text, p_value.note) == ("< .001", "***")
    assert effect.value == pytest.approx(popularity.effect_size)
    assert (better.value, level.value, worse.value) == (popularity.losses, popularity.ties, popularity.wins)
    assert rows["chol"][3].value == pytest.approx(chol.adjusted_p_value)
    assert rows["chol"][3].note == ""  # .001 between two noisy models is nothing


def test_nothing_is_tested_on_a_single_user(record):
    kept = Kept()
    pair = [kept.add(record(model, score=score), n_users=1) for model, score in (("ease", 0.5), ("chol", 0.4))]
    comparisons = compare(pair)

    assert duel_table(comparisons[0], UserFigures(kept)) is None
    assert best_against_second(comparisons, UserFigures(kept)) == {}


def test_only_the_best_configuration_of_a_model_is_compared(three, kept, record):
    worse = kept.add(record("ease", score=0.3, parameters={"l2": 5.0}), seed=4)
    (comparison,) = compare([*three, worse])

    table = duel_table(comparison, UserFigures(kept))

    assert [row[0].text for row in table.rows] == ["ease", "chol", "popularity"]


def test_seeds_are_averaged_and_their_spread_is_shown(record, kept):
    runs = [kept.add(record("bpr", score=0.3 + 0.01 * s, seed=s), seed=s) for s in range(3)]
    other = kept.add(record("ease", score=0.5), seed=9)
    (comparison,) = compare([*runs, other])
    figures = UserFigures(kept)

    table = duel_table(comparison, figures)

    (bpr,) = [c for c in comparison.configurations if c.model == "bpr"]
    assert figures.vector(bpr, "ndcg@100").mean() == pytest.approx(0.31, abs=1e-6)
    assert rows_of(table)["bpr"][-1].value == pytest.approx(0.01)
    assert rows_of(table)["bpr"][-1].note == "3 seeds"
    assert rows_of(table)["ease"][-1].value is None


def test_less_is_better_where_the_metric_says_so(record, kept):
    good = kept.add(record("one", metrics={"mse": 0.8}, standard_errors={}), seed=1)
    bad = kept.add(record("two", metrics={"mse": 0.9}, standard_errors={}), seed=2)
    (comparison,) = compare([good, bad])

    table = duel_table(comparison, UserFigures(kept))

    assert [row[0].text for row in table.rows] == ["one", "two"]
    assert table.rows[1][2].value == pytest.approx(0.1, abs=1e-6)


def test_without_vectors_nothing_is_claimed(three, kept, record):
    (comparison,) = compare(three)
    assert duel_table(comparison, UserFigures()) is None
    assert activity_table(comparison, UserFigures()) is None
    assert best_against_second([comparison], UserFigures()) == {}

    (alone,) = compare([*three[:1], record("new", score=0.4)])
    assert duel_table(alone, UserFigures(kept)) is None


def test_models_that_cannot_be_compared_are_named_with_the_reason(three, kept, record):
    others = [
        record("bare", score=0.6),
        kept.add(record("half", score=0.4), seed=5),
        record("half", score=0.4, seed=1),
        kept.add(record("mixed", score=0.35), seed=8),
        kept.add(record("mixed", score=0.35, seed=1), n_users=9),
        kept.add(record("few", score=0.3), n_users=7),
        kept.add(record("apart", score=0.25), seed=6),
        record("dead", status="timeout", reason="1 h"),
    ]
    kept.vectors[others[6].key]["ndcg@100"][1:] = np.nan
    (comparison,) = compare([*three, *others])

    duels, activity = (table(comparison, UserFigures(kept)) for table in (duel_table, activity_table))

    assert list(rows_of(duels)) == list(rows_of(activity)) == ["ease", "chol", "popularity"]
    told = (
        " Left out: bare (no figures by user), half (1 of 2 runs have figures by user), mixed (its runs are over"
        " different users), few (figures of 7 users), apart (fewer than two users in common)."
    )
    assert duels.note.endswith(told) and activity.note.endswith(told)
    assert "Left out" not in duel_table(compare(three)[0], UserFigures(kept)).note


def test_each_record_is_read_once(three, kept):
    (comparison,) = compare(three)
    figures = UserFigures(kept)

    duel_table(comparison, figures)
    best_against_second([comparison], figures)

    assert kept.n_read == 3


def test_users_are_shown_by_activity(three, kept):
    kept.vectors[three[1].key]["ndcg@100"][kept.sizes < 5] += 0.2
    (comparison,) = compare(three)

    table = activity_table(comparison, UserFigures(kept))

    headings = [column.heading for column in table.columns]
    assert headings == [
        "model",
        "0 to 4 items (100 users)",
        "5 to 9 items (100 users)",
        "10 to 14 items (100 users)",
        "15 to 19 items (100 users)",
    ]
    chol = rows_of(table)["chol"]
    own = kept.vectors[three[1].key]["ndcg@100"]
    assert chol[0].value == pytest.approx(own[kept.sizes < 5].mean(), rel=1e-5)
    assert chol[0].is_best and rows_of(table)["ease"][0].is_second
    assert all(sum(row[1 + j].is_best for row in table.rows) == 1 for j in range(4))


def test_users_who_count_differently_are_weighed_within_their_group(record, kept, tmp_path):
    sizes = np.repeat(np.array([1, 9, 20], np.int32), [500, 500, 10])
    weights = np.repeat([1.0, 9.0, 0.0], [500, 500, 10])  # the least active have the larger errors
    store = Store(tmp_path)
    records = []
    for model, factor in (("ease", 1.0), ("chol", 1.2)):
        values = factor * np.repeat([1.1, 0.9, 0.0], [500, 500, 10])
        one = record(model, metrics={"mse": float((weights * values).sum() / weights.sum())}, protocol="fixed")
        numbers = weights / weights.mean() * values
        store.put(one, {"mse": numbers, "weight.mse": weights, "user.history_size": sizes})
        records.append(one)
    (comparison,) = compare(records)

    rows = rows_of(activity_table(comparison, UserFigures(store)))

    assert [cell.value for cell in rows["ease"]] == pytest.approx([1.1, 0.9, None])
    assert [cell.value for cell in rows["chol"]] == pytest.approx([1.32, 1.08, None])
    assert [cell.is_best for cell in rows["ease"]] == [True, True, False]


def test_one_group_of_users_is_no_table(three, kept):
    kept.sizes = np.full(N_USERS, 3, np.int32)
    (comparison,) = compare(three)

    assert activity_table(comparison, UserFigures(kept)) is None


def test_the_best_of_a_column_has_stars_after_correction_over_the_table(record, kept):
    records = [
        kept.add(record(model, score=score, dataset=dataset), seed=i)
        for dataset, gap in (("clear", 0.2), ("close", 0.0001))
        for i, (model, score) in enumerate((("ease", 0.5), ("chol", 0.5 - gap)))
    ]
    comparisons = compare(records)

    marks = best_against_second(comparisons, UserFigures(kept))
    (table,) = matrices(comparisons, marks)

    assert marks["clear · fold-in", "ndcg@100"] == "***"
    assert marks["close · fold-in", "ndcg@100"] == ""
    ease = rows_of(table)["ease"]
    assert ease[0].note == "***" and ease[0].is_best
    assert {cell.note for cell in rows_of(table)["chol"]} == {""}
    assert "Holm" in table.note


def test_the_report_says_how_sure_it_is(three, kept, tmp_path):
    write_report(three, tmp_path, vectors=kept)

    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "Against the best, user by user" in text
        assert "By the users" in text
    write_report(three, tmp_path)
    assert "Against the best" not in (tmp_path / "report.md").read_text()
