"""Last.fm 360K: how often listeners played the artists they play most.

Yang et al. 2021 print 359,126 users, 87,709 artists and 17,423,558 entries for what they call LastFM-17M, but neither
how they told artists apart nor the order of their thresholds, so those figures are no check here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recscale.contract import Dataset, DatasetSpec, Source
from recscale.datasets._files import Origin, Remote
from recscale.datasets._published import Published, finish, read_table
from recscale.datasets._table import Rows, encode
from recscale.datasets._text import Layout, numbers, open_member, read_columns

_PLAYS = "usersha1-artmbid-artname-plays.tsv"
_ORIGIN = Origin(
    dataset="lastfm-360k",
    remotes=(
        Remote(
            "lastfm-dataset-360K.tar.gz",
            "https://zenodo.org/records/6090214/files/lastfm-dataset-360K.tar.gz",
            "md5:635e6ed3fc873aa4ba33aba0ebce02b1",
        ),
    ),
    unpacked=((_PLAYS,),),
)
_LAYOUT = Layout(
    {"user": "text", "mbid": "text", "name": "text", "plays": "float"},
    columns=("user", "mbid", "name", "plays"),
    separator="\t",
)


@dataclass(frozen=True)
class LastFm360K(Source):
    """Play counts as ratings, without times; an artist is its MusicBrainz id, or its name where it has none."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read all play counts. Raises DataError."""
        found = _ORIGIN.obtain(verify=self.verify)
        path, titles = found.paths[0], None
        if found.is_table:
            rows = read_table(path)
        else:
            with open_member(path, _PLAYS) as stream:
                columns = read_columns(stream, _LAYOUT, path)
            rows, titles = _rows(columns)
        published = Published(359_347, None, 17_559_530) if self.verify else None  # artists: no figure for this rule
        return finish("lastfm-360k", rows, published, titles=titles, sources=found.paths)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _ORIGIN.find() is not None


def _rows(columns: dict[str, Any]) -> tuple[Rows, dict[str, str]]:
    """Return the rows, and for each MusicBrainz id the name in its first row."""
    import pyarrow as pa

    users = encode(columns.pop("user"), "user")
    mbid_codes, mbids = _dictionary(columns.pop("mbid"))
    name_codes, names = _dictionary(columns.pop("name"))
    has_mbid = (mbids != "")[mbid_codes]
    codes = np.where(has_mbid, mbid_codes, name_codes + np.int32(mbids.size))
    choices = pa.array(np.concatenate((mbids, names)), type=pa.string())
    items = encode(pa.DictionaryArray.from_arrays(pa.array(codes, type=pa.int32()), choices), "artist")
    with_mbid = np.flatnonzero(has_mbid)
    known, first = np.unique(mbid_codes[with_mbid], return_index=True)
    titles = dict(zip(mbids[known].tolist(), names[name_codes[with_mbid[first]]].tolist(), strict=True))
    return Rows(users, items, ratings=numbers(columns.pop("plays"), "play count", np.float32)), titles


def _dictionary(column: Any) -> tuple[Any, Any]:
    """Return the codes (rows,) and the values of a text column."""
    encoded = column.unify_dictionaries().combine_chunks()
    values = np.array(encoded.dictionary.to_pylist(), dtype=object)
    return encoded.indices.to_numpy(zero_copy_only=False), values


SPEC = DatasetSpec(
    source=LastFm360K,
    title="Last.fm 360K",
    cite="Celma 2010 (Music Recommendation and Discovery, Springer)",
    url="https://zenodo.org/records/6090214",
    licence="non-commercial use",
    filter="elfm-text",
)
