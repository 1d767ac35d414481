"""Settings: who wins, and what a person is told of a key or value that can't be."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import pytest

from configs.errors import SettingsError
from configs.recipe import Augmentation, Recipe, read_recipe
from configs.settings import Settings, load_settings
from configs.tables import CONFIGS_FOLDER, find_config, parse_assignments
from tests.canaries import secret

HIDDEN = secret("settings")


def toml(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_source_overrides_the_one_before_it_and_leaves_the_rest(tmp_path: Path) -> None:
    file = toml(tmp_path, "chunk_images = 10\nwindow_chunks = 20\nstale_s = 30.0\n")
    environment = {"SORTLINE_WINDOW_CHUNKS": "21", "SORTLINE_STALE_S": "31"}

    settings = load_settings(file, {"stale_s": 32.0}, environment)

    assert settings.visibility_timeout_s == Settings().visibility_timeout_s  # default
    assert settings.chunk_images == 10  # file
    assert settings.window_chunks == 21  # environment over file
    assert settings.stale_s == 32.0  # flag over all


def test_the_same_order_holds_key_by_key_in_nested_tables(tmp_path: Path) -> None:
    file = toml(tmp_path, "[training]\nepochs = 3\nseed = 4\nbatch_size = 5\n[training.augmentation]\nzoom = 0.2\n")
    environment = {"SORTLINE_TRAINING__SEED": "40", "SORTLINE_TRAINING__AUGMENTATION__FLIP": "true"}

    training = load_settings(file, {"training": {"batch_size": 50}}, environment).training

    assert (training.epochs, training.seed, training.batch_size) == (3, 40, 50)
    assert (training.augmentation.zoom, training.augmentation.flip) == (0.2, True)


def test_a_flag_that_was_not_given_and_an_empty_variable_change_nothing(tmp_path: Path) -> None:
    file = toml(tmp_path, 'device = "cpu"\n')

    assert load_settings(file, {"device": None}, {"SORTLINE_DEVICE": ""}).device == "cpu"


def test_variables_of_other_programs_are_left_alone() -> None:
    assert load_settings(environment={"PATH": "/bin", "MYSORTLINE_DEVICE": "toaster"}) == load_settings(environment={})


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        ("chunk_image = 10", "chunk_image", "chunk_images"),
        ("[training]\nepoch = 5", "training.epoch", "training.epochs"),
        ("[training.augmentation]\nrotate_degree = 5", "training.augmentation.rotate_degree", "rotate_degrees"),
        ("epochs = 5", "epochs", "training.epochs"),  # at the wrong level
    ],
)
def test_an_unknown_key_of_a_file_names_the_nearest_known_one(
    tmp_path: Path, text: str, wrong: str, right: str
) -> None:
    with pytest.raises(SettingsError, match=rf"unknown setting {wrong}; did you mean [a-z_.]*{right}\?"):
        load_settings(toml(tmp_path, text), environment={})


def test_a_key_like_no_other_gets_the_whole_list(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown setting qqq; known: home, broker, .*training\.epochs"):
        load_settings(toml(tmp_path, "qqq = 1"), environment={})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SORTLINE_DEVISE", r"unknown setting devise; did you mean device\?"),
        ("SORTLINE_TRAINING__EPOCS", r"unknown setting training\.epocs; did you mean training\.epochs\?"),
    ],
)
def test_an_unknown_variable_is_refused(name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(environment={name: "1"})


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"lr_max": -0.1}, r"setting training\.lr_max: .*greater than 0 \(got -0\.1\)"),
        ({"lr_init": -1}, r"setting training\.lr_init: .*greater than or equal to 0"),
        ({"lr_max": float("nan")}, r"setting training\.lr_max: .*finite"),
        ({"lr_schedule": "exponential"}, r"training\.lr_schedule: .*'cosine' \(got 'exponential'\)"),
        ({"lr_max": 0.01, "lr_init": 0.02}, r"setting training: lr_init and lr_end must not be above lr_max"),
        ({"lr_max": 0.01, "lr_end": 0.02}, r"setting training: lr_init and lr_end must not be above lr_max"),
        ({"epochs": 0}, r"training\.epochs: .*greater than or equal to 1 \(got 0\)"),
        ({"epochs": "many"}, r"training\.epochs: .*integer.* \(got 'many'\)"),
        ({"augmentation": {"flip": "perhaps"}}, r"training\.augmentation\.flip: .*boolean"),
        ({"network": "resnet"}, r"setting training\.network: must be one of .*, lenet5, .* \(got 'resnet'\)"),
        ({"int8": "sometimes"}, r"training\.int8: .*boolean"),
        (
            {"backbone": "b", "rbf_centers": 9, "epochs": 5, "loss": "squared"},
            r"setting training: epochs, loss: a head on RBF centers is solved at once .* take them out",
        ),
        ({"epocs": 5}, r"unknown setting training\.epocs; did you mean training\.epochs\?"),
    ],
)
def test_a_bad_recipe_is_refused_alike_from_a_file_and_from_a_message(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(flags={"training": recipe}, environment={})
    if not recipe.keys() & {"lr_end", "lr_init", "rbf_centers"}:  # of a rule about several keys there is no key to name
        with pytest.raises(SettingsError, match=message):
            read_recipe(recipe)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environment={"SORTLINE_DEVICE": "toaster", "SORTLINE_CHUNK_IMAGES": "-1"})

    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["setting chunk_images", "setting device"]


def test_a_recipe_goes_through_a_message_unchanged() -> None:
    recipe = load_settings(Path("digits"), environment={}).training

    assert read_recipe(recipe.model_dump()) == recipe


@pytest.mark.parametrize("scheme", ["amqp", "http", "redis+socket", "REDISS"])
def test_a_broker_of_another_scheme_is_refused_without_showing_its_password(scheme: str) -> None:
    match = r"setting broker: not a URL that .*: a broker is a redis://, rediss:// or unix:// URL"
    with pytest.raises(SettingsError, match=match) as caught:
        load_settings(environment={"SORTLINE_BROKER": f"{scheme}://user:{HIDDEN}@host/0"})

    assert HIDDEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "environment",
    [
        {"SORTLINE_BROKERS": f"redis://u:{HIDDEN}@host"},
        {"SORTLINE_BROKER__URL": f"redis://u:{HIDDEN}@host"},
        {"SORTLINE_BROKER": f"redis://u:{HIDDEN}@host", "SORTLINE_DEVICE": "toaster"},
    ],
)
def test_no_other_mistake_shows_the_brokers_password(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environment=environment)

    assert HIDDEN not in "".join(traceback.format_exception(caught.value))


def test_printed_settings_do_not_show_the_broker() -> None:
    settings = load_settings(environment={"SORTLINE_BROKER": f"redis://u:{HIDDEN}@host"})

    assert settings.broker == f"redis://u:{HIDDEN}@host"
    assert HIDDEN not in f"{settings!r} {settings}"


def test_settings_can_not_be_changed_after_they_were_built() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().device = "cuda"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"epochs = = 5", r"mine\.toml: Invalid value"), (b'home = "\xff"', r"mine\.toml is not valid UTF-8; save it")],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mine.toml").write_bytes(content)

    with pytest.raises(SettingsError, match=message):
        load_settings(tmp_path / "mine.toml", environment={})


def test_relative_folders_become_absolute_where_they_were_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)

    settings = load_settings(flags={"home": "state", "data_root": "link/../pictures"}, environment={})

    assert settings.home == tmp_path / "state"
    assert settings.data_root == tmp_path / "pictures"
    assert settings.store_root == tmp_path / "state" / "store"


def test_the_home_follows_the_xdg_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    assert load_settings(environment={}).home == tmp_path / "sortline"


@pytest.mark.parametrize(
    ("assignments", "table"),
    [
        (["epochs=5", "lr_max = 0.5"], {"epochs": 5, "lr_max": 0.5}),
        (["augmentation.flip=true", "augmentation.zoom=0.1"], {"augmentation": {"flip": True, "zoom": 0.1}}),
        (["fit=pad", 'pooling="max"'], {"fit": "pad", "pooling": "max"}),
        (["backbone=imagenet:3"], {"backbone": "imagenet:3"}),
        (["backbone=a=b"], {"backbone": "a=b"}),
        (["epochs=5", "epochs=6"], {"epochs": 6}),
        ([], {}),
    ],
)
def test_assignments_become_a_nested_table(assignments: list[str], table: dict[str, Any]) -> None:
    assert parse_assignments(assignments) == table


@pytest.mark.parametrize("assignment", ["epochs", "=5", " =5", ""])
def test_an_assignment_without_key_or_value_is_refused(assignment: str) -> None:
    with pytest.raises(SettingsError, match=rf"--set takes KEY=VALUE, not {assignment!r}"):
        parse_assignments([assignment])


SHIPPED = sorted(CONFIGS_FOLDER.glob("*.toml"))


def test_configurations_ship() -> None:
    assert {"digits.toml", "waste26.toml"} <= {file.name for file in SHIPPED}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_a_shipped_configuration_is_found_by_its_bare_name_from_any_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / file.stem).mkdir()  # a folder of that name is no configuration

    assert find_config(Path(file.stem)) == find_config(Path(file.name)) == file
    changes = load_settings(Path(file.stem), environment={}) != load_settings(environment={})
    assert changes == (file.name != "default.toml")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_a_shipped_configuration_opens_with_the_command_that_uses_it(file: Path) -> None:
    assert file.read_text(encoding="utf-8").startswith("# sortline ")


def test_a_file_of_ones_own_goes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.toml").write_text('device = "cpu"')

    assert load_settings(Path("digits.toml"), environment={}).device == "cpu"


@pytest.mark.parametrize("name", ["weekday", "", "..", "/"])
def test_a_configuration_that_is_nowhere_is_told_with_those_there_are(name: str) -> None:
    with pytest.raises(
        SettingsError, match=r"no configuration file .*; .* one of these: default\.toml, digits\.toml, .*waste26"
    ):
        load_settings(Path(name), environment={})


def test_a_fault_between_settings_is_told_without_the_whole_table() -> None:
    with pytest.raises(
        SettingsError, match=r"^setting training: intermediate_layers, scales, .* need backbones .*\)$"
    ) as told:
        load_settings(flags={"training": {"scales": [0.5], "lr_max": 0.25}}, environment={})

    assert "0.25" not in str(told.value)


def test_default_toml_states_every_default_and_names_every_setting() -> None:
    text = (CONFIGS_FOLDER / "default.toml").read_text(encoding="utf-8")
    names = [*Settings.model_fields, *Recipe.model_fields, *Augmentation.model_fields]

    assert load_settings(Path("default"), environment={}) == Settings()
    assert [name for name in names if not re.search(rf"^(# )?{name} =|^\[.*{name}\]$", text, re.MULTILINE)] == []


def test_a_user_without_a_home_is_asked_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(SettingsError, match="no home folder: set SORTLINE_HOME"):
        load_settings(environment={})
    with pytest.raises(SettingsError, match="setting store: ~ stands for no folder"):
        load_settings(environment={"SORTLINE_HOME": str(tmp_path), "SORTLINE_STORE": "~/store"})
    assert load_settings(environment={"SORTLINE_HOME": str(tmp_path)}).home == tmp_path
