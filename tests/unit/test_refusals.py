"""When workers that can't label a run end it, and what a person reads of them."""

from __future__ import annotations

import pytest

from producer.errors import RunRefused
from producer.run.refusals import Refusals


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.run.refusals.CHECK_S", 0)
    monkeypatch.setattr("producer.run.refusals.LONG_CHECK_S", 0)


def refusals(*there: str) -> tuple[Refusals, list[str]]:
    warnings: list[str] = []
    return Refusals(lambda: list(there), warnings.append), warnings


def check(found: Refusals, times: int = 5) -> None:
    for _ in range(times):
        found.check(lambda: None)


def test_a_run_goes_on_while_another_worker_is_there_and_the_sick_one_is_named_once() -> None:
    found, warnings = refusals("sick", "sound")
    for _ in range(3):
        found.note("sick", "no model", may_pass=False)
        check(found)

    assert warnings == ["warning: sick keeps away from this run: no model"]


def test_a_run_whose_workers_have_all_failed_for_good_is_refused_with_a_reason() -> None:
    found, _ = refusals("one", "two")
    found.note("one", "no model", may_pass=False)
    check(found)
    found.note("two", "no engine", may_pass=False)

    with pytest.raises(RunRefused, match=r"one refuses this run: no model \(and so do 1 more\)"):
        check(found)


def test_one_look_at_who_is_there_is_not_enough() -> None:
    found, _ = refusals("sick")
    found.note("sick", "no model", may_pass=False)

    check(found, times=1)
    with pytest.raises(RunRefused):
        check(found, times=1)


def test_what_may_pass_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = refusals("sick")
    found.note("sick", "no share", may_pass=True)
    check(found)

    monkeypatch.setattr("producer.run.refusals.PATIENCE_S", -1)
    with pytest.raises(RunRefused, match="no share"):
        check(found)


def test_a_worker_that_has_sent_rows_is_sound() -> None:
    found, _ = refusals("once")
    found.note("once", "no model", may_pass=False)
    found.forget("once")

    check(found)


def test_nobody_there_is_no_refusal() -> None:
    found, _ = refusals()
    found.note("gone", "no model", may_pass=False)

    check(found)


def test_a_cause_that_is_not_the_workers_names_none() -> None:
    found, warnings = refusals("sound")
    found.note("sound", "no images", may_pass=True)

    def look() -> None:
        raise OSError("SOURCE is away")

    with pytest.raises(OSError, match="SOURCE"):
        found.check(look)
    assert warnings == []
