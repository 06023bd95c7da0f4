from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from recscale import registry


class Mirror:
    """A local mirror in an empty folder: `put` writes a file of a data set, `load` reads the data set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, dataset: str, name: str, content: str | bytes) -> Path:
        path = self.folder / dataset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def load(self, dataset: str, **options):
        return registry.dataset_spec(dataset).source(**options).load()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("RECSCALE_DATA", str(folder))
    monkeypatch.setenv("RECSCALE_CACHE", str(tmp_path / "cache"))
    return Mirror(folder)


@pytest.fixture
def zipped():
    def pack(members: dict[str, str | bytes]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return buffer.getvalue()

    return pack


@pytest.fixture
def tarred():
    def pack(members: dict[str, bytes], *, compressed: bool = True) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in members.items():
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
        return gzip.compress(buffer.getvalue()) if compressed else buffer.getvalue()

    return pack


@pytest.fixture
def table():
    def write(**columns) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        return buffer.getvalue()

    return write


@pytest.fixture
def triples():
    """Return the entries of a data set as {(user id, item id): value} for one of its aligned arrays."""

    def entries(dataset, array: str | None = None) -> dict:
        coo = dataset.interactions.tocoo()
        values = coo.data if array is None else getattr(dataset, array)
        users, items = dataset.user_ids[coo.row].tolist(), dataset.item_ids[coo.col].tolist()
        return dict(zip(zip(users, items, strict=True), values.tolist(), strict=True))

    return entries
