"""Rebuilds the embedded `debian-depends` from a Debian package index.

Run as `python -m recscale.datasets._debian_index PACKAGES_FILE OUT`. A package depends on another if it names it in
Pre-Depends, Depends, Recommends or Suggests; all alternatives of `a | b` count, versions, architectures and
restrictions are passed over, and so is a package that names itself. The index may be compressed (.gz, .xz).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from recscale.datasets._text import open_member, reading
from recscale.errors import DataError, RecscaleError, UsageError

FIELDS = ("Pre-Depends", "Depends", "Recommends", "Suggests")
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9+.\-]*)")


def stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the fields of each package, continued lines joined."""
    fields: dict[str, str] = {}
    last = ""
    for raw in lines:
        line = raw.rstrip("\n")
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += line
        else:
            last, _, value = line.partition(":")
            fields[last] = value
    if fields:
        yield fields


def dependencies(fields: dict[str, str]) -> list[str]:
    """Return the packages that one package names, each once, in the order of the fields."""
    package = fields["Package"].strip()
    named: dict[str, None] = {}
    for field in FIELDS:
        for alternative in re.split(r"[,|]", fields.get(field, "")):
            if (match := _NAME.match(alternative)) and match[1] != package:
                named[match[1]] = None
    return list(named)


def rebuild(index: Path, out: Path) -> int:
    """Write the pairs of `index` to `out` as parquet with columns user and item; return their number.

    Raises DataError if the index holds no dependencies.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs: dict[tuple[str, str], None] = {}
    with open_member(index, index.stem) as stream, reading(index):
        for fields in stanzas(line.decode("utf-8") for line in stream):
            if "Package" in fields:
                pairs.update(dict.fromkeys((fields["Package"].strip(), item) for item in dependencies(fields)))
    if not pairs:
        raise DataError(f"{index} names no dependencies; expected a Debian package index (Packages)")
    ordered = sorted(pairs)
    columns = {
        "user": pa.array([user for user, _ in ordered]).dictionary_encode(),
        "item": pa.array([item for _, item in ordered]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), out, compression="zstd", compression_level=19)
    return len(pairs)


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    try:
        if len(arguments) != 2:
            raise UsageError("usage: python -m recscale.datasets._debian_index PACKAGES_FILE OUT")
        n_pairs = rebuild(Path(arguments[0]), Path(arguments[1]))
    except RecscaleError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stderr.write(f"{n_pairs:,} dependencies written to {arguments[1]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
