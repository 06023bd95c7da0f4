import numpy as np
import pytest
import scipy.sparse as sp

from recscale.models._local_grams import LocalBlocks, local_grams
from recscale.models._sparse_gram import interactions, workspace


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("upper", [True, False])
def test_each_block_is_that_of_the_whole_gram_matrix(upper, binary):
    rng = np.random.default_rng(0)
    values = np.where(rng.random((50, 12)) < 0.3, 1 if binary else rng.integers(1, 5, (50, 12)), 0)
    data = interactions(sp.csr_array(values.astype(np.float32)))
    chosen = [[3], [5, 1, 9], [], [0, 1, 2, 11]]  # not sorted, overlapping, one empty
    lengths = np.array([len(block) for block in chosen])
    sizes = lengths * (lengths + 1) // 2 if upper else lengths**2
    members = np.concatenate(([99], *chosen, [99])).astype(np.int32)  # a slice of a longer list
    ptr, starts = 1 + np.concatenate(([0], np.cumsum(lengths))), np.concatenate(([0], np.cumsum(sizes)))
    grams = np.full(starts[-1], np.nan, np.float32)

    local_grams(data, LocalBlocks(ptr, members, starts, upper), workspace(data, 12), grams)

    for block, first, last in zip(chosen, starts[:-1], starts[1:], strict=True):
        whole = (values.T @ values)[np.ix_(block, block)]
        expected = whole[np.triu_indices(len(block))] if upper else whole.ravel()
        np.testing.assert_array_equal(grams[first:last], expected)
