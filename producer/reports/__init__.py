"""Reports of a run, made from its run file alone."""

EMBED_MB = 32.0  # of thumbnails inside report.html
