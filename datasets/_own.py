"""Reads a person's own file of interactions, whatever its kind, into columns."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recscale.datasets._table import Coded, Rows, encode
from recscale.datasets._text import Layout, numbers, open_member, read_columns, reading
from recscale.errors import DataError

_USUAL_NAMES = {
    "user": ("user", "user_id", "userid", "uid"),
    "item": ("item", "item_id", "itemid", "iid", "movieid"),
    "rating": ("rating", "ratings", "score"),
    "timestamp": ("timestamp", "time", "unixtime"),
}
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".txt": None, ".dat": None}
_WHOLE = re.compile(r"-?(0|[1-9]\d*)(\.0+)?")
_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "inf", "-inf"})
_MOST_DIGITS = 18


@dataclass(frozen=True)
class Shape:
    """How a text file is written, and which columns are wanted (None: a usual name, if the file has it)."""

    wanted: dict[str, str | None]
    separator: str | None
    header: bool
    encoding: str


def read_own(path: Path, shape: Shape) -> Rows:
    """Return the rows of a csv, tsv, inter, txt, dat (also .gz, .xz), parquet or npz file. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; give the path of a file that does")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; expected interactions")
    kind = (path.with_suffix("") if path.suffix in (".gz", ".xz") else path).suffix.lower()
    if kind in (".parquet", ".pq"):
        return _rows(_parquet(path, shape), text_numbers=False)
    if kind == ".npz":
        return _npz(path, shape)
    if kind in _SEPARATORS:
        return _rows(_text(path, shape, shape.separator or _SEPARATORS[kind]), text_numbers=True)
    known = ", ".join([*_SEPARATORS, ".parquet", ".npz", ".yaml"])
    raise DataError(f"{path}: unknown kind of file {path.suffix or 'without suffix'}; expected {known}, also .gz")


def _rows(columns: dict[str, Any], *, text_numbers: bool) -> Rows:
    users, items = encode(columns.pop("user"), "user"), encode(columns.pop("item"), "item")
    if text_numbers:
        users, items = _as_numbers(users, "user"), _as_numbers(items, "item")
    ratings = numbers(columns.pop("rating"), "rating", np.float32) if "rating" in columns else None
    times = _seconds(columns.pop("timestamp")) if "timestamp" in columns else None
    return Rows(users, items, ratings=ratings, timestamps=times)


def _text(path: Path, shape: Shape, separator: str | None) -> dict[str, Any]:
    if separator is None:
        raise DataError(f"{path}: {path.suffix} does not say what separates the columns; give the option separator")
    with open_member(path, path.stem) as stream, reading(path):
        lines = io.TextIOWrapper(stream, encoding=shape.encoding, newline="")
        reader = csv.reader(lines, delimiter=separator)
        try:
            first = next(reader, [])
            sample = next(reader, []) if shape.header else first
        except csv.Error as error:
            raise DataError(f"{path} is no separated text ({error}); give another file or separator") from None
    names = [name.removeprefix("\ufeff") for name in first] if shape.header else [str(i) for i in range(len(first))]
    places = {what: str(names.index(name)) for what, name in _choose(path, names, shape).items()}
    types = {places["user"]: "text", places["item"]: "text"}
    if "rating" in places:
        types[places["rating"]] = "float"
    if "timestamp" in places:
        types[places["timestamp"]] = _kind_of_time(sample, int(places["timestamp"]))
    columns = tuple(str(i) for i in range(len(names)))
    layout = Layout(types, columns, separator, header=shape.header, encoding=shape.encoding, quoted=True)
    with open_member(path, path.stem) as stream:
        read = read_columns(stream, layout, path)
    return {what: read[place] for what, place in places.items()}


def _choose(path: Path, names: list[str], shape: Shape) -> dict[str, str]:
    """Return the name in the file of each column that is wanted or has a usual name. Raises DataError."""
    plain = {name.partition(":")[0].strip().lower(): name for name in reversed(names)}  # "user_id:token" of RecBole
    chosen: dict[str, str] = {}
    for what, asked in shape.wanted.items():
        usual = [plain[name] for name in _USUAL_NAMES[what] if name in plain]
        position = {"user": "0", "item": "1"}.get(what)
        if asked is not None:
            if asked not in names:
                raise DataError(f"{path} has no column {asked!r} for {what}; its columns are {', '.join(names)}")
            chosen[what] = asked
        elif usual:
            chosen[what] = usual[0]
        elif not shape.header and position in names:
            chosen[what] = str(position)
        elif position is not None:
            raise DataError(
                f"{path} has no column named like {what}; its columns are {', '.join(names)}: name one with the "
                f"option {what} (for a file without a header line, header=false and the number of the column, from 0)"
            )
    if chosen["user"] == chosen["item"]:
        raise DataError(f"{path}: user and item are the same column {chosen['user']!r}; name two")
    return chosen


def _kind_of_time(sample: list[str], place: int) -> str:
    """Return the type of a column of times, judged by its first entry: whole seconds, decimals, or dates as text."""
    text = sample[place].strip() if place < len(sample) else ""
    if re.fullmatch(r"-?\d+", text):
        return "int"
    return "double" if re.fullmatch(r"-?[\d.]+([eE][+-]?\d+)?", text) else "text"


def _seconds(column: Any) -> NDArray[np.int64]:
    """Return times as whole numbers; dates written as text become seconds since 1970. Raises DataError."""
    import pandas as pd
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type) and not pa.types.is_string(column.type):
        return numbers(column, "timestamp", np.int64)
    encoded = (column if pa.types.is_dictionary(column.type) else column.dictionary_encode()).unify_dictionaries()
    encoded = encoded.combine_chunks()
    texts = encoded.dictionary.to_pylist()
    try:
        dates = pd.to_datetime(pd.Series(texts), utc=True, format="ISO8601").to_numpy(dtype="M8[ns]")
    except (ValueError, TypeError):
        raise DataError(
            f"timestamps like {texts[0]!r} are neither numbers nor dates like 2024-12-31T23:59:59"
        ) from None
    seconds = numbers(dates, "timestamp", np.int64)
    of_rows: NDArray[np.int64] = seconds[encoded.indices.to_numpy(zero_copy_only=False)]
    return of_rows


def _as_numbers(coded: Coded, what: str) -> Coded:
    """Return ids of text that all are whole numbers as int64, and others as they are. Raises DataError."""
    texts = coded.ids.tolist()
    missing = [text for text in texts if text.strip().lower() in _MISSING]
    if not all(_WHOLE.fullmatch(text.strip()) for text in texts if text not in missing) or len(missing) == len(texts):
        return coded
    if missing:
        row = int(np.flatnonzero(coded.codes == texts.index(missing[0]))[0])
        raise DataError(f"{what} {missing[0]!r} in row {row + 1} is no id; remove or fill such rows")
    wholes = [text.strip().partition(".")[0] for text in texts]
    if (longest := max(wholes, key=len)) and len(longest.lstrip("-")) > _MOST_DIGITS:
        raise DataError(f"{what} {longest} is too large; ids must have at most {_MOST_DIGITS} digits, or be text")
    again = encode(np.array(wholes, dtype=np.int64), what)
    return Coded(again.codes[coded.codes], again.ids)


def _parquet(path: Path, shape: Shape) -> dict[str, Any]:
    import pyarrow.parquet as pq

    with reading(path):
        names = _choose(path, pq.read_schema(path).names, shape)
        table = pq.read_table(path, columns=list(dict.fromkeys(names.values())))
    return {what: table.column(name) for what, name in names.items()}


def _npz(path: Path, shape: Shape) -> Rows:
    """Read what `scipy.sparse.save_npz` or `numpy.savez(user=..., item=..., ...)` wrote."""
    try:
        with reading(path), np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except ValueError:
        raise DataError(f"{path} is no npz file of plain arrays; write it with numpy.savez or scipy.sparse") from None
    if {"format", "shape", "data"} <= arrays.keys():
        return _matrix(path, arrays)
    names = _choose(path, list(arrays), shape)
    columns = {what: arrays[name] for what, name in names.items()}
    lengths = {name: array.shape for name, array in columns.items()}
    if len(set(lengths.values())) > 1 or any(array.ndim != 1 for array in columns.values()):
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{path}: the arrays must be one-dimensional and of one length, not {shown}")
    return _rows(columns, text_numbers=False)


def _matrix(path: Path, arrays: dict[str, NDArray[Any]]) -> Rows:
    """Return the stored entries of a sparse matrix (U, I); its data are the ratings."""
    import scipy.sparse as sp

    try:
        parts = (arrays["data"], arrays["indices"], arrays["indptr"])
        kind = {b"csr": sp.csr_array, b"csc": sp.csc_array}[arrays["format"].item()]
        matrix = kind(parts, shape=tuple(arrays["shape"].tolist()))
        matrix.check_format(full_check=True)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} holds no valid csr or csc matrix ({error}); write it again") from None
    entries = matrix.tocoo()
    users, items = encode(entries.row, "user"), encode(entries.col, "item")
    return Rows(users, items, ratings=numbers(entries.data, "rating", np.float32))
