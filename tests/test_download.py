"""Downloads from a server on the loopback interface: good, wrong, cut off, missing, unreachable."""

import hashlib
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from upscaling.common import download
from upscaling.common.files import file_sha256

CONTENT = bytes(range(256)) * 5000
SUM = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        if "unknown-length" not in self.path:
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if "cut" in self.path else CONTENT)

    def log_message(self, *_arguments):
        pass


@pytest.fixture(scope="module")
def site():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_good_file_arrives_whole_and_reports_its_progress(site, tmp_path):
    seen = []
    target = tmp_path / "deep" / "net.pth"
    assert download.fetch(f"{site}/net.pth", target, SUM, lambda done, total: seen.append((done, total))) == SUM
    assert target.read_bytes() == CONTENT and os.listdir(target.parent) == ["net.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)


@pytest.mark.parametrize(
    ("path", "expected", "words"),
    [
        ("net.pth", "0" * 64, "is not the official file"),
        ("cut.pth", SUM, "ended after"),
        ("cut.pth", None, "ended after"),
        ("cut-unknown-length.pth", SUM, "is not the official file"),
        ("missing.pth", SUM, "HTTP status 404"),
    ],
)
def test_what_is_not_the_file_leaves_nothing_and_touches_nothing(site, tmp_path, path, expected, words):
    target = tmp_path / "net.pth"
    target.write_bytes(b"old")
    with pytest.raises(download.DownloadError, match=words) as caught:
        download.fetch(f"{site}/{path}", target, expected)
    assert "\n" not in str(caught.value)
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["net.pth"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/net.pth", "http://no.such.host.invalid/net.pth", "no url"])
def test_no_network_is_one_line(tmp_path, url):
    with pytest.raises(download.DownloadError, match="cannot reach"):
        download.fetch(url, tmp_path / "net.pth", SUM)
    assert os.listdir(tmp_path) == []


def test_a_directory_that_cannot_be_made_is_one_line(site, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(download.DownloadError, match="cannot write"):
        download.fetch(f"{site}/net.pth", tmp_path / "file" / "net.pth", SUM)


def test_a_sum_nobody_publishes_is_recorded(site, tmp_path):
    target = tmp_path / "net.pth"
    assert download.fetch(f"{site}/unknown-length.pth", target, None) == SUM
    assert download.recorded_sum(target) == SUM == file_sha256(target)
    assert download.recorded_sum(tmp_path / "other.pth") is None


def test_many_at_once_leave_one_good_file(site, tmp_path):
    target = tmp_path / "net.pth"
    threads = [threading.Thread(target=download.fetch, args=(f"{site}/net.pth", target, SUM)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT and os.listdir(tmp_path) == ["net.pth"]


def test_a_killed_downloads_leftover_is_removed_after_a_day(site, tmp_path):
    old, fresh = tmp_path / "net.pth.1.tmp", tmp_path / "net.pth.2.tmp"
    for file in (old, fresh):
        file.write_bytes(b"half")
    long_ago = time.time() - 2 * download.STALE
    os.utime(old, (long_ago, long_ago))
    download.fetch(f"{site}/net.pth", tmp_path / "net.pth", SUM)
    assert sorted(os.listdir(tmp_path)) == ["net.pth", fresh.name]


def test_a_bar_is_drawn_in_a_terminal_only(monkeypatch, capsys):
    assert download.bar("net") is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    report = download.bar("net")
    report(50, 100)
    report(100, 100)
    assert "100%" in capsys.readouterr().err
