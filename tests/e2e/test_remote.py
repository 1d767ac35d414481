"""`sortline label URL` as a person runs it: real processes, a real Redis, a web server and an S3 server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3fs
import urllib3
from moto.server import ThreadedMotoServer

from base.errors import ImageError, UnavailableError
from storage import open_folder
from tests.canaries import secret
from tests.conftest import RedisServer, free_port, sortline, wait_until, write_images
from tests.e2e.test_label import producer, rows_of, worker
from tests.web import reset, serving, status

pytestmark = pytest.mark.slow

IMAGES = 60
KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": secret("s3"), "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with images and what else lies about in folders."""
    folder = tmp_path / "photos"
    write_images(folder, IMAGES)
    for name in ("a b", "ü%20#1"):
        (folder / name).mkdir()
    for number in range(40, IMAGES):
        (folder / f"{number:05d}.png").rename(folder / ("a b" if number < 50 else "ü%20#1") / f"{number:05d}.png")
    (folder / "a b" / "broken.png").write_bytes((folder / "00000.png").read_bytes()[:200])
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"x")
    (folder / ".hidden.png").write_bytes(b"x")
    return folder


@dataclass
class Place:
    """Where the photos are: the URL of their folder, and what a process needs to read there."""

    url: str
    env: Mapping[str, str]


@pytest.fixture
def on_the_web(photos: Path) -> Iterator[Place]:
    with serving(photos.parent) as web:
        for number, fault in enumerate([status(503), reset, status(429), status(500)]):
            web.faults[f"/photos/{number:05d}.png"] = [fault, fault, None]
        yield Place(f"{web.url}/photos", {})


@pytest.fixture
def s3() -> Iterator[str]:
    """An S3 server that knows nobody and lets everybody in."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    yield url
    urllib3.request("POST", f"{url}/moto-api/reset-auth", body=b"1000000")  # actions without credentials that count
    urllib3.request("POST", f"{url}/moto-api/reset")  # buckets outlive a server in this process
    server.stop()


@pytest.fixture
def in_a_bucket(s3: str, photos: Path) -> Place:
    store = s3fs.S3FileSystem(
        key="somebody", secret=KEYS["AWS_SECRET_ACCESS_KEY"], endpoint_url=s3, use_listings_cache=False
    )
    store.mkdir("holiday-photos")
    for path in sorted(photos.rglob("*")):
        if path.is_file():
            store.pipe_file(f"holiday-photos/photos/{path.relative_to(photos)}", path.read_bytes())
    store.pipe_file("holiday-photos/photos/a b/", b"")  # as consoles mark a folder
    return Place("s3://holiday-photos/photos", {**KEYS, "AWS_ENDPOINT_URL_S3": s3})


@pytest.fixture(params=["on_the_web", "in_a_bucket"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


def as_labelled(report: Path) -> list[dict[str, str]]:
    """The rows, without what names the place that the image was read from."""
    return [{key: value for key, value in row.items() if key != "error_detail"} for row in rows_of(report)]


def test_the_report_of_a_url_is_that_of_the_same_folder(
    place: Place, photos: Path, home: Path, model_store: Path
) -> None:
    env = {**place.env, "SORTLINE_STORE": str(model_store)}
    said = sortline("label", place.url, "-o", "remote/", "--format", "csv,html", home=home, env=env)
    sortline("label", str(photos), "-o", "local/", "--format", "csv,html", home=home, env=env)

    rows = as_labelled(home / "remote" / "report.csv")
    assert rows == as_labelled(home / "local" / "report.csv")
    assert [row["error"] for row in rows if row["error"]] == ["truncated", "empty"]
    assert len(rows) == IMAGES + 2
    assert "skipped, without an image suffix: 1" in said.stderr
    pages = [(home / name / "report.html").read_text(encoding="utf-8") for name in ("remote", "local")]
    thumbnails = [page.count("UklGR") for page in pages]  # of WebP, in base64
    assert thumbnails[0] == thumbnails[1] > IMAGES
    for file in [*home.rglob("*.log"), *home.rglob("*.csv"), *home.rglob("*.html"), *home.rglob("*.run")]:
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in file.read_text(encoding="utf-8", errors="replace")


def test_pages_link_to_images_of_a_web_server_only_on_it(
    on_the_web: Place, photos: Path, home: Path, model_store: Path
) -> None:
    env = {"SORTLINE_STORE": str(model_store)}
    sortline("label", on_the_web.url, "-o", "report.html", "--embed-mb", "0", home=home, env=env)

    page = (home / "report.html").read_text(encoding="utf-8")
    assert f"img-src data: 'self' file: {on_the_web.url.removesuffix('/photos')};" in page
    assert f'"{on_the_web.url}/%C3%BC%2520%231/00050.png"' in page


def test_lists_and_single_images_are_labelled_too(place: Place, photos: Path, home: Path, model_store: Path) -> None:
    env = {**place.env, "SORTLINE_STORE": str(model_store)}
    (home / "list.txt").write_text(f"{place.url}/00007.png\n{place.url}/a b/00041.png\n{place.url}/away.png\n")

    sortline("label", "list.txt", "-o", "list.csv", home=home, env=env)
    sortline("label", f"{place.url}/00007.png", "-o", "one.csv", home=home, env=env)

    rows = rows_of(home / "list.csv")
    assert [row["path"] for row in rows] == [
        f"{place.url}/{name}" for name in ("00007.png", "a b/00041.png", "away.png")
    ]
    assert [row["error"] for row in rows] == ["", "", "not_found"]
    assert [row["label"] for row in rows_of(home / "one.csv")] == [rows[0]["label"]]


def test_workers_read_below_their_own_data_root_only(
    place: Place, home: Path, model_store: Path, redis_server: RedisServer
) -> None:
    root, _, folder = place.url.rpartition("/")
    client = {**place.env, "SORTLINE_BROKER": redis_server.url, "SORTLINE_STORE": str(model_store)}
    wrong = sortline("label", place.url, home=home, env={**client, "SORTLINE_DATA_ROOT": f"{root}/pho"}, code=2)
    assert "is not below the data root" in wrong.stderr

    with worker(redis_server, home, model_store, f"{root}/{folder}", place.env):
        sortline(
            "label", f"{place.url}/a b", "--data-root", place.url, "-o", "report.csv", "--max-failures", "1",
            home=home, env=client,
        )  # fmt: skip

    assert [row["path"] for row in rows_of(home / "report.csv")] == [
        *(f"{number:05d}.png" for number in range(40, 50)), "broken.png",
    ]  # fmt: skip


def test_a_server_that_comes_back_costs_nothing_but_time(photos: Path, home: Path, model_store: Path) -> None:
    with serving(photos) as web:
        for path in photos.glob("*.png"):
            web.faults[f"/{path.name}"] = [status(503)]
        env = {"SORTLINE_STORE": str(model_store)}
        listed = web.faults.setdefault("/", [None, status(503)])
        with producer("label", web.url, "-o", str(home / "report.csv"), home=home, env=env) as process:
            wait_until(lambda: web.asked["/"] > 2, 60, "a worker looks at the root")
            listed[:] = [None]
            web.faults.clear()
            assert process.wait(90) == 0

    assert len([row for row in rows_of(home / "report.csv") if not row["error"]]) == IMAGES


def test_credentials_that_are_refused_are_no_fault_of_the_images(
    in_a_bucket: Place, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in in_a_bucket.env.items():
        monkeypatch.setenv(name, value)
    folder = open_folder(in_a_bucket.url, 5)
    assert len(folder.read("00000.png", 10**6)) > 100
    with pytest.raises(ImageError, match="does not exist"):
        folder.read("away.png", 10)
    with pytest.raises(ImageError, match="has more bytes than the limit of 10"):
        folder.read("00000.png", 10)
    with pytest.raises(UnavailableError, match="NoSuchBucket"):
        open_folder("s3://another-bucket", 6).read("a.png", 10)

    urllib3.request("POST", f"{s3}/moto-api/reset-auth", body=b"0")

    with pytest.raises(UnavailableError, match="InvalidAccessKeyId"):
        folder.read("00000.png", 10**6)
    with pytest.raises(UnavailableError, match="InvalidAccessKeyId"):
        folder.check()


def test_options_that_need_files_of_this_machine_are_refused(home: Path, model_store: Path) -> None:
    for option in (["--since", "x"], ["--duplicates"], ["--sort-into", "sorted"]):
        said = sortline("label", "s3://bucket/x", *option, home=home, env={"SORTLINE_STORE": str(model_store)}, code=2)
        assert f"{option[0]}: only with images of this machine" in said.stderr


def test_the_doctor_looks_at_a_data_root_that_is_a_url(place: Place, home: Path) -> None:
    assert (
        f"ok   data root {place.url}" in sortline("doctor", "--data-root", place.url, home=home, env=place.env).stdout
    )
    away = sortline("doctor", "--data-root", f"http://127.0.0.1:{free_port()}", home=home, code=1).stdout
    assert "can't be read" in away
