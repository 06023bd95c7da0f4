import base64
import gzip
import hashlib
import json
import sys

import pytest

from recscale.errors import MissingExtra
from recscale.reporting import interactive
from recscale.reporting.comparisons import compare
from recscale.reporting.palette import styles
from recscale.reporting.runs import anchors


def charted(records):
    (comparison,) = comparisons = compare(records)
    return json.loads(interactive.chart(comparison, styles(r.model for r in records), anchors(comparisons)))


def column(chart, name):
    return [measure["name"] for measure in chart["measures"]].index(name)


def test_every_configuration_is_a_row_with_what_was_measured(realistic_records):
    chart = charted(realistic_records())

    assert [measure["name"] for measure in chart["measures"]] == [
        "ndcg@100", "recall@50", "parameters", "bytes", "memory", "seconds", "latency", "throughput",
    ]  # fmt: skip
    first = chart["rows"][0]
    assert chart["models"][first["model"]]["name"] == "ease"
    assert first["values"][column(chart, "ndcg@100")] == 0.56
    assert first["errors"][0] == 0.009
    assert first["values"][column(chart, "parameters")] == pytest.approx(6_104**2, rel=1e-6)
    assert chart["measures"][column(chart, "throughput")]["rises"]
    assert not chart["measures"][column(chart, "memory")]["rises"]


def test_a_failure_is_a_row_with_its_expected_place_or_none(realistic_records):
    chart = charted(realistic_records())

    failed = {chart["models"][row["model"]]["name"]: row for row in chart["rows"] if "outcome" in row}
    assert failed["slim"]["expected"][column(chart, "parameters")] == 91e9
    assert failed["elfm"]["expected"][column(chart, "seconds")] == 600.0
    assert set(failed["deep"]["expected"]) == {None}
    assert failed["rglsvd"]["word"] == "OOM"


def test_a_model_looks_as_it_does_in_the_still_figures(realistic_records):
    records = realistic_records()
    looks = styles(r.model for r in records)

    models = {model["name"]: model for model in charted(records)["models"]}

    assert {name: model["colour"] for name, model in models.items()} == {n: s.colour for n, s in looks.items()}
    assert len({model["symbol"] for model in models.values()}) == len({s.marker for s in looks.values()})


def test_energy_and_device_memory_are_measures_where_one_run_has_them(record):
    def with_energy(found):
        found.phases["fit"].energy_joules = 12.0
        found.phases["fit"].peak_device_bytes = 10**9
        return found

    names = [measure["name"] for measure in charted([with_energy(record()), record("wrmf")])["measures"]]

    assert {"energy", "device-memory"} <= set(names)


def test_numbers_that_are_none_are_null(record):
    chart = charted([record(metrics={"ndcg@100": float("nan"), "recall@50": 0.5}), record("wrmf")])

    assert [row["values"][0] for row in chart["rows"]] == [0.5, None]


@pytest.mark.parametrize("text", ["</script>", "<!--", "\u2028\u2029", "\ud800", "&quot;"])
def test_json_in_a_script_cannot_end_it(text):
    found = interactive.as_script({"name": text})

    assert found.isascii()
    assert not set("<>&") & set(found)
    assert json.loads(found) == {"name": text}


def test_the_library_is_packed_and_its_hash_is_that_of_what_comes_out():
    pytest.importorskip("plotly")

    library = interactive.library()

    script = gzip.decompress(base64.b64decode(library.packed))
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    assert library.hash == f"sha256-{digest}"
    assert len(library.packed) < 3_000_000


def test_a_missing_library_is_an_extra_that_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    interactive.library.cache_clear()

    with pytest.raises(MissingExtra, match="recscale\\[report\\]"):
        interactive.library()
