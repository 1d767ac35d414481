"""What a process is given and what a training is. Only this package reads TOML or the environment."""

from typing import TYPE_CHECKING

from base.doors import lazy

if TYPE_CHECKING:
    from configs.errors import SettingsError
    from configs.recipe import Backbone, Recipe, read_recipe
    from configs.settings import MAX_CHUNK_IMAGES, MAX_PROCESSES, Settings, environment_of, load_settings
    from configs.tables import merge, parse_assignments, read_toml
else:
    __getattr__ = lazy(__name__)
