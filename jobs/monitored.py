"""The app as Flower loads it (``celery -A jobs.monitored:app flower``): settings from the environment, no tasks."""

from configs.settings import load_settings
from jobs.app import App, make_app

app: App = make_app(load_settings())
