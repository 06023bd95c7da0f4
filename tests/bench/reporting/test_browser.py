"""The page in a real browser, where there is one."""

import os
import re
import shutil
import threading

import pytest

from recscale.records.store import Store
from recscale.reporting.axes import BYTES, PARAMETERS, SECONDS, THROUGHPUT
from recscale.reporting.comparisons import compare
from recscale.reporting.frontier import frontier, smallest_within
from recscale.reporting.page import Options, build_report
from recscale.reporting.serving import LivePage, make_server

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

HOSTILE = "</script><script>alert(1)</script>\"><img src=x onerror=alert(2)>\u2028<b>x</b>'`$&lt;"
ANCHOR = "debian-depends-fold-in"


def page_bytes(records, **options):
    return build_report(records, Options(formats=("html",), interactive=True, **options))["report.html"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as run:
        found = run.chromium.launch(executable_path=CHROMIUM)
        yield found
        found.close()


@pytest.fixture(scope="module")
def written(realistic_records, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(page_bytes(realistic_records()))
    return path


@pytest.fixture
def visit(browser):
    """Opens a page; whatever its console says, and every dialog, fails the test."""
    tabs, complaints = [], []

    def go(address, width=1200, scheme="light"):
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.set_default_timeout(60_000)
        tabs.append(tab)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        tab.goto(address if isinstance(address, str) else address.as_uri())
        return tab

    yield go
    for tab in tabs:
        tab.close()
    assert complaints == []


def drawn(tab, axes="ndcg@100 parameters"):
    tab.wait_for_selector(f'[data-drawn="{axes}"]', state="attached")
    return tab


def choose(tab, up, across):
    tab.select_option("[aria-label='vertical axis']", label=up)
    tab.select_option("[aria-label='horizontal axis']", label=across)


def words_of(tab, selector):
    return re.sub(r"\s+", " ", tab.inner_text(selector))


def points_table(tab):
    """Return the rows of the table beside the chart: the cells of each."""
    if tab.locator(".interactive details[open]").count() == 0:
        tab.click(".interactive summary")
        tab.wait_for_selector(".interactive tbody tr", state="attached")  # filled by an event, a moment later
    rows = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    return tab.eval_on_selector_all(".interactive tbody tr", rows)


@pytest.mark.parametrize(
    ("label", "axis"),
    [("parameters", PARAMETERS), ("model size", BYTES), ("fit time", SECONDS), ("users scored per second", THROUGHPUT)],
)
def test_the_frontier_and_the_answer_of_any_axis_are_those_of_the_records(
    visit, written, realistic_records, label, axis
):
    (comparison,) = compare(realistic_records())
    found = comparison.succeeded
    points = [(axis.value(c), c.score("recall@50")) for c in found]
    corners = {found[i].label for i in frontier(points, lower_cost=axis.lower_is_better)}
    smallest = found[smallest_within(points, 0.05, lower_cost=axis.lower_is_better)]
    tab = drawn(visit(written))

    choose(tab, "recall@50", label)
    tab.fill("input[type=number]", "5")

    drawn(tab, f"recall@50 {axis.name}")
    assert {row[0] for row in points_table(tab) if row[3] == "yes"} == corners
    assert f"{smallest.label} with recall@50" in words_of(tab, "output")


def test_axes_are_named_and_scaled_as_chosen(visit, written):
    tab = drawn(visit(written))
    assert tab.text_content(".xtitle") == "parameters"
    assert tab.is_checked("label:has-text('log') >> nth=1 >> input")

    choose(tab, "peak memory of the fit", "users scored per second")
    drawn(tab, "memory throughput")

    assert tab.text_content(".xtitle") == "users scored per second (more is better)"
    assert tab.text_content(".ytitle") == "peak memory of the fit"
    assert any("MB" in text or "GB" in text for text in tab.locator(".ytick").all_text_contents())


def test_a_model_that_is_switched_off_leaves_figure_table_and_answer(visit, written):
    tab = drawn(visit(written))
    before = tab.locator(".scatterlayer .trace").count()
    assert "ease" in words_of(tab, "output")

    tab.click(".chip:has-text('ease')")

    assert tab.get_attribute(".chip:has-text('ease')", "aria-pressed") == "false"
    tab.wait_for_function(f"document.querySelectorAll('.scatterlayer .trace').length === {before - 1}")
    assert "ease" not in words_of(tab, "output")
    assert not [row for row in points_table(tab) if row[0].startswith("ease")]
    tab.click("button:text-is('none')")
    assert words_of(tab, "output") == "No run that is shown has both of these figures."
    tab.click("button:text-is('all')")
    assert "ease" in words_of(tab, "output")


def test_failures_stand_in_the_figure_and_say_why(visit, written):
    tab = drawn(visit(written))

    shown = tab.locator(".annotation").all_text_contents()
    tab.focus(".frame")
    tab.keyboard.press("End")

    assert sorted(text.strip() for text in shown) == ["deep skipped", "elfm timeout", "rglsvd OOM", "slim refused"]
    assert "refused (needs 729 GB)" in words_of(tab, ".tip")
    assert ["rglsvd", "OOM", "190 M expected", ""] in points_table(tab)
    assert ["deep", "skipped", "not known", ""] in points_table(tab)


def test_where_nothing_finished_the_failures_are_shown_and_the_other_figures_drawn(visit, realistic_records, tmp_path):
    failed = [r for r in realistic_records("gowalla") if r.status != "ok"]
    path = tmp_path / "report.html"
    path.write_bytes(page_bytes([*realistic_records(), *failed]))
    tab = visit(path)
    assert tab.locator("[data-chart]").count() == 1
    tab.locator("[data-chart]").scroll_into_view_if_needed()
    drawn(tab)
    assert tab.locator("section:has(#gowalla-fold-in) > figure > svg").count() == 2  # size and the other costs
    assert "refused (needs 729 GB)" in tab.text_content("section:has(#gowalla-fold-in) table.filterable")


def test_a_point_is_reached_by_the_keyboard_and_leads_to_its_run(visit, written):
    tab = drawn(visit(written))

    tab.focus(".frame")
    tab.keyboard.press("ArrowRight")
    assert "popularity ndcg@100: 0.2200 (95 % interval 0.2024 to 0.2376) parameters: 6.1 k" in words_of(tab, ".tip")
    assert "popularity" in tab.inner_text("[aria-live=polite]")
    tab.keyboard.press("Enter")

    tab.wait_for_selector("details.run[open]")
    assert tab.locator("details.run[open] > summary").inner_text() == "popularity · seed 0 · ok"
    assert tab.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_the_pointer_shows_a_point_and_a_click_keeps_it(visit, written):
    tab = drawn(visit(written))
    box = tab.locator(".scatterlayer .trace .points path").last.bounding_box()

    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector(".tip:not([hidden])")
    tab.mouse.down()
    tab.mouse.up()
    tab.mouse.move(5, 5)

    assert tab.get_attribute(".tip a", "href").startswith("#recscale-run-")
    tab.keyboard.press("Tab")
    tab.mouse.click(5, 5)
    tab.wait_for_selector(".tip", state="hidden")


def test_the_table_is_found_in_sorted_and_rid_of_failures(visit, written):
    tab = visit(written)
    rows = tab.locator("table.filterable tbody tr:visible")
    n_rows = rows.count()

    tab.check("label:has-text('hide 4 failures') input")
    assert rows.count() == n_rows - 4
    tab.fill("input[type=search]", "CHOL k=50")
    shown = tab.locator("table.filterable tbody tr:visible th[scope=row]")
    assert [text.strip() for text in shown.all_inner_texts()] == ["chol k=50"]
    assert words_of(tab, ".tools [role=status]") == f"1 of {n_rows} rows"
    tab.fill("input[type=search]", "wrmf")
    tab.click("table.filterable th button:text-is('parameters')")

    assert tab.get_attribute("table.filterable th:has-text('parameters')", "aria-sort") == "ascending"
    first = tab.locator("table.filterable tbody tr:visible th[scope=row]").all_inner_texts()
    assert [text.split()[-1] for text in first] == ["d=16", "d=32", "d=64", "d=128", "d=256"]


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1200, "dark")])
def test_nothing_is_wider_than_the_screen(visit, written, width, scheme):
    tab = drawn(visit(written, width, scheme))

    for fold in tab.locator("main details").all():
        fold.evaluate("fold => fold.open = true")

    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    assert dark == (scheme == "dark")


def test_light_and_dark_can_be_chosen(visit, written):
    tab = drawn(visit(written))

    tab.click("button:text-is('Dark')")

    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    assert tab.get_attribute(".theme", "aria-label") == "Show the page light"


def test_a_browser_that_cannot_unpack_the_library_still_has_answer_and_tables(visit, written, tmp_path):
    page = written.read_text().replace('id="recscale-library">', 'id="recscale-library">!')
    (tmp_path / "report.html").write_text(page)

    tab = visit(tmp_path / "report.html")

    tab.wait_for_selector("text=cannot unpack the figure")
    assert "chol k=200" in words_of(tab, "output")
    assert len(points_table(tab)) > 20


def test_hostile_names_are_shown_and_do_nothing(visit, sized_record, record, tmp_path):
    places = {
        "dataset": HOSTILE, "dataset_name": HOSTILE, "size_knob": HOSTILE, "device_requested": HOSTILE,
        "machine": {HOSTILE: HOSTILE}, "log_tail": [HOSTILE], "model_title": HOSTILE,
    }  # fmt: skip
    records = [
        record(HOSTILE, parameters={HOSTILE: n}, metrics={HOSTILE: 0.1 * n}, n_parameters=10**n, **places)
        for n in (1, 2, 3)
    ] + [record(HOSTILE, status="error", reason=HOSTILE, **places)]
    (tmp_path / "report.html").write_bytes(page_bytes(records))

    tab = visit(tmp_path / "report.html")
    tab.wait_for_selector("[data-drawn]", state="attached")
    tab.focus(".frame")
    seen = []
    for _ in range(4):
        tab.keyboard.press("ArrowRight")
        seen.append(tab.text_content(".tip"))
    points_table(tab)

    plain = re.sub(r"\s+", " ", HOSTILE)
    assert all(plain in re.sub(r"\s+", " ", text) for text in seen)
    assert tab.locator("img, b, iframe, :not(body) > script[src]").count() == 0
    kinds = "[...document.scripts].map(script => script.type).sort()"
    assert tab.evaluate(kinds) == ["", "", "application/json", "text/plain"]
    assert plain[:20] in tab.locator(".annotation").first.text_content()


@pytest.mark.slow
def test_a_thousand_runs_open_in_three_seconds_and_can_be_used(visit, sized_record, tmp_path):
    records = [
        sized_record(
            f"model_{i % 25:02}", "k", i // 25, score=0.2 + 0.0007 * i, n_parameters=1000 + 37 * i,
            log_tail=["a line of the log " * 5] * 20,
        )
        for i in range(1000)
    ]  # fmt: skip
    (tmp_path / "report.html").write_bytes(page_bytes(records))
    spent = "performance.getEntriesByType('navigation')[0].duration"

    # The best of three, and as much longer as the machine has more to do than it has cores: it is the page that counts.
    tabs = [visit(tmp_path / "report.html") for _ in range(3)]
    opened = min(tab.evaluate(spent) for tab in tabs)

    tab = drawn(tabs[-1])
    tab.fill("input[type=search]", "model_07 k=3")
    tab.click(".chip:has-text('model_24')")
    assert opened < 3_000 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert (tmp_path / "report.html").stat().st_size < 10_000_000
    assert tab.locator("table.filterable tbody tr:visible").count() == 11  # k=3 and k=30 to k=39
    assert "model_24" not in words_of(tab, "output")


def test_a_served_page_follows_the_store(visit, record, tmp_path):
    store = Store(tmp_path / "store", machine="m")
    live = LivePage(store.root, lambda version: page_bytes(store.records(), version=version))
    live.refresh()
    with make_server(live, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        tab = visit(f"http://127.0.0.1:{server.server_port}/")
        assert "no store at" in tab.inner_text("body")

        store.put(record("ease"))
        live.refresh()
        drawn(tab)
        tab.click(".chip")
        store.put(record("wrmf", score=0.4))
        live.refresh()

        tab.wait_for_selector(".chip:has-text('wrmf')")
        assert tab.get_attribute(".chip:has-text('ease')", "aria-pressed") == "false"
        tab.close()
        server.shutdown()
        thread.join()
