"""report.html as a file: what it allows a browser, what it holds of large runs, how big it may get."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.label import Row
from producer.reports import gallery as module
from producer.reports.layout import Layout
from producer.reports.page import write_page
from producer.reports.report import Report
from producer.runfile import RunFile
from tests.unit.reported import ok, run_of, tally


def page_of(run: RunFile, path: Path, embed_mb: float = 32, say: Any = lambda text: None) -> str:
    layout = Layout.of(run.plan)
    counts = tally(run, layout)
    write_page(Report(run=run, layout=layout, counts=counts, embed_mb=embed_mb, max_pixels=10**8, say=say), path)
    return path.read_text(encoding="utf-8")


def data_of(text: str) -> Any:
    return json.loads(text.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])


def test_only_our_own_script_and_style_may_run(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a.jpg"], [ok(0)]) as run:
        text = page_of(run, tmp_path / "r.html")

    policy = unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0])
    script = text.partition("</script>\n<script>")[2].partition("</script>")[0]
    style = text.partition("<style>")[2].partition("</style>")[0]
    for kind, part in (("script", script), ("style", style)):
        assert f"{kind}-src 'sha256-{b64encode(sha256(part.encode()).digest()).decode()}';" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"<script(?![^>]*json)", text) == ["<script"]
    assert re.findall(r"\son\w+=|style=|javascript:", text.partition("<script")[0]) == []


def test_nothing_is_fetched_from_elsewhere(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a.jpg"], [ok(0)]) as run:
        text = page_of(run, tmp_path / "r.html")

    assert set(re.findall(r"https?://[^\s\"'<]*", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert re.findall(r"@import|url\(", text) == []


def test_links_to_images_are_relative_and_hold_any_name(tmp_path: Path) -> None:
    names = [
        "a b.jpg",
        "100%25.jpg",
        "#x?.jpg",
        "//evil.example/x.jpg",
        "sub/日本.JPG",
        "page.html",
        "x.svg",
        "a\0.jpg",
    ]
    with run_of(tmp_path, names, [ok(0)] * 8, base=str(tmp_path / "in")) as run:
        data = data_of(page_of(run, tmp_path / "out" / "r.html"))

    assert [row[10] for row in data["images"]] == [
        "./../in/a%20b.jpg",
        "./../in/100%2525.jpg",
        "./../in/%23x%3F.jpg",
        "./../../../../" + "../" * (len(tmp_path.parts) - 4) + "evil.example/x.jpg",
        "./../in/sub/%E6%97%A5%E6%9C%AC.JPG",
        "",
        "",
        "./../in/a%00.jpg",
    ]


def test_thumbnails_end_at_the_stated_size_and_the_least_sure_come_first(tmp_path: Path) -> None:
    paths = [f"{number:03}.png" for number in range(200)]
    for path in paths:
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.effect_noise((150, 150), 80).save(tmp_path / "in" / path)
    rows = [ok(0, 0.99 - 0.003 * number) for number in range(200)]  # the last ones are the least sure
    with run_of(tmp_path, paths, rows, base=str(tmp_path / "in")) as run:
        data = data_of(page_of(run, tmp_path / "r.html", embed_mb=0.8))
        whole = data_of(page_of(run, tmp_path / "whole.html"))

    embedded = [number for number, row in enumerate(data["images"]) if row[9]]
    assert 0.7e6 < sum(len(row[9]) for row in data["images"]) <= 0.8e6
    assert set(range(200 - module.SHOWN_FIRST, 200)) <= set(embedded)
    assert all(row[9] for row in whole["images"])


def test_of_a_large_run_the_page_holds_a_part_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GALLERY_IMAGES", 100)
    rows = [ok(number % 3, 0.5 + number / 4000) for number in range(1000)]
    rows[777] = Row(error="truncated", detail="the file ends early")
    rows[555] = ok(0, 0.34)
    with run_of(tmp_path, [f"{number}.jpg" for number in range(1000)], rows) as run:
        text = page_of(run, tmp_path / "r.html")

    data = data_of(text)
    paths = [row[0] for row in data["images"]]
    assert 100 <= len(paths) < 250
    assert {"777.jpg", "555.jpg", "0.jpg", "500.jpg"} <= set(paths)
    assert f"The gallery holds {len(paths)} of 1,000 images" in text
    assert '<dd class="value">1,000</dd>' in text


def test_a_run_without_any_label_still_gives_a_page(tmp_path: Path) -> None:
    rows = [Row(error="empty", detail="no content"), Row(error="empty", detail="no content")]
    with run_of(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], rows) as run:
        text = page_of(run, tmp_path / "r.html")

    assert "Images that could not be labelled" in text
    assert "1 without an answer yet" in text


def test_only_the_first_errors_are_listed(tmp_path: Path) -> None:
    rows = [Row(error="empty", detail="no content")] * 500
    with run_of(tmp_path, [f"{number}.jpg" for number in range(500)], rows) as run:
        text = page_of(run, tmp_path / "r.html")

    assert text.count("<td>empty</td>") == 200
    assert "The first 200 of 500" in text


def test_many_classes_are_listed_instead_of_drawn(tmp_path: Path) -> None:
    labels = [f"c{number}" for number in range(70)]
    paths = [f"{label}/a.jpg" for label in labels]
    rows = [ok((number + 1) % 70, classes=70, top_k=5) for number in range(70)]
    plan: dict[str, Any] = {"labels": labels, "groups": [None] * 70, "folders": labels, "top_k": 5}
    with run_of(tmp_path, paths, rows, **plan) as run:
        text = page_of(run, tmp_path / "r.html")

    assert "Most frequent confusions" in text
    assert "Confusion matrix" not in text


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a.jpg", "b.jpg"], [ok(0), ok(1)]) as run:
        assert page_of(run, tmp_path / "r.html") == page_of(run, tmp_path / "r.html")


def test_what_was_skipped_stands_on_the_page(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a.jpg"], [ok(0)]) as run:
        plain = page_of(run, tmp_path / "plain.html")
        run.plan = replace(run.plan, skipped={".txt": 2, ".mov": 1200, "@eadir/": 1})
        text = page_of(run, tmp_path / "r.html")

    assert "Skipped" not in plain
    assert "1,203" in text
    assert "no images: .mov 1,200, .txt 2, @eadir/ 1" in text
