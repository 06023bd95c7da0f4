"""Reads columns from separated text, parquet and archives, in batches, every failure one clear line."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from recscale.errors import DataError

_BLOCK_BYTES = 16 * 2**20
_DAMAGE = "the file is damaged, cut short or in another format; fetch or write it again"


@dataclass(frozen=True)
class Layout:
    """How lines are to be read: the columns in their order, and a type for each that is wanted.

    Types are `int`, `float`, `double`, `text` and `date` (YYYY-MM-DD). With no `columns` the first line gives their
    names; with `columns` a `header` line is read past.
    """

    types: Mapping[str, str]
    columns: tuple[str, ...] = ()
    separator: str = ","
    header: bool = False
    encoding: str = "utf8"
    quoted: bool = False


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn what libraries raise about a bad file into a DataError of one line that names it."""
    import pyarrow as pa

    damaged = (pa.ArrowException, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the path of a file that does") from None
    except (UnicodeDecodeError, UnicodeError):
        raise DataError(f"{path} is not text in the encoding expected; convert it or name its encoding") from None
    except damaged as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        if "UTF8" in message:
            raise DataError(f"{path} is not text in the encoding expected; convert it or name its encoding") from None
        raise DataError(f"{path} cannot be read ({message}); {_DAMAGE}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); {_DAMAGE}") from None


@contextmanager
def open_member(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open `path`, or the member of an archive whose path ends in `name`. Raises DataError."""
    with reading(path):
        if path.name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                member = next((m for m in archive.namelist() if Path(m).name == name), None)
                if member is None:
                    raise DataError(f"{path} holds no {name}; it holds {_listed(archive.namelist())}")
                with archive.open(member) as stream:
                    yield stream
        elif path.name.endswith((".tar.gz", ".tgz", ".tar")):
            with tarfile.open(path, mode="r|*") as tar:
                yield _tar_member(tar, path, name)
        elif path.suffix == ".gz":
            with gzip.open(path) as unzipped:
                yield cast(IO[bytes], unzipped)
        elif path.suffix == ".xz":
            with lzma.open(path) as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            with path.open("rb") as plain:
                yield plain


def read_columns(stream: IO[bytes], layout: Layout, label: Path | str) -> dict[str, Any]:
    """Return the wanted columns as pyarrow arrays; `label` names the file in errors. Raises DataError."""
    import pyarrow as pa
    from pyarrow import csv

    with reading(label):
        reader = csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            read_options=csv.ReadOptions(
                block_size=_BLOCK_BYTES,
                encoding=layout.encoding,
                column_names=list(layout.columns) or None,
                skip_rows=1 if layout.header and layout.columns else 0,
            ),
            parse_options=csv.ParseOptions(delimiter=layout.separator, quote_char='"' if layout.quoted else False),
            convert_options=csv.ConvertOptions(
                column_types={name: _arrow_type(kind) for name, kind in layout.types.items()},
                include_columns=list(layout.types),
            ),
        )
        table = pa.Table.from_batches(list(reader), schema=reader.schema)
    if table.num_rows == 0:
        raise DataError(f"{label} holds no interactions")
    return {name: table.column(name) for name in layout.types}


def numbers(column: Any, what: str, dtype: type[np.generic]) -> NDArray[Any]:
    """Return a column of ratings, times or parts. Raises DataError for missing, NaN or infinite entries."""
    values = column.to_numpy() if not isinstance(column, np.ndarray) else column
    if values.dtype.kind == "M":
        if np.isnat(values).any():
            raise DataError(f"row {int(np.flatnonzero(np.isnat(values))[0]) + 1} has no {what}; remove or fill it")
        return values.astype("M8[s]").astype(np.int64)
    if values.dtype.kind not in "iufb":
        raise DataError(f"the {what} column holds {values[0]!r}; expected numbers")
    if dtype is np.float32 and values.dtype != np.float32:
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
            values = values.astype(np.float32)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(f"row {row + 1} has {what} {values[row]}; expected a finite number")
    return values.astype(dtype, copy=False)


def _arrow_type(kind: str) -> Any:
    import pyarrow as pa

    types = {
        "int": pa.int64(),
        "float": pa.float32(),
        "double": pa.float64(),
        "text": pa.dictionary(pa.int32(), pa.string()),
        "date": pa.date32(),
    }
    return types[kind]


def _tar_member(tar: tarfile.TarFile, path: Path, name: str) -> IO[bytes]:
    seen = []
    for member in tar:
        seen.append(member.name)
        if Path(member.name).name == name and (stream := tar.extractfile(member)) is not None:
            return stream
    raise DataError(f"{path} holds no {name}; it holds {_listed(seen)}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
