"""The app as Flower loads it (``celery -A jobs.monitored:app flower``): settings from the environment, no tasks."""

from celery import Celery

from configs.settings import load_settings
from jobs.app import make_app

app: Celery = make_app(load_settings())
