"""Images behind URLs: listed, fetched ahead, within limits, tried again; a real web server that fails on purpose."""

from __future__ import annotations

import gc
import io
import os
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

import storage.http
from base.errors import ImageError, UnavailableError
from base.paths import path_to_text
from configs.settings import Settings
from producer.errors import UsageError
from producer.sources.argument import open_source, rooted
from storage import Folder, TransientError, open_folder, with_retries
from tests.canaries import secret
from tests.conftest import free_port, wait_until
from tests.unit.test_label_chunk import BLUE, GREEN, RED, Opener, chunk_of, first_labels, opened, write_image
from tests.web import Handler, Web, endless, promising, reset, serving, silent, status
from vision.images.decode import ImageLimits
from worker.label.chunk import label_chunk
from worker.label.remote import remote_images

__all__ = ["opened"]  # a fixture

BUSY = status(503)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, colour in enumerate([RED, GREEN, BLUE, RED, GREEN, BLUE]):
        write_image(tmp_path / "photos" / f"{number}.png", colour)
    return tmp_path / "photos"


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_to_collect() -> None:
    """Each test here collects garbage: without what other modules hold, which takes half a second a time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def web(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr("storage.protocol.WAITS_S", (0.01, 0.02, 0.04, 0.08))
    with serving(folder) as web:
        yield web
    gc.collect()  # what a test leaves open is found in that test


def names(source: str) -> list[str]:
    return list(open_source(source).paths())


def label(opened: Opener, folder: Folder, *paths: str, max_bytes: int = 10**8) -> list[int | str]:
    return first_labels(label_chunk(chunk_of(*paths), opened(), folder, ImageLimits(max_bytes=max_bytes)))


def test_a_folder_of_a_web_server_is_walked_like_the_folder_itself(folder: Path, web: Web) -> None:
    awkward = ["b/é.jpg", "b/a b&c+d.PNG", 'b/100% "sure";x.jpg', "b.jpg", "b/c/#1?.png", "b/%2e.gif", "ß/x.webp"]
    for name in [*awkward, ".hidden.png", ".git/a.png", "b/notes.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "empty").mkdir()
    remote, local = open_source(f"{web.url}/"), open_source(str(folder))

    assert list(remote.paths()) == list(local.paths())
    assert len(names(web.url)) == 6 + 7
    assert (remote.skipped, remote.is_folder, remote.unreadable) == (local.skipped, True, [])


def test_every_name_that_is_listed_can_be_read(folder: Path, web: Web) -> None:
    for name in ["a b&c+d.png", "100% sure;x.png", "#1?.png", "é'\"<>.png", "a\\b.png"]:
        (folder / name).write_bytes(os.fsencode(name))

    for name in names(web.url)[6:]:
        assert open_folder(web.url).read(name, 100) == (folder / name).read_bytes()


def test_links_that_lead_elsewhere_are_no_part_of_a_folder(web: Web) -> None:
    page = (
        '<a href="a.png">a</a><A HREF="a.png">again</A><a href="?C=N;O=D">sort</a><a href="/up.png">up</a>'
        '<a href="../x.png">x</a><a href="http://other/y.png">y</a><a href="sub/b.png">b</a><a href="//h/z.png">z</a>'
        '<a href="..%2f..%2fetc.png">e</a><a href="%2e%2e/">p</a><a href="http://[/">bad</a><a>none</a>'
        '<a href="./c.png#top">c</a><a href="file:///etc/d.png">d</a><a href="a&amp;b.png">ab</a>'
        '<a href="caf%E9.png">e</a>'
    )
    web.faults["/in/"] = [status(200, page.encode())]

    assert names(f"{web.url}/in") == ["a&b.png", "a.png", os.fsdecode(b"caf\xe9.png")]


def test_a_folder_that_cannot_be_listed_is_told(folder: Path, web: Web) -> None:
    write_image(folder / "sub" / "a.png")
    with pytest.raises(UsageError, match=r"away can't be listed: .*/away/ does not exist"):
        names(f"{web.url}/away")
    web.faults["/"] = [BUSY]
    with pytest.raises(UsageError, match=r"can't be listed: .*status 503"):
        names(web.url)
    web.faults["/"] = [BUSY, None]
    web.faults["/sub/"] = [status(403)]
    source = open_source(web.url)
    assert list(source.paths())[-1] == "sub/"
    assert source.unreadable == [f"{web.url}/sub/: status 403"]


def test_a_link_of_a_web_server_that_leads_back_is_a_row_and_gives_no_image_again(folder: Path, web: Web) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "back").symlink_to(folder)
    source = open_source(web.url)

    assert [path for path in source.paths() if path.startswith("sub/")] == ["sub/back/"]
    assert len(list(source.paths())) == 7
    assert source.unreadable[0] == f"{web.url}/sub/back/ leads back into a folder that it lies in"


def test_rows_are_those_of_the_same_files_on_this_machine(folder: Path, web: Web, opened: Opener) -> None:
    (folder / "6.png").write_bytes((folder / "5.png").read_bytes()[:50])
    (folder / "7.png").write_bytes(b"")
    (folder / "8.png").write_bytes(b"<html>no image at all")
    chunk = chunk_of(*(f"{number}.png" for number in [3, 1, 2, 0, 5, 4, 6, 7, 8, 9]))

    local = label_chunk(chunk, opened(), folder).rows
    remote = label_chunk(chunk, opened(), open_folder(web.url, 3)).rows

    assert [row.model_copy(update={"detail": ""}) for row in remote] == [
        row.model_copy(update={"detail": ""}) for row in local
    ]
    assert [row.error for row in remote][6:] == ["truncated", "empty", "not_an_image", "not_found"]


@pytest.mark.parametrize("fault", [BUSY, status(429), status(500), reset, promising(10**4, b"half of it")])
def test_what_passes_is_tried_again(web: Web, opened: Opener, fault: object) -> None:
    web.faults["/1.png"] = [fault, fault, None]  # type: ignore[list-item]

    assert label(opened, open_folder(web.url), "0.png", "1.png", "2.png") == [0, 1, 2]
    assert web.asked["/1.png"] == 3


@pytest.mark.parametrize("fault", [BUSY, status(500), reset, promising(10**4, b"half of it")])
def test_what_stays_with_one_image_is_its_row(web: Web, opened: Opener, fault: object) -> None:
    web.faults["/1.png"] = [fault]  # type: ignore[list-item]

    assert label(opened, open_folder(web.url), "0.png", "1.png", "2.png") == [0, "unreachable", 2]
    assert web.asked["/1.png"] == 5


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (status(404), "not_found"),
        (status(410), "not_found"),
        (status(403), "unreadable"),
        (status(400), "unreadable"),
        (status(206, b"x"), "unreadable"),
    ],
)
def test_what_another_try_would_not_change_is_asked_for_once(
    web: Web, opened: Opener, fault: object, code: str
) -> None:
    web.faults["/1.png"] = [fault]  # type: ignore[list-item]

    assert label(opened, open_folder(web.url), "0.png", "1.png") == [0, code]
    assert web.asked["/1.png"] == 1


def test_a_silent_server_costs_its_limit_and_no_more(web: Web, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.http, "SILENCE_LIMIT_S", 0.1)
    web.faults["/1.png"] = [silent, None]
    web.faults["/2.png"] = [silent]

    assert label(opened, open_folder(web.url), "0.png", "1.png", "2.png") == [0, 1, "unreachable"]


def test_a_drip_costs_its_limit_and_no_more(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.http, "TRY_LIMIT_S", 0.2)
    web.faults["/1.png"] = [endless]

    with pytest.raises(TransientError, match="was not read within"):
        open_folder(web.url).read("1.png", 10**12)


@pytest.mark.parametrize(
    "fault", [endless, status(200, b"x" * 5000), promising(20, b"x" * 5000), promising(10**13, b"")]
)
def test_no_more_bytes_are_taken_than_the_limit(web: Web, opened: Opener, fault: object) -> None:
    web.faults["/1.png"] = [fault]  # type: ignore[list-item]

    labels = label(opened, open_folder(web.url), "0.png", "1.png", "2.png", max_bytes=2000)

    # Of more bytes than were promised, those promised count.
    assert labels in ([0, "too_large", 2], [0, "not_an_image", 2])
    assert web.asked["/1.png"] == 1


def test_a_promise_is_refused_before_a_byte_is_read(web: Web) -> None:
    web.faults["/1.png"] = [promising(10**13, b"")]

    with pytest.raises(ImageError, match="has 10,000,000,000,000 bytes, the limit is 500"):
        open_folder(web.url).read("1.png", 500)


def test_an_image_too_large_to_wait_in_memory_is_read_when_its_turn_comes(
    web: Web, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.label.remote.AHEAD_BYTES", 50)

    assert label(opened, open_folder(web.url), "0.png", "1.png", "2.png") == [0, 1, 2]
    assert web.asked["/1.png"] == 2


@pytest.mark.parametrize("connections", [1, 4])
def test_as_many_images_are_fetched_at_once_as_there_are_connections(
    folder: Path, opened: Opener, connections: int
) -> None:
    paths = [f"{number % 6}.png" for number in range(24)]
    with serving(folder, wait_s=0.05) as web:
        label(opened, open_folder(web.url, connections), *paths)

        assert web.most_under_way == connections
        assert web.connections == connections  # kept open, not one for each image


def test_no_more_images_wait_than_there_are_connections(folder: Path) -> None:
    paths = [f"{number % 6}.png" for number in range(24)]
    with serving(folder) as web, remote_images(open_folder(web.url, 4), paths, 10**6) as sources:
        assert web.asked.total() == 0
        sources[0]()
        wait_until(lambda: web.asked.total() == 5, 10)
        threading.Event().wait(0.1)  # in which more would be asked for
        assert web.asked.total() == 5


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/secret.png", "./0.png", "//other/x.png"])
def test_a_path_that_leaves_the_data_root_asks_for_nothing(web: Web, opened: Opener, path: str) -> None:
    assert label(opened, open_folder(f"{web.url}/in"), path) == ["outside_data_root"]
    assert web.asked.total() == 0


@pytest.mark.parametrize(
    "path", ["http://other/x.png", "0.png?delete=1", "0.png#x", "%2e%2e/0.png", "x\r\nHost: other", "@other/x.png"]
)
def test_a_message_cannot_say_more_than_a_name_below_the_data_root(web: Web, opened: Opener, path: str) -> None:
    text = path_to_text(path)

    assert label(opened, open_folder(f"{web.url}/in"), text) == ["not_found"]
    assert list(web.asked) == [f"/in/{quote(path)}"]


def test_a_redirect_below_the_data_root_is_followed(web: Web, opened: Opener) -> None:
    web.faults["/old.png"] = [status(302, Location="/1.png")]

    assert label(opened, open_folder(web.url), "old.png") == [1]


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/1.png", "{url}/1.png", "/in/../1.png", "/in/%2e%2e/1.png", "/in/1.png?x=1",
               "//127.0.0.1:{port}/in/x.png", "https://127.0.0.1/in/x.png", "file:///etc/hostname", "http://[/x"],
)  # fmt: skip
def test_a_redirect_to_anywhere_else_is_not_followed(web: Web, opened: Opener, target: str, folder: Path) -> None:
    with serving(folder) as other:
        place = target.format(port=other.server_port, url=web.url)
        web.faults["/in/a.png"] = [status(302, Location=place)]

        assert label(opened, open_folder(f"{web.url}/in"), "a.png") == ["unreadable"]
        assert (list(web.asked), other.asked.total()) == (["/in/a.png"], 0)


def test_redirects_in_a_circle_end(web: Web, opened: Opener) -> None:
    web.faults["/a.png"] = [status(302, Location="/a.png")]

    assert label(opened, open_folder(web.url), "a.png") == ["unreadable"]


def test_a_server_that_is_away_is_no_fault_of_the_images(web: Web, opened: Opener) -> None:
    with pytest.raises(UnavailableError, match=r"the data root http://127.0.0.1:\d+/in can't be read: .*refused"):
        label(opened, open_folder(f"http://127.0.0.1:{free_port()}/in"), "0.png", "1.png")
    web.faults = {path: [BUSY] for path in ["/0.png", "/"]}
    with pytest.raises(UnavailableError, match=r"can't be read: .*status 503"):
        label(opened, open_folder(web.url), "0.png", "1.png")
    web.faults = {"/1.png": [status(401)]}
    with pytest.raises(UnavailableError, match=r"asks for a user and a password: put them into ~/\.netrc"):
        label(opened, open_folder(web.url), "0.png", "1.png")


def test_a_password_comes_from_netrc(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login, seen = f"me:{secret('netrc')}", list[str]()

    def watched(handler: Handler) -> None:
        seen.append(handler.headers["Authorization"])
        handler.answer(404)

    web.faults["/a.png"] = [watched]
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login me password {secret('netrc')}\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(ImageError, match="does not exist") as missing:
        open_folder(web.url).read("a.png", 10)

    assert seen == [f"Basic {b64encode(login.encode()).decode()}"]
    assert secret("netrc") not in str(missing.value)


def test_waits_between_tries_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def fail() -> None:
        raise TransientError("busy")

    with pytest.raises(TransientError):
        with_retries(fail, waits.append)
    assert [0.1 <= waits[0] <= 0.15, 0.4 <= waits[1] <= 0.6, len(waits)] == [True, True, 4]
    monkeypatch.setattr("storage.protocol.GIVE_UP_S", -1)
    with pytest.raises(TransientError):
        with_retries(fail, waits.append)
    assert len(waits) == 4  # a try that took too long is the last


def suppressing(call: Callable[[], object]) -> None:
    with suppress(Exception):
        call()


def test_a_chunk_that_ends_early_leaves_no_thread_behind(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.protocol.WAITS_S", (60, 60))
    web.faults["/0.png"] = [BUSY]

    with remote_images(open_folder(web.url), ["0.png", "1.png"], 10**6) as sources:
        taking = threading.Thread(target=partial(suppressing, sources[0]), daemon=True)
        taking.start()
        wait_until(lambda: web.asked["/0.png"], 10)

    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")], 10)
    taking.join(10)


def test_a_list_of_urls_is_a_source_below_what_they_share(web: Web, tmp_path: Path) -> None:
    listed = [f"{web.url}/a%20b/0.png", f"{web.url}/a%20b/c/1", f"{web.url}/a b/é.png"]
    (tmp_path / "list.txt").write_text("\n".join(listed) + "\n")

    for source in (open_source(str(tmp_path / "list.txt")), open_source("-", io.StringIO("\n".join(listed)))):
        assert list(source.paths()) == [f"{web.url}/a b/{name}" for name in ("0.png", "c/1", "é.png")]
        assert rooted(Settings(), source).data_root == f"{web.url}/a%20b"
        assert not source.is_folder
        assert rooted(Settings(data_root=web.url), source).data_root == web.url
        with pytest.raises(UsageError, match="is not below the data root"):
            rooted(Settings(data_root=f"{web.url}/a"), source)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["http://a/x.png", "http://b/x.png"], "several hosts or buckets"),
        (["http://a/x.png", "s3://a/x.png"], "several hosts or buckets"),
        (["http://a/x.png", "y.png"], "path 2: not a URL"),
        (["http://a/x.png", "http://a/y.png?sig=hunter2"], "path 2: http:// with a \\? in it"),
    ],
)
def test_a_list_that_has_no_one_root_is_refused(lines: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        rooted(Settings(), open_source("-", io.StringIO("\n".join(lines))))

    assert "hunter2" not in str(refused.value)


def test_a_local_list_stays_one(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\nhttp://h/b.png\n")

    source = open_source(str(tmp_path / "list.txt"))

    assert list(source.paths()) == ["a.png", "http://h/b.png"]
    assert rooted(Settings(data_root="s3://bucket"), source).data_root is None


def test_one_image_is_a_source(web: Web) -> None:
    source = open_source(f"{web.url}/in/a%20b.png")

    assert list(source.paths()) == [f"{web.url}/in/a b.png"]
    assert rooted(Settings(), source).data_root == f"{web.url}/in"
    assert open_source(f"{web.url}/in.png/").is_folder


def test_workers_of_others_need_a_data_root_that_holds_the_source() -> None:
    with pytest.raises(UsageError, match="pass --data-root URL"):
        rooted(Settings(broker="redis://h", data_root=Path("/mnt")), open_source("s3://bucket/photos"))
    with pytest.raises(UsageError, match="SOURCE is on this machine, and the workers' data root is s3://bucket"):
        rooted(Settings(broker="redis://h", data_root="s3://bucket"), open_source("."))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "urllib3", None)
    monkeypatch.delitem(__import__("sys").modules, "storage.http")

    with pytest.raises(UsageError, match=r'http:// needs another package: .* -m pip install "sortline\[remote\]"'):
        open_source("http://host/photos")
    with pytest.raises(UsageError, match=r'gs:// needs another package: .* -m pip install "gcsfs"'):
        open_source("gs://bucket/photos")


def test_any_store_of_fsspec_is_read(folder: Path, opened: Opener) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for path in folder.iterdir():
        store.pipe(f"/photos/in/{path.name}", path.read_bytes())
    store.pipe("/photos/in/notes.txt", b"x")
    source = open_source("memory://photos")

    assert list(source.paths()) == [f"in/{number}.png" for number in range(6)]
    assert source.skipped == {".txt": 1}
    assert label(opened, open_folder("memory://photos"), "in/1.png", "in/9.png", "../x") == [
        1, "not_found", "outside_data_root",
    ]  # fmt: skip
    assert label(opened, open_folder("memory://photos"), "in/1.png", max_bytes=20) == ["too_large"]
