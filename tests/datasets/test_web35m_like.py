from __future__ import annotations

import numpy as np
import pytest

from recscale import registry
from recscale.errors import UsageError


def test_a_thousandth_of_it_keeps_the_proportions():
    matrix = registry.dataset_spec("web35m-like").source(scale=0.001).load().interactions

    assert (*matrix.shape, matrix.nnz) == (3_795, 427, 34_870)
    assert np.diff(matrix.indptr).min() >= 5
    assert np.bincount(matrix.indices, minlength=427).min() >= 1


def test_one_seed_gives_one_data_set():
    source = registry.dataset_spec("web35m-like").source

    assert source(scale=0.001).load().fingerprint == source(scale=0.001).load().fingerprint
    assert source(scale=0.001).load().fingerprint != source(scale=0.001, seed=1).load().fingerprint


def test_the_smallest_scale_loads():
    assert registry.dataset_spec("web35m-like").source(scale=1e-4).load().interactions.nnz == 3_487


@pytest.mark.parametrize("scale", [0, 1.5, "big"])
def test_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(UsageError, match="scale"):
        registry.dataset_spec("web35m-like").source(scale=scale)
