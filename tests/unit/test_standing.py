"""How long a worker keeps away from a run at which it fails."""

from __future__ import annotations

from worker.standing import LONGEST_AWAY_S, LONGEST_PAUSE_S, RUNS_KNOWN, Standing


def test_a_worker_keeps_away_from_a_run_for_longer_each_time_and_from_no_other() -> None:
    standing = Standing()

    assert [standing.fail("sick") for _ in range(6)] == [1, 2, 4, 8, LONGEST_AWAY_S, LONGEST_AWAY_S]
    assert standing.keeps_away("sick")
    assert not standing.keeps_away("sound")


def test_success_forgets_the_failures() -> None:
    standing = Standing()
    standing.fail("run")
    standing.succeed("run", "here")

    assert standing.is_proven("run", "here")
    assert not standing.is_proven("run", "elsewhere")
    assert standing.fail("run") == 1
    assert not standing.is_proven("run", "here")


def test_pauses_grow_while_nothing_else_comes() -> None:
    standing = Standing()

    pauses = [standing.pause_s() for _ in range(12)]

    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
    standing.succeed("another", "here")
    assert standing.pause_s() == pauses[0]


def test_only_the_newest_runs_are_known() -> None:
    standing = Standing()
    standing.fail("oldest")
    for number in range(RUNS_KNOWN):
        assert not standing.keeps_away(f"run-{number}")

    assert not standing.keeps_away("oldest")
