"""The floors of the house, held by reading the source."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "errors": 0,
    "_parameters": 1,
    "_state": 1,
    "checkpoint": 1,
    "contract": 2,
    "abilities": 3,
    "registry": 4,
    "models": 4,
    "datasets": 4,
    "evaluation": 4,
    "measuring": 4,
    "records": 4,
    "running": 5,
    "reporting": 5,
    "testing": 5,
    "_flags": 5,
    "_jobs": 6,
    "_report": 6,
    "api": 7,
    "cli": 7,
    "__main__": 8,
}
SHARED_ON_A_FLOOR = {("running", "testing")}  # `recscale check` prints what the conformance suite found
MAY_IMPORT_TORCH = {"bench/running/measurement.py", "bench/evaluation/ranking.py", "bench/evaluation/_torch_ranking.py"}
HEAVY = {"torch", "implicit", "sklearn", "matplotlib", "pandas", "pyarrow", "ray"}
SOURCES = sorted(p for folder in ("bench", "models", "datasets") for p in (ROOT / folder).rglob("*.py"))


def part_of(path: Path) -> str:
    """Return the part of the house that a file belongs to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "bench" else parts[0]


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Return the imported modules of a file, each with whether the import stands at the top of the module."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.body
        for inner in ast.walk(child)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node in tree.body) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(f"{node.module}.{alias.name}", node in tree.body) for alias in node.names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_an_import_only_ever_points_down(path):
    part = part_of(path)
    if part == "__init__":
        return

    for module, _ in imports_of(path):
        parts = module.split(".")
        if parts[0] != "recscale" or len(parts) < 2 or parts[1] not in FLOORS:
            continue
        same_part = parts[1] == part
        allowed = same_part or FLOORS[parts[1]] < FLOORS[part] or (part, parts[1]) in SHARED_ON_A_FLOOR
        assert allowed, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_torch_is_imported_only_where_it_may_be(path):
    name = str(path.relative_to(ROOT))
    if name in MAY_IMPORT_TORCH or name.startswith("models/"):
        return

    assert not [module for module, _ in imports_of(path) if module.split(".")[0] == "torch"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_are_never_imported_at_the_top_of_a_listed_module(path):
    part = part_of(path)
    if part == "reporting":
        return

    assert not [module for module, at_top in imports_of(path) if at_top and module.split(".")[0] in HEAVY]


def test_reports_need_neither_the_registry_nor_torch_nor_a_model():
    forbidden = {"registry", "models", "datasets", "running", "evaluation"}

    for path in (ROOT / "bench" / "reporting").glob("*.py"):
        for module, _ in imports_of(path):
            parts = module.split(".")
            assert parts[0] != "torch"
            assert not (parts[0] == "recscale" and len(parts) > 1 and parts[1] in forbidden), (path.name, module)


def test_the_harness_names_no_model_and_no_data_set():
    names = {p.stem for p in (ROOT / "models").glob("[!_]*.py")} - {"file"}

    for path in (ROOT / "bench").rglob("*.py"):
        for module, _ in imports_of(path):
            assert not any(module.startswith(f"recscale.{kind}.{n}") for kind in ("models", "datasets") for n in names)
            assert not module.startswith(("recscale.models.", "recscale.datasets.")), (path.name, module)


def test_every_package_on_disk_is_packaged():
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    on_disk = {"recscale", "recscale.models", "recscale.datasets"}
    on_disk |= {f"recscale.{p.parent.name}" for p in (ROOT / "bench").glob("*/__init__.py")}

    assert listed == on_disk


def test_no_module_takes_the_name_of_a_mapped_package():
    assert not (ROOT / "bench" / "models.py").exists()
    assert not (ROOT / "bench" / "datasets.py").exists()


def test_every_top_level_entry_is_one_that_the_house_has():
    allowed = {
        "bench", "models", "datasets", "results", "tests", "tox.ini", "pyproject.toml", "README.md", "LICENSE",
        "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "docs",
    }  # fmt: skip
    leftovers = {"build", "dist"}

    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".") and p.suffix != ".egg-info"}

    assert found - leftovers <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short_enough_to_be_read(path):
    text = path.read_text()
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > 60]

    assert text.count("\n") <= 400
    assert not long


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_every_model_has_a_specification_and_a_test_of_its_own(path):
    assert "SPEC = ModelSpec(" in path.read_text()
    assert (ROOT / "tests" / "models" / f"test_{path.stem}.py").is_file()
