"""Reports of a run, made from its run file alone."""

from typing import Literal

By = Literal["link", "copy", "move"]  # how an image is sorted into its folder
Sidecar = Literal["name", "stem"]  # photo.jpg.xmp as digiKam has it, or photo.xmp as Lightroom
CsvDialect = Literal["excel", "excel-semicolon"]
EMBED_MB = 32.0  # of thumbnails inside report.html
