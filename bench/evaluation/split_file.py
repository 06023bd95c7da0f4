"""A split on disk: an uncompressed npz without pickle, so that jobs share one split instead of making it again."""

from __future__ import annotations

import json
import os
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recscale.contract import HeldOut, Split
from recscale.errors import DataError, StoreError
from recscale.evaluation import _entries
from recscale.evaluation.splitting import split_fingerprint

FORMAT = 1
_MATRICES = ("train", "valid.history", "valid.target", "test.history", "test.target")
_OPTIONAL = ("valid.disliked", "test.disliked")
_REMEDY = "delete it and prepare the data again"


def save_split(split: Split, path: str | Path) -> int:
    """Write `split` to `path`, whole or not at all, with the folders that are missing; return the bytes on disk.

    The numbers of a binary matrix are not written, only their places. Raises StoreError if the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "xb") as file:
                np.savez(file, allow_pickle=False, **_arrays(split))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path.stat().st_size
    except OSError as error:
        raise StoreError(f"cannot write the split {path}: {error.strerror or error}") from None


def load_split(path: str | Path, *, verify: bool = False) -> Split:
    """Read what `save_split` wrote; with `verify`, compute the fingerprint anew and compare.

    Raises DataError for a file that is missing, damaged, of another format, or not what its fingerprint says.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            split = _read(file, path)
    except FileNotFoundError:
        raise DataError(f"no split at {path}; prepare the data first") from None
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"the split {path} cannot be read ({reason}); {_REMEDY}") from None
    if verify and split_fingerprint(split) != split.fingerprint:
        raise DataError(f"the split {path} does not match its fingerprint {split.fingerprint[:12]}; {_REMEDY}")
    return split


def save_names(names: NDArray[Any], path: str | Path) -> None:
    """Write the names of the items of the split at `path` beside it. Raises StoreError."""
    place = _names_of(path)
    partial = place.with_name(f".{place.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(partial, "xb") as file:
            np.save(file, np.asarray(names, dtype=np.str_), allow_pickle=False)
        partial.replace(place)
    except OSError as error:
        raise StoreError(f"cannot write the names {place}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def load_names(path: str | Path) -> NDArray[np.str_]:
    """Return the names (I,) of the items of the split at `path`: titles, or ids. Raises DataError."""
    try:
        names: NDArray[np.str_] = np.load(_names_of(path), allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"the names of the items of {path} cannot be read ({error}); {_REMEDY}") from None
    return names


def _names_of(path: str | Path) -> Path:
    return Path(path).with_name("names.npy")


def _arrays(split: Split) -> dict[str, NDArray[Any]]:
    """Return the arrays of the file by name."""
    header = {
        "format": FORMAT,
        "protocol": split.protocol,
        "fingerprint": split.fingerprint,
        "dropped_users": split.dropped_users,
    }
    arrays: dict[str, NDArray[Any]] = {"header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)}
    arrays |= {"items": split.items, "users": split.users}
    matrices = (split.train, split.valid.history, split.valid.target, split.test.history, split.test.target)
    optional = (split.valid.disliked, split.test.disliked)
    for name, matrix in zip((*_MATRICES, *_OPTIONAL), (*matrices, *optional), strict=True):
        if matrix is None:
            continue
        arrays |= {f"{name}.indptr": matrix.indptr, f"{name}.indices": matrix.indices}
        arrays[f"{name}.shape"] = np.array(matrix.shape)
        if not all(bool(np.all(matrix.data[part] == 1)) for part in _entries.blocks(matrix.nnz)):
            arrays[f"{name}.data"] = matrix.data
    return arrays


def _read(file: Mapping[str, NDArray[Any]], path: str | Path) -> Split:
    """Return the split that an open file holds."""
    header = json.loads(bytes(file["header"]))
    if header["format"] != FORMAT:
        raise DataError(f"the split {path} is of format {header['format']}, expected {FORMAT}; {_REMEDY}")
    train, valid_history, valid_target, test_history, test_target = (_matrix(file, name) for name in _MATRICES)
    valid_disliked, test_disliked = (_matrix(file, name) if f"{name}.indptr" in file else None for name in _OPTIONAL)
    return Split(
        train=train,
        valid=HeldOut(valid_history, valid_target, valid_disliked),
        test=HeldOut(test_history, test_target, test_disliked),
        protocol=header["protocol"],
        fingerprint=header["fingerprint"],
        items=file["items"],
        users=file["users"],
        dropped_users=header["dropped_users"],
    )


def _matrix(file: Mapping[str, NDArray[Any]], name: str) -> sp.csr_array:
    """Return one matrix of the file."""
    indices, indptr = file[f"{name}.indices"], file[f"{name}.indptr"]
    n_columns = int(file[f"{name}.shape"][1])
    matrix = _entries.binary(indices, indptr, n_columns, ordered=True)
    if f"{name}.data" in file:
        matrix.data = file[f"{name}.data"]
    return matrix
