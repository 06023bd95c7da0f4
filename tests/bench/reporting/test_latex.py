import pytest

from recscale.reporting.comparisons import compare
from recscale.reporting.latex import WIDEST, best_of_each, escape_latex, fragment, in_parts
from recscale.reporting.page import write_report
from recscale.reporting.tables import Cell, Column, Grid, build_table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("item_knn", r"item\_knn"),
        ("100 %", r"100 \%"),
        ("a & b # c $ d", r"a \& b \# c \$ d"),
        ("\\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("x^2 ~ y", r"x\textasciicircum{}2 \textasciitilde{} y"),
        ("< .001 ***", r"\textless{} .001 {*}{*}{*}"),
        ("[1] -- two\nlines", r"{[}1{]} {-}{-} two lines"),
        ("12 µs ± 3", r"12 \textmu{}s $\pm$ 3"),
    ],
)
def test_text_is_printed_as_it_is(text, expected):
    assert escape_latex(text) == expected


def test_a_table_is_a_tabular_of_booktabs():
    grid = Grid(
        title="t",
        columns=(Column("model", is_number=False), Column("ndcg@10")),
        rows=(
            (Cell("a_b", note="k=5"), Cell("0.5000", 0.5, is_best=True, note="***")),
            (Cell("c"), Cell("0.4000", 0.4, is_second=True)),
        ),
    )

    assert fragment(grid).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"model & ndcg@10 \\",
        r"\midrule",
        r"a\_b {\footnotesize k=5} & \textbf{0.5000} {\footnotesize {*}{*}{*}} \\",
        r"c & \underline{0.4000} \\",
        r"\bottomrule",
        r"\end{tabular}%",
    ]


def test_the_table_of_a_comparison_has_the_best_of_each_model_and_the_failures(realistic_records):
    (comparison,) = compare(realistic_records())

    grid = best_of_each(build_table(comparison))

    assert [column.heading for column in grid.columns] == [
        "model", "ndcg@100", "recall@50", "parameters", "bytes", "peak memory of fit", "fit",
    ]  # fmt: skip
    rows = {row[0].text: row for row in grid.rows}
    assert len(rows) == len(grid.rows) == len(comparison.by_model())
    assert rows["chol"][0].note == "k=400"
    assert rows["rglsvd"][1].text == "OOM"


def test_each_comparison_and_matrix_is_a_file_and_one_document_shows_them_all(realistic_records, tmp_path):
    records = [*realistic_records(), *realistic_records("gowalla")]

    written = write_report(records, tmp_path, formats=("tex",))

    names = {path.name for path in written}
    assert {"models-by-data-set-fold-in.tex", "debian-depends-fold-in.tex", "gowalla-fold-in.tex"} < names
    document = (tmp_path / "report.tex").read_text()
    for name in names - {"report.tex"}:
        assert f"\\input{{{name.removesuffix('.tex')}}}" in document
        text = (tmp_path / name).read_text()
        body = [line for line in text.splitlines() if line.endswith(r"\\")]
        n_columns = len(text.partition("}{")[2].partition("}")[0])
        assert all(line.replace(r"\&", "").count("&") == n_columns - 1 for line in body)


def test_hostile_names_leave_the_braces_balanced(record, tmp_path):
    hostile = "}\\end{tabular}\\input{/etc/passwd}%{$"

    write_report([record(hostile, dataset=hostile, metrics={hostile: 0.5})], tmp_path, formats=("tex",))

    text = (tmp_path / "end-tabular-input-etc-passwd-fold-in.tex").read_text().partition("\n")[2]
    assert text.count(r"\end{tabular}") == 1
    assert "\\input" not in text
    assert text.replace(r"\{", "").count("{") == text.replace(r"\}", "").count("}")


def test_a_table_too_wide_for_a_page_is_parts_that_each_name_their_rows():
    columns = (Column("model", is_number=False), *(Column(f"c{i}") for i in range(WIDEST + 2)))
    grid = Grid(title="wide", columns=columns, rows=((Cell("ease"), *(Cell(str(i)) for i in range(WIDEST + 2))),))

    parts = in_parts(grid)

    assert [part.title for part in parts] == ["wide, part 1 of 2", "wide, part 2 of 2"]
    assert [column.heading for column in parts[1].columns] == ["model", f"c{WIDEST}", f"c{WIDEST + 1}"]
    assert [cell.text for cell in parts[1].rows[0]] == ["ease", str(WIDEST), str(WIDEST + 1)]
    assert in_parts(parts[1]) == [parts[1]]
