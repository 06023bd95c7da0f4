"""The section of a report on how models scale: figure, table, and what is not shown twice."""

import msgspec
import pytest

from recscale.records.record import Phase
from recscale.records.scaling import families
from recscale.reporting.canvas import render
from recscale.reporting.page import write_report
from recscale.reporting.palette import styles
from recscale.reporting.scaling import divided, draw_scaling, growth_table, scaling_views

SHARES = (0.25, 0.5, 1.0)


@pytest.fixture
def scaled(sized_record):
    """Return a factory of a run on a share of 1,000 users: a megabyte a user, and 10 ms of time."""

    def make(share, model="ease", by="users", **changes):
        n = round(1_000 * share)
        seconds = 0.01 * n
        fit = Phase(wall_seconds=seconds, cpu_seconds=seconds, start_rss_bytes=10**8, peak_rss_bytes=10**8 + 10**6 * n)
        sampled = {"shares": {by: share}, "sampled_from": "shop"} if share < 1 else {}
        fields = {
            "configuration": f"{model}[k=20]",
            "dataset": f"shop[{by}={share}]" if share < 1 else "shop",
            "n_train_users": n,
            "phases": {"fit": fit},
            "split_fingerprint": f"{by}{share}".ljust(64, "0"),
            "timeout_seconds": 100.0,
            "max_memory_bytes": 21 * 10**8,
            **sampled,
        }
        return sized_record(model, "k", 20, score=0.5, n_parameters=1_000, **(fields | changes))

    return make


def broken(record, **changes):
    return msgspec.structs.replace(record, status="out_of_memory", reason="no room", metrics={}, phases={}, **changes)


def test_a_line_a_model_in_its_own_look_over_the_numbers_of_users(scaled):
    records = [scaled(share, model) for model in ("ease", "chol") for share in SHARES]
    looks = styles(["chol", "ease", "slim"])

    figure = draw_scaling(families(records), looks)

    memory, time = figure.axes
    assert [line.get_color() for line in memory.lines] == [looks["ease"].colour, looks["chol"].colour][::-1]
    assert memory.lines[0].get_xydata().tolist() == [[250, 250e6], [500, 500e6], [1_000, 1_000e6]]
    assert time.lines[0].get_xydata()[:, 1].tolist() == pytest.approx([2.5, 5, 10])
    assert (memory.get_xscale(), memory.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chol", "ease"]


def test_configurations_of_one_model_share_its_colour_and_differ_in_their_line(scaled):
    records = [scaled(share, configuration=f"ease[k={k}]") for share in SHARES for k in (20, 50)]

    figure = draw_scaling(families(records), styles(["ease"]))

    lines = figure.axes[0].lines
    assert len({line.get_color() for line in lines}) == 1
    assert len({line.get_linestyle() for line in lines}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ease[k=20]", "ease[k=50]"]


def test_a_failure_stands_at_the_size_where_it_happened(scaled):
    records = [scaled(0.25), scaled(0.5), broken(scaled(1))]

    figure = draw_scaling(families(records), styles(["ease"]))

    strip = figure.axes[1]
    assert [text.get_text() for text in strip.texts] == ["failed", "ease OOM"]
    (cross,) = strip.lines
    x = strip.transAxes.transform((cross.get_xdata()[0], 0))[0]
    assert strip.transData.inverted().transform((x, 0))[0] == pytest.approx(1_000, rel=0.01)


def test_seeds_are_one_point_at_their_mean(scaled):
    records = [scaled(share, seed=seed) for share in SHARES for seed in (0, 1)]

    figure = draw_scaling(families(records), styles(["ease"]))

    assert len(figure.axes[0].lines[0].get_xydata()) == 3


def test_the_table_has_exponents_limits_and_ratios(scaled):
    table = growth_table(families([scaled(share) for share in SHARES]))

    (row,) = table.rows
    cells = {column.heading: cell for column, cell in zip(table.columns, row, strict=True)}
    assert (cells["memory of the fit"].text, cells["memory of the fit"].note) == ("1.00", "1.00 to 1.00")
    assert cells["limit of memory left at"].text == "2 k"  # 2 GB beside what the process had
    assert cells["limit of memory left at"].note.endswith("of 2.1 GB")
    assert cells["limit of time left at"].text == "10 k"
    assert cells["ratio of time"].text == "1.00"
    assert cells["score time a user"].text == "not measured"
    assert cells["ndcg@100, small to large"].text == "0.500, 0.500, 0.500"
    assert cells["did not finish"].text == ""


def test_the_table_says_where_a_limit_was_seen_to_be_left(scaled):
    table = growth_table(families([scaled(0.25), scaled(0.5), broken(scaled(1))]))

    cells = {column.heading: cell for column, cell in zip(table.columns, table.rows[0], strict=True)}
    assert (cells["limit of memory left at"].text, cells["limit of memory left at"].value) == ("1 k", 1_000)
    assert cells["limit of memory left at"].note == "ran out there, of 2.1 GB"
    assert cells["limit of time left at"].text == "10 k"


def test_failures_stand_in_the_table_by_their_share(scaled):
    table = growth_table(families([scaled(0.25), scaled(0.5), broken(scaled(1))]))

    cell = table.rows[0][-1]
    assert (cell.text, cell.is_failure) == ("1: OOM", True)


def test_subsamples_have_no_table_of_their_own_where_the_section_shows_them(scaled, record):
    whole, other = scaled(1), record("slim", dataset="gowalla")

    found, single = divided([scaled(0.25), scaled(0.5), whole, other])

    assert len(found) == 1
    assert single == [whole, other]


def test_a_subsample_that_ran_alone_is_a_data_set_as_any_other(scaled):
    alone = [scaled(0.25)]

    assert divided(alone) == ([], alone)


def test_the_command_asks_for_the_same_runs(scaled):
    (view,) = scaling_views(families([scaled(share) for share in SHARES]), styles(["ease"]))

    assert view.command == (
        "recscale scale shop --protocol fold-in -m 'ease[k=20]' --by users --shares 0.25 0.5 1 --seeds 0"
        " --device auto --timeout 100 --max-memory 2100000000"
    )


def test_a_report_has_the_section_and_one_leaderboard(scaled, tmp_path):
    written = write_report([scaled(share) for share in SHARES], tmp_path, formats=("md", "html", "svg"))

    markdown, page = (path.read_text() for path in written[-2:])
    headings = [line for line in markdown.splitlines() if line.startswith("## ")]
    assert headings == ["## shop · fold-in", "## How models scale", "## Machines", "## Commands"]
    assert "shop-fold-in-scaling.svg" in {path.name for path in written}
    assert '<h2 id="recscale-scaling">' in page
    assert "recscale scale shop" in markdown


def test_a_report_of_subsamples_alone_has_the_section_alone(scaled, tmp_path):
    (page,) = write_report([scaled(0.25), scaled(0.5)], tmp_path, formats=("md",))

    assert "## How models scale" in page.read_text()
    assert "shop · fold-in" in page.read_text()


def test_a_report_without_subsamples_has_no_such_section(realistic_records, tmp_path):
    (page,) = write_report(realistic_records(), tmp_path, formats=("md",))

    assert "How models scale" not in page.read_text()


def test_the_same_records_give_the_same_picture_in_any_order(scaled):
    records = [scaled(share, model) for model in ("ease", "chol") for share in SHARES]
    looks = styles(["ease", "chol"])

    one, other = (render(draw_scaling(families(found), looks), "svg") for found in (records, records[::-1]))

    assert one == other
