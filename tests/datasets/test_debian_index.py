from __future__ import annotations

import gzip

import pytest

from recscale.datasets._debian_index import main, rebuild
from recscale.errors import DataError

INDEX = """Package: bash
Version: 5.2
Depends: base-files (>= 2.1.12), debianutils (>= 5.6-0.1) [amd64 !i386] <!nocheck>
Pre-Depends: libc6 (>= 2.36),
 libtinfo6:any (>= 6)
Recommends: bash-completion | completion-ng (<< 2), bash
Conflicts: zsh
Description: the shell
 Depends: not-a-field

Package: lonely

Package: libstdc++6
Suggests: libc6
"""


def pairs(path):
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return set(zip(table["user"].to_pylist(), table["item"].to_pylist(), strict=True))


@pytest.mark.parametrize("pack", [lambda text: text, gzip.compress], ids=["plain", "gzip"])
def test_all_fields_and_alternatives_count_and_versions_do_not(tmp_path, pack):
    index = tmp_path / ("Packages" if pack is not gzip.compress else "Packages.gz")
    index.write_bytes(pack(INDEX.encode()))

    n_pairs = rebuild(index, tmp_path / "out.parquet")

    bash = {"base-files", "debianutils", "libc6", "libtinfo6", "bash-completion", "completion-ng"}
    assert pairs(tmp_path / "out.parquet") == {("bash", name) for name in bash} | {("libstdc++6", "libc6")}
    assert n_pairs == 7


def test_a_file_that_is_no_index_is_refused(tmp_path):
    index = tmp_path / "Packages"
    index.write_text("hello\n")

    with pytest.raises(DataError, match="expected a Debian package index"):
        rebuild(index, tmp_path / "out.parquet")


def test_the_command_line_ends_with_2_and_one_line_for_wrong_use(tmp_path, capsys):
    assert main([]) == 2
    assert main([str(tmp_path / "missing"), str(tmp_path / "out")]) == 2

    assert [line[:6] for line in capsys.readouterr().err.splitlines()] == ["usage:", str(tmp_path)[:6]]
