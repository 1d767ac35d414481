"""The formats of a report, in the order in which they are listed and written. A new one is a file and a line here."""

from __future__ import annotations

from producer.reports.csv import CSV
from producer.reports.jsonl import JSONL
from producer.reports.page import HTML
from producer.reports.parquet import PARQUET

FORMATS = {format_.name: format_ for format_ in (CSV, PARQUET, JSONL, HTML)}
