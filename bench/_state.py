"""The arrays of a model's state: counted, and laid out for a file without pickle; whose memory an array is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray


def is_sparse(value: Any) -> bool:
    """Tell whether one array of a state is sparse."""
    return bool(sp.issparse(value))


def share_memory(one: Any, other: sp.csr_array) -> bool:
    """Tell whether two matrices share an array: a conversion of the numbers alone keeps the indices."""
    names = ("data", "indices", "indptr")
    return sp.issparse(one) and any(
        np.may_share_memory(getattr(one, name, None), getattr(other, name)) for name in names
    )


def count(value: Any) -> tuple[int, int]:
    """Return (parameters, bytes) of one array of a state."""
    if is_sparse(value):
        return int(value.nnz), int(value.data.nbytes + value.indices.nbytes + value.indptr.nbytes)
    if isinstance(value, np.ndarray):
        return int(value.size) if value.dtype.kind == "f" else 0, int(value.nbytes)
    n_entries = int(value.nelement())  # a torch tensor, without importing torch here
    return n_entries if value.is_floating_point() else 0, n_entries * int(value.element_size())


def flatten(name: str, value: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays under which one entry of a state lies in the npz."""
    if is_sparse(value):
        parts = {"data": value.data, "indices": value.indices, "indptr": value.indptr}
        return {f"{name}.{part}": array for part, array in parts.items()} | {f"{name}.shape": np.array(value.shape)}
    return {name: value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()}


def unflatten(file: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Undo `flatten` for a whole file."""
    state: dict[str, Any] = {}
    for key in file:
        name, _, part = key.partition(".")
        if key == "recscale" or part not in ("", "shape"):
            continue
        if part == "shape":
            triple = (file[f"{name}.data"], file[f"{name}.indices"], file[f"{name}.indptr"])
            state[name] = sp.csr_array(triple, shape=tuple(file[key]))
        else:
            state[name] = file[key]
    return state
