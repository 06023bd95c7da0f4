import pytest

from recscale import registry
from recscale.errors import Skipped
from recscale.testing.conformance import assert_conforms

pytestmark = pytest.mark.usefixtures("frozen_garbage")
BUILT_IN = [name for name, entry in registry.entries("model").items() if entry.origin == "built in"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_model_that_is_built_in_conforms(name):
    try:
        spec = registry.model_spec(name)
        assert_conforms(spec)
    except Skipped as reason:
        pytest.skip(str(reason))


def test_the_listing_finds_models():
    assert "popularity" in BUILT_IN
