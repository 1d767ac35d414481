"""The private stack gives its processes the settings of the command that owns it."""

from __future__ import annotations

from pathlib import Path

from configs.settings import Settings, load_settings
from producer.local.stack import LocalStack


def test_processes_of_a_stack_have_the_settings_of_its_owner_whatever_they_came_from(
    home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('precision = "f32"\ndecode_threads = 3\nstale_s = 12.5\nkey_prefix = "mine:"\n')
    settings = load_settings(file, {"home": home}, {"SORTLINE_LOG_FORMAT": "json"})

    told = load_settings(None, None, LocalStack(settings).environment() | {"PYTHONUNBUFFERED": "1"})

    assert told == settings.model_copy(update={"store": home / "store"})


def test_settings_that_nobody_made_stay_the_defaults(home: Path) -> None:
    told = load_settings(None, None, LocalStack(Settings(home=home)).environment())

    assert told == Settings(home=home, store=home / "store")
