import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import recscale
from recscale.registry import model_spec
from recscale.testing.conformance import assert_conforms

ROOT = Path(__file__).parent.parent
SITE = yaml.safe_load((ROOT / "docs" / "site" / "mkdocs.yml").read_text())
# name of a module -> options of its part of the reference
REFERENCE = {
    name: (yaml.safe_load(options) or {}).get("options", {})
    for page in sorted((ROOT / "docs" / "api").glob("*.md"))
    for name, options in re.findall(r"^::: (\S+)\n((?:    .*\n)*)", page.read_text() + "\n", flags=re.MULTILINE)
}
HEAVY = {"torch", "implicit", "sklearn", "matplotlib", "pandas", "pyarrow", "ray"}


def pages_of(nav):
    """Return the pages of a part of the navigation, whatever sections they are in."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages_of(part)]


def python_examples(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_every_page_is_in_the_navigation_once():
    pages = [p for pattern in SITE["extra"]["files"] for p in ROOT.glob(pattern) if p.suffix == ".md"]

    assert sorted(pages_of(SITE["nav"])) == sorted(p.relative_to(ROOT).as_posix() for p in pages)
    assert set((ROOT / "docs").rglob("*.md")) <= set(pages)


@pytest.mark.parametrize("name", REFERENCE)
def test_what_the_reference_lists_exists_and_says_what_it_is(name):
    module = importlib.import_module(name)
    public = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == name and key[0] != "_"]
    listed = REFERENCE[name].get("members", public)

    assert listed
    for member in listed:
        found = getattr(module, member)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert found.__doc__, member
            assert not found.__doc__.startswith(f"{member}("), member  # what a dataclass without a docstring gets


def test_the_whole_of_the_public_modules_is_in_the_reference():
    for part in ("api", "contract", "abilities", "checkpoint", "errors"):
        assert "members" not in REFERENCE[f"recscale.{part}"]

    assert set(recscale.__all__) - {"__version__"} == set(importlib.import_module("recscale.api").__all__)


def test_the_modules_of_the_reference_are_imported_without_heavy_packages():
    code = f"import sys, {', '.join(REFERENCE)}; print(*sorted({HEAVY} & set(sys.modules)))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.split() == []


def test_the_example_of_a_model_passes_the_conformance_suite(tmp_path):
    (example,) = python_examples("CONTRIBUTING.md")
    path = tmp_path / "pure_svd.py"
    path.write_text(example)

    assert_conforms(model_spec("pure_svd", [str(path)]))


def test_the_example_of_the_pieces_runs(capsys):
    _, example = python_examples("docs/api/index.md")
    names = {}

    exec(example, names)

    assert names["scores"].shape == (10, names["split"].train.shape[1])
    assert "ndcg@100" in capsys.readouterr().out
