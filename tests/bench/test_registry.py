"""Plug-ins are found by file name, entry point and path."""

import subprocess
import sys

import pytest

from recscale import registry
from recscale.errors import UnknownName, UsageError

PLUGIN = '''
from dataclasses import dataclass
from recscale.contract import FitContext, Model, ModelSpec

@dataclass
class Mine(Model):
    """Mine."""
    def fit(self, train, context=FitContext()): return self
    def score(self, history): return history.toarray()
    def state(self): return {}
    def load_state(self, state): return self

SPEC = ModelSpec(model=Mine, title="My model", cite="me", devices=("cpu",))
'''


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "my_model.py"
    path.write_text(PLUGIN)
    return path


def test_a_file_given_by_path_is_a_model_of_its_name(plugin):
    assert registry.entries("model", [plugin])["my_model"].title == "My model"
    assert registry.model_spec("my-model", [plugin]).cite == "me"


def test_built_in_models_and_data_sets_are_their_files():
    assert "popularity" in registry.entries("model")
    assert "debian-depends" in registry.entries("dataset")
    assert not [name for name in registry.entries("model") if name.startswith("_")]


def test_hyphens_and_underscores_are_the_same_letter():
    assert registry.find("dataset", "debian_depends").name == "debian-depends"
    assert registry.find("model", "item-knn").name == "item_knn"


def test_an_unknown_name_gets_the_nearest_known_one():
    with pytest.raises(UnknownName, match="no model named 'populrity'; did you mean 'popularity'"):
        registry.find("model", "populrity")


def test_two_plug_ins_of_one_name_are_an_error(tmp_path):
    clash = tmp_path / "popularity.py"
    clash.write_text(PLUGIN)

    with pytest.raises(UsageError, match="two models are named 'popularity'"):
        registry.entries("model", [clash])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n", "is no plug-in"),
        ("def broken(:\n", "does not parse"),
        ("SPEC = ModelSpec()\n", "raised NameError"),
        ("import nothing_of_that_name\nSPEC = ModelSpec()\n", "raised ModuleNotFoundError"),
        ("ModelSpec = dict\nSPEC = ModelSpec()\n", "has no SPEC of class ModelSpec"),
    ],
)
def test_a_file_that_is_no_plug_in_says_why(tmp_path, content, message):
    path = tmp_path / "odd.py"
    path.write_text(content)

    with pytest.raises(UsageError, match=message):
        registry.model_spec("odd", [path])


def test_a_missing_plug_in_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no plug-in file"):
        registry.entries("model", [tmp_path / "none.py"])


def test_the_code_fingerprint_changes_with_the_file_and_its_helpers(plugin):
    before = registry.code_fingerprint(registry.find("model", "my_model", [plugin]))
    helper = plugin.with_name("_helper.py")
    helper.write_text("x = 1\n")
    plugin.write_text(PLUGIN + "\nimport _helper\n")
    with_helper = registry.code_fingerprint(registry.find("model", "my_model", [plugin]))
    helper.write_text("x = 2\n")
    changed = registry.code_fingerprint(registry.find("model", "my_model", [plugin]))

    assert len({before, with_helper, changed}) == 3


def test_what_a_plug_in_imports_of_recscale_counts_with_its_helpers(plugin, tmp_path, monkeypatch):
    ours = tmp_path / "installed" / "ours"
    ours.mkdir(parents=True)
    for name, content in {"__init__": "", "base": "from ours._helper import x\n", "_helper": "x = 1\n"}.items():
        (ours / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(ours.parent)
    monkeypatch.setitem(registry._PACKAGES, "model", "ours")
    found = []
    for imports, x in (("", 1), ("from ours.base import x\n", 1), ("from ours.base import x\n", 2)):
        plugin.write_text(imports + PLUGIN)
        (ours / "_helper.py").write_text(f"x = {x}\n")
        found.append(registry.code_fingerprint(registry.Entry("model", "my_model", "", plugin, "a plug-in")))

    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("before", "after", "is_decisive"),
    [
        ("x = 1\n", "x = 1  # one\n\n\n# two\n", False),
        ("x = '# 1'\n", "x = '# 2'\n", True),
        ("x = 1\n", '"""What it does."""\n\nx = 1\n', False),
        ("def f():\n    return 1\n", 'def f():\n    """One.\n\n    Or so.\n    """\n    return 1\n', False),
        ("def f():\n    return 1\n", "def f():\n    return 2\n", True),
        ("def needs(model, shape):\n    return 1\n", "def needs(model, shape):\n    return 2\n", False),
        ("def estimate(model, shape):\n    return 1\n", "def estimate(model, shape):\n    return 2\n", True),
        ('def f(): "One."\n', 'def f(): "Two."\n', True),
    ],
)
def test_what_decides_no_result_does_not_change_the_code_fingerprint(tmp_path, before, after, is_decisive):
    path, found = tmp_path / "my_model.py", []
    for content, title in ((before, "one"), (after, "two")):
        path.write_text(f"{content}SPEC = ModelSpec(\n    title={title!r},\n    estimate=needs,\n)\n")
        found.append(registry.code_fingerprint(registry.find("model", "my_model", [path])))

    assert (found[0] != found[1]) == is_decisive


def test_the_estimate_of_a_helper_module_counts(plugin):
    plugin.with_name("_helper.py").write_text("def needs():\n    return 1\n")
    plugin.write_text(PLUGIN + "\nimport _helper\n")
    before = registry.code_fingerprint(registry.find("model", "my_model", [plugin]))
    plugin.with_name("_helper.py").write_text("def needs():\n    return 2\n")

    assert registry.code_fingerprint(registry.find("model", "my_model", [plugin])) != before


@pytest.mark.parametrize(
    ("imported_by", "counts"),
    [
        ("def needs():\n    import _helper\n", False),
        ("from _helper import needs\n", False),
        ("from _helper import needs, x\n", True),
        ("import _helper\n", True),
    ],
)
def test_what_the_estimate_alone_imports_decides_no_result(tmp_path, imported_by, counts):
    path, helper, found = tmp_path / "my_model.py", tmp_path / "_helper.py", []
    path.write_text(f"{imported_by}SPEC = ModelSpec(\n    title='one',\n    estimate=needs,\n)\n")
    for content in ("x = 1\n", "x = 2\n"):
        helper.write_text(content)
        found.append(registry.code_fingerprint(registry.find("model", "my_model", [path])))

    assert (found[0] != found[1]) == counts


def test_listing_imports_neither_numpy_nor_torch():
    code = "import sys; from recscale import registry; registry.entries('model'); registry.entries('dataset')"
    code += "; print([m for m in ('numpy', 'torch', 'pandas', 'scipy') if m in sys.modules])"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"
