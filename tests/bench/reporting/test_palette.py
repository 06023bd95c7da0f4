from recscale.reporting.palette import styles


def test_thirty_models_look_different():
    found = styles(f"model_{i}" for i in range(30))

    assert len(set(found.values())) == 30


def test_a_look_depends_on_the_names_and_not_on_their_order():
    assert styles(["b", "a", "c", "a"]) == styles(["c", "b", "a"])
