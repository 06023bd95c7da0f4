import time

import numpy as np
import pytest
import scipy.sparse as sp

from recscale.abilities import Factored
from recscale.contract import FitContext, Shape
from recscale.errors import DataError, DeadlineExceeded, NumericalError, UsageError
from recscale.measuring.budget import refusal
from recscale.models import _local_factors
from recscale.models._local_factors import Alternation, Recipe, best_weights
from recscale.models._user_clusters import nearest
from recscale.models.rglsvd import RGLSVD, SPEC
from recscale.testing.board import placement, planted_board

ALONE = FitContext(n_threads=1)
GROUPS, BLOCKS, WIDTH, SIGNS = 3, 8, 6, 4  # of the local board


def random_train(n_users=60, n_items=25, seed=0, density=0.25):
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((n_users, n_items)) < density).astype(np.float32))


def orthonormal(n, k, rng):
    return np.linalg.qr(rng.normal(size=(n, k)))[0].astype(np.float32)


def leading(dense, rank):
    """Return the leading right singular vectors of a dense matrix as columns, those of singular value 0 left out."""
    _, values, transposed = np.linalg.svd(dense, full_matrices=False)
    return transposed[:rank][values[:rank] > 1e-3 * max(values.max(initial=0), 1e-30)].T


def weight_by_hand(a, b, r):
    """Return g over all items as the paper has it; 1 where a = b."""
    distance = np.sum((b - a) ** 2)
    if distance <= 1e-5 * np.sum(a**2 + b**2):
        return 1.0
    return float(np.clip(np.sum((b - a) * (b - r)) / distance, 0, 1))


def alternation_by_hand(dense, labels, rank, ranks, epochs):
    """Alternate with dense matrices and numpy's SVD; return V, the V_c and the weights."""
    weights = np.full(len(dense), 0.5)
    for _ in range(epochs):
        common = leading(weights[:, None] * dense, rank)
        local = [
            leading((1 - weights[labels == c, None]) * dense[labels == c], ranks[c]) for c in range(labels.max() + 1)
        ]
        projected = [(common @ (common.T @ r), local[c] @ (local[c].T @ r)) for r, c in zip(dense, labels, strict=True)]
        weights = np.array([weight_by_hand(a, b, r) for (a, b), r in zip(projected, dense, strict=True)])
    return common, local, weights


def scores_by_hand(rows, labels, common, local):
    scores = []
    for r, c in zip(rows, labels, strict=True):
        a, b = common @ (common.T @ r), local[c] @ (local[c].T @ r)
        g = weight_by_hand(a, b, r)
        scores.append(g * a + (1 - g) * b)
    return np.array(scores)


def local_board(n_users=240, seed=0):
    """Draw users of three groups, each of which puts the same items into blocks of its own, and a few that tell it.

    A user has most of two blocks. Returns the matrix, the groups, and what the users lack of their blocks.
    """
    rng = np.random.default_rng(seed)
    order = [np.random.default_rng(100 + group).permutation(BLOCKS * WIDTH) for group in range(GROUPS)]
    groups = np.arange(n_users) % GROUPS
    rows = np.zeros((n_users, BLOCKS * WIDTH + GROUPS * SIGNS), np.float32)
    missing = np.zeros(rows.shape, bool)
    for user, group in enumerate(groups):
        blocks = order[group].reshape(BLOCKS, WIDTH)[rng.choice(BLOCKS, 2, replace=False)]
        rows[user, blocks.ravel()] = 1
        lost = [rng.choice(block, 2, replace=False) for block in blocks]
        rows[user, np.concatenate(lost)], missing[user, np.concatenate(lost)] = 0, True
        rows[user, BLOCKS * WIDTH + group * SIGNS + rng.choice(SIGNS, 3, replace=False)] = 1
    return sp.csr_array(rows), groups, missing


def found_share(scores, history, missing):
    """Return the share of the missing items among as many best items of those that a user does not have."""
    scores = np.where(history.toarray() > 0, -np.inf, scores)
    best = np.argsort(-scores, axis=1)[:, : 2 * 2]
    return np.take_along_axis(missing, best, axis=1).mean()


@pytest.mark.parametrize("seed", range(3))
def test_weights_and_errors_agree_with_sums_over_all_items(seed):
    rng = np.random.default_rng(seed)
    common, local, rows = orthonormal(30, 5, rng), orthonormal(30, 3, rng), random_train(40, 30, seed, 0.4).toarray()
    rows[0] = local @ rng.normal(size=3)  # the local factors have it all
    rows[1] = common @ rng.normal(size=5)

    weights, errors = best_weights(rows @ common, rows @ local, common.T @ local)

    a, b = rows @ common @ common.T, rows @ local @ local.T
    wanted = np.array([weight_by_hand(*three) for three in zip(a, b, rows, strict=True)])
    left = np.sum((rows - wanted[:, None] * a - (1 - wanted[:, None]) * b) ** 2, axis=1) - np.sum(rows**2, axis=1)
    assert weights[0] == pytest.approx(0, abs=1e-5) and weights[1] == pytest.approx(1, abs=1e-5)
    assert np.ptp(weights[2:]) > 0.3
    np.testing.assert_allclose(weights, wanted, atol=1e-5)
    np.testing.assert_allclose(errors, left, rtol=1e-5, atol=1e-5)


def test_no_other_weight_leaves_a_smaller_error():
    rng = np.random.default_rng(0)
    common, local, rows = orthonormal(30, 5, rng), orthonormal(30, 3, rng), random_train(40, 30, 0, 0.4).toarray()
    a, b = rows @ common @ common.T, rows @ local @ local.T

    _, errors = best_weights(rows @ common, rows @ local, common.T @ local)

    for g in np.linspace(0, 1, 21):
        others = np.sum((rows - g * a - (1 - g) * b) ** 2, axis=1) - np.sum(rows**2, axis=1)
        assert np.all(errors <= others + 1e-5)


@pytest.mark.parametrize("local_items", ["all", "own"])
@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_scores_agree_with_an_alternation_of_dense_matrices(local_items, epochs):
    train, groups, _ = local_board(90)
    history = local_board(12, seed=1)[0]
    options = {"factors": 4, "local_factors": 3, "n_clusters": 3, "energy": 1, "cluster_factors": 3, "epochs": epochs}

    model = RGLSVD(local_items=local_items, **options).fit(train, ALONE)

    labels = model.place(train).labels
    assert len(set(zip(labels, groups, strict=True))) == 3  # as planted
    common, local, weights = alternation_by_hand(train.toarray(), labels, 4, [3, 3, 3], epochs)
    np.testing.assert_allclose(model.place(train).weights, weights, atol=1e-3)
    expected = scores_by_hand(history.toarray(), model.place(history).labels, common, local)
    np.testing.assert_allclose(model.score(history), expected, atol=1e-3)


def test_scores_agree_where_singular_vectors_are_searched_for(monkeypatch):
    rng = np.random.default_rng(0)
    likes = np.where(rng.integers(0, 6, 400)[:, None] == rng.integers(0, 6, 450)[None, :], 0.3, 0.01)
    train = sp.csr_array((rng.random((400, 450)) < likes).astype(np.float32))
    options = {"factors": 6, "n_clusters": 2, "local_factors": 2, "epochs": 2}

    whole = RGLSVD(**options).fit(train, ALONE).score(train)
    monkeypatch.setattr(_local_factors, "DENSE", 0)
    searched = RGLSVD(**options).fit(train, ALONE).score(train)

    np.testing.assert_allclose(searched, whole, atol=5e-3)


@pytest.mark.parametrize("local_factors", [1, 4, 6])
def test_with_one_cluster_it_is_the_svd_of_the_global_rank(local_factors):
    train, history = random_train(), random_train(9, seed=1)
    model = RGLSVD(factors=6, local_factors=local_factors, energy=1, n_clusters=1).fit(train, ALONE)
    vectors = leading(train.toarray(), 6)

    scores = model.score(history)

    np.testing.assert_allclose(scores, history.toarray() @ vectors @ vectors.T, atol=1e-5)
    assert np.all(model.place(train).weights == 1)
    assert model.size().n_parameters == 25 * 6  # the local SVD of nothing has no factors


def test_a_training_user_who_is_folded_in_has_its_weight_again():
    train = planted_board().train
    model = RGLSVD(factors=6, local_factors=4, n_clusters=3).fit(train, ALONE)
    filled = train[np.flatnonzero(np.diff(train.indptr))]
    labels = nearest(_places(filled, model), model.clusters_.centres)

    _, trained = Alternation(filled, labels, model.recipe(), ALONE).run()

    folded = model.place(filled)
    np.testing.assert_array_equal(folded.labels, trained.labels)
    np.testing.assert_array_equal(folded.weights, trained.weights)
    assert np.unique(folded.weights).size > 100


def _places(rows, model):
    from recscale.models._user_clusters import places

    return places(rows, model.clusters_.basis)


def test_new_weights_never_raise_the_squared_error():
    train, groups, _ = local_board(90)
    dense, labels = train.toarray(), np.random.default_rng(0).permutation(groups)
    alternation = Alternation(train, labels, Recipe(5, 2, 10), ALONE)
    before = alternation.placing.weights

    for epoch in range(4):
        space = alternation.factorised(is_first=epoch == 0)
        alternation.placing = alternation.placed(space)
        a = dense @ space.common @ space.common.T
        b = np.zeros_like(a)
        for c, part in enumerate(space.local):
            b[np.ix_(labels == c, part.items)] = (dense[labels == c][:, part.items] @ part.vectors) @ part.vectors.T
        kept = np.sum((dense - before[:, None] * a - (1 - before[:, None]) * b) ** 2)
        assert dense.sum() + alternation.placing.errors.sum() <= kept + 1e-3
        before = alternation.placing.weights


def test_what_is_local_is_found_better_than_by_an_svd_of_the_same_size():
    train, groups, _ = local_board()
    history, unseen, missing = local_board(90, seed=1)
    model = RGLSVD(factors=3, local_factors=10, energy=1, n_clusters=3, cluster_factors=3).fit(train, ALONE)
    labels = model.place(history).labels
    same_size = leading(train.toarray(), model.size().n_parameters // train.shape[1])

    share = found_share(model.score(history), history, missing)

    rivals = [leading(train.toarray(), rank) for rank in (3, 10, 16, 20, 24)]
    best = max(found_share(history @ v @ v.T, history, missing) for v in [same_size, *rivals])
    assert len(set(zip(labels, unseen, strict=True))) == 3
    assert len(set(zip(model.place(train).labels, groups, strict=True))) == 3
    assert share > best + 0.2  # .93 and .68


def test_ranks_are_the_smallest_that_reach_the_energy():
    train = local_board()[0]
    dense = train.toarray()

    for energy in (0.3, 0.7):
        model = RGLSVD(factors=3, local_factors=8, n_clusters=3, energy=energy, epochs=1).fit(train, ALONE)
        labels = model.place(train).labels
        for c, part in enumerate(model.space_.local):
            squares = np.linalg.svd(dense[labels == c], compute_uv=False) ** 2
            wanted = 1 + np.flatnonzero(np.cumsum(squares) >= energy * squares.sum())[0]
            assert part.vectors.shape[1] == min(wanted, 8)


def test_what_was_planted_is_found_on_the_board():
    board = planted_board()

    scores = RGLSVD(factors=4, n_clusters=2, local_factors=2).fit(board.train, ALONE).score(board.history)

    assert placement(scores, board) > 0.88


def test_own_items_give_the_same_scores_from_fewer_bytes():
    apart = sp.csr_array(sp.block_diag([random_train(30, 20, seed) for seed in range(3)]))
    train = sp.csr_array(apart + sp.csr_array((np.ones(90), (np.arange(90), np.zeros(90, int))), apart.shape) > 0)
    options = {"factors": 4, "n_clusters": 3}
    every, own = (RGLSVD(local_items=kept, **options).fit(train, ALONE) for kept in ("all", "own"))

    np.testing.assert_allclose(own.score(train), every.score(train), atol=1e-6)
    assert [part.items.size for part in own.space_.local] != [60, 60, 60]
    assert own.size().n_bytes < every.size().n_bytes


def test_everything_that_scoring_reads_is_counted(tmp_path):
    train = planted_board().train
    options = {"factors": 4, "local_factors": 3, "n_clusters": 5, "energy": 1, "cluster_factors": 2}
    model = RGLSVD(**options).fit(train, ALONE)

    needs = SPEC.estimate(model, Shape.of(train))

    n_local = sum(part.vectors.shape[1] for part in model.space_.local)
    n_numbers = 81 * (4 + n_local + 2) + 4 * n_local + 5 * 2
    assert n_local == 5 * 3
    assert (model.size().n_parameters, model.size().n_bytes) == (n_numbers, 4 * n_numbers)
    assert needs.model_bytes == 4 * n_numbers < needs.peak_bytes


def test_a_hundred_clusters_of_a_large_catalogue_are_refused():
    web = Shape(n_users=3_794_691, n_items=427_147, n_interactions=34_870_333, n_pairs=10**9)

    needs = SPEC.estimate(RGLSVD(factors=64, n_clusters=100), web)

    assert needs.model_bytes >= 4 * 100 * web.n_items * 64  # N |I| d of the paper's count
    assert refusal(needs.peak_bytes, 8 * 10**9) is not None
    assert SPEC.estimate(RGLSVD(local_items="own", n_clusters=100), web).model_bytes < needs.model_bytes


def test_it_offers_no_vectors_for_clustering():
    assert not isinstance(RGLSVD(), Factored)


def test_a_row_scores_the_same_beside_others_and_alone():
    train = planted_board().train
    model = RGLSVD(factors=5, n_clusters=4).fit(train, ALONE)

    together = model.score(train)

    alone = np.concatenate([model.score(train[[user]]) for user in range(0, 240, 17)])
    np.testing.assert_allclose(together[::17], alone, atol=1e-6)


def test_users_without_interactions_and_the_number_of_threads_change_no_bit(monkeypatch):
    monkeypatch.setattr(_local_factors, "CHUNK", 17)
    train = local_board(90)[0]
    gaps = sp.csr_array(sp.vstack([sp.csr_array((3, train.shape[1]), dtype=np.float32), train]))
    options = {"factors": 4, "n_clusters": 3}

    one = RGLSVD(**options).fit(train, ALONE).score(train)

    np.testing.assert_array_equal(RGLSVD(**options).fit(gaps, FitContext(n_threads=2)).score(train), one)


@pytest.mark.parametrize("train", [np.zeros((6, 4)), np.ones((6, 4)), np.zeros((0, 4)), np.eye(1, 4)])
def test_scores_are_finite_without_any_interaction_and_with_all_of_them(train):
    model = RGLSVD(factors=9).fit(sp.csr_array(train), ALONE)

    scores = model.score(sp.csr_array(np.tri(5, 4, -1, dtype=np.float32)))  # histories of no item to all four

    assert np.isfinite(scores).all()
    assert scores.any() == train.any()


@pytest.mark.parametrize("n_clusters", [1, 4])
def test_a_model_from_disk_scores_the_same_bits(tmp_path, n_clusters):
    train = planted_board().train
    for kept in ("all", "own"):
        model = RGLSVD(factors=4, n_clusters=n_clusters, local_items=kept).fit(train, ALONE)
        model.save(tmp_path / "rglsvd.npz")

        again = RGLSVD.load(tmp_path / "rglsvd.npz")

        np.testing.assert_array_equal(again.score(train), model.score(train))
        assert again.size() == model.size()


def test_progress_counts_up_and_the_error_is_logged_each_epoch():
    seen = {}
    context = FitContext(n_threads=1, log=lambda name, step, value: seen.setdefault(name, []).append((step, value)))

    RGLSVD(factors=4, n_clusters=3, epochs=2).fit(local_board(90)[0], context)

    assert [step for step, _ in seen["progress"]] == [1, 2, 3, *range(1, 11)]  # k-means, then 2 (3 + 2) steps
    assert [step for step, _ in seen["squared error"]] == [1, 2]
    assert all(0 < value < 1 for _, value in seen["squared error"])


def test_a_deadline_stops_the_fit():
    with pytest.raises(DeadlineExceeded, match="step 1 of"):
        RGLSVD(factors=3, n_clusters=1).fit(random_train(), FitContext(n_threads=1, deadline=time.monotonic() - 1))


def test_numbers_that_cannot_be_used_and_a_history_over_other_items_are_errors():
    broken, huge = random_train(), random_train()
    broken.data[0], huge.data[0] = np.nan, 1e25
    model = RGLSVD(factors=3).fit(random_train(), ALONE)

    with pytest.raises(DataError, match="NaN"):
        RGLSVD(factors=3).fit(broken, ALONE)
    with pytest.raises(NumericalError, match="1e\\+50"):
        RGLSVD(factors=3).fit(huge, ALONE)
    with pytest.raises(DataError, match="26 items"):
        model.score(sp.csr_array((2, 26), dtype=np.float32))


@pytest.mark.parametrize(
    "bad",
    [
        {"factors": 0},
        {"local_factors": 0},
        {"n_clusters": 0},
        {"cluster_factors": 0},
        {"epochs": 0},
        {"energy": 0},
        {"energy": 1.1},
        {"local_items": "some"},
    ],
)
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        RGLSVD(**bad)
