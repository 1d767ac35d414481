"""The report of a training job: what it says, and that nothing in a dataset can break it or break out of it."""

from __future__ import annotations

import base64
import csv
import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from model_store.manifest import SUFFIXES
from vision.images.decode import ImageLimits
from vision.training.dataset import ClassInfo, LabelledImage
from vision.training.metrics import reliability, softmax
from vision.training.options import Epoch
from worker.train import plots as training_plots
from worker.train.drawing import PLOTS
from worker.train.report import TrainingReport, history_csv, report_files

ROOT = Path(__file__).resolve().parents[2]
EVIL = '<script>alert("1")</script>\'&amp;'
FORMULA = "=HYPERLINK(1)"


def epoch(number: int, **figures: float) -> Epoch:
    usual = {"train_loss": 1.25, "val_loss": 0.123456789, "val_top1": 0.5, "val_top5": 1.0, "lr": 1e-5, "seconds": 1.0}
    return Epoch(epoch=number, **{**usual, **figures})


def classes(*labels: str) -> list[ClassInfo]:
    return [ClassInfo(folder=f"{index:02}", label=label, names={}) for index, label in enumerate(labels)]


def small_report(
    root: Path,
    infos: Sequence[ClassInfo],
    targets: Sequence[int],
    predicted: Sequence[int],
    *,
    confidence: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> TrainingReport:
    """Images of 8 x 6 pixels in ``root``; ``confidence`` is that of the predictions at temperature 2."""
    sure = np.array(confidence or [0.75] * len(targets))
    logits = np.zeros((len(targets), len(infos)))
    logits[np.arange(len(targets)), predicted] = 2 * np.log(sure / (1 - sure) * (len(infos) - 1))
    images = []
    for number, target in enumerate(targets):
        path = root / (names[number] if names else f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", np.full((6, 8, 3), 40 * number % 256, np.uint8))[1].tobytes())
        images.append(LabelledImage(path, target))
    history = [epoch(1), epoch(2, val_top1=0.75)]
    return TrainingReport(
        calibrated="by hand",
        title="waste - job 7",
        classes=infos,
        images=images,
        root=root,
        logits=logits,
        temperature=2.0,
        history=history,
        kept=history[1],
        recipe={"network": "lenet5", "augmentation": {"flip": True, "scale": [0.5, 1.0]}, "patience": None},
        counts={"training": 1234, "validation": len(images), "skipped": 0},
        split="12 families, none on both sides",
        is_refit=False,
        leaks=[],
        skipped=[],
        fingerprint="ab" * 32,
        seconds={"read": 1.26, "train": 1234.5},
    )


class Reader(HTMLParser):
    """The tags, attributes and visible text of a page; fails on tags that do not match."""

    VOID = ("meta", "img", "br")

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self._open == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.texts.append(data)
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def images(self) -> list[str]:
        return [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]


def unplotted(report: TrainingReport, limits: ImageLimits | None = None) -> dict[str, bytes]:
    """Return the files of ``report`` with a pixel for each plot, since plots are most of the work."""
    pixel = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    return report_files(report, dict.fromkeys(PLOTS, pixel), limits or ImageLimits())


def page_of(report: TrainingReport) -> Reader:
    return Reader(unplotted(report)["report.html"])


def size_of(png: bytes) -> tuple[int, int]:
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels.shape[1], pixels.shape[0]


@pytest.fixture(scope="module")
def waste(tmp_path_factory: pytest.TempPathFactory) -> TrainingReport:
    """Three classes in two groups, 3 of 5 right; "tin" is never predicted and "wood" has no images."""
    infos = [
        ClassInfo(folder="00", label="glass", names={}, group="hard"),
        ClassInfo(folder="01", label="tin", names={}, group="hard"),
        ClassInfo(folder="02", label="wood", names={}),
    ]
    root = tmp_path_factory.mktemp("waste")
    report = small_report(root, infos, [0, 0, 0, 1, 0], [0, 0, 0, 0, 2], confidence=[0.9, 0.8, 0.7, 0.6, 0.95])
    leak = (report.images[0].path, report.images[1].path)
    return replace(report, leaks=[leak] * 7, skipped=["00/bad.jpg: empty: it has no content"])


@pytest.fixture(scope="module")
def files(waste: TrainingReport) -> dict[str, bytes]:
    return report_files(waste, training_plots.draw(waste.plotted()), ImageLimits())


@pytest.fixture(scope="module")
def read(files: dict[str, bytes]) -> Reader:
    return Reader(files["report.html"])


def test_the_files_are_those_a_model_version_may_hold(files: dict[str, bytes]) -> None:
    assert sorted(files) == [
        "accuracy.png",
        "confusion_matrix.csv",
        "confusion_matrix.png",
        "learning_rate.png",
        "loss.png",
        "per_class.csv",
        "reliability_after.png",
        "reliability_before.png",
        "report.html",
        "results.csv",
    ]
    assert {Path(name).suffix for name in files} <= set(SUFFIXES)


def test_the_tables_have_exactly_these_bytes(files: dict[str, bytes]) -> None:
    assert files["results.csv"].decode() == (
        "epoch,train_loss,val_loss,val_top1,val_top5,lr\n1,1.25,0.123457,0.5,1,1e-05\n2,1.25,0.123457,0.75,1,1e-05\n"
    )
    assert files["confusion_matrix.csv"].decode() == (
        "true \\ predicted,glass,tin,wood\nglass,3,0,1\ntin,1,0,0\nwood,0,0,0\n"
    )
    assert files["per_class.csv"].decode() == (
        "label,group,images,precision,recall,f1\n"
        "glass,hard,4,0.7500,0.7500,0.7500\n"
        "tin,hard,1,,0.0000,0.0000\n"
        "wood,,0,0.0000,,0.0000\n"
    )


def test_the_page_needs_nothing_but_itself(read: Reader) -> None:
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "a"})
    assert all(source.startswith("data:image/") for source in read.images())
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    policies = [attributes["content"] for tag, attributes in read.tags if "http-equiv" in attributes]
    assert len(policies) == 1
    assert re.fullmatch(
        "default-src 'none'; style-src 'sha256-[A-Za-z0-9+/]+='; img-src data:; base-uri 'none'; form-action 'none'",
        policies[0] or "",
    )


def test_the_page_of_a_model_that_was_trained_on_all_images_says_what_its_figures_are_of(
    waste: TrainingReport, read: Reader
) -> None:
    refit = page_of(replace(waste, is_refit=True, counts={"training": 1234, "validation": 5, "skipped": 0}))

    assert "The published weights are of a last training on all 1,239 images" in refit.text
    assert "All figures are of the training before it" in refit.text
    assert "number 2 counts. " in refit.text
    assert "last training" not in read.text
    assert "number 2 counts, and its weights are kept." in read.text


def test_headline_figures_are_those_counted_by_hand(waste: TrainingReport, read: Reader) -> None:
    targets = np.array([image.class_index for image in waste.images])
    before, after = (reliability(softmax(waste.logits, t), targets).expected_error for t in (1.0, 2.0))

    assert "Top-1 accuracy 60.0 % 3 of 5; 95 % interval 23.1 to 88.2 %" in read.text
    assert "Right group 80.0 % 4 of 5" in read.text
    note = "ECE before and after the temperature of 2, of the validation images; by hand"
    assert f"Calibration error {before:.3f} → {after:.3f} {note}" in read.text
    loss = -np.log([0.9, 0.8, 0.7, 0.4 / 2, 0.05 / 2]).mean()  # of the other classes, each has half of the rest
    assert f"→ {loss:.3f} cross-entropy in nats" in read.text
    assert "standard error of 21.9 points" in read.text
    assert "Of 2 epochs number 2 counts" in read.text
    assert "Top-5" not in read.text  # of three classes it says nothing


def test_classes_come_by_rising_f1(read: Reader) -> None:
    assert read.rows[:4] == [
        ["class", "group", "images", "precision", "recall", "F1"],
        ["tin", "hard", "1", "–", "0 %", "0 %"],
        ["wood", "", "0", "0 %", "–", "0 %"],
        ["glass", "hard", "4", "75 %", "75 %", "75 %"],
    ]


def test_confused_pairs_recipe_counts_and_seconds_are_tables(read: Reader) -> None:
    for row in (
        ["glass", "wood", "1 of 4"],
        ["tin", "glass", "1 of 1"],
        ["augmentation.flip", "true"],
        ["augmentation.scale", "[0.5, 1.0]"],
        ["patience", "null"],
        ["network", "lenet5"],
        ["training", "1,234"],
        ["train", "1,234.5"],
    ):
        assert row in read.rows


def test_the_most_confident_mistake_comes_first_with_its_calibrated_confidence(read: Reader) -> None:
    assert "All 2 mistakes." in read.text
    assert "wood 95.0 % is glass 4.png glass 60.0 % is tin 3.png" in read.text


def test_copies_and_skipped_images_are_told(read: Reader) -> None:
    assert "Validation images with a near-duplicate in training: 1." in read.text
    assert "The first 6 of 7 pairs." in read.text
    assert read.text.count("training 0.png validation 1.png") == 6
    assert "00/bad.jpg: empty: it has no content" in read.text
    assert "12 families, none on both sides" in read.text
    assert "ab" * 32 in read.text


def test_thumbnails_are_small_jpegs_of_the_images(tmp_path: Path) -> None:
    report = small_report(tmp_path, classes("a", "b"), [0], [1])
    picture = np.zeros((300, 900, 3), np.uint8)
    picture[:, :, 2] = 200  # red, in OpenCV's order
    report.images[0].path.write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())

    thumbnail = page_of(report).images()[-1]

    kind, data = thumbnail.split(",")
    assert kind == "data:image/jpeg;base64"
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert pixels.shape == (53, 160, 3)
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), [0, 0, 200], atol=4)


def test_html_in_labels_paths_and_messages_is_text(tmp_path: Path) -> None:
    path = 'a"b<i>\n.png'
    infos = [ClassInfo(folder="00", label=EVIL, names={}, group=f"{EVIL} group"), *classes("b")]
    report = replace(
        small_report(tmp_path, infos, [0, 1], [1, 0], names=[path, "b.png"]),
        title=f"{EVIL} title",
        split=f"{EVIL} split",
        skipped=[f"{EVIL} skipped"],
        recipe={f"{EVIL} key": {"inner": f"{EVIL} value"}},
        counts={f"{EVIL} count": 1},
        seconds={f"{EVIL} phase": 1.0},
        fingerprint=f"{EVIL} print",
    )
    report = replace(report, leaks=[(report.images[0].path, report.images[1].path)])

    read = page_of(report)

    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "i"})
    for what in ("group", "title", "split", "skipped", "key.inner", "value", "count", "phase", "print"):
        assert f"{EVIL} {what}" in read.text
    assert [f"{EVIL} key.inner", f"{EVIL} value"] in read.rows
    assert 'a"b<i>%0A.png' in read.text
    assert all(source.startswith("data:image/") for source in read.images())


def test_names_that_are_not_utf8_and_control_characters_are_shown_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    infos = classes("bell\x07\x00", os.fsdecode(b"\xff"))

    made = unplotted(replace(small_report(tmp_path, infos, [0], [1], names=[name]), skipped=[f"{name}: bad"]))

    read = Reader(made["report.html"])
    assert "caf%E9.png" in read.text
    assert "caf\\udce9.png: bad" in read.text
    assert "\\udcff" in read.text
    assert made["confusion_matrix.csv"].decode().splitlines()[0] == "true \\ predicted,bell\\x07\\x00,\\udcff"


def test_formulas_in_labels_and_groups_do_not_run(tmp_path: Path) -> None:
    infos = [ClassInfo(folder="00", label=FORMULA, names={}, group="@g"), *classes('-x, "y"', "\ttab")]

    made = unplotted(small_report(tmp_path, infos, [0, 1, 2], [1, 0, 2]))

    matrix, scores = (
        list(csv.reader(io.StringIO(made[name].decode()))) for name in ("confusion_matrix.csv", "per_class.csv")
    )
    labels = [f"'{FORMULA}", '\'-x, "y"', "'\\ttab"]
    assert matrix[0][1:] == [row[0] for row in matrix[1:]] == [row[0] for row in scores[1:]] == labels
    assert scores[1][1] == "'@g"


@pytest.mark.parametrize("installed", [True, False])
def test_chinese_labels_are_drawn_or_named_by_their_folder(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    if not installed:
        monkeypatch.setattr(training_plots, "MORE_FONTS", ())
    training_plots._families.cache_clear()
    infos = classes("塑料瓶", "报\n纸", "$x^{$", "glass")

    names = training_plots.drawable_names(infos)
    training_plots.confusion_png(np.eye(4, dtype=np.int64), infos)  # warnings are errors: no glyph is missing

    training_plots._families.cache_clear()
    assert names[2:] == ["$x^{$", "glass"]
    assert names[:2] == ["00", "01"] or (installed and names[:2] == ["塑料瓶", "报 纸"])


def test_chinese_labels_are_on_the_page_and_in_the_tables(tmp_path: Path) -> None:
    made = unplotted(small_report(tmp_path, classes("塑料瓶", "glass"), [0, 1], [1, 0]))

    assert "塑料瓶" in Reader(made["report.html"]).text
    assert made["per_class.csv"].decode().splitlines()[1].startswith("塑料瓶,")


def test_a_class_whose_folder_can_not_be_drawn_either_is_named_by_its_number() -> None:
    infos = [ClassInfo(folder="\ue000", label="\ue001", names={}), ClassInfo(folder="a", label="w" * 99, names={})]

    assert training_plots.drawable_names(infos) == ["class 0", "w" * 23 + "…"]


@pytest.mark.parametrize("count", [2, 45])
def test_any_number_of_classes_makes_a_picture_that_fits_a_screen(count: int) -> None:
    matrix = np.eye(count, dtype=np.int64) * 3
    matrix[0, 1] = 7

    width, height = size_of(training_plots.confusion_png(matrix, classes(*(f"class {n}" for n in range(count)))))

    assert 300 < height <= width < 1500


def test_a_matrix_of_a_thousand_classes_shows_every_row() -> None:
    classes_of = classes(*map(str, range(1000)))

    png = training_plots.confusion_png(np.eye(1000, dtype=np.int64), classes_of)

    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    inside = pixels[60:-160, 100:-400]  # the diagonal alone is darker than the paper
    assert (inside.min(axis=1) < 220).mean() > 0.8


def test_one_epoch_and_an_infinite_loss_can_be_drawn() -> None:
    history = [epoch(1, val_loss=float("inf"))]

    drawn = training_plots.curves([asdict(figures) for figures in history], 1)
    assert {size_of(png) for png in drawn.values()} == {(462, 396)}
    assert history_csv(history).decode().splitlines()[1] == "1,1.25,inf,0.5,1,1e-05"


def test_without_mistakes_groups_copies_and_skipped_images_the_page_says_so(tmp_path: Path) -> None:
    read = page_of(small_report(tmp_path, classes("a", "b", "c", "d", "e", "f"), [0, 1], [0, 1]))

    assert "No validation image was taken for another class." in read.text
    assert "Most confident mistakes None." in read.text
    assert "No validation image was found to have a near-duplicate in training." in read.text
    assert "None: all could be read." in read.text
    assert "group" not in read.text
    assert "Top-5 accuracy 100.0" in read.text


def test_an_image_that_vanished_or_broke_gets_a_placeholder(tmp_path: Path) -> None:
    report = small_report(tmp_path, classes("a", "b"), [0, 0, 0], [1, 1, 1])
    report.images[0].path.unlink()
    report.images[1].path.write_bytes(b"no image")

    read = page_of(replace(report, leaks=[(tmp_path / "gone.png", Path("/elsewhere/x.png"))]))

    assert "can't be read: not_found b 75.0 % is a 0.png" in read.text
    assert "can't be read: not_an_image" in read.text
    assert "/elsewhere/x.png" in read.text
    assert len(read.images()) == len(PLOTS) + 1


def test_an_image_above_the_limits_gets_a_placeholder(tmp_path: Path) -> None:
    report = small_report(tmp_path, classes("a", "b"), [0], [1])

    assert b"too_many_pixels" in unplotted(report, ImageLimits(max_pixels=10))["report.html"]


def test_only_so_many_mistakes_pairs_and_skipped_images_are_shown(tmp_path: Path) -> None:
    report = small_report(tmp_path, classes("a", "b"), [0] * 30, [1] * 30)

    read = page_of(replace(report, skipped=[f"{number}.jpg: empty" for number in range(70)]))

    assert len(read.images()) == len(PLOTS) + 24
    assert "The first 24 of 30 mistakes." in read.text
    assert "49.jpg: empty" in read.text
    assert "50.jpg: empty" not in read.text
    assert "The first 50 of 70 images." in read.text


def test_the_same_report_makes_the_same_bytes(waste: TrainingReport, files: dict[str, bytes]) -> None:
    assert report_files(waste, training_plots.draw(waste.plotted()), ImageLimits()) == files
    assert b"Software" not in b"".join(data for name, data in files.items() if name.endswith(".png"))


def test_logits_that_are_not_one_row_an_image_are_refused(waste: TrainingReport) -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(1, 3\) for 5 images of 3 classes"):
        replace(waste, logits=waste.logits[:1])


def test_the_plots_load_neither_mindspore_nor_pyplot() -> None:
    code = "import sys, worker.train.plots; print([m for m in ('mindspore', 'matplotlib.pyplot') if m in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )

    assert done.stdout == "[]\n"
