"""What the tests of models share."""

import gc

import pytest


@pytest.fixture(scope="module")
def frozen_garbage():
    """Spare what the tests before have made: SANSA's package collects garbage dozens of times a fit, a second each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
