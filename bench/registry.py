"""Finds models and data sets by name, without a list to edit and without importing what is not asked for.

A plug-in is a Python file that assigns `SPEC = ModelSpec(...)` or `SPEC = DatasetSpec(...)`. Three places are
looked at: the files of `recscale.models` and `recscale.datasets`, the entry points of the same names that other
packages declare, and files given by path (`--plugin`). The name of the file is the name of the plug-in; `-` and `_`
are the same letter in it. Titles and citations are read from the source text, so listing imports nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import io
import sys
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from recscale.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from recscale.contract import DatasetSpec, ModelSpec

Kind = Literal["model", "dataset"]
_PACKAGES: dict[str, str] = {"model": "recscale.models", "dataset": "recscale.datasets"}
_SPEC_CLASSES: dict[str, str] = {"model": "ModelSpec", "dataset": "DatasetSpec"}
_DESCRIBED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef  # may have a docstring
_TITLES: dict[str, str] = {"model": "model", "dataset": "data set"}


@dataclass(frozen=True)
class Entry:
    """One plug-in: its name, and where it comes from."""

    kind: Kind
    name: str
    module: str  # dotted name, or the path of a file
    path: Path | None  # its source, where there is one
    origin: str  # "built in", "entry point of <package>" or "plug-in"

    @functools.cached_property
    def literals(self) -> Mapping[str, Any]:
        """The keywords of its SPEC that are literals, read when they are asked for: a worker needs them of no model."""
        return (_literals(self.path, self.kind) if self.path else None) or {}

    @property
    def title(self) -> str:
        """The title in the SPEC, or nothing if it is not a literal."""
        return str(self.literals.get("title", ""))


def canonical_name(kind: Kind, name: str) -> str:
    """Return the spelling under which a name is registered: models with `_`, data sets with `-`."""
    lowered = name.strip().lower()
    return lowered.replace("-", "_") if kind == "model" else lowered.replace("_", "-")


def entries(kind: Kind, plugins: Sequence[str | Path] = ()) -> dict[str, Entry]:
    """Return all plug-ins of a kind by name. Raises UsageError if two share a name or a file is no plug-in."""
    found: dict[str, Entry] = {}
    for entry in [*_built_in(kind), *_from_entry_points(kind), *_from_files(kind, plugins)]:
        if entry.name in found:
            other = found[entry.name]
            raise UsageError(
                f"two {_TITLES[kind]}s are named {entry.name!r}: {other.origin} and {entry.origin}; rename one file"
            )
        found[entry.name] = entry
    return dict(sorted(found.items()))


def find(kind: Kind, name: str, plugins: Sequence[str | Path] = ()) -> Entry:
    """Return the plug-in of that name. Raises UnknownName with the nearest known name."""
    known = entries(kind, plugins)
    try:
        return known[canonical_name(kind, name)]
    except KeyError:
        raise UnknownName(_TITLES[kind], name, known) from None


def model_spec(name: str, plugins: Sequence[str | Path] = ()) -> ModelSpec:
    """Import the model of that name and return its SPEC. Raises UnknownName, UsageError or MissingExtra."""
    spec: ModelSpec = _spec(find("model", name, plugins))
    return spec


def dataset_spec(name: str, plugins: Sequence[str | Path] = ()) -> DatasetSpec:
    """Import the data set of that name and return its SPEC. Raises UnknownName or UsageError."""
    spec: DatasetSpec = _spec(find("dataset", name, plugins))
    return spec


def code_fingerprint(entry: Entry) -> str:
    """Return the SHA-256 of a plug-in's source and of the helper modules `_x.py` beside it that it imports.

    And of the models of recscale, and their helpers, that one from elsewhere imports. What decides no result does not
    count: comments, docstrings, empty lines, and of a model its SPEC and the estimate that it names.
    """
    if entry.path is None:
        return ""
    digest = hashlib.sha256()
    for path in _with_helpers(entry.path, entry.kind == "model"):
        is_model = entry.kind == "model" and path == entry.path
        decisive = _decisive(path, path.stat().st_mtime_ns, is_model)
        digest.update(path.name.encode() + b"\0" + decisive.encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=512)
def _decisive(path: Path, modified_ns: int, is_model: bool) -> str:
    """Return the source without comments, docstrings and empty lines, and without a model's SPEC and estimate."""
    tree, source = _parsed(path, modified_ns), path.read_text(encoding="utf-8")
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    described = [n for n in ast.walk(tree) if isinstance(n, _DESCRIBED) and ast.get_docstring(n) is not None]
    needless: list[ast.stmt] = [node.body[0] for node in described]
    for node in [*needless, *(_foretold(tree) if is_model else [])]:
        stands_alone = not lines[node.lineno - 1][: node.col_offset].strip()
        if stands_alone:
            lines[node.lineno - 1 : node.end_lineno] = [""] * len(lines[node.lineno - 1 : node.end_lineno])
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _foretold(tree: ast.Module) -> list[ast.stmt]:
    """Return the statements that make a model's SPEC and the estimate that it names, or import that estimate alone."""
    found: list[ast.stmt] = []
    for node in tree.body:
        if (call := _spec_call(node, "model")) is not None:
            names = {ast.unparse(k.value) for k in call.keywords if k.arg == "estimate"}
            found += [node, *(n for n in tree.body if _defined(n) and _defined(n) <= names)]
    return found


def _defined(node: ast.stmt) -> set[str]:
    """Return the names that a function or a `from x import y` defines."""
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    return {alias.asname or alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()


def _built_in(kind: Kind) -> list[Entry]:
    package = importlib.import_module(_PACKAGES[kind])
    found = []
    for folder in package.__path__:
        for path in sorted(Path(folder).glob("[!_]*.py")):
            name, module = canonical_name(kind, path.stem), f"{_PACKAGES[kind]}.{path.stem}"
            found.append(Entry(kind, name, module, path, "built in"))
    return found


def _from_entry_points(kind: Kind) -> list[Entry]:
    found = []
    for point in _entry_points(_PACKAGES[kind], tuple(sys.path)):
        located = importlib.util.find_spec(point.module)
        path = Path(located.origin) if located and located.origin else None
        origin = f"entry point of {point.dist.name}" if point.dist else "entry point"
        found.append(Entry(kind, canonical_name(kind, point.name), point.module, path, origin))
    return found


@functools.lru_cache(maxsize=8)
def _entry_points(group: str, search_path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of the packages on the path; reading them takes .05 s, and each model is looked up."""
    return tuple(entry_points(group=group))


def _from_files(kind: Kind, plugins: Sequence[str | Path]) -> list[Entry]:
    found = []
    for plugin in plugins:
        path = Path(plugin).resolve()
        if not path.is_file():
            raise UsageError(f"no plug-in file {plugin}; --plugin takes the path of a Python file that assigns SPEC")
        kinds = {k: _literals(path, k) for k in _SPEC_CLASSES}
        if not any(literals is not None for literals in kinds.values()):
            raise UsageError(f"{plugin} is no plug-in: it assigns neither SPEC = ModelSpec(...) nor DatasetSpec(...)")
        if kinds[kind] is not None:
            found.append(Entry(kind, canonical_name(kind, path.stem), str(path), path, f"plug-in {plugin}"))
    return found


@functools.lru_cache(maxsize=512)
def _parsed(path: Path, modified_ns: int) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name} does not parse as Python: {error}") from None


def _literals(path: Path, kind: str) -> dict[str, Any] | None:
    """Return the keywords of the file's `SPEC = <class>(...)` that are literals; None if it has no such line."""
    for node in _parsed(path, path.stat().st_mtime_ns).body:
        call = _spec_call(node, kind)
        if call is not None:
            return {k.arg: value for k in call.keywords if k.arg and (value := _literal(k.value)) is not None}
    return None


def _spec_call(node: ast.stmt, kind: str) -> ast.Call | None:
    """Return the call of a statement `SPEC = <class>(...)`, and None for any other."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
        return None
    names = [target.id for target in node.targets if isinstance(target, ast.Name)]
    called = node.value.func
    called_name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
    return node.value if "SPEC" in names and called_name == _SPEC_CLASSES[kind] else None


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _with_helpers(path: Path, is_model: bool) -> list[Path]:
    """Return `path` and every `_x.py` beside it that it imports, directly or through another, by their names.

    And those modules of `recscale.models` that files from elsewhere import. What a model imports for its SPEC and
    estimate alone is left out.
    """
    found, waiting = {path}, [path]
    ours = Path(next(iter(importlib.import_module(_PACKAGES["model"]).__path__)))
    while waiting:
        looked_at = waiting.pop()
        for module in _imported(looked_at, looked_at.stat().st_mtime_ns, is_model and looked_at == path):
            package, _, name = module.rpartition(".")
            is_ours = package == _PACKAGES["model"] and looked_at.parent != ours
            helper = (ours if is_ours else looked_at.parent) / f"{name}.py"
            if (is_ours or name.startswith("_")) and name != "__init__" and helper.is_file():
                waiting.extend({helper} - found)
                found.add(helper)
    return sorted(found, key=lambda file: (file.name, file))


@functools.lru_cache(maxsize=512)
def _imported(path: Path, modified_ns: int, is_model: bool) -> frozenset[str]:
    """Return the modules that a file imports, or may import, without those for the SPEC and estimate of a model."""
    tree = _parsed(path, modified_ns)
    foretold = _foretold(tree) if is_model else []
    names: set[str] = set()
    for node in (n for statement in tree.body if statement not in foretold for n in ast.walk(statement)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def _spec(entry: Entry) -> Any:
    from recscale import contract

    module = _import(entry)
    spec = getattr(module, "SPEC", None)
    wanted = getattr(contract, _SPEC_CLASSES[entry.kind])
    if not isinstance(spec, wanted):
        raise UsageError(f"{entry.origin}: {entry.name} has no SPEC of class {wanted.__name__}")
    return spec


def _import(entry: Entry) -> ModuleType:
    if entry.path is None or entry.module != str(entry.path):
        return importlib.import_module(entry.module)
    digest = hashlib.sha256(str(entry.path).encode() + entry.path.read_bytes()).hexdigest()[:12]
    name = f"_recscale_plugin_{entry.path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    located = importlib.util.spec_from_file_location(name, entry.path)
    if located is None or located.loader is None:
        raise UsageError(f"{entry.path.name} cannot be imported as a Python module")
    module = importlib.util.module_from_spec(located)
    sys.modules[name] = module
    try:
        located.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"{entry.path.name} raised {type(error).__name__} when imported: {error}") from error
    return module
