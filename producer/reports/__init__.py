"""Reports of a run, made from its run file alone."""

from typing import Literal

By = Literal["link", "copy", "move"]  # how an image is sorted into its folder
EMBED_MB = 32.0  # of thumbnails inside report.html
