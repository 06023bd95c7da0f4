from __future__ import annotations

import pytest

from recscale.errors import DataError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 2\n1 x3\n", r"train\.txt, line 2: found 'x'"),
        ("0 -1\n", r"train\.txt, line 1: found '-'"),
        ("0 1.5\n", r"train\.txt, line 1: found '\.'"),
        ("0 1\n\n2 99999999999999999999\n", r"train\.txt, line 3: an id of more than 18 digits"),
        ("", r"train\.txt holds no interactions"),
        ("\n \n", r"train\.txt holds no interactions"),
    ],
)
def test_a_bad_list_is_named_with_its_line(mirror, text, message):
    mirror.put("gowalla", "train.txt", text)
    mirror.put("gowalla", "test.txt", "0 1\n")

    with pytest.raises(DataError, match=message) as caught:
        mirror.load("gowalla", verify=False)

    assert "\n" not in str(caught.value)


def test_windows_line_ends_tabs_blank_lines_and_a_missing_last_newline_are_read(mirror, triples):
    mirror.put("gowalla", "train.txt", "0 1\t2\r\n\r\n1   1\r\n")
    mirror.put("gowalla", "test.txt", "1 2")

    data = mirror.load("gowalla", verify=False)

    assert triples(data, "parts") == {(0, 1): 0, (0, 2): 0, (1, 1): 0, (1, 2): 1}


def test_an_item_named_twice_in_one_part_counts_once(mirror, triples):
    mirror.put("gowalla", "train.txt", "0 1 1 2\n")
    mirror.put("gowalla", "test.txt", "0 3\n")

    data = mirror.load("gowalla", verify=False)

    assert triples(data) == {(0, 1): 1.0, (0, 2): 1.0, (0, 3): 1.0}


def test_users_without_items_in_either_part_are_no_data(mirror):
    mirror.put("gowalla", "train.txt", "0\n1\n")
    mirror.put("gowalla", "test.txt", "0\n")

    with pytest.raises(DataError, match="holds no interactions"):
        mirror.load("gowalla", verify=False)
