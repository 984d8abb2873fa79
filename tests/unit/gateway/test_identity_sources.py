"""Where identity comes from: files that change in every way that files do, and an issuer's address that answers what it likes."""

import asyncio
import os
import socket
import stat

import pytest

from gateway.identity import fetching
from gateway.identity.directory import parse_keys
from gateway.identity.watched_file import WatchedFile
from tests.support.issuer import KeyServer

GOOD = f"keys: [{{name: a, sha256: {'a' * 64}}}]"


class TestWatchedFile:
    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "file").write_text("keys: []")
        return tmp_path / "file"

    @pytest.fixture
    def file(self, path, tmp_path):
        watched = WatchedFile(str(path), tmp_path / "saved")
        assert watched.has_changed()
        return watched

    def test_is_the_same_until_it_is_another(self, file, path):
        assert not file.has_changed()
        path.write_text("keys: [] #")
        assert file.has_changed()
        assert not file.has_changed()

    def test_replaced_by_one_of_the_same_size_and_time(self, file, path, tmp_path):
        (tmp_path / "new").write_text("keys: {}")
        os.utime(tmp_path / "new", ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        (tmp_path / "new").replace(path)
        assert file.has_changed()

    def test_a_link_that_leads_elsewhere(self, path, tmp_path):
        """As Kubernetes changes a mounted Secret."""
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        for name in ("one", "two"):
            (tmp_path / name / "file").write_text(name)
        (tmp_path / "data").symlink_to("one")
        watched = WatchedFile(str(tmp_path / "data" / "file"), tmp_path / "saved")
        assert watched.has_changed()
        assert watched.parsed(bytes, b"") == b"one"
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").rename(tmp_path / "data")
        assert watched.has_changed()
        assert watched.parsed(bytes, b"") == b"two"

    def test_gone_and_there_again(self, file, path, caplog):
        path.unlink()
        assert file.has_changed()
        assert file.parsed(parse_keys, ["before"]) == ["before"]
        assert "No such file or directory; what it said before goes on to count" in caplog.text
        assert not file.has_changed()
        path.write_text("keys: []")
        assert file.has_changed()
        assert file.parsed(parse_keys, ["before"]) == []

    def test_wrong(self, file, path, caplog):
        path.write_text("keys: [1, 2]")
        assert file.parsed(parse_keys, ["before"]) == ["before"]
        assert caplog.text.count("expected `object`") == 2

    def test_broken_when_a_worker_starts_it_says_what_was_good_last(self, file, path, tmp_path):
        path.write_text(GOOD)
        (good,) = file.parsed(parse_keys, [])
        assert stat.S_IMODE((tmp_path / "saved").stat().st_mode) == 0o600
        path.write_text("keys: [1]")
        assert WatchedFile(str(path), tmp_path / "saved").parsed(parse_keys, []) == [good]
        assert WatchedFile(str(path), tmp_path / "none").parsed(parse_keys, []) == []

    def test_what_cannot_be_kept_counts_all_the_same(self, path, tmp_path, caplog):
        path.write_text(GOOD)
        assert len(WatchedFile(str(path), tmp_path / "none" / "saved").parsed(parse_keys, [])) == 1
        assert "cannot be kept" in caplog.text

    def test_without_a_path_it_never_changes(self, tmp_path):
        none = WatchedFile("", tmp_path / "saved")
        assert not none.has_changed()
        assert none.parsed(parse_keys, ["before"]) == ["before"]


class TestFetching:
    @pytest.fixture
    def server(self):
        with KeyServer(b'{"keys": []}') as started:
            yield started

    async def test_brings_the_document(self, server):
        assert await fetching.fetch(server.address) == b'{"keys": []}'

    @pytest.mark.parametrize("status", [204, 301, 302, 404, 500, 503])
    async def test_takes_nothing_but_a_document(self, server, status):
        server.status = status
        server.text = b""
        with pytest.raises(OSError, match=f"answered {status}, not 200"):
            await fetching.fetch(server.address)

    async def test_takes_no_giant(self, server):
        server.text = b"x" * (fetching.LARGEST + 1)
        with pytest.raises(OSError, match="answered with more than 1048576 bytes"):
            await fetching.fetch(server.address)

    async def test_says_why_nobody_answers(self, server):
        server.stop()
        with pytest.raises(OSError, match="Connect"):
            await fetching.fetch(server.address)
        with pytest.raises(OSError, match="invalid"):
            await fetching.fetch("http://name.invalid/")
        for address in ("http://a..b/", f"http://{'x' * 70}.invalid/", "http://"):
            with pytest.raises(OSError):
                await fetching.fetch(address)

    async def test_waits_for_so_long_and_no_longer(self, monkeypatch):
        monkeypatch.setattr(fetching, "SECONDS", 0.1)
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            pytest.raises(OSError, match=r"did not answer within 0\.1 s"),
        ):
            await asyncio.wait_for(fetching.fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/"), 10)
