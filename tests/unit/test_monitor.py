"""How Flower is started: never reachable by others without a password, never changing anything unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.errors import UsageError
from producer.local.monitor import flower_password, is_loopback, plan_flower
from tests.canaries import MARK, as_id, secret

LOGIN = f"me:{secret('flower')}"


def planned(home: Path, *options: str, environment: dict[str, str] | None = None, **wishes: object) -> dict[str, str]:
    return dict(plan_flower(home, options=options, environment=environment or {}, **wishes).environment)  # type: ignore[arg-type]


def test_by_default_flower_is_bound_to_this_machine_behind_a_password_and_read_only(home: Path) -> None:
    found = planned(home)

    assert found["FLOWER_ADDRESS"] == "127.0.0.1"
    assert 5555 <= int(found["FLOWER_PORT"]) < 5575
    assert found["FLOWER_BASIC_AUTH"].startswith("sortline:")
    assert found["FLOWER_READ_ONLY"] == "true"
    assert found["FLOWER_PERSISTENT"] == "true"
    assert found["FLOWER_DB"] == str(home / "flower.db")


def test_the_password_is_made_once_shown_once_and_readable_by_its_owner_only(home: Path) -> None:
    first = plan_flower(home, environment={})
    again = plan_flower(home, environment={})
    password, is_new = flower_password(home)

    assert len(password) >= 16
    assert not is_new
    assert first.environment["FLOWER_BASIC_AUTH"] == again.environment["FLOWER_BASIC_AUTH"] == f"sortline:{password}"
    assert password in first.message
    assert password not in again.message
    assert str(home / "flower-password") in again.message
    assert (home / "flower-password").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("left", [b"", bytes(17)])  # by a power cut
def test_a_damaged_password_file_is_no_password(home: Path, left: bytes) -> None:
    (home / "flower-password").write_bytes(left)

    password, is_new = flower_password(home)

    assert (len(password) >= 16, is_new) == (True, True)
    assert flower_password(home) == (password, False)
    assert (home / "flower-password").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.7", "flower.example", ""])  # noqa: S104 - refused
def test_any_other_address_without_a_password_is_refused(home: Path, address: str) -> None:
    if address:
        with pytest.raises(UsageError, match="without a password would let everybody in"):
            plan_flower(home, address=address, port=5555, auth=False, environment={})
    with pytest.raises(UsageError, match="without a password"):
        plan_flower(home, port=5555, auth=False, environment={"FLOWER_ADDRESS": address or "0.0.0.0"})  # noqa: S104


def test_an_address_of_its_own_has_a_password_too(home: Path) -> None:
    assert planned(home, address="0.0.0.0", port=5555)["FLOWER_BASIC_AUTH"].startswith("sortline:")  # noqa: S104


def test_without_a_password_only_this_machine_gets_in(home: Path) -> None:
    found = planned(home, auth=False, environment={"FLOWER_BASIC_AUTH": LOGIN})

    assert "FLOWER_BASIC_AUTH" not in found
    assert found["FLOWER_ADDRESS"] == "127.0.0.1"


def test_a_unix_socket_that_everybody_can_open_needs_a_password(home: Path) -> None:
    with pytest.raises(UsageError, match="open to every user of this machine"):
        planned(home, "--unix_socket=/run/flower.sock", auth=False)


def test_a_login_of_ones_own_is_used_and_not_repeated(home: Path) -> None:
    flower = plan_flower(home, environment={"FLOWER_BASIC_AUTH": LOGIN, "FLOWER_MAX_TASKS": "7"})

    assert flower.environment["FLOWER_BASIC_AUTH"] == LOGIN
    assert flower.environment["FLOWER_MAX_TASKS"] == "7"
    assert MARK not in flower.message
    assert not (home / "flower-password").exists()


def test_changes_are_allowed_only_when_asked_for(home: Path) -> None:
    assert planned(home, read_only=False)["FLOWER_READ_ONLY"] == "false"
    assert planned(home, environment={"FLOWER_READ_ONLY": "false"})["FLOWER_READ_ONLY"] == "false"
    assert planned(home, environment={"FLOWER_READ_ONLY": "True"})["FLOWER_READ_ONLY"] == "true"


def test_options_of_flower_pass_through_its_environment(home: Path) -> None:
    found = planned(home, "--max-tasks=500", "--natural_time=false", "--debug")

    login = planned(home, "--auth_provider=flower.views.auth.GithubLoginHandler", "--auth=me@example")
    assert "FLOWER_BASIC_AUTH" not in login
    assert login["FLOWER_AUTH"] == "me@example"
    assert found["FLOWER_MAX_TASKS"] == "500"
    assert found["FLOWER_NATURAL_TIME"] == "false"
    assert found["FLOWER_DEBUG"] == "true"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--max_taks=5", "has no option --max_taks; did you mean --max_tasks"),
        (f"--basic_auth={LOGIN}", "can be read by everybody here; set FLOWER_BASIC_AUTH"),
        (f"--oauth2_secret={secret('oauth2')}", "set FLOWER_OAUTH2_SECRET"),
        ("--address=0.0.0.0", "use --address"),
        ("--read_only=false", "use --read-only or --allow-changes"),
        ("--conf=mine.py", "are not passed on: they run code"),
        ("--auth_provider=mine.Handler", "are not passed on: they run code"),
        ("stray", "has no option stray"),
    ],
    ids=as_id,
)
def test_an_option_that_is_wrong_secret_or_dangerous_is_refused(home: Path, option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        planned(home, option)
    assert MARK not in str(caught.value)


def test_a_program_of_the_environment_is_refused_as_well(home: Path) -> None:
    with pytest.raises(UsageError, match="are not passed on"):
        planned(home, environment={"FLOWER_CONF": "mine.py"})


@pytest.mark.parametrize(
    ("address", "is_local"),
    [("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("localhost", True), ("localhost.example", False)],
)
def test_what_counts_as_this_machine(address: str, is_local: bool) -> None:
    assert is_loopback(address) is is_local
