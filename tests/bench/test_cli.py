"""The command line: answers at once, one clear line and exit code 2 for bad input."""

import gzip
import json

import numpy as np
import pytest

from recscale.cli import main
from recscale.contract import Filter
from recscale.errors import UsageError
from recscale.registry import entries

CSV = "user,item,rating\n" + "".join(
    f"u{u},i{(u * 7 + j * 3) % 20},{1 + (u + j) % 5}\n" for u in range(60) for j in range(8)
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RECSCALE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_text(CSV)
    (tmp_path / "tuned.yaml").write_text("models: [ease]\ntune: {trails: 5}\n")
    return tmp_path


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code


WRONG_FLAGS = {
    "an unknown verb": (["rnu"], "Did you mean"),
    "an unknown flag": (["run", "-m", "ease", "--sede", "3"], "--sede"),
    "no model": (["run", "debian-depends"], "no model given"),
    "a model where data sets are named": (["run", "ease"], 'write -m "ease"'),
    "a file where data sets are named": (["run", "good.csv"], "write --data good.csv"),
    "an unknown model": (["run", "-m", "eas"], "did you mean 'ease'"),
    "an unknown parameter": (["run", "-m", "ease[l3=1]"], "did you mean 'l2'"),
    "a parameter that is no number": (["run", "-m", "ease[l2=much]"], "l2='much'"),
    "a parameter out of range": (["run", "-m", "ease[l2=-1]"], "l2='-1'"),
    "a size of zero": (["run", "-m", "ease[k=0]"], "k='0'"),
    "an unclosed bracket": (["run", "-m", "ease[l2=1"], "cannot read"),
    "an unknown data set": (["run", "debian-depend", "-m", "ease"], "did you mean 'debian-depends'"),
    "an unknown protocol": (["run", "-m", "ease", "--protocol", "foldin"], "did you mean 'fold-in'"),
    "a split that was never published": (["run", "-m", "ease", "--protocol", "fixed"], "no published split"),
    "an unknown metric": (["run", "-m", "ease", "--metric", "ndgc@10"], "did you mean 'ndcg"),
    "a metric without a cut-off": (["run", "-m", "ease", "--metric", "ndcg"], "ndcg"),
    "a cut-off of zero": (["run", "-m", "ease", "--metric", "ndcg@0"], "ndcg@0"),
    "a budget that is no amount": (["run", "-m", "ease", "--max-memory", "lots"], "'lots'"),
    "a budget of nothing": (["run", "-m", "ease", "--max-memory", "0GB"], "0GB"),
    "a duration that is none": (["run", "-m", "ease", "--timeout", "soon"], "'soon'"),
    "an unknown device": (["run", "-m", "ease", "--device", "tpu"], "tpu"),
    "nothing to tune": (["tune"], "no model given"),
    "a time of tuning that is none": (["tune", "-m", "ease", "--time", "long"], "'long'"),
    "no trials": (["tune", "-m", "ease", "--trials", "0"], "trials=0"),
    "an unknown sampler": (["tune", "-m", "ease", "--sampler", "grid"], "grid"),
    "no time to tune": (["tune", "-m", "ease", "--time", "0"], "'0' is no duration"),
    "an unknown pruner": (["tune", "-m", "ease", "--pruner", "hyperband"], "hyperband"),
    "no process that tunes": (["tune", "-m", "ease", "--workers", "0"], "workers=0"),
    "a suite that tunes wrongly": (["run", "--suite", "tuned.yaml"], "no key of tune named 'trails'; did you mean"),
    "an unknown metric to tune by": (["tune", "-m", "ease", "--by", "ndgc@10"], "did you mean 'ndcg"),
    "several trials at a time": (["tune", "-m", "ease", "-j", "2"], "one at a time"),
    "no jobs at a time": (["run", "-m", "ease", "-j", "0"], "at least one job"),
    "a seed that is no number": (["run", "-m", "ease", "--seeds", "x"], "seeds"),
    "a plug-in that is not there": (["run", "-m", "ease", "--plugin", "none.py"], "no plug-in file"),
    "an unknown profile": (["run-all", "--profile", "huge"], "huge"),
    "times of other machines": (["scale", "planted", "-m", "popularity", "--any-machine"], "no --any-machine"),
    "an unknown way to overwrite": (["run", "-m", "ease", "--overwrite", "maybe"], "maybe"),
    "columns without a file": (["run", "-m", "ease", "--user-column", "u"], "--data"),
    "a filter that leaves nothing": (["run", "--data", "good.csv", "-m", "ease", "--min-rating", "9"], "leaves"),
    "a name that is nothing": (["info", "eas"], "did you mean 'ease'"),
    "nothing to check": (["check"], "name a model"),
    "an explanation from no store": (["explain", "abcdef", "u1", "--store", "nowhere"], "no store"),
    "a list of what can be explained in no store": (["explain", "--store", "nowhere"], "no store"),
    "an explanation of no recommendation": (["explain", "abcdef", "u1", "--top", "0"], "top=0"),
    "a report of no store": (["report", "--store", "nowhere"], "no store"),
    "a report in an unknown format": (["report", "--format", "htm"], "did you mean 'html'"),
    "a report that is served and written": (["report", "--serve", "--format", "pdf"], "--serve writes no files"),
    "a port without a server": (["report", "--port", "8000"], "add --serve"),
    "a report served at no port": (["report", "--serve", "--port", "70000"], "--port 70000 is no port"),
    "a suite that is not there": (["run", "--suite", "none.yaml"], "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG_FLAGS)
def test_wrong_use_is_one_clear_line_and_exit_code_2(folder, capfd, name):
    arguments, expected = WRONG_FLAGS[name]

    code = call(*arguments)

    error = capfd.readouterr().err
    complaints = [line for line in error.splitlines() if line.startswith("recscale: ")]
    assert code == 2
    assert len(complaints) == 1 and expected in complaints[0], error
    assert "Traceback" not in error


def truncated_gzip():
    return gzip.compress(CSV.encode())[:-40]


WRONG_FILES = {
    "missing": (None, "data.csv", "data.csv"),
    "empty": (b"", "data.csv", "empty"),
    "header only": (b"user,item\n", "data.csv", ""),
    "without the columns": (b"a,b\n1,2\n", "data.csv", "user"),
    "truncated gzip": (truncated_gzip(), "data.csv.gz", ""),
    "no gzip": (CSV.encode(), "data.csv.gz", ""),
    "no parquet": (b"PAR1 not really", "data.parquet", ""),
    "truncated npz": (b"PK\x03\x04 not really", "data.npz", ""),
    "wrongly encoded": ("user,item\nJosé,ñ\n".encode("latin-1") * 5, "data.csv", ""),
    "an unknown kind": (CSV.encode(), "data.xlsx", "xlsx"),
    "missing users": (b"user,item\n,i1\nu2,i2\n", "data.csv", ""),
    "a rating that is no number": (b"user,item,rating\nu1,i1,good\nu2,i2,3\n", "data.csv", "'good'"),
    "a YAML entry with an unknown key": (b"path: x.csv\nuser_colum: u\n", "data.yaml", ""),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_file_that_cannot_be_used_is_one_clear_line_and_exit_code_2(folder, capfd, name):
    content, file_name, expected = WRONG_FILES[name]
    if content is not None:
        (folder / file_name).write_bytes(content)

    code = call("run", "--data", file_name, "-m", "popularity")

    error = capfd.readouterr().err
    complaints = [line for line in error.splitlines() if line.startswith("recscale: ")]
    assert code == 2, error
    assert len(complaints) == 1 and expected in complaints[0], error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("modles: [ease]\n", "did you mean 'models'"),
        ("models: [ease\n", "is not YAML"),
        ("- ease\n", "must be a mapping"),
        ("models: [ease]\nseeds: many\n", "seeds"),
        ("models: [{ease: {l2: 80}, popularity: {}}]\n", "expected one name"),
    ],
)
def test_a_wrong_suite_is_one_clear_line_and_exit_code_2(folder, capfd, content, expected):
    (folder / "suite.yaml").write_text(content)

    code = call("run", "--suite", "suite.yaml")

    error = capfd.readouterr().err
    assert code == 2
    assert expected in error and "Traceback" not in error


def test_a_store_that_cannot_be_made_is_one_clear_line(folder, capfd):
    (folder / "file").write_text("")

    assert call("run", "--data", "good.csv", "-m", "popularity", "--store", "file/store") == 2
    assert "cannot be written" in capfd.readouterr().err


def test_a_store_of_a_newer_schema_is_one_clear_line(folder, capfd):
    call("run", "--data", "good.csv", "-m", "popularity", "--store", "s")
    path = next((folder / "s").rglob("popularity-*.json"))
    path.write_text(json.dumps({"schema_version": 99}))

    assert call("report", "--store", "s") == 2
    assert "upgrade recscale" in capfd.readouterr().err


def test_a_run_ends_with_a_table_and_a_record(folder, capfd):
    code = call("run", "--data", "good.csv", "-m", "popularity", "--store", "s")

    printed = capfd.readouterr()
    assert code == 0
    assert "popularity" in printed.out and "ndcg@100" in printed.out
    assert len(list((folder / "s").rglob("popularity-*.json"))) == 1


def test_records_are_printed_as_json_lines_when_asked(folder, capfd):
    call("run", "--data", "good.csv", "-m", "popularity", "--store", "s", "--json")

    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [r["model"] for r in records] == ["popularity"]


def test_flags_lie_over_the_keys_of_a_suite(folder, capfd):
    (folder / "suite.yaml").write_text("datasets: [{file: {path: good.csv}}]\nmodels: [popularity]\nseeds: [3]\n")

    call("run", "--suite", "suite.yaml", "--seeds", "5", "--json", "--store", "s")

    assert json.loads(capfd.readouterr().out)["seed"] == 5


def test_strict_turns_a_failed_job_into_exit_code_1(folder, capfd):
    arguments = ["run", "--data", "good.csv", "-m", "ease", "--max-memory", "1kB", "--store", "s"]

    assert call(*arguments) == 0
    assert call(*arguments, "--strict") == 1


def test_a_plan_says_what_will_be_refused_and_runs_nothing(folder, capfd):
    call("plan", "--data", "good.csv", "-m", "ease", "-m", "popularity", "--max-memory", "1kB", "--store", "s")

    assert "refused: needs about" in capfd.readouterr().out
    assert not list((folder / "s").rglob("*.json"))


def test_own_columns_thresholds_and_separators_are_read(folder, capfd):
    rows = [line.split(",") for line in CSV.splitlines()[1:]]
    (folder / "own.tsv").write_text("who\twhat\tstars\n" + "\n".join("\t".join(r) for r in rows) + "\n")

    code = call(
        "prepare", "--data", "own.tsv", "--user-column", "who", "--item-column", "what", "--rating-column", "stars",
        "--min-rating", "3", "--json", "-m", "popularity", "--store", "s",
    )  # fmt: skip

    kept = sum(int(r[2]) >= 3 for r in rows)
    assert code == 0
    assert json.loads(capfd.readouterr().out)["prepared"]["n_interactions"] == kept


def test_a_file_without_a_header_is_read_by_the_numbers_of_its_columns(folder, capfd):
    rows = [line.split(",") for line in CSV.splitlines()[1:]]
    (folder / "bare.tsv").write_text("\n".join("\t".join(r) for r in rows) + "\n")

    call("prepare", "--data", "bare.tsv", "--no-header", "--user-column", "0", "--item-column", "1", "--json")

    assert json.loads(capfd.readouterr().out)["prepared"]["n_interactions"] == len({tuple(r[:2]) for r in rows})


@pytest.mark.parametrize(
    "verb",
    ["run", "run-all", "plan", "prepare", "list", "info", "report", "compare", "history", "explain", "check", "doctor"],
)
def test_every_verb_has_help_with_an_example(verb, capsys):
    code = call(verb, "--help")

    printed = capsys.readouterr().out
    assert code == 0
    assert f"recscale {verb}" in printed.split("xample")[-1]


def test_every_model_and_data_set_is_listed_with_its_source(capsys):
    call("list")

    models, datasets = capsys.readouterr().out.split("Data sets:\n")
    assert [line.split()[0] for line in models.splitlines()[1:]] == list(entries("model", ()))
    assert "Steck. Embarrassingly Shallow Autoencoders" in next(li for li in models.splitlines() if " ease " in li)
    assert all(len(line.split("  ")) > 3 for line in models.splitlines()[1:])
    assert "Celma 2010" in next(line for line in datasets.splitlines() if "lastfm-360k" in line)


def test_the_table_of_a_run_shows_the_key_by_which_a_record_is_explained(folder, capfd):
    call("run", "--data", "good.csv", "-m", "popularity", "--store", "s")
    (path,) = (folder / "s").rglob("popularity-*.json")
    key = path.stem.rpartition("-")[2]
    printed = capfd.readouterr().out

    code = call("explain", key[:8], "u1", "--store", "s")

    assert f"  {key[:8]}\n" in printed
    assert code == 2
    assert "has no co-clusters" in capfd.readouterr().err


def test_a_recommendation_is_explained_by_the_beginning_of_a_key(folder, capfd):
    call("run", "--data", "good.csv", "-m", "elfm[n_clusters=8,factors=4,epochs=2]", "--device", "cpu", "--store", "s")
    call("explain", "--store", "s", "--json")
    (listed,) = json.loads(capfd.readouterr().out.splitlines()[-1])

    codes = [call("explain", listed["key"][:6], "u1", "--store", "s", "--top", "2", *more) for more in ([], ["--json"])]
    *page, document = capfd.readouterr().out.splitlines()

    assert codes == [0, 0]
    assert "shares of the score" in "\n".join(page)
    assert len(json.loads(document)["recommendations"]) == 2
    assert call("explain", listed["key"][:6], "u1x", "--store", "s") == 2
    assert "no user 'u1x'; did you mean 'u1'" in capfd.readouterr().err


def test_info_shows_options_and_source(capsys):
    call("info", "popularity")
    call("info", "gowalla")

    printed = capsys.readouterr().out
    assert "size knob" in printed and "published split" in printed


def test_a_matrix_is_fitted_and_scored_in_three_lines():
    import recscale

    matrix = np.eye(6, dtype=int) + np.eye(6, k=1, dtype=int)
    model = recscale.model("popularity").fit(matrix)

    assert model.score(matrix[:2]).shape == (2, 6)


def test_python_reads_names_with_options_as_the_command_line_does(tmp_path):
    import recscale

    path = tmp_path / "log.csv"
    path.write_text("user,item\n" + "".join(f"u{u},i{(u + k) % 7}\n" for u in range(40) for k in range(5)))

    whole = recscale.dataset("file", path=str(path))
    half = recscale.dataset(f"file[path={path},users=0.5]")
    fewer = recscale.dataset("file", path=str(path), filter=Filter(drop_top_items=1))
    split = recscale.split(whole, "fold-in[n_heldout=3]")

    assert (whole.interactions.shape[0], half.interactions.shape[0]) == (40, 20)
    assert fewer.interactions.shape == (40, 6)
    assert split.test.n_users == recscale.split(whole, n_heldout=3).test.n_users == 3
    assert recscale.model("ease[l2=7]") == recscale.model("ease", l2=7)
    for call in (lambda: recscale.model("ease[l2=7,8]"), lambda: recscale.split(whole, "fold-in[n_heldout=3,4]")):
        with pytest.raises(UsageError, match="takes one value, not 2"):
            call()
