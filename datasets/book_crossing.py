"""Book-Crossing: ratings of books, most of them implicit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recscale.contract import Dataset, DatasetSpec, Source
from recscale.datasets._files import Origin, Remote
from recscale.datasets._published import Published, finish, read_table
from recscale.datasets._table import Rows, encode
from recscale.datasets._text import open_member
from recscale.errors import DataError

_RATINGS = "BX-Book-Ratings.csv"
_ORIGIN = Origin(
    dataset="book-crossing",
    remotes=(Remote("BX-CSV-Dump.zip", "http://www2.informatik.uni-freiburg.de/~cziegler/BX/BX-CSV-Dump.zip"),),
    unpacked=((_RATINGS,),),
)


@dataclass(frozen=True)
class BookCrossing(Source):
    """Ratings 1 to 10, and 0 where a book was read but not rated; without times."""

    verify: bool = True

    def load(self) -> Dataset:
        """Read all ratings. Raises DataError."""
        found = _ORIGIN.obtain(verify=self.verify)
        rows = read_table(found.paths[0]) if found.is_table else _rows(found.paths[0])
        published = Published(None, None, 1_149_780) if self.verify else None
        return finish("book-crossing", rows, published, sources=found.paths)

    def is_here(self) -> bool:
        """Tell whether a mirror or the cache has the files. Raises DataError for a mirror that does not exist."""
        return _ORIGIN.find() is not None


def _rows(path: Path) -> Rows:
    """Read lines `"user";"isbn";"rating"` in Latin-1.

    Some ISBNs hold quotes and semicolons, so that no reader of separated values gets them all; what lies between
    the first and the last `";"` is the ISBN.
    """
    with open_member(path, _RATINGS) as stream:
        lines = stream.read().decode("latin-1").splitlines()[1:]
    users, items, ratings = [], [], []
    for number, line in enumerate(lines, start=2):
        user, first, rest = line.strip().removeprefix('"').partition('";"')
        isbn, second, rating = rest.removesuffix('"').rpartition('";"')
        if not (first and second and user.isdecimal() and rating.isdecimal() and isbn):
            raise DataError(f'{path}, line {number}: found {line[:60]!r}; expected "user";"isbn";"rating"')
        users.append(int(user))
        items.append(isbn)
        ratings.append(int(rating))
    if not users:
        raise DataError(f"{path} holds no interactions")
    return Rows(encode(users, "user"), encode(items, "book"), ratings=np.array(ratings, dtype=np.float32))


SPEC = DatasetSpec(
    source=BookCrossing,
    title="Book-Crossing",
    cite="Ziegler, McNee, Konstan, Lausen 2005 (Improving Recommendation Lists Through Topic Diversification, WWW)",
    url="http://www2.informatik.uni-freiburg.de/~cziegler/BX/",
    licence="free for research, with citation",
    filter="5-core",
)
