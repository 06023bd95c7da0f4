"""A person's own file: csv, tsv, other separated text, parquet or npz, or a YAML entry that describes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from recscale._parameters import build
from recscale.contract import Dataset, DatasetSpec, Source
from recscale.datasets._own import Shape, read_own
from recscale.datasets._table import to_dataset
from recscale.errors import DataError, UsageError

_SPELLED = {"\\t": "\t", "tab": "\t", "space": " ", "comma": ",", "semicolon": ";"}


@dataclass(frozen=True)
class OwnFile(Source):
    """The file at `path`, gzip or xz compressed or not; a path that ends in .yaml names a file with these options.

    `user`, `item`, `rating` and `timestamp` name columns (by number from 0 with header=false); those that are not
    named are found by their usual names, and without a header user and item are the first two. Of a sparse matrix
    in an npz file, rows are users, columns items, and the entries ratings. Ids of digits are read as numbers.
    """

    path: str
    name: str | None = None
    user: str | None = None
    item: str | None = None
    rating: str | None = None
    timestamp: str | None = None
    separator: str | None = None
    header: bool = True
    encoding: str = "utf-8"

    def load(self) -> Dataset:
        """Read the file. Raises DataError, UsageError, or UnknownName for an unknown key of a YAML entry."""
        path = Path(self.path).expanduser()
        if path.suffix in (".yaml", ".yml"):
            loaded = _entry(path).load()
            return replace(loaded, sources=(path, *loaded.sources))
        shape = Shape(
            wanted={"user": self.user, "item": self.item, "rating": self.rating, "timestamp": self.timestamp},
            separator=self._one_letter(),
            header=self.header,
            encoding=self._encoding(),
        )
        rows = read_own(path, shape)
        return to_dataset(self.name or path.name.partition(".")[0], rows, sources=(path,))

    def _one_letter(self) -> str | None:
        separator = None if self.separator is None else _SPELLED.get(self.separator, self.separator)
        if separator is not None and (len(separator) != 1 or not separator.isascii()):
            raise UsageError(f"separator {separator!r} must be one letter, such as , or ; or tab")
        return separator

    def _encoding(self) -> str:
        try:
            "".encode(self.encoding)
        except LookupError:
            raise UsageError(f"no encoding named {self.encoding!r}; expected one such as utf-8 or latin-1") from None
        return self.encoding


def _entry(path: Path) -> OwnFile:
    """Return the file that a YAML entry describes; its path counts from the folder of the entry."""
    import yaml

    if not path.is_file():
        raise DataError(f"{path} does not exist; give the path of a file that does")
    try:
        entry = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    keys = ", ".join(field.name for field in fields(OwnFile))
    if not isinstance(entry, Mapping) or "path" not in entry:
        raise DataError(f"{path} must hold keys and values, path among them; known keys: {keys}")
    options: dict[str, Any] = {str(key): value for key, value in entry.items()}
    options["path"] = str(path.parent / Path(str(options["path"])).expanduser())
    if Path(options["path"]).suffix in (".yaml", ".yml"):
        raise DataError(f"{path} names another YAML file as its path; name the file of interactions")
    for column in ("user", "item", "rating", "timestamp"):
        if isinstance(options.get(column), int):  # the number of a column, as YAML reads it
            options[column] = str(options[column])
    own: OwnFile = build(OwnFile, str(path), options)
    return own


SPEC = DatasetSpec(
    source=OwnFile,
    title="Own file",
    cite="",
)
