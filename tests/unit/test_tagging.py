"""Labels as XMP sidecars: what photo managers read, what others wrote, and taking it back."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jobs.label import Row
from producer.reports.layout import Layout
from producer.reports.tagging import MAX_BYTES, SidecarError, change_sidecar, sidecar_of, tag_images
from tests.unit.reported import ok, run_of

OTHERS = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="darktable">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <!-- a comment -->
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:darktable="http://darktable.sf.net/" xmp:Rating="4" darktable:history_end="3">
   <dc:subject><rdf:Bag><rdf:li>holiday</rdf:li><rdf:li>glass</rdf:li></rdf:Bag></dc:subject>
   <dc:title><rdf:Alt><rdf:li xml:lang="x-default">At the beach</rdf:li></rdf:Alt></dc:title>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
KEYS = {
    "subject": "{http://purl.org/dc/elements/1.1/}subject",
    "lightroom": "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject",
    "digikam": "{http://www.digikam.org/ns/1.0/}TagsList",
    "title": "{http://purl.org/dc/elements/1.1/}title",
}


def read(path: Path) -> dict[str, list[str]]:
    tree = ElementTree.fromstring(path.read_bytes())  # noqa: S314
    found = {
        name: [item.text or "" for element in tree.iter(tag) for item in element.iter(f"{RDF}li")]
        for name, tag in KEYS.items()
    }
    return {name: values for name, values in found.items() if values}


@pytest.fixture
def sidecar(tmp_path: Path) -> Path:
    return tmp_path / "photo.jpg.xmp"


def test_a_label_is_a_keyword_below_its_group(sidecar: Path) -> None:
    assert change_sidecar(sidecar, ["Recycling", "glass"])
    assert read(sidecar) == {"subject": ["glass"], "lightroom": ["Recycling|glass"], "digikam": ["Recycling/glass"]}
    assert sidecar.read_bytes().startswith(b"<?xpacket begin=")
    assert not change_sidecar(sidecar, ["Recycling", "glass"])


def test_another_label_takes_the_place_of_ours(sidecar: Path) -> None:
    change_sidecar(sidecar, ["glass"])
    assert change_sidecar(sidecar, ["paper"])
    assert read(sidecar) == {"subject": ["paper"], "lightroom": ["paper"], "digikam": ["paper"]}


def test_a_sidecar_of_ours_alone_goes_when_it_is_taken_back(sidecar: Path) -> None:
    change_sidecar(sidecar, ["glass"])
    assert change_sidecar(sidecar, [])
    assert not sidecar.exists()
    assert not change_sidecar(sidecar, [])
    assert not sidecar.exists()


def test_what_others_wrote_stays(sidecar: Path) -> None:
    sidecar.write_text(OTHERS, encoding="utf-8")
    change_sidecar(sidecar, ["paper"])
    text = sidecar.read_text(encoding="utf-8")
    assert 'xmp:Rating="4"' in text
    assert 'darktable:history_end="3"' in text
    assert "<!-- a comment -->" in text
    assert read(sidecar)["subject"] == ["holiday", "glass", "paper"]
    assert read(sidecar)["title"] == ["At the beach"]
    change_sidecar(sidecar, [])
    assert read(sidecar) == {"subject": ["holiday", "glass"], "title": ["At the beach"]}
    assert "sortline" not in sidecar.read_text(encoding="utf-8")


def test_a_keyword_that_somebody_else_had_set_is_not_taken_back(sidecar: Path) -> None:
    sidecar.write_text(OTHERS, encoding="utf-8")
    change_sidecar(sidecar, ["glass"])
    assert read(sidecar)["subject"] == ["holiday", "glass"]
    change_sidecar(sidecar, [])
    assert read(sidecar)["subject"] == ["holiday", "glass"]


def test_a_keyword_that_somebody_removed_is_not_needed_to_take_ours_back(sidecar: Path) -> None:
    change_sidecar(sidecar, ["glass"])
    sidecar.write_text(sidecar.read_text(encoding="utf-8").replace(">glass</rdf:li>", ">mine</rdf:li>", 1), "utf-8")
    change_sidecar(sidecar, [])
    assert read(sidecar)["subject"] == ["mine"]


@pytest.mark.parametrize(
    ("label", "subject", "lightroom", "digikam"),
    [
        ("a|b/c", "a|b/c", "G|a_b/c", "G/a|b_c"),
        ('<b>&"x"', '<b>&"x"', 'G|<b>&"x"', 'G/<b>&"x"'),
        ("line\nbreak\x00", "line break ", "G|line break ", "G/line break "),
        ("Flaschen & Gläser 🍾", "Flaschen & Gläser 🍾", "G|Flaschen & Gläser 🍾", "G/Flaschen & Gläser 🍾"),
    ],
)
def test_any_label_survives(label: str, subject: str, lightroom: str, digikam: str, sidecar: Path) -> None:
    change_sidecar(sidecar, ["G", label])
    assert read(sidecar) == {"subject": [subject], "lightroom": [lightroom], "digikam": [digikam]}
    assert not change_sidecar(sidecar, ["G", label])
    assert change_sidecar(sidecar, [])
    assert not sidecar.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"not xml",
        b"<a/>",
        "<x/>".encode("utf-16"),
        b"\xff\xfe\x00",
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>',
        OTHERS.encode()[:600],
        b"<x>" * 5000,
        b" " * (MAX_BYTES + 1),
    ],
)
def test_a_sidecar_that_is_no_xmp_is_left_as_it_is(data: bytes, sidecar: Path) -> None:
    sidecar.write_bytes(data)
    with pytest.raises(SidecarError, match=r"photo\.jpg\.xmp"):
        change_sidecar(sidecar, ["glass"])
    assert sidecar.read_bytes() == data


def test_a_link_is_not_written_through(tmp_path: Path, sidecar: Path) -> None:
    (tmp_path / "elsewhere").write_text(OTHERS, encoding="utf-8")
    sidecar.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SidecarError, match="is a link"):
        change_sidecar(sidecar, ["glass"])
    assert (tmp_path / "elsewhere").read_text(encoding="utf-8") == OTHERS


def test_where_sidecars_lie() -> None:
    assert sidecar_of(Path("a/b.c.jpg"), "name") == Path("a/b.c.jpg.xmp")
    assert sidecar_of(Path("a/b.c.jpg"), "stem") == Path("a/b.c.xmp")


def test_exiv2_reads_it(sidecar: Path) -> None:
    """It is what digiKam reads with; CI installs it, and may not lack it."""
    if shutil.which("exiv2") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no exiv2 on this machine: apt-get install exiv2")
    sidecar.write_text(OTHERS, encoding="utf-8")
    change_sidecar(sidecar, ["Recycling", "paper"])
    done = subprocess.run(["exiv2", "-px", sidecar], capture_output=True, text=True, check=True)
    assert "holiday, glass, paper" in done.stdout
    assert "Recycling|paper" in done.stdout
    assert "Recycling/paper" in done.stdout


def test_an_unknown_image_gets_no_tag(tmp_path: Path) -> None:
    for name in ("known.jpg", "unknown.jpg"):
        (tmp_path / name).write_bytes(b"picture")
    rows = [ok(0).model_copy(update={"outlier": score}) for score in (0.9, 1.1)]
    thresholds: dict[str, list[float | None]] = {"0.95": [None, None, None]}  # for review is sure enough for a tag
    names = ["known.jpg", "unknown.jpg"]
    with run_of(tmp_path, names, rows, base=str(tmp_path), thresholds=thresholds, outliers=True) as run:
        assert tag_images(run, Layout.of(run.plan), "name", 0).written == 1

    assert (tmp_path / "known.jpg.xmp").exists()
    assert not (tmp_path / "unknown.jpg.xmp").exists()


def test_the_images_of_a_run_are_tagged_and_what_can_t_be_is_named(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "sub").mkdir(parents=True)
    names = ["a.jpg", "a.png", "bad.jpg", "gone.jpg", "sub/b.jpg", "unsure.jpg"]
    for name in set(names) - {"gone.jpg"}:
        (inbox / name).write_bytes(b"picture")
    rows = [ok(0), ok(1), Row(error="truncated"), ok(0), ok(2), ok(0, 0.5)]
    with run_of(tmp_path, names, rows, base=str(inbox)) as run:
        layout = Layout.of(run.plan)
        done = tag_images(run, layout, "name", 0.8)
        assert (done.written, done.unchanged, done.left) == (3, 1, 1)
        assert "gone.jpg: no file here" in done.problems[0]
        assert read(inbox / "a.jpg.xmp")["digikam"] == ["recyclable/glass"]
        assert read(inbox / "sub/b.jpg.xmp")["digikam"] == ["tin"]
        assert not (inbox / "unsure.jpg.xmp").exists()
        assert tag_images(run, layout, "name", 0.8).written == 0

        assert tag_images(run, layout, "name", 0, undo=True).written == 3
        assert sorted(path.name for path in inbox.rglob("*.xmp")) == []
        assert all(path.read_bytes() == b"picture" for path in inbox.rglob("*.jpg"))

        shared = tag_images(run, layout, "stem", 0.8)
        assert "a.png: another image has the sidecar a.xmp already" in shared.problems[0]
        assert read(inbox / "a.xmp")["subject"] == ["glass"]
