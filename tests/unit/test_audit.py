"""What an audit takes for a wrong label, and the table it writes."""

from __future__ import annotations

import csv
import io
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from base.errors import ImageError
from jobs import Finding
from producer.__main__ import run
from producer.errors import USAGE
from producer.training.audit import COLUMNS, table_of, write_embeddings
from producer.training.audit_page import audit_page
from vision.images import DEFAULT_LIMITS, Quality, quality_of
from vision.training import ClassInfo, Dataset, LabelledImage, embed, outlier_scores
from worker.train.audit import Audited, confident_errors, findings_of, most_suspicious_first


def test_a_label_is_wrong_where_another_class_is_as_sure_as_on_its_own_images() -> None:
    probabilities = np.array(
        [
            [0.9, 0.1],  # class 0 is sure at 0.8 on average
            [0.7, 0.3],
            [0.1, 0.9],  # class 1 at 0.7
            [0.5, 0.5],
            [0.15, 0.85],  # as class 0: surer of 1 than 1's own images are
            [0.35, 0.65],  # less sure than they are: not confident
        ]
    )
    labels = np.array([0, 0, 1, 1, 0, 0])
    averages = [probabilities[labels == index, index].mean() for index in (0, 1)]
    assert np.allclose(averages, [0.525, 0.7])
    assert confident_errors(probabilities, labels, labels >= 0).tolist() == [-1, -1, -1, -1, 1, -1]


def test_planted_errors_are_found_and_right_labels_of_unsure_networks_are_not() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 2000)
    logits = random.normal(0, 1, (2000, 4))
    logits[np.arange(2000), truth] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = truth.copy()
    planted = random.choice(2000, 100, replace=False)
    labels[planted] = (labels[planted] + 1) % 4
    wrong = confident_errors(probabilities, labels, labels >= 0)
    assert (wrong[planted] == truth[planted]).mean() > 0.6
    others = np.setdiff1d(np.arange(2000), planted)
    assert (wrong[others] >= 0).mean() < 0.05


def found(path: str, label: str, suggested: str = "", **more: Any) -> Finding:
    """A finding; suspicious where another label is suggested."""
    suspicious = bool(suggested) and suggested != label
    given = {"same_as": "", "similar_to": "", "leak": "", "outlier": 0.2}
    given |= dict.fromkeys(("blur", "dark", "overexposed", "tiny", "odd_shape"), 0.1)
    given |= {"path": path, "label": label, "suggested": suggested or label, "suspicious": suspicious}
    return Finding(**{**given, "label_probability": 0.1, "suggested_probability": 0.9, **more})


def test_the_table_is_a_dataset_and_safe_in_spreadsheets() -> None:
    finding = found("a/=1.png", "=glass", "tin", similar_to="a/b.png")
    rows = list(csv.DictReader(io.StringIO(table_of([finding], "/data"))))
    assert list(rows[0]) == list(COLUMNS)
    assert rows[0]["path"] == "/data/a/=1.png"
    assert rows[0]["label"] == "'=glass"
    assert rows[0]["similar_to"] == "/data/a/b.png"
    assert rows[0]["same_as"] == ""


def test_what_is_not_known_is_an_empty_cell_and_every_path_absolute() -> None:
    [row] = csv.DictReader(io.StringIO(table_of([found("a/1.png", "tin", leak="val/1.png", outlier=None)], "/data")))
    assert (row["outlier"], row["leak"], row["blur"]) == ("", "/data/val/1.png", "0.1")


def test_the_page_shows_what_looks_wrong_once_a_pair_and_runs_nothing(tmp_path: Path) -> None:
    for name in "abcd":
        Image.new("RGB", (90, 60), "red").save(tmp_path / f"{name}.png")
    findings = [
        found("a.png", "<b>tin", "<script>alert(1)</script>", same_as="b.png"),
        found("b.png", "tin", same_as="a.png", blur=0.77),
        found("c.png", "glass", similar_to="a.png", outlier=0.91),
        found("d.png", "glass", leak="a.png"),
        found("gone.png", "glass", dark=0.99),
    ]
    page = audit_page(findings, "1 of 5 labels look wrong", tmp_path / "my audit.csv", str(tmp_path), 10**8)

    assert "<script>" not in page
    assert "labelled &lt;b&gt;tin" in page
    assert page.count("Same picture") == 2  # the card and the section
    assert page.count('<li class="both">') == 3
    assert "All 1 pairs." in page
    assert "sortline review &#39;" in page
    assert page.index("0.91") > page.index("<h3>Outliers")
    assert "no picture" in page
    assert ".." not in page.replace("...", "")


def test_scores_of_pictures_say_what_they_are_and_decide_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8)
    pictures = {
        "sharp": Image.fromarray(noise),
        "blurred": Image.fromarray(noise).filter(ImageFilter.GaussianBlur(6)),
        "dark": Image.fromarray(noise // 8),
        "overexposed": Image.fromarray(200 + noise // 5),
        "tiny": Image.fromarray(noise[:56, :56]),
        "odd": Image.fromarray(noise[:28]),
        "point": Image.new("RGB", (1, 1), "red"),
        "endless": Image.new("L", (1, 30_000), 99),
    }
    scores = {}
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        scores[name] = quality_of(tmp_path / f"{name}.png", DEFAULT_LIMITS)
        assert all(0 <= score <= 1 for score in scores[name])

    assert scores["sharp"].blur < 0.1 < 0.9 < scores["blurred"].blur
    assert scores["sharp"].dark < 0.05 < 0.85 < scores["dark"].dark
    assert scores["sharp"].overexposed < 0.1 < 0.75 < scores["overexposed"].overexposed
    assert (scores["sharp"].tiny, scores["tiny"].tiny) == (0, 0.75)
    assert (scores["sharp"].odd_shape, scores["odd"].odd_shape) == (0, 0.875)
    with pytest.raises(ImageError):
        quality_of(tmp_path / "gone.png", DEFAULT_LIMITS)


def test_an_image_like_no_other_is_the_farthest_and_near_duplicates_do_not_speak_for_it() -> None:
    random = np.random.default_rng(0)
    features = random.normal(1, 0.2, (60, 400)).astype(np.float32)
    features[7:9] = random.normal(0, 1, 400)  # two near-duplicates of something else
    vectors = embed(features)
    families = np.arange(60)
    families[8] = 7
    labels = np.zeros(60, np.int64)

    scores = outlier_scores(vectors, families, labels)
    assert set(np.argsort(-scores)[:2].tolist()) == {7, 8}
    assert scores[7] > 0.5 > 0.2 > np.median(scores)
    assert outlier_scores(vectors, np.arange(60), labels)[7] < scores[7] - 0.05  # as if the other spoke for it
    assert outlier_scores(vectors[:1], families[:1], labels[:1]).tolist() == [1.0]


def test_pictures_of_something_else_do_not_speak_for_each_other_across_classes() -> None:
    random = np.random.default_rng(0)
    centers = random.normal(0, 1, (5, 64))  # of four classes, and of something else
    shown, labels = np.repeat(np.arange(5), 40), np.repeat(np.arange(5), 40)
    labels[160:] = np.arange(40) % 4  # ten in each class
    vectors = (centers[shown] + random.normal(0, 0.5, (200, 64))).astype(np.float32)
    chosen = np.r_[:176]  # four of them in each
    families = np.arange(200)

    scores = outlier_scores(vectors[chosen], families[chosen], labels[chosen])
    assert set(np.argsort(-scores)[:16].tolist()) == set(range(160, 176))
    of_one_family = families.copy()
    of_one_family[:40] = 0
    alone = outlier_scores(vectors[:160], of_one_family[:160], labels[:160])
    assert 0.5 < alone[:40].mean() < 1  # by the other classes, since their own has no other family
    assert np.array_equal(alone[40:], outlier_scores(vectors[:160], families[:160], labels[:160])[40:])


def test_vectors_keep_the_distances_of_features_and_are_the_same_at_any_time() -> None:
    random = np.random.default_rng(1)
    features = np.abs(random.normal(size=(40, 900))).astype(np.float32) ** 2
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    vectors = embed(features)

    assert np.allclose(vectors[20:], embed(features[20:]), atol=1e-6)
    asked = np.triu_indices(40, 1)
    whole, short = (np.linalg.norm(rows[asked[0]] - rows[asked[1]], axis=1) for rows in (unit, vectors))
    assert np.abs(short / whole - 1).mean() < 0.06


def test_embeddings_of_a_network_without_a_backbone_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SORTLINE_HOME", str(tmp_path / "home"))
    asked = ["audit", str(tmp_path), "--config", "digits", "-o", str(tmp_path / "a.csv"), "--embeddings", "e.parquet"]
    assert run(asked) == USAGE
    assert "--embeddings needs a recipe with a backbone" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_embeddings_are_read_back_by_their_image_in_the_order_of_the_table(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = np.array([[0.5, -1.25, 3.0], [0.125, 2.0, -0.5]], "<f2")
    vectors = [b64encode(row.tobytes()).decode() for row in rows]
    write_embeddings([found("a%25.png", "tin"), found("b.png", "glass")], vectors, "/data", tmp_path / "e.parquet")

    table = parquet.read_table(tmp_path / "e.parquet").to_pydict()
    assert table["path"] == ["/data/a%25.png", "/data/b.png"]
    assert table["label"] == ["tin", "glass"]
    assert table["embedding"] == rows.astype(float).tolist()


def test_findings_name_duplicates_near_duplicates_and_what_leaks_between_the_sides(tmp_path: Path) -> None:
    names = ("train/tin/a", "train/tin/b", "train/glass/c", "val/tin/a2", "val/tin/b2", "val/glass/d", "val/glass/d2")
    images = [LabelledImage(tmp_path / name, int("tin" in name)) for name in names]
    dataset = Dataset(
        root=tmp_path,
        classes=tuple(ClassInfo(folder=name, label=name, names={}) for name in ("glass", "tin")),
        train=tuple(images[:3]),
        validation=tuple(images[3:]),
    )
    digests = {image.path: image.path.name.removesuffix("2") if "a" in image.path.name else str(image.path)
               for image in images}  # fmt: skip
    own = np.array([0.9, 0.8, 0.2, 0.7, 0.6, 0.95, 0.95])
    tin = np.array([image.class_index for image in images])
    audited = Audited(
        images=images,
        labels=tin,
        probabilities=np.stack([np.where(tin, 1 - own, own), np.where(tin, own, 1 - own)], axis=1),
        families=np.array([0, 1, 2, 0, 1, 3, 3]),
        judged=np.ones(7, np.bool_),
        qualities=[Quality(0.25, 0.0, 0.0, 0.0, 0.0)] * 7,
        embeddings=None,
        outliers=np.full(7, 0.125, np.float32),
    )
    order = most_suspicious_first(audited)
    rows = {row.path: row for row in findings_of(dataset, audited, order, digests, str(tmp_path))}

    assert next(iter(rows)) == "train/glass/c"
    assert (rows["train/glass/c"].suggested, rows["train/glass/c"].suspicious) == ("tin", True)
    assert {name: row.same_as for name, row in rows.items() if row.same_as} == {
        "train/tin/a": "val/tin/a2", "val/tin/a2": "train/tin/a",
    }  # fmt: skip
    assert {name: row.similar_to for name, row in rows.items() if row.similar_to} == {
        "val/tin/b2": "train/tin/b", "val/glass/d2": "val/glass/d",
    }  # fmt: skip
    assert {name: row.leak for name, row in rows.items() if row.leak} == {
        "train/tin/a": "val/tin/a2", "val/tin/a2": "train/tin/a",
        "train/tin/b": "val/tin/b2", "val/tin/b2": "train/tin/b",
    }  # fmt: skip
    assert {(row.outlier, row.blur) for row in rows.values()} == {(0.125, 0.25)}


def test_images_of_a_class_that_no_network_has_seen_are_not_called_wrong(tmp_path: Path) -> None:
    images = [LabelledImage(tmp_path / name, index) for index, name in ((0, "a"), (0, "b"), (1, "c"), (0, "d"))]
    classes = tuple(ClassInfo(folder=name, label=name, names={}) for name in ("glass", "tin"))
    audited = Audited(
        images=images,
        labels=np.array([0, 0, 1, 0]),
        probabilities=np.array([[0.9, 0.1], [0.3, 0.7], [1.0, 0.0], [0.55, 0.45]]),
        families=np.arange(4),
        judged=np.array([True, True, False, True]),
        qualities=[Quality(0.0, 0.0, 0.0, 0.0, 0.0)] * 4,
        embeddings=None,
        outliers=None,
    )
    order = most_suspicious_first(audited)
    found = list(
        findings_of(
            Dataset(root=tmp_path, classes=classes, train=tuple(images)),
            audited, order, {image.path: image.path.name for image in images}, str(tmp_path),
        )
    )  # fmt: skip

    assert order == [1, 3, 0, 2]
    assert [(row.path, row.suggested, row.suspicious) for row in found] == [
        ("b", "tin", True), ("d", "glass", False), ("a", "glass", False), ("c", "tin", False),
    ]  # fmt: skip
