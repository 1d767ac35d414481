"""Which files of a watched folder are labelled, and when: new or changed, and whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from producer.sources import arrivals
from producer.sources.arrivals import NO_FILE, Arrivals
from producer.sources.folder_news import FolderNews, share_type
from producer.sources.images import Source
from producer.sources.since import FileState, state_of

SETTLE_S = 3.0


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 2e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(arrivals, "time", clock)
    return clock


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def watched(inbox: Path, known: dict[str, FileState] | None = None, *, trusts_clock: bool = False) -> Arrivals:
    found = {} if known is None else known
    return Arrivals(Source("inbox", str(inbox)), found.get, SETTLE_S, trusts_clock=trusts_clock)


def state(path: Path) -> FileState:
    found = state_of(str(path))
    assert found is not None
    return found


def test_a_file_is_whole_once_it_has_stood_still_since_its_last_change(inbox: Path, clock: Clock) -> None:
    (inbox / "a.jpg").write_bytes(b"half")
    found = watched(inbox)

    found.scan()
    clock.now += SETTLE_S - 0.1
    assert found.whole() == []
    (inbox / "a.jpg").write_bytes(b"half and half")
    clock.now += 0.2
    assert found.whole() == []  # it has changed: its time begins anew
    clock.now += SETTLE_S
    assert found.whole() == ["a.jpg"]


def test_only_new_and_changed_images_are_waited_for(inbox: Path, clock: Clock) -> None:
    for name in ("known.jpg", "replaced.jpg", "new.jpg", ".hidden.jpg", "notes.txt", "#recycle/x.jpg", "sub/y.png"):
        (inbox / name).parent.mkdir(exist_ok=True)
        (inbox / name).write_text(name)
    (inbox / "broken.jpg").symlink_to("nowhere")
    known = {name: state(inbox / name) for name in ("known.jpg", "replaced.jpg")}
    (inbox / "replaced.jpg").write_text("another picture")
    scanned, told = watched(inbox, known), watched(inbox, known)

    scanned.scan()
    told.look_at(str(path) for path in inbox.rglob("*"))
    clock.now += SETTLE_S

    expected = ["broken.jpg", "new.jpg", "replaced.jpg", "sub/y.png"]
    assert (scanned.whole(), told.whole()) == (expected, expected)
    assert scanned.skipped == {".txt": 1, "#recycle/": 1}


def test_what_is_gone_or_labelled_meanwhile_is_waited_for_no_more(inbox: Path, clock: Clock) -> None:
    known: dict[str, FileState] = {}
    found = watched(inbox, known)
    for name in ("gone.jpg", "labelled.jpg"):
        (inbox / name).write_text(name)
    found.scan()

    (inbox / "gone.jpg").unlink()
    known["labelled.jpg"] = state(inbox / "labelled.jpg")
    clock.now += SETTLE_S

    assert found.whole() == []
    assert len(found) == 0


def test_a_folder_that_is_moved_in_is_read_whole(inbox: Path, clock: Clock) -> None:
    (inbox / "card" / "DCIM").mkdir(parents=True)
    (inbox / "card" / "DCIM" / "a.jpg").write_text("a")
    found = watched(inbox)

    found.look_at([str(inbox / "card")])
    clock.now += SETTLE_S

    assert found.whole() == ["card/DCIM/a.jpg"]


def test_an_error_counts_only_of_a_file_that_nobody_has_touched_for_long(inbox: Path, clock: Clock) -> None:
    (inbox / "a.jpg").write_bytes(b"half")
    found = watched(inbox)
    found.scan()
    clock.now += SETTLE_S
    labelled = state(inbox / "a.jpg")

    assert found.whole() == ["a.jpg"]
    assert not found.counts("a.jpg", labelled)
    assert found.whole() == []  # not at once again
    clock.now += found.patience_s
    assert found.whole() == ["a.jpg"]
    assert found.counts("a.jpg", labelled)
    (inbox / "a.jpg").write_bytes(b"half and half")
    assert not found.counts("a.jpg", labelled)  # the error is of what was there before
    (inbox / "a.jpg").unlink()
    assert not found.counts("a.jpg", labelled)
    assert not found.has("a.jpg")


def test_an_error_of_an_old_file_counts_at_once_where_its_age_is_known(inbox: Path, clock: Clock) -> None:
    (inbox / "a.jpg").write_bytes(b"no image")  # in 2026, and the clock says 2033

    counts = [watched(inbox, trusts_clock=trusts).counts("a.jpg", state(inbox / "a.jpg")) for trusts in (True, False)]

    assert counts == [True, False]


def test_more_than_a_batch_is_seen_batch_by_batch(inbox: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MOST_WAITING", 2)
    known: dict[str, FileState] = {}
    found = watched(inbox, known)
    for name in "abcde":
        (inbox / f"{name}.jpg").write_text(name)
    batches = []

    for _ in range(3):
        found.scan()
        clock.now += SETTLE_S
        batches.append(found.whole())
        known.update({name: state(inbox / name) for name in batches[-1]})
        assert found.whole() == []

    assert batches == [["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"], ["e.jpg"]]
    assert not found.is_cut


def test_a_folder_that_cannot_be_listed_waits_like_a_file(
    inbox: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / "secret").mkdir()
    found, listed = watched(inbox), os.scandir

    def scandir(folder: str) -> os._ScandirIterator[str]:  # root may list any folder
        if "secret" in folder:
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert found.scan() == [f"{inbox}/secret: Permission denied"]
    clock.now += SETTLE_S
    assert found.whole() == ["secret/"]
    assert found.counts("secret/", NO_FILE) is False
    monkeypatch.undo()
    monkeypatch.setattr(arrivals, "time", clock)
    clock.now += found.patience_s
    assert found.whole() == []
    assert len(found) == 0


MOUNTS = r"""
overlay / overlay rw 0 0
server:/photos /mnt/share nfs4 rw 0 0
/dev/sdb1 /mnt/share/local ext4 rw 0 0
nas:/x /srv/my\040photos/nas cifs rw 0 0
me@host: /home/me/remote fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/mnt/share/inbox", "nfs4"),
        ("/mnt/share/local/inbox", ""),
        ("/mnt/shared", ""),
        ("/srv/my photos", "cifs"),  # it holds one
        ("/home/me/remote", "fuse.sshfs"),
        ("/tmp", ""),
    ],
)
def test_a_network_share_is_known_by_the_mounts(tmp_path: Path, folder: str, expected: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS.lstrip())

    assert share_type(folder, tmp_path / "mounts") == expected


def test_news_name_what_changed_and_polling_asks_for_scans(inbox: Path) -> None:
    said: list[str] = []
    news, polling = FolderNews(str(inbox), None, said.append), FolderNews(str(inbox), 0.1, said.append)
    news.listen()
    news.scanned(0.01)
    polling.scanned(0.0)

    (inbox / "draft").write_text("x")
    (inbox / "draft").rename(inbox / "a.jpg")
    changed = news.wait()
    news.close()
    polling.wait(0.2)

    assert str(inbox / "a.jpg") in changed
    assert (news.wants_scan, polling.wants_scan) == (False, True)
    assert said == []


def test_a_name_that_is_not_utf8_ends_no_listening(inbox: Path) -> None:
    news = FolderNews(str(inbox), None, lambda line: None)
    news.listen()
    news.scanned(0.0)

    (inbox / os.fsdecode(b"caf\xe9.jpg")).write_text("x")
    first, scans = news.wait(), news.wants_scan
    news.wait()
    (inbox / "b.jpg").write_text("x")
    second = news.wait()
    news.close()

    assert (first, scans, news.polls) == (set(), True, False)
    assert str(inbox / "b.jpg") in second


def test_a_system_without_room_for_a_listener_is_polled(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> set[tuple[object, str]]:
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr("watchfiles.watch", lambda *_, **__: map(full, [1]))
    said: list[str] = []
    news = FolderNews(str(inbox), None, said.append)
    news.listen()

    assert (news.polls, news.wants_scan) == (True, True)
    assert said == [
        f"the system does not tell what changes in {inbox} (OS file watch limit reached.): it is read every 5 s"
    ]
