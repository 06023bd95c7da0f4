from __future__ import annotations

from pathlib import Path

import recscale.datasets
from recscale import registry


def test_the_embedded_data_have_the_published_figures_and_names(mirror):
    data = mirror.load("debian-depends")

    assert data.interactions.shape == (58_045, 50_694)
    assert data.interactions.nnz == 340_684
    bash = data.user_ids.tolist().index("bash")
    named = data.item_titles[data.interactions[[bash]].indices].tolist()
    assert named == ["base-files", "bash-completion", "bash-doc", "debianutils", "libc6", "libtinfo6"]


def test_loading_twice_gives_one_fingerprint(mirror):
    first, second = mirror.load("debian-depends"), mirror.load("debian-depends")

    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == 64


def test_the_embedded_file_is_small_enough_for_a_wheel():
    folder = Path(recscale.datasets.__path__[0])

    assert (folder / "debian_depends.parquet").stat().st_size <= 1_500_000


def test_the_statistics_of_the_default_filter_hold():
    from recscale.evaluation.filtering import apply_filter, resolve_filter

    spec = registry.dataset_spec("debian-depends")
    left = apply_filter(spec.source().load(), resolve_filter(spec.filter)).interactions
    expected = spec.statistics[spec.filter]

    assert (*left.shape, left.nnz) == (expected.n_users, expected.n_items, expected.n_interactions)
