"""A label command from its source to its reports, with a worker in this process: what each stage leaves and says."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from configs.settings import Settings
from producer.errors import OK, TOO_MANY_FAILURES, TOO_MANY_TO_REVIEW, UsageError
from producer.reports.request import request_of
from producer.run.labelling import Labelling, label_source
from producer.runfile import RunFile
from tests.broker.conftest import KEYS, really_working
from tests.conftest import write_images

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def labelling(real_settings: Settings, tmp_path: Path) -> Labelling:
    reports = request_of(tmp_path / "report.csv", None, ranks=2)
    return Labelling(source=str(real_settings.data_root), model=None, reports=reports)


def test_a_folder_becomes_a_report_and_the_same_command_finds_nothing_new(
    real_settings: Settings,
    labelling: Labelling,
    tmp_path: Path,
    client: redis.Redis,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "data" / "broken.png").write_bytes(b"no image")
    with really_working(real_settings):
        assert label_source(real_settings, labelling) == OK
        rows = (tmp_path / "report.csv").read_text().splitlines()
        first = capsys.readouterr().err
        (tmp_path / "report.csv").unlink()
        assert label_source(real_settings, labelling) == OK

    assert (len(rows), sum(",error," in row for row in rows[1:])) == (1 + 25, 1)
    assert (tmp_path / "report.csv").read_text().splitlines() == rows
    assert "25 images: 24 labelled, 1 failed" in first
    assert "nothing new: all 25 images have their row" in capsys.readouterr().err
    assert client.keys(KEYS.results("*")) == []
    (path,) = (real_settings.home / "runs").glob("*.run")
    assert path.stem.startswith("data-")


ANY_NAMES = ["_fotos", "-x", "__", "日本", "a b", ".hidden", os.fsdecode(b"caf\xe9"), "x" * 200]


@pytest.mark.parametrize("name", ANY_NAMES, ids=range(8))
def test_a_folder_of_any_name_is_labelled(
    real_settings: Settings, labelling: Labelling, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "data" / "in" / name
    write_images(tmp_path / "made", 2)  # OpenCV takes no path that is not UTF-8
    shutil.copytree(tmp_path / "made", folder)

    with really_working(real_settings):
        code = label_source(real_settings, Labelling(source=str(folder), model=None, reports=labelling.reports))

    assert code == OK
    (path,) = (real_settings.home / "runs").glob("*.run")
    with closing(RunFile(path)) as run:
        assert (run.done, run.failed) == (2, 0)


def test_more_failures_or_images_to_review_than_allowed_are_exit_codes_of_their_own(
    real_settings: Settings, labelling: Labelling, tmp_path: Path
) -> None:
    (tmp_path / "data" / "broken.png").write_bytes(b"no image")
    with really_working(real_settings):
        strict = Labelling(source=labelling.source, model=None, reports=labelling.reports, max_failures=0)

        assert label_source(real_settings, strict) == TOO_MANY_FAILURES
    assert (tmp_path / "report.csv").is_file()

    # The same rows again, all of them for review.
    doubtful = replace(labelling.reports, min_confidence=1.0)
    images = len(list((tmp_path / "data").glob("*.png"))) - 1
    for max_review, code in ((images - 1, TOO_MANY_TO_REVIEW), (images, OK)):
        few = Labelling(source=labelling.source, model=None, reports=doubtful, max_review=max_review)
        assert label_source(real_settings, few) == code
    undecided = Labelling(source=labelling.source, model=None, reports=labelling.reports, max_review=0)
    with pytest.raises(UsageError, match=r"--max-review: .* has no thresholds to accept answers by"):
        label_source(real_settings, undecided)


def test_what_cannot_be_done_is_refused_before_anything_is_sent(
    real_settings: Settings, labelling: Labelling, tmp_path: Path, client: redis.Redis
) -> None:
    inside = Labelling(
        source=labelling.source, model=None, reports=labelling.reports, sort_into=tmp_path / "data" / "sorted"
    )

    with pytest.raises(UsageError, match="is inside the labelled folder"):
        label_source(real_settings, inside)
    assert client.dbsize() == 0
    assert not (real_settings.home / "runs").exists()


def test_a_detached_run_is_only_enqueued(
    real_settings: Settings, labelling: Labelling, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    detached = Labelling(source=labelling.source, model=None, reports=labelling.reports, detach=True)

    assert label_source(real_settings, detached) == OK

    run = capsys.readouterr().out.strip()
    assert client.llen(KEYS.queue("label")) == real_settings.window_chunks == 3
    assert client.llen(KEYS.waiting(run)) == 24 / 4 - 3
    assert client.zrange(KEYS.waiting_runs, 0, -1, withscores=True) == [(run, 0.0)]
    assert client.exists(KEYS.inputs(run)) == 1


def test_what_failed_for_a_reason_that_was_mended_is_tried_again_on_request(
    real_settings: Settings, labelling: Labelling, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, report = tmp_path / "data", tmp_path / "report.csv"
    (data / "broken.png").write_bytes(b"no image")
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{data / name}\n" for name in ("00000.png", "late.png", "broken.png")))
    asked = replace(labelling, source=str(listed))
    with really_working(real_settings):
        assert label_source(real_settings, asked) == OK
        first = capsys.readouterr().err
        (data / "late.png").write_bytes((data / "00001.png").read_bytes())
        assert label_source(real_settings, asked) == OK  # not unless it is asked for
        assert report.read_text().count(",not_found,") == 1
        capsys.readouterr()
        assert label_source(real_settings, replace(asked, retry_failed=True)) == OK
        second = capsys.readouterr().err

    assert "1 labelled, 2 failed (" in first
    assert "--retry-failed tries 1 of them again" in first
    assert "2 of 3 images have their row" in second
    assert "1 that failed are tried again" in second
    assert "2 labelled, 1 failed (not_an_image 1)" in second
    assert "--retry-failed" not in second
    assert [",error," in row for row in report.read_text().splitlines()[1:]] == [False, False, True]


def test_trying_failures_again_is_not_starting_over(real_settings: Settings, labelling: Labelling) -> None:
    with pytest.raises(UsageError, match="--retry-failed goes on with an earlier call"):
        label_source(real_settings, replace(labelling, retry_failed=True, on_existing="overwrite"))
