import itertools

import numpy as np
import pytest

from recscale.errors import UsageError
from recscale.reporting.frontier import frontier, smallest_within


def dominated(point, others, lower_cost, higher_score):
    """Say by definition whether another point is at least as good in both and better in one."""
    cost_sign, score_sign = 1 if lower_cost else -1, 1 if higher_score else -1
    x, y = cost_sign * point[0], -score_sign * point[1]
    return any(
        (a := cost_sign * other[0]) <= x and (b := -score_sign * other[1]) <= y and (a < x or b < y) for other in others
    )


@pytest.mark.parametrize(("lower_cost", "higher_score"), list(itertools.product([True, False], repeat=2)))
def test_the_frontier_is_what_no_other_point_dominates(lower_cost, higher_score):
    rng = np.random.default_rng(7)
    for _ in range(200):
        # Few different values, so that ties in cost, in score and in both are common.
        points = [(float(x), float(y)) for x, y in rng.integers(0, 6, size=(rng.integers(1, 15), 2))]

        found = frontier(points, lower_cost=lower_cost, higher_score=higher_score)

        expected = {i for i, p in enumerate(points) if not dominated(p, points, lower_cost, higher_score)}
        assert set(found) == expected
        assert len(found) == len(expected)


def test_the_frontier_runs_from_cheap_to_dear_and_keeps_equal_points_in_their_order():
    points = [(5.0, 0.9), (1.0, 0.2), (3.0, 0.5), (3.0, 0.5), (3.0, 0.4), (9.0, 0.9)]

    assert frontier(points) == [1, 2, 3, 0]


def test_points_without_finite_numbers_are_never_on_the_frontier():
    points = [(1.0, float("nan")), (float("inf"), 9.0), (2.0, 0.5), (float("nan"), 1.0)]

    assert frontier(points) == [2]
    assert frontier([]) == []


def test_the_smallest_within_a_share_of_the_best_is_the_cheapest_that_comes_close():
    points = [(100.0, 0.500), (10.0, 0.496), (5.0, 0.490), (1.0, 0.2)]

    assert smallest_within(points, 0.01) == 1
    assert smallest_within(points, 0.0) == 0
    assert smallest_within(points, 0.03) == 2


def test_the_smallest_within_a_share_respects_both_directions():
    points = [(1.0, 0.30), (9.0, 0.303), (5.0, 0.5)]

    assert smallest_within(points, 0.02, lower_cost=False, higher_score=False) == 1


def test_the_smallest_of_nothing_is_none():
    assert smallest_within([(float("nan"), 1.0)], 0.1) is None


def test_a_share_that_is_a_percentage_is_refused():
    with pytest.raises(UsageError, match="share=5"):
        smallest_within([(1.0, 1.0)], 5)
