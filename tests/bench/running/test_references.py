"""`name[option=value]` is read as a person means it, and checked."""

import pytest

from recscale.errors import RecscaleError, UnknownName, UsageError
from recscale.running.references import grid, parse_reference, resolve_data


def test_a_plain_name_has_no_options():
    assert parse_reference("ease") == ("ease", {})


def test_values_after_a_comma_belong_to_the_last_option():
    assert parse_reference("ease[k=20,50, 100,l2=80]") == ("ease", {"k": ["20", "50", "100"], "l2": ["80"]})


def test_yaml_mappings_say_the_same():
    assert parse_reference({"ease": {"k": [20, 50], "l2": 80}}) == ("ease", {"k": [20, 50], "l2": [80]})


def test_a_grid_has_every_combination_in_the_order_written():
    assert grid({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]


@pytest.mark.parametrize(
    "written", ["ease[", "ease]", "[k=1]", "ease[20]", "ease[k=1,k=2]", "", {"a": 1, "b": 2}, {"ease": 3}]
)
def test_what_cannot_be_read_is_one_clear_line(written):
    with pytest.raises(UsageError) as caught:
        parse_reference(written)

    assert "\n" not in str(caught.value)


def test_the_default_filter_serves_protocols_that_split_by_user_and_none_the_published_split():
    assert resolve_data("gowalla", "fold-in", []).text == "gowalla[filter=10-core]"
    assert resolve_data("gowalla", "fixed", []).text == "gowalla"


def test_the_same_filter_written_in_two_ways_is_the_same_data():
    named = resolve_data("gowalla[filter=10-core]", "fold-in", [])
    spelled = resolve_data("gowalla[min_user_items=10,min_item_users=10,repeat=true]", "fold-in", [])

    assert named == spelled


def test_an_option_that_changes_nothing_does_not_change_the_text():
    assert resolve_data("gowalla[verify=true]", "fixed", []).text == "gowalla"


@pytest.mark.parametrize(
    ("dataset", "protocol", "message"),
    [
        ("gowala", "fold-in", "did you mean 'gowalla'"),
        ("gowalla", "foldin", "did you mean 'fold-in'"),
        ("gowalla[min_rating=abc]", "fold-in", "min_rating"),
        ("gowalla[min_user_item=5]", "fold-in", "did you mean 'min_user_items'"),
        ("gowalla[filter=10core]", "fold-in", "did you mean '10-core'"),
        ("gowalla[filter=5-core,10-core]", "fold-in", "takes one value"),
        ("gowalla", "fold-in[n_heldout=0]", "n_heldout"),
        ("gowalla", "fold-in[nheldout=10]", "did you mean 'n_heldout'"),
        ("debian-depends", "fixed", "no published split"),
    ],
)
def test_wrong_data_is_named_with_what_was_meant(dataset, protocol, message):
    with pytest.raises(RecscaleError, match=message.replace("[", r"\[")) as caught:
        resolve_data(dataset, protocol, [])

    assert isinstance(caught.value, UnknownName | UsageError)
    assert "\n" not in str(caught.value)
