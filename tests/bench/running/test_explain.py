"""What a user gets is traced back to the co-clusters that gave it, by the model of the record and no other."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

import recscale
from recscale import api
from recscale.errors import DataError, DeviceUnavailable, ModelError, RecscaleError, UnknownName, UsageError
from recscale.evaluation.ranking import rank
from recscale.evaluation.split_file import load_split
from recscale.records.store import Store
from recscale.running import explain as module
from recscale.running import explain_printing
from recscale.running.display import Silent
from recscale.running.prepare import find_prepared
from recscale.running.references import resolve_data

LONELY = "u8x"  # whose id sorts to where validation users are drawn: no user of training has its only item
ELFM = "elfm[n_clusters=8,factors=4,epochs=2]"
CLUSTERED = '''
from dataclasses import dataclass
import numpy as np
from recscale.contract import FitContext, Model, ModelSpec

@dataclass
class Known(Model):
    """Two co-clusters, of the even items and of the odd ones; the scores are twice the overlap."""
    bad: str = ""
    def fit(self, train, context=FitContext()):
        self.n_ = np.array([train.shape[1]])
        return self
    def item_affinity(self):
        places = np.arange(self.n_[0])
        even, odd = (places % 2 == 0) * (1 + places), (places % 2 == 1) * 3 - 1.0
        return np.stack([even, odd], axis=1).astype(np.float32)
    def user_affinity(self, history):
        found = np.tile(np.array([[4.0, 2.0]], np.float32), (history.shape[0], 1))
        return found[:, :1] if self.bad == "shape" else found
    def score(self, history):
        overlap = np.minimum(np.array([4.0, 2.0]), np.maximum(self.item_affinity(), 0)).sum(axis=1)
        return np.tile(2 * overlap.astype(np.float32), (history.shape[0], 1))
    def state(self): return {"n": self.n_}
    def load_state(self, state): self.n_ = state["n"]; return self

SPEC = ModelSpec(model=Known, title="Known", cite="none")
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a csv of 60 users and 20 items, and a store with three records of it."""
    folder = tmp_path_factory.mktemp("explain")
    rng = np.random.default_rng(0)
    lines = ["user,item"] + [f"u{u},i{i}" for u in range(60) for i in rng.choice(20, size=8, replace=False)]
    (folder / "data, of=mine.csv").write_text("\n".join(lines) + f"\n{LONELY},nowhere\n")
    (folder / "known.py").write_text(CLUSTERED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECSCALE_CACHE", str(folder / "cache"))
        run(folder, ELFM, "popularity", "known")
        yield folder


@pytest.fixture
def cache(place, monkeypatch):
    monkeypatch.setenv("RECSCALE_CACHE", str(place / "cache"))
    return place


def run(folder, *models, **suite):
    data = {"file": {"path": str(folder / "data, of=mine.csv")}}
    plugins = [str(folder / "known.py")]
    suite = {"protocol": "hold-one-out", "device": "cpu"} | suite
    return recscale.run(data, store=folder / "s", progress=False, models=list(models), plugins=plugins, **suite)


def record_of(folder, model):
    (record,) = [r for r in Store(folder / "s").records() if r.model == model]
    return record


@pytest.fixture
def altered(cache):
    """Return a function that puts a record with some changes into the store for one test and returns its key."""
    paths = []

    def put(record, **changes):
        changed = msgspec.structs.replace(record, **({"key": "d" * 64} | changes))
        paths.append(Store(cache / "s", "altered").put(changed))
        return changed.key

    yield put
    for path in paths:
        path.unlink()


def explain(folder, key, user, **options):
    options = {"plugins": [str(folder / "known.py")]} | options
    return api.explain(key[:8], user, store=folder / "s", progress=False, **options)


def split_of(record):
    reference = module._data_reference(record, ())
    return load_split(Path(find_prepared(resolve_data(reference, record.protocol, []), []).split_path))


def data_of(record):
    return recscale.dataset("file", **module._data_reference(record, ())["file"])


@pytest.fixture
def elfm(cache):
    return record_of(cache, "elfm")


@pytest.fixture
def known(cache):
    return record_of(cache, "known")


def test_the_contributions_of_elfm_are_parts_of_its_score(cache, elfm):
    explanation = explain(cache, elfm.key, "u7", clusters=8, top=4)

    assert explanation.shares_of == "score"
    assert len(explanation.recommendations) == 4
    for one in explanation.recommendations:
        assert one.overlap == pytest.approx(one.score, rel=1e-5)
        assert sum(share.affinity for share in one.clusters) == pytest.approx(one.score, rel=1e-5)
        assert sum(share.share for share in one.clusters) == pytest.approx(1)
        assert [s.affinity for s in one.clusters] == sorted((s.affinity for s in one.clusters), reverse=True)


def test_shares_and_items_are_those_worked_out_by_hand(cache, known):
    explanation = explain(cache, known.key, "u7", top=20)

    numbers = {item: place for place, item in enumerate(vocabulary(known))}
    assert explanation.shares_of == "overlap"
    for one in explanation.recommendations:
        place = numbers[one.item.id]
        by_hand = {0: min(4, 1 + place)} if place % 2 == 0 else {1: 2}
        assert {share.cluster: share.affinity for share in one.clusters} == by_hand
        assert one.score == 2 * one.overlap == 2 * sum(by_hand.values())
    first = explanation.clusters[0]
    assert (first.cluster, first.affinity, first.share) == (0, 4, pytest.approx(4 / 6))
    assert [numbers[item.id] for item in first.items] == [18, 16, 14, 12, 10, 8, 6, 4, 2, 0]


def vocabulary(record):
    return [str(id) for id in data_of(record).item_ids[split_of(record).items]]


def test_recommendations_are_ranked_as_in_every_measurement_and_ties_too(cache, known):
    split = split_of(known)
    user, ids = int(split.users[0]), vocabulary(known)
    loaded = recscale.model("known", plugins=[str(cache / "known.py")]).fit(split.train)
    history, target = split.test.history[:1], split.test.target[:1]

    ranking = rank(loaded.score(history), history, target, k=7)
    data = data_of(known)
    explanation = explain(cache, known.key, str(data.user_ids[user]), top=7)

    assert [one.item.id for one in explanation.recommendations] == [ids[i] for i in ranking.items[0]]
    assert [t.rank for t in explanation.targets] == [ranking.first_rank[0]]
    assert [one.is_target for one in explanation.recommendations] == ranking.hits[0].tolist()
    assert {item.id for item in explanation.history} == {ids[i] for i in history.indices}


def test_a_user_that_was_not_held_out_has_its_whole_row_as_history(cache, known):
    split, ids = split_of(known), vocabulary(known)
    data = data_of(known)
    row = next(r for r in range(60) if r not in split.users and data.user_ids[r] != LONELY)

    explanation = explain(cache, known.key, str(data.user_ids[row]), top=20)

    items = {str(data.item_ids[i]) for i in data.interactions[[row]].indices} & set(ids)
    assert {item.id for item in explanation.history} == items
    assert explanation.targets is None
    assert {one.item.id for one in explanation.recommendations} == set(ids) - items


def test_the_model_is_fitted_once_and_then_kept(cache, elfm, monkeypatch):
    first = explain(cache, elfm.key, "u3")
    (kept,) = (cache / "s" / ".models").glob(f"{elfm.key}*")

    monkeypatch.setattr(module, "WorkerProcess", None)  # a second fit would raise
    second = explain(cache, elfm.key, "u3")

    assert kept.name == f"{elfm.key}.npz"
    assert second == first
    assert not list((cache / "s" / ".work").iterdir())
    assert len(Store(cache / "s").records()) == 3


def test_the_model_fitted_again_is_the_one_that_was_measured(cache, elfm):
    split = split_of(elfm)
    data = data_of(elfm)
    ranks = [explain(cache, elfm.key, str(data.user_ids[u])).targets[0].rank for u in split.users]

    measured = Store(cache / "s").per_user(elfm)["mrr"]
    np.testing.assert_allclose(1 / np.array(ranks), measured, rtol=1e-5)


def test_changed_code_is_a_warning_and_keeps_its_own_model(cache, known):
    path = cache / "known.py"
    before = path.read_text()
    path.write_text(before.replace("[4.0, 2.0]", "[5.0, 2.0]"))
    try:
        explanation = explain(cache, known.key, "u7")
    finally:
        path.write_text(before)

    assert explanation.clusters[0].affinity == 5
    assert "code of known has changed" in explanation.warnings[0]
    assert explain(cache, known.key, "u7").clusters[0].affinity == 4
    assert explain(cache, known.key, "u7").warnings == ()


def test_another_split_than_that_of_the_record_is_an_error(cache, elfm, altered):
    key = altered(elfm, split_fingerprint="other")

    with pytest.raises(DataError, match="is split otherwise than when record dddddddd was made"):
        explain(cache, key, "u7")


def test_a_device_that_is_not_here_is_an_error_with_the_remedy(cache, elfm, altered):
    key = altered(elfm, device_used="cuda:7")

    with pytest.raises(DeviceUnavailable, match=r"fitted on cuda, .*--device cpu"):
        explain(cache, key, "u7")


def test_the_model_of_a_record_is_the_same_on_any_gpu(cache, elfm):
    used = [msgspec.structs.replace(elfm, device_used=f"cuda:{place}") for place in (0, 3)]
    jobs = [module._job_again(record, Store(cache / "s"), (), Silent()) for record in used]

    assert jobs[0].key == jobs[1].key == msgspec.structs.replace(jobs[0], device="cuda:3").key


def test_a_fit_that_fails_is_an_error_with_its_reason(cache, known):
    path = cache / "known.py"
    before = path.read_text()
    path.write_text(before.replace("self.n_ = np", "raise ValueError('this model is wrong'); self.n_ = np"))
    try:
        with pytest.raises(RecscaleError, match="could not be fitted again: ValueError: this model"):
            explain(cache, known.key, "u7")
    finally:
        path.write_text(before)

    assert not list((cache / "s" / ".work").iterdir())


WRONG = {
    "a failed record": ("failed", "u7", r"failed \(timeout: too long\)"),
    "a model without co-clusters": ("popularity", "u7", "has no co-clusters; models with co-clusters.*elfm.*known"),
    "an unknown user": ("elfm", "u77", "no user 'u77'; did you mean 'u7'.*is, for example, 'u"),
    "no user": ("elfm", None, "name a user .* for example, 'u"),
    "a user that shares no item": ("elfm", LONELY, "has no known item in this split"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_explained_is_said_in_one_line(cache, elfm, altered, name):
    model, user, expected = WRONG[name]
    is_failed = model == "failed"
    key = altered(elfm, status="timeout", reason="too long") if is_failed else record_of(cache, model).key
    options = module.ExplainOptions(plugins=(str(cache / "known.py"),))

    with pytest.raises(UsageError, match=expected) as raised:
        module.explain(Store(cache / "s", "m"), key[:8], user, options, Silent())

    assert "\n" not in str(raised.value)


def test_a_user_that_the_filter_leaves_out_is_told_from_one_that_never_was(cache, known):
    reference = module._data_reference(known, ())
    data = data_of(known)
    few = recscale.dataset("file", **reference["file"], filter="5-core")

    with pytest.raises(UsageError, match=f"leaves user {LONELY!r} out"):
        module._row_of(LONELY, few, data, resolve_data(reference, "hold-one-out", []))


def test_a_model_whose_affinities_do_not_match_is_an_error(cache, known, altered):
    key = altered(known, parameters={"bad": "shape"})

    with pytest.raises(ModelError, match="gives affinities"):
        explain(cache, key, "u7")


def test_a_damaged_kept_model_is_an_error_with_the_remedy(cache, known):
    explain(cache, known.key, "u7")
    kept = cache / "s" / ".models" / f"{known.key}.npz"
    kept.write_bytes(b"PK not a model")

    with pytest.raises(ModelError, match="delete it"):
        explain(cache, known.key, "u7")
    kept.unlink()


def test_an_option_that_does_not_exist_or_fit_is_an_error(cache, elfm):
    with pytest.raises(UnknownName, match="did you mean 'top'"):
        explain(cache, elfm.key, "u7", topp=3)
    with pytest.raises(UsageError, match="top=0"):
        explain(cache, elfm.key, "u7", top=0)


def test_records_that_can_be_explained_are_listed(cache, elfm):
    listed = module.explainable(Store(cache / "s"), [str(cache / "known.py")])

    assert sorted(record.model for record in listed) == ["elfm", "known"]
    assert [record.key for record in module.explainable(Store(cache / "s"))] == [elfm.key]


@pytest.mark.parametrize("width", [80, 160])
def test_the_printed_page_keeps_to_the_width_and_names_everything(cache, elfm, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    explanation = explain(cache, elfm.key, "u7")
    long = replace(explanation, history=tuple(replace(i, name=f"[b]{i.name}[/b]") for i in explanation.history))

    explain_printing.print_explanation(long, as_json=False)

    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert all(one.item.name in printed for one in explanation.recommendations)
    assert long.history[0].name in printed  # what looks like markup is printed as it is
    assert "shares of the score" in printed


def test_json_is_one_document_with_the_same_content(cache, elfm, capsys):
    explanation = explain(cache, elfm.key, "u7")

    explain_printing.print_explanation(explanation, as_json=True)

    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(msgspec.json.encode(explanation))
    assert told["recommendations"][0]["clusters"][0]["items"][0]["name"].startswith("i")
    assert told["key"] == elfm.key


@pytest.mark.parametrize(("patience", "expected"), [(60.0, ""), (0.0, "preparing file")])
def test_what_takes_long_is_said_and_nothing_else(capsys, monkeypatch, known, patience, expected):
    monkeypatch.setattr(explain_printing, "PATIENCE_SECONDS", patience)
    patient = explain_printing.Patient()

    patient.preparing(resolve_data(module._data_reference(known, ()), "hold-one-out", []))
    patient._timer.join(timeout=0.3)
    patient.closed()

    told = capsys.readouterr().err
    assert told.startswith(expected) and bool(told) == bool(expected)
