"""What is reviewed, in which order, by whom: images of runs and tables, views, decisions, the server's guards."""

from __future__ import annotations

import csv
import http.client
import json
import os
import random
import socket
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from base.errors import ImageError, UnavailableError
from configs import Settings
from jobs.label import Row
from producer.errors import UsageError
from producer.reports.request import request_of
from producer.review.corrections import Conflict, Corrections
from producer.review.guard import COOKIE, Guard, user_in
from producer.review.images import Collection, open_collection
from producer.review.pictures import Pictures
from producer.review.retraining import Retraining
from producer.review.review import review
from producer.review.server import listen, make_server
from producer.review.session import Session, ViewGone
from producer.review.views import FAILED, Query, Views, dense, entropy, groups, k_center
from storage import LocalFolder
from tests.conftest import wait_until
from tests.unit.reported import LABELS, ok, run_of

BROKEN = Row(error="truncated", detail="the file ends early")
SURE = [0.9, 0.4, 0.7, 0.95, 0.5, 0.6]
BEST = [0, 0, 1, 1, 2, 0]


def draw(path: Path, text: str, size: tuple[int, int] = (120, 90)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(image)
    drawn = random.Random(text)  # noqa: S311 - a picture of its own for each text
    for _ in range(30):
        x, y, shade = drawn.randrange(size[0]), drawn.randrange(size[1]), drawn.randrange(256)
        canvas.rectangle([x, y, x + 30, y + 20], fill=(shade, 40, 255 - shade))
    image.save(path)


@dataclass
class Desk:
    """A run of seven images, two labels sure and unsure, one broken; and where all of it lies."""

    settings: Settings
    inbox: Path
    run: Path

    def collection(self) -> Collection:
        return open_collection(self.settings, str(self.run))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    inbox, home = tmp_path / "inbox", tmp_path / "home"
    paths = [f"{number}.png" for number in range(7)]
    for path in paths:
        draw(inbox / path, f"picture {path}")
    (home / "runs").mkdir(parents=True)
    rows = [ok(best, sure) for best, sure in zip(BEST, SURE, strict=True)]
    with run_of(home / "runs", paths, [*rows, BROKEN], base=str(inbox)) as run:
        return Desk(Settings(home=home), inbox, run.path)


@pytest.fixture
def session(desk: Desk) -> Iterator[Session]:
    with opened(desk) as found:
        yield found


@contextmanager
def opened(desk: Desk) -> Iterator[Session]:
    collection = desk.collection()
    pictures = Pictures(collection, desk.settings.home, 10**8)
    with closing(pictures), closing(Corrections(collection.corrections, "ann")) as corrections:
        yield Session(collection, corrections, pictures, desk.collection)


def order_of(session: Session, **query: str) -> list[int]:
    view = session.open_view(Query(**query))
    return [image["id"] for image in session.page(view["key"], 0, 500)["images"]]


# ---- what is reviewed


def test_a_run_is_found_by_its_file_and_has_its_corrections_beside_it(desk: Desk) -> None:
    found = desk.collection()

    assert [image.path for image in found.images] == [f"{number}.png" for number in range(7)]
    assert found.images[1].key == f"{desk.inbox}/1.png"
    assert found.corrections == desk.run.with_suffix(".corrections.csv")
    assert (found.version, found.label(found.images[2]), found.images[6].error) == ("waste:7", "paper", "truncated")


def test_a_run_that_another_command_holds_is_read_all_the_same(desk: Desk) -> None:
    from producer.runfile import RunFile

    with closing(RunFile(desk.run)):
        assert len(desk.collection().images) == 7


def write_table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


REPORT = [
    ["path", "status", "label", "confidence", "label_2", "confidence_2", "error", "error_detail", "model"],
    ["a/1.png", "ok", "tin", "0.6", "glass", "0.3", "", "", "k:2"],
    ["a/2.png", "error", "", "", "", "", "truncated", "ends early", "k:2"],
]


def test_a_report_of_another_machine_is_mapped_to_where_its_images_lie_here(tmp_path: Path) -> None:
    draw(tmp_path / "share" / "photos" / "a" / "1.png", "one")
    table = write_table(tmp_path / "report.csv", REPORT)
    table.with_name("report.summary.json").write_text(json.dumps({"base": "/mnt/elsewhere/photos"}))
    settings = Settings(home=tmp_path / "home")

    found = open_collection(settings, str(table), tmp_path / "share")
    assert found.images[0].key == str(tmp_path / "share" / "photos" / "a" / "1.png")
    assert (found.version, found.label(found.images[0]), found.images[1].detail) == ("k:2", "tin", "ends early")
    assert found.corrections == tmp_path / "report.corrections.csv"
    with pytest.raises(UsageError, match="none of the first 2 images is below it"):
        open_collection(settings, str(table), tmp_path / "home")


def test_an_audit_is_reviewed_with_its_suggestions(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "1.png", "one")
    path = f"{tmp_path}/photos/1.png"
    head = ["path", "label", "suggested", "label_probability", "suggested_probability", "suspicious"]
    table = write_table(tmp_path / "audit.csv", [head, [path, "tin", "glass", "0.1", "0.8", "True"]])

    (image,) = open_collection(Settings(home=tmp_path / "home"), str(table)).images
    assert [share for _, share in image.ranked] == [0.1, 0.8]
    moved = tmp_path / "moved"
    (tmp_path / "photos").rename(moved)
    found = open_collection(Settings(home=tmp_path / "home"), str(table), moved)
    assert found.images[0].key == f"{moved}/1.png"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["file", "label"], ["a", "b"]], "needs path and label"),
        ([["path", "label"]], "has no rows"),
        ([["path", "label", "confidence"], ["a", "b", "much"]], "line 2: confidence is 'much', not a number"),
        ([["path", "label", "confidence"], ["a", "b", "7"]], "line 2: confidence is 7, and not from 0 to 1"),
        ([["path", "label"], ["", "b"]], "line 2: it has no path"),
    ],
)
def test_a_table_that_is_no_report_is_refused_with_its_line(
    tmp_path: Path, rows: list[list[str]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_collection(Settings(home=tmp_path / "home"), str(write_table(tmp_path / "x.csv", rows)))


@pytest.mark.long
def test_a_table_of_a_million_rows_is_opened_and_ordered(tmp_path: Path) -> None:
    draw(tmp_path / "0.png", "one")
    table = tmp_path / "report.csv"
    with table.open("w") as file:
        file.write("path,label,confidence\n")
        file.writelines(f"{number}.png,{'xyz'[number % 3]},0.{number % 1000:03}\n" for number in range(1_000_000))
    collection = open_collection(Settings(home=tmp_path / "home"), str(table))

    assert len(collection.images) == 1_000_000
    view = Views(collection, dict).open(Query(group="y", text="999"))
    assert collection.images[view.indexes[0]].ranked[0][1] < collection.images[view.indexes[-1]].ranked[0][1]


# ---- in which order


def test_the_least_sure_come_first_and_failed_ones_last(session: Session) -> None:
    assert order_of(session) == [1, 4, 5, 2, 0, 3, 6]
    assert order_of(session, group="glass") == [1, 5, 0]
    assert order_of(session, group=FAILED) == [6]
    assert order_of(session, order="listed") == [0, 1, 2, 3, 4, 5, 6]
    assert order_of(session, text="3 PNG") == [3]
    assert order_of(session, order="random") == order_of(session, order="random") != list(range(7))
    with pytest.raises(UsageError, match="no order"):
        session.open_view(Query(order="best"))


def test_what_is_least_like_the_training_comes_first_where_that_is_known(desk: Desk, tmp_path: Path) -> None:
    rows = [
        ["path", "label", "confidence", "outlier"],
        *(["a", "x", "0.9", "0.5"], ["b", "y", "0.1", ""], ["c", "x", "0.8", "1.7"], ["d", "x", "0.7", "0"]),
    ]
    settings = Settings(home=tmp_path / "home")
    collection = open_collection(settings, str(write_table(tmp_path / "x.csv", rows)))

    view = Views(collection, dict).open(Query(order="outlier"))

    assert [collection.images[index].path for index in view.indexes] == ["c", "a", "d", "b"]
    assert (collection.has_outliers, desk.collection().has_outliers) == (True, False)
    rows[1][3] = "-1"
    with pytest.raises(UsageError, match="line 2: outlier is -1, and not from 0 to inf"):
        open_collection(settings, str(write_table(tmp_path / "y.csv", rows)))


def test_a_table_is_filtered_by_what_became_of_its_answers(tmp_path: Path) -> None:
    rows = [
        ["path", "label", "confidence", "decision"],
        *(["a", "x", "0.9", "accept"], ["b", "y", "0.1", "review"], ["c", "x", "0.8", "unknown"], ["d", "", "", ""]),
    ]
    collection = open_collection(Settings(home=tmp_path / "home"), str(write_table(tmp_path / "x.csv", rows)))
    views = Views(collection, dict)

    found = {
        decision: [collection.images[index].path for index in views.open(Query(decision=decision)).indexes]
        for decision in ("", "accept", "review", "unknown")
    }

    assert found == {"": ["b", "c", "a", "d"], "accept": ["a"], "review": ["b"], "unknown": ["c"]}
    assert list(groups(collection, {})) == [("x", "accept"), ("x", "unknown"), ("y", "review"), (FAILED, "")]
    with pytest.raises(UsageError, match="no decision 'maybe'"):
        Query(decision="maybe").check()


def test_a_run_is_filtered_as_its_report_decides(tmp_path: Path) -> None:
    settings, paths = Settings(home=tmp_path / "home"), [f"{number}.png" for number in range(4)]
    for path in paths:
        draw(tmp_path / path, path)
    rows = [ok(0, 0.95), ok(1, 0.5), ok(2, 0.9), ok(0, 0.95).model_copy(update={"outlier": 1.2})]
    thresholds = {"0.8": [0.4, 0.4, None], "0.95": [0.9, 0.9, None]}
    (settings.home / "runs").mkdir(parents=True)
    with run_of(settings.home / "runs", paths, rows, base=str(tmp_path), thresholds=thresholds, outliers=True) as run:
        for target in (0.95, 0.8):
            request_of(tmp_path / f"{target}.csv", None, target_precision=target).keep(run)
    desk = Desk(settings, tmp_path, run.path)

    for name, expected in (("0.95.csv", "accept review review unknown"), ("0.8.csv", "accept accept review unknown")):
        collection = open_collection(settings, str(tmp_path / name))
        assert [image.decision for image in collection.images] == expected.split()
    with opened(desk) as session:
        session.decide([3], "reject", "", 0)
        left = {(group["name"], group["decision"]): group["todo"] for group in session.state()["groups"]}
        assert left[("glass", "unknown")] == 0
        assert left[("glass", "accept")] == 1
        assert order_of(session, decision="unknown", show="done") == [3]


def test_a_decision_is_not_asked_of_a_run_that_has_none(desk: Desk) -> None:
    with pytest.raises(UsageError, match="does not say which answers are accepted"):
        review(desk.settings, str(desk.run), None, None, None, "uncertain", "unknown", browse=False)


def test_entropy_counts_what_the_known_labels_leave(desk: Desk) -> None:
    images = desk.collection().images
    assert entropy(images[1]) > entropy(images[2]) > entropy(images[3])


def test_diverse_images_are_far_from_each_other_in_what_the_model_says() -> None:
    answers = [[(0, 1.0)], [(0, 0.9), (1, 0.1)], [(1, 1.0)], [(0, 0.95)], [(2, 1.0)]]
    points = dense(answers, 3)
    assert sorted(k_center(points, [1.0] * 5, 3)) == [0, 2, 4]
    assert sorted(k_center(points[[0, 0, 1, 0]], [1.0] * 4, 9)) == [0, 1, 2, 3]  # equal ones come once each
    assert k_center(points[:0], [], 3) == []


def test_of_images_as_far_from_each_other_the_least_sure_comes_first() -> None:
    points = dense([[(0, 1.0)], [(1, 1.0)], [(2, 1.0)], [(0, 0.9), (1, 0.1)]], 3)
    assert k_center(points, [0.5, 0.2, 0.4, 0.9], 4) == [0, 2, 1, 3]
    assert k_center(points, [0.5, 0.4, 0.2, 0.9], 4) == [0, 1, 2, 3]
    assert k_center(points, [0.5, 0.001, 0.002, 0.9], 4)[:2] == [0, 3]  # farther, but hardly in doubt


def test_the_order_by_diversity_has_every_image_once_and_begins_with_the_least_sure(session: Session) -> None:
    found = order_of(session, order="diverse")
    assert sorted(found) == list(range(7))
    assert (found[0], found[-1]) == (1, 6)


def test_where_embeddings_are_known_the_diverse_order_goes_by_them(desk: Desk, tmp_path: Path) -> None:
    vectors = {0: [9.0, 9.0], 1: [1.0, 0.0], 2: [1.0, 0.1], 3: [0.0, 1.0], 4: [1.0, 0.05]}  # 5 is not in the file
    path = write_embeddings(
        tmp_path / "e.parquet", {f"{desk.inbox}/{number}.png": row for number, row in vectors.items()}
    )
    collection = open_collection(desk.settings, str(desk.run), embeddings=path)
    view = Views(collection, dict).open(Query(order="diverse"))

    assert list(view.indexes[:3]) == [1, 3, 0]  # the least sure; the farthest; between the two
    assert sorted(view.indexes) == list(range(7))
    assert list(view.indexes[-2:]) == [5, 6]
    assert collection.embeddings is not None
    assert np.isnan(collection.embeddings[:, 0]).tolist() == [False] * 5 + [True] * 2


def test_embeddings_are_found_behind_links(desk: Desk, tmp_path: Path) -> None:
    path = write_embeddings(
        tmp_path / "e.parquet", {f"{tmp_path}/real/{number}.png": [1.0, 2.0] for number in range(7)}
    )
    desk.inbox.rename(tmp_path / "real")
    desk.inbox.symlink_to(tmp_path / "real")
    collection = open_collection(desk.settings, str(desk.run), embeddings=path)
    assert collection.embeddings is not None
    assert not np.isnan(collection.embeddings).any()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"/elsewhere/1.png": [1.0, 2.0]}, "has none of these images, such as .*/0.png"),
        ({"/elsewhere/1.png": [1.0], "b": [1.0, 2.0]}, "no Parquet file with the columns path and embedding"),
        (None, "no Parquet file with the columns path and embedding"),
    ],
)
def test_embeddings_of_other_images_or_another_kind_of_file_are_refused(
    desk: Desk, tmp_path: Path, rows: dict[str, list[float]] | None, message: str
) -> None:
    path = tmp_path / "e.parquet"
    path.write_bytes(b"PAR1 and no more")
    if rows is not None:
        write_embeddings(path, rows)
    with pytest.raises(UsageError, match=message):
        open_collection(desk.settings, str(desk.run), embeddings=path)
    with pytest.raises(UsageError, match="there is no such file"):
        open_collection(desk.settings, str(desk.run), embeddings=tmp_path / "other.parquet")


def write_embeddings(path: Path, rows: dict[str, list[float]]) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"path": list(rows), "embedding": list(rows.values())}), path)
    return path


def test_a_view_stays_as_it_is_while_its_images_are_decided(session: Session) -> None:
    view = session.open_view(Query())
    session.decide([1, 4], "right", "", 0)

    page = session.page(view["key"], 0, 2)["images"]
    assert [(image["id"], image["verdict"]) for image in page] == [(1, "right"), (4, "right")]
    assert order_of(session) == [5, 2, 0, 3, 6]
    assert order_of(session, show="done") == [1, 4]
    with pytest.raises(ViewGone):
        session.page("99", 0, 2)


# ---- what is decided


def test_decisions_are_counted_and_undone(session: Session) -> None:
    answer = session.decide([0, 1], "label", "tin", 0)
    assert [(image["id"], image["verdict"], image["label"]) for image in answer["changed"]] == [
        (0, "wrong", "tin"),
        (1, "wrong", "tin"),
    ]
    session.decide([5], "label", "glass", 1)  # what the model says
    session.decide([6], "reject", "", 2)
    assert [group["todo"] for group in session.state()["groups"]] == [0, 2, 1, 0]

    answer = session.undo(3, session.open_view(Query(order="listed", show="all"))["key"])
    assert (answer["moved"], answer["place"], [image["verdict"] for image in answer["changed"]]) == (1, 6, ["open"])
    session.undo(4)
    session.undo(5)
    assert [group["todo"] for group in session.state()["groups"]] == [3, 2, 1, 1]
    assert session.undo(6)["moved"] == 0
    session.redo(6)
    assert [group["todo"] for group in session.state()["groups"]] == [1, 2, 1, 1]


def test_a_new_label_is_offered_from_then_on_and_a_failed_image_has_no_right_label(session: Session) -> None:
    session.decide([6], "label", " wine  bottle ", 0)

    assert session.state()["labels"] == [*LABELS, "wine bottle"]
    with pytest.raises(UsageError, match="has no label that could be right"):
        session.decide([6], "right", "", 1)
    for bad in ("maybe", ""):
        with pytest.raises(UsageError, match="no verdict"):
            session.decide([0], bad, "", 1)
    for indexes in ([], [7], [-1]):
        with pytest.raises(UsageError):
            session.decide(indexes, "right", "", 1)


def test_the_row_names_the_bytes_that_were_seen(desk: Desk) -> None:
    with opened(desk) as session:
        session.decide([0], "right", "", 0)
    with desk.collection().corrections.open(newline="") as file:
        (row,) = csv.DictReader(file)

    from hashlib import sha256

    assert row["sha256"] == sha256((desk.inbox / "0.png").read_bytes()).hexdigest()
    assert (row["label"], row["verdict"], row["predicted"], row["confidence"]) == ("glass", "right", "glass", "0.9000")


def test_near_duplicates_are_found_among_all_images_in_the_background_and_not_corrected_by_themselves(
    desk: Desk,
) -> None:
    with Image.open(desk.inbox / "0.png") as image:
        image.resize((60, 45)).convert("RGB").save(desk.inbox / "5.png")
    with opened(desk) as session:
        assert session.near([0]) == {"images": [], "among": 0}
        session.pictures.make_all()
        wait_until(lambda: session.pictures.compared == 7, 60)
        session.decide([0], "label", "tin", 0)

        assert [image["id"] for image in session.near([0])["images"]] == [5]
        assert session.near([5])["images"] == []  # 0 is decided
        assert session.news(0)["changed"][0]["id"] == 0
        assert len(session.news(0)["changed"]) == 1


def test_what_can_not_be_read_for_a_while_keeps_nobody_from_the_other_images(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = LocalFolder.read, [UnavailableError("the share is away"), sqlite3.OperationalError("disk full")]

    def fail_at_first(self: LocalFolder, path: str, most_bytes: int) -> bytes:
        if failures:
            raise failures.pop()
        return read(self, path, most_bytes)

    monkeypatch.setattr(LocalFolder, "read", fail_at_first)
    monkeypatch.setattr("producer.review.pictures.LOOK_EVERY_S", 0.01)
    (desk.inbox / "4.png").write_bytes(b"no picture")
    with opened(desk) as session:
        session.pictures.make_all()
        wait_until(lambda: session.pictures.compared == 4, 60)


def test_plain_pictures_are_like_no_other(desk: Desk) -> None:
    for number in (0, 1):
        Image.new("RGB", (90, 60), "grey").save(desk.inbox / f"{number}.png")
    with opened(desk) as session:
        for number in range(7):
            session.pictures.small(number)
        assert session.near([0])["images"] == []


def test_near_duplicates_of_many_images_among_many_are_found_at_once(desk: Desk) -> None:
    """Hashes as of 20,000 images, of which each second one is the one before with two bits changed."""
    drawn = random.Random(0)  # noqa: S311 - the same at each call
    first = [sum(1 << bit for bit in drawn.sample(range(64), 32)) for _ in range(10_000)]
    with opened(desk) as session:
        collection = desk.collection()
        images = [collection.images[0]._replace(key=f"/{number}") for number in range(20_000)]
        session.pictures.take(replace(collection, images=images))
        seen = session.pictures._seen
        seen.hashes[0::2], seen.hashes[1::2] = first, [one ^ (1 << 5 | 1 << 60) for one in first]
        seen.is_known[:] = True
        assert session.pictures.near(range(0, 600, 2)) == list(range(1, 601, 2))


def test_a_run_that_has_other_images_when_it_is_read_again_gives_them_other_numbers(desk: Desk) -> None:
    with opened(desk) as session:
        old = order_of(session)
        before = session.pictures.small(1)
        desk.run.unlink()
        with run_of(desk.run.parent, ["00.png", "0.png", "1.png"], [ok(1)] * 3, base=str(desk.inbox)):
            draw(desk.inbox / "00.png", "one that comes first")
            session.reload()
        new = order_of(session)

        assert not set(old) & set(new)
        assert session.pictures.small(session.index(new[-1])).sha256 == before.sha256
        for stale in (lambda: session.decide([old[0]], "right", "", 0), lambda: session.near([old[0]])):
            with pytest.raises(ViewGone, match="read again"):
                stale()
        assert session.decide([new[-1]], "right", "", 0)["changed"][0]["path"] == "1.png"


def test_new_answers_of_a_running_run_come_in_and_decisions_stay(desk: Desk) -> None:
    with opened(desk) as session:
        session.decide([0], "right", "", 0)
        desk.run.unlink()
        with run_of(desk.run.parent, [f"{number}.png" for number in range(8)], [ok(1)] * 8, base=str(desk.inbox)):
            state = session.reload()
        assert state["images"] == 8
        assert [(group["name"], group["todo"]) for group in state["groups"]] == [("paper", 7)]


def test_after_another_version_the_page_says_what_changed(desk: Desk) -> None:
    with opened(desk) as session:
        session.decide([0, 1], "label", "tin", 0)
        session.decide([4], "right", "", 1)
        desk.run.unlink()
        rows = [ok(2), ok(0), ok(1), ok(1), ok(2), ok(1), BROKEN]  # 0 is tin now, 1 is not, 5 has another label
        with run_of(desk.run.parent, [f"{number}.png" for number in range(7)], rows, base=str(desk.inbox)) as run:
            plan = json.loads(run._db.execute("SELECT json FROM plan").fetchone()[0])
            plan["model"]["version"] = 8
            run._db.execute("UPDATE plan SET json = ?", (json.dumps(plan),))
        assert session.reload()["compared"] == (
            "waste:8 after waste:7: 1 of 2 corrected images are right now; 1 others have another label than before"
        )
        assert session.reload()["compared"] == ""


def test_the_page_trains_the_reviewed_model_with_its_corrections(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    retraining = Retraining(Settings(home=tmp_path / "home"), "kitchen:3", tmp_path / "my corrections.csv")
    assert retraining.command == f"sortline train --from kitchen --corrections '{tmp_path}/my corrections.csv'"
    assert retraining.state() == {"running": False, "code": None, "lines": []}
    retraining.start()
    wait_until(lambda: not retraining.state()["running"] and retraining.state()["lines"], 60)
    assert retraining.state()["code"] == 1
    assert "the model store" in retraining.state()["lines"][0]  # there is none
    with pytest.raises(UsageError, match="train by hand"):
        Retraining(Settings(home=tmp_path / "home"), "", tmp_path / "corrections.csv").start()


# ---- pictures


def test_a_picture_is_made_once_and_again_when_its_file_changes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = desk.collection()
    with closing(Pictures(collection, desk.settings.home, 10**8)) as pictures:
        first = pictures.small(0)
        with monkeypatch.context() as patch:
            patch.setattr("producer.review.pictures.shrunk", None)
            assert pictures.small(0) == first
        draw(desk.inbox / "0.png", "something else")
        assert pictures.small(0).webp != first.webp
        assert first.webp[:4] == b"RIFF"
        assert pictures.large(0)[8:12] == b"WEBP"


def test_no_file_outside_the_run_is_shown_whatever_links_lie_in_it(desk: Desk, tmp_path: Path) -> None:
    draw(tmp_path / "secret" / "1.png", "secret")
    (desk.inbox / "0.png").unlink()
    (desk.inbox / "0.png").symlink_to(tmp_path / "secret" / "1.png")
    (desk.inbox / "1.png").unlink()
    (desk.inbox / "1.png").symlink_to(desk.inbox / "2.png")  # stays inside
    (desk.inbox / "3.png").write_bytes(b"no picture")
    with closing(Pictures(replace(desk.collection(), root=tmp_path), desk.settings.home, 10**8)) as pictures:
        assert pictures.small(0).webp  # allowed there, and kept
    with closing(Pictures(desk.collection(), desk.settings.home, 10**8)) as pictures:
        for show in (pictures.small, pictures.large):
            with pytest.raises(ImageError, match="outside"):
                show(0)
            with pytest.raises(ImageError, match="no picture can be made"):
                show(3)
        assert pictures.small(1).webp
        assert pictures.digest(0) == ""


def test_a_row_that_leads_out_of_its_folder_is_not_shown(tmp_path: Path) -> None:
    draw(tmp_path / "secret.png", "secret")
    draw(tmp_path / "inbox" / "1.png", "one")
    rows = [["path", "label"], ["1.png", "tin"], ["../secret.png", "tin"]]
    collection = open_collection(
        Settings(home=tmp_path / "home"), str(write_table(tmp_path / "inbox" / "report.csv", rows))
    )
    with closing(Pictures(collection, tmp_path / "home", 10**8)) as pictures:
        assert pictures.small(0).webp
        with pytest.raises(ImageError, match="outside"):
            pictures.small(1)


# ---- who may ask


def headers(guard: Guard, **changed: str | None) -> dict[str, str]:
    """Those of the page's own changes, but for some."""
    address = f"127.0.0.1:{guard.port}"
    given: dict[str, str | None] = {
        "host": address,
        "origin": f"http://{address}",
        "content-type": "application/json",
        "content-length": "10",
        "x-sortline-token": guard.token,
        "sec-fetch-site": "same-origin",
    }
    given |= {name.replace("_", "-"): value for name, value in changed.items()}
    return {name: value for name, value in given.items() if value is not None}


def test_the_page_itself_may_ask_and_change(tmp_path: Path) -> None:
    guard = Guard(4711)
    assert guard.refusal("POST", headers(guard), guard.session, None) == ""
    bare = {"host": "127.0.0.1:4711"}
    assert guard.refusal("GET", bare, guard.session, None) == ""


@pytest.mark.parametrize(
    ("method", "changed", "cookie", "why"),
    [
        ("GET", {"host": "evil.example:4711"}, None, "own address"),  # a name that points to 127.0.0.1
        ("GET", {"host": None}, None, "own address"),
        ("GET", {"host": "127.0.0.1:4712"}, None, "own address"),
        ("GET", {}, "", "open the link"),
        ("GET", {}, "guessed", "open the link"),
        ("GET", {"sec_fetch_site": "cross-site"}, None, "another site"),
        ("GET", {"sec_fetch_site": "same-site"}, None, "another site"),  # another port of this host
        ("POST", {"origin": "http://evil.example"}, None, "another site"),
        ("POST", {"origin": "http://127.0.0.1:4712"}, None, "another site"),
        ("POST", {"origin": "null"}, None, "another site"),
        ("POST", {"origin": None}, None, "another site"),
        ("POST", {"x_sortline_token": None}, None, "token"),
        ("POST", {"x_sortline_token": "guessed"}, None, "token"),
        ("POST", {"content_type": "text/plain"}, None, "JSON"),  # what a form of another site can send
        ("POST", {"content_length": "99999999"}, None, "at most"),
        ("POST", {"content_length": None}, None, "at most"),
        ("PUT", {}, None, "by POST"),
        ("DELETE", {}, None, "by POST"),
    ],
)
def test_whoever_else_asks_is_refused(method: str, changed: dict[str, str], cookie: str | None, why: str) -> None:
    guard = Guard(4711)
    told = guard.refusal(method, headers(guard, **changed), guard.session if cookie is None else cookie, None)
    assert why in told


def test_a_link_opens_the_page_once() -> None:
    guard = Guard(1)
    link = guard.link
    assert not guard.take_link("guessed")
    assert not guard.take_link("")
    assert guard.take_link(link)
    assert not guard.take_link(link)
    assert not guard.take_link("")


SOCKETS = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 2 1 0 20 4 30 10 -1
   2: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1
"""


def test_another_user_of_the_host_is_refused_whatever_they_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert user_in(SOCKETS, 0xC350, 0x1F90) == 1001  # whoever connected, not whoever serves
    assert user_in(SOCKETS, 0xC351, 0x1F90) is None
    (tmp_path / "tcp").write_text(SOCKETS)
    monkeypatch.setattr("producer.review.guard.SOCKETS", tmp_path / "tcp")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    guard = Guard(0x1F90)
    peer = ("127.0.0.1", 0xC350)
    assert "another user" in guard.refusal("POST", headers(guard), guard.session, peer)
    assert "another user" in guard.stranger(headers(guard), peer)
    monkeypatch.setattr(os, "getuid", lambda: 1001)
    assert guard.refusal("POST", headers(guard), guard.session, peer) == ""


# ---- the server


def test_a_link_that_is_opened_before_the_server_is_up_waits_for_it() -> None:
    with listen() as listening, socket.create_connection(listening.getsockname(), 5):
        assert listening.getsockname()[0] == "127.0.0.1"


@dataclass
class Client:
    """Speaks to a real server."""

    guard: Guard

    def ask(
        self, method: str, path: str, body: object = None, **changed: str | None
    ) -> tuple[int, Any, dict[str, str]]:
        data = json.dumps(body).encode() if body is not None else b""
        given = headers(self.guard, content_length=str(len(data)), cookie=f"{COOKIE}={self.guard.session}")
        given |= {name.replace("_", "-"): value for name, value in changed.items() if value is not None}
        for name in [name.replace("_", "-") for name, value in changed.items() if value is None]:
            del given[name]
        with closing(http.client.HTTPConnection("127.0.0.1", self.guard.port, timeout=30)) as connection:
            connection.request(method, path, data or None, given)
            answer = connection.getresponse()
            content = answer.read()
        is_json = answer.headers["content-type"] == "application/json"
        return answer.status, json.loads(content) if is_json else content, dict(answer.headers.items())


@pytest.fixture
def client(session: Session) -> Iterator[Client]:
    with listen() as listening:
        guard = Guard(listening.getsockname()[1])
        server = make_server(session, guard)
        thread = threading.Thread(target=partial(server.run, sockets=[listening]), daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started, 30)
            yield Client(guard)
        finally:
            server.should_exit = True
            thread.join(20)


def test_the_server_answers_its_page_alone(client: Client) -> None:
    guard, folder = client.guard, f"/{client.guard.path}"
    link = guard.address.partition(str(guard.port))[2]
    assert client.ask("GET", "/", cookie=None)[0] == 403
    status, _, found = client.ask("GET", link, cookie=None)
    assert (status, found["set-cookie"]) == (200, guard.cookie)
    assert "HttpOnly; SameSite=Strict" in found["set-cookie"]
    assert f"Path={folder}/" in found["set-cookie"]  # no other port's pages get it
    status, content, _ = client.ask("GET", link, cookie=None)
    assert (status, b"has been used" in content) == (403, True)

    status, page, found = client.ask("GET", f"{folder}/")
    assert status == 200
    assert guard.token in page.decode()
    assert b"script-src 'self'" in page
    assert (found["x-content-type-options"], found["x-frame-options"]) == ("nosniff", "DENY")
    assert "server" not in found
    for path in (f"{folder}/", f"{folder}/state", f"{folder}/small/0", f"{folder}/scripts/review.js"):
        assert client.ask("GET", path, cookie=None)[0] == 403
        assert client.ask("GET", path)[0] == 200
    for path in ("scripts/../__init__.py", "scripts/style.css", "small/99", "small/-1", "small/..%2f..%2fetc%2fpasswd"):
        assert client.ask("GET", f"{folder}/{path}")[0] == 404
    assert client.ask("GET", f"{folder}/small/0", host="evil.example")[0] == 403


def test_decisions_go_through_the_server_and_bad_ones_change_nothing(client: Client) -> None:
    folder = f"/{client.guard.path}"
    wanted = {"images": [0, 1], "verdict": "label", "label": "tin", "known": 0}
    for changed in ({"origin": "http://evil.example"}, {"x_sortline_token": "x"}, {"cookie": None}):
        assert client.ask("POST", f"{folder}/decide", wanted, **changed)[0] == 403
    assert client.ask("GET", f"{folder}/decide")[0] == 405
    assert client.ask("GET", f"{folder}/state")[1]["version"] == 0

    status, answer, _ = client.ask("POST", f"{folder}/decide", wanted)
    assert (status, answer["version"], len(answer["changed"])) == (200, 1, 2)
    status, answer, _ = client.ask("POST", f"{folder}/decide", wanted)
    assert (status, answer["conflict"]) == (409, True)
    alone = {"verdict": "right", "known": 1}
    bad_ones: list[object] = [[], {}, {"images": "x", **alone}, {"images": [99], **alone}]
    for bad in bad_ones:
        status, answer, _ = client.ask("POST", f"{folder}/decide", bad)
        assert (status, "error" in answer) == (400, True)
    assert client.ask("GET", f"{folder}/page?key=99&start=0&count=5")[0] == 410
    assert client.ask("GET", f"{folder}/view?order=best")[0] == 400
    assert client.ask("GET", f"{folder}/view?nonsense=1")[0] == 400


def test_a_conflict_names_the_images(session: Session) -> None:
    session.decide([0], "right", "", 0)
    with pytest.raises(Conflict):
        session.decide([0, 1], "reject", "", 0)
