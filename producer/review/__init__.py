"""The page on which people look at a run's answers and correct them; each decision becomes a row of corrections.csv."""

from typing import Literal

Order = Literal["uncertain", "entropy", "diverse", "outlier", "disagreement", "random", "listed"]
