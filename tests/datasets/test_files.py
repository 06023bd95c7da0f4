from __future__ import annotations

import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recscale.datasets._files import Origin, Remote, cache_folder, file_digest
from recscale.errors import DataError

CONTENT = b"1 2 3\n" * 2_000


class Server:
    """Serves `content` on loopback and counts requests; `promised` may say more bytes than there are."""

    def __init__(self) -> None:
        self.content, self.status, self.promised, self.requests = CONTENT, 200, None, 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests += 1
                self.send_response(server.status)
                self.send_header("Content-Length", str(server.promised or len(server.content)))
                self.end_headers()
                self.wfile.write(server.content)

            def log_message(self, *_):
                """Keep quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/plays.txt"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("RECSCALE_DATA", raising=False)
    monkeypatch.setenv("RECSCALE_CACHE", str(tmp_path / "cache"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    return tmp_path / "cache"


def origin(url: str, digest: str | None = None) -> Origin:
    return Origin("plays", (Remote("plays.txt", url, digest),))


def left_behind(cache) -> list[str]:
    return [path.name for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_file_is_downloaded_once_and_its_hash_kept(server, cache, capfd):
    first = origin(server.url).obtain()
    again = origin(server.url).obtain()

    assert first == again
    assert first.paths[0].read_bytes() == CONTENT
    assert server.requests == 1
    recorded = json.loads((cache / "plays" / "hashes.json").read_text())
    assert recorded == {"plays.txt": "sha256:" + hashlib.sha256(CONTENT).hexdigest()}
    assert capfd.readouterr().out == ""  # progress goes to stderr


def test_a_file_that_changed_since_its_first_download_is_refused(server, cache):
    path = origin(server.url).obtain().paths[0]
    path.write_bytes(CONTENT[:-1])

    with pytest.raises(DataError, match="delete it and fetch it again"):
        origin(server.url).obtain()

    assert origin(server.url).obtain(verify=False).paths == (path,)


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_download_with_the_published_hash_is_kept(server, cache, algorithm):
    digest = f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}"

    found = origin(server.url, digest).obtain()

    assert file_digest(found.paths[0], algorithm) == digest
    assert left_behind(cache) == ["plays.txt"]


def test_a_download_with_another_hash_leaves_nothing_behind(server, cache):
    with pytest.raises(DataError, match=r"whose hash is not md5:0{32}; it was not kept"):
        origin(server.url, "md5:" + "0" * 32).obtain()

    assert left_behind(cache) == []


@pytest.mark.parametrize("digest", [None, "md5:" + hashlib.md5(CONTENT).hexdigest()])
def test_a_download_that_breaks_off_leaves_nothing_behind(server, cache, digest):
    server.promised = len(CONTENT) + 100

    with pytest.raises(DataError, match=r"cannot download http://127") as caught:
        origin(server.url, digest).obtain()

    assert "\n" not in str(caught.value)
    assert left_behind(cache) == []


def test_a_broken_download_can_be_tried_again(server, cache):
    server.promised = len(CONTENT) + 100
    with pytest.raises(DataError):
        origin(server.url).obtain()
    server.promised = None

    found = origin(server.url).obtain()

    assert found.paths[0].read_bytes() == CONTENT


def test_what_a_killed_download_left_is_removed_by_the_next(server, cache):
    stale = cache / "plays" / ".part" / "tmp1234"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(CONTENT[:10])

    origin(server.url).obtain()

    assert sorted(left_behind(cache)) == ["hashes.json", "plays.txt"]


def test_a_page_that_is_not_there_is_one_line_with_the_remedy(server, cache):
    server.status = 404

    with pytest.raises(
        DataError, match=r"HTTP status 404.*put it at FOLDER/plays/plays\.txt with RECSCALE_DATA=FOLDER"
    ):
        origin(server.url).obtain()

    assert left_behind(cache) == []


def test_no_network_names_the_url_the_file_and_the_mirror(server, cache, tmp_path, monkeypatch):
    server.http.shutdown()
    server.http.server_close()
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("RECSCALE_DATA", str(tmp_path / "mirror"))

    with pytest.raises(DataError) as caught:
        origin(server.url).obtain()

    message = str(caught.value)
    assert server.url in message
    assert f"put it at {tmp_path / 'mirror' / 'plays' / 'plays.txt'}" in message
    assert "\n" not in message


def test_mirrors_are_looked_at_in_their_order_before_the_cache(server, cache, tmp_path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name / "plays").mkdir(parents=True)
    (tmp_path / "second" / "plays" / "plays.txt").write_bytes(b"from the second mirror")
    monkeypatch.setenv("RECSCALE_DATA", os.pathsep.join(str(tmp_path / name) for name in ("first", "second")))

    found = origin(server.url).obtain()

    assert found.paths[0].read_bytes() == b"from the second mirror"
    assert server.requests == 0


def test_a_table_is_taken_where_the_original_is_missing_but_not_before_it(server, cache, tmp_path, monkeypatch):
    folder = tmp_path / "mirror" / "plays"
    folder.mkdir(parents=True)
    (folder / "interactions.parquet").write_bytes(b"a table")
    monkeypatch.setenv("RECSCALE_DATA", str(tmp_path / "mirror"))

    table = origin(server.url).obtain()
    (folder / "plays.txt").write_bytes(CONTENT)
    original = origin(server.url).obtain()

    assert (table.is_table, table.paths) == (True, (folder / "interactions.parquet",))
    assert (original.is_table, original.paths) == (False, (folder / "plays.txt",))


def test_a_mirror_that_does_not_exist_is_refused(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("RECSCALE_DATA", str(tmp_path / "nowhere"))

    with pytest.raises(DataError, match=r"RECSCALE_DATA names .*nowhere, which is no folder"):
        origin("http://127.0.0.1:9/plays.txt").obtain()


def test_a_damaged_record_of_hashes_is_named(server, cache):
    origin(server.url).obtain()
    (cache / "plays" / "hashes.json").write_text("{")

    with pytest.raises(DataError, match=r"hashes\.json is damaged"):
        origin(server.url).obtain()


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.delenv("RECSCALE_DATA", raising=False)
    monkeypatch.setenv("RECSCALE_CACHE", str(tmp_path / "file"))

    with pytest.raises(DataError, match="cannot download"):
        origin(server.url).obtain()


def test_without_a_choice_the_cache_is_that_of_the_user(monkeypatch):
    monkeypatch.delenv("RECSCALE_CACHE", raising=False)

    assert cache_folder().name == "recscale"
