"""Which data sets need no download: those that are made or embedded, and those whose files lie at hand."""

import pytest

from recscale import registry
from recscale.datasets._files import Origin
from recscale.errors import DataError

ALWAYS_HERE = {"debian-depends", "file", "planted", "web35m-like"}
DOWNLOADED = sorted(set(registry.entries("dataset")) - ALWAYS_HERE)


@pytest.fixture
def nothing_at_hand(tmp_path, monkeypatch):
    monkeypatch.delenv("RECSCALE_DATA", raising=False)
    monkeypatch.setenv("RECSCALE_CACHE", str(tmp_path / "cache"))

    def refuse(self, remote, folder):
        raise AssertionError(f"{remote.url} was asked for")

    monkeypatch.setattr(Origin, "_download", refuse)
    return tmp_path


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_data_set_that_is_downloaded_is_not_here_without_its_files(nothing_at_hand, name):
    assert not registry.dataset_spec(name).source().is_here()


@pytest.mark.parametrize("name", sorted(ALWAYS_HERE - {"file"}))
def test_what_is_made_or_embedded_is_always_here(nothing_at_hand, name):
    assert registry.dataset_spec(name).source().is_here()


@pytest.mark.parametrize("folder", ["mirror/gowalla", "cache/gowalla"])
def test_files_in_a_mirror_or_in_the_cache_are_here_once_all_are(nothing_at_hand, monkeypatch, folder):
    place = nothing_at_hand / folder
    place.mkdir(parents=True)
    (nothing_at_hand / "mirror").mkdir(exist_ok=True)
    monkeypatch.setenv("RECSCALE_DATA", str(nothing_at_hand / "mirror"))
    source = registry.dataset_spec("gowalla").source()

    (place / "train.txt").write_text("0 1 2\n")
    assert not source.is_here()

    (place / "test.txt").write_text("0 3\n")
    assert source.is_here()


def test_each_variant_is_asked_for_its_own_files(nothing_at_hand, monkeypatch):
    place = nothing_at_hand / "mirror" / "ml-1m"
    place.mkdir(parents=True)
    (place / "interactions.parquet").write_bytes(b"a split")
    monkeypatch.setenv("RECSCALE_DATA", str(nothing_at_hand / "mirror"))
    variants = registry.dataset_spec("ml-1m").source

    assert variants(variant="split").is_here()
    assert not variants(variant="ratings").is_here()


def test_a_mirror_that_does_not_exist_is_said_so(nothing_at_hand, monkeypatch):
    monkeypatch.setenv("RECSCALE_DATA", str(nothing_at_hand / "nowhere"))

    with pytest.raises(DataError, match="RECSCALE_DATA names"):
        registry.dataset_spec("gowalla").source().is_here()
