from recscale.reporting.palette import RAMP, ramp, styles


def luminance(colour):
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_thirty_models_look_different():
    found = styles(f"model_{i}" for i in range(30))

    assert len(set(found.values())) == 30
    assert len({(style.colour, style.line) for style in found.values()}) == 30  # by the lines alone, too


def test_a_look_depends_on_the_names_and_not_on_their_order():
    assert styles(["b", "a", "c", "a"]) == styles(["c", "b", "a"])


def test_the_ramp_grows_lighter_and_stands_out_from_white_and_from_black():
    colours = [style.colour for style in ramp(f"{i}" for i in range(12)).values()]

    assert [luminance(colour) for colour in colours] == sorted({luminance(colour) for colour in colours})
    assert all(contrast(colour, page) >= 2.8 for colour in colours for page in ("#ffffff", "#0d1117"))


def test_the_ramp_keeps_the_order_and_uses_both_ends():
    found = ramp(["l2 = 70", "l2 = 500", "l2 = 1000", "l2 = 70"])

    assert list(found) == ["l2 = 70", "l2 = 500", "l2 = 1000"]
    assert [found["l2 = 70"].colour, found["l2 = 1000"].colour] == [RAMP[0], RAMP[-1]]
    assert ramp(["only"])["only"].colour == RAMP[0]
