"""Graphs that were trained elsewhere: what their files say of them, and the form that Sortline serves them in."""

from typing import TYPE_CHECKING

from base.doors import lazy

if TYPE_CHECKING:
    from vision.imported.description import Description, ImportRefused
    from vision.imported.facts import gather
    from vision.imported.graph import read_graph
    from vision.imported.ir import read_ir
    from vision.imported.joining import Joined, Part, join, with_head
    from vision.imported.labels import read_labels
    from vision.imported.outliers import fit_outlier_score
    from vision.imported.samples import check_samples, read_samples
    from vision.imported.served import Served, serve
    from vision.imported.sources import PRESETS, read_json
else:
    __getattr__ = lazy(__name__)
