import threading
from http.client import HTTPConnection

import pytest

from recscale.errors import StoreError, UsageError
from recscale.records.store import Store
from recscale.reporting import serving
from recscale.reporting.serving import LivePage, make_server, serve, version_of


@pytest.fixture
def answers(tmp_path):
    """Serves a page and returns what is answered: status, headers, content."""
    live = LivePage(tmp_path, lambda version: f"page {version}".encode())
    live.refresh()
    server = make_server(live, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def ask(path, host=f"127.0.0.1:{server.server_port}"):
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read().decode()

    yield ask
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_page_and_its_version_are_served_and_nothing_else(answers, tmp_path):
    version = version_of(tmp_path)

    assert answers("/")[::2] == (200, f"page {version}")
    assert answers("/version")[::2] == (200, version)
    assert answers("/")[1]["Cache-Control"] == "no-store"
    for path in ("/etc/passwd", "/../report.html", "/report.htmlx"):
        assert answers(path)[0] == 404


def test_a_page_of_elsewhere_under_another_name_gets_nothing(answers):
    assert answers("/", host="evil.example:8765")[0] == 403
    assert answers("/", host="localhost:8765")[0] == 200


def test_the_server_listens_on_this_machine_alone(tmp_path):
    with make_server(LivePage(tmp_path, lambda version: b""), 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_new_record_makes_a_new_version_and_a_new_page(record, tmp_path):
    store = Store(tmp_path, machine="m")
    live = LivePage(tmp_path, lambda version: f"{len(store.records())} records".encode())

    assert live.refresh() and live.content == b"0 records"
    assert not live.refresh()
    store.put(record())
    assert live.refresh() and live.content == b"1 records"


def test_a_store_without_records_is_a_page_that_says_so_and_waits(tmp_path):
    def build(version):
        raise StoreError("no store at <b>here</b>")

    live = LivePage(tmp_path, build)
    live.refresh()

    text = live.content.decode()
    assert "no store at &lt;b&gt;here&lt;/b&gt;" in text
    assert f'content="{live.version}"' in text
    assert 'fetch("/version"' in text


def test_a_port_in_use_is_one_line(tmp_path):
    live = LivePage(tmp_path, lambda version: b"")
    with make_server(live, 0) as server, pytest.raises(UsageError, match="is in use; choose another") as caught:
        make_server(live, server.server_port)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_number_that_is_no_port_is_named(tmp_path, port):
    with pytest.raises(UsageError, match=f"--port {port} is no port"):
        make_server(LivePage(tmp_path, lambda version: b""), port)


def test_an_interrupt_ends_serving_quietly(tmp_path, monkeypatch):
    def interrupted(self, poll_interval):
        raise KeyboardInterrupt

    monkeypatch.setattr(serving.ThreadingHTTPServer, "serve_forever", interrupted)
    told = []

    serve(LivePage(tmp_path, lambda version: b""), 0, told.append)

    assert "http://127.0.0.1:" in told[0]
    assert told[1] == "no longer served"
