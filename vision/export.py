"""Export of a served cell as ONNX by MindSpore's own exporter."""

from __future__ import annotations

import tempfile
from pathlib import Path

import mindspore
import mindspore.onnx
from mindspore import Tensor, nn

from vision.errors import VisionError
from vision.files import write_file

INPUT_NAME = "images"
OUTPUT_NAME = "outputs"


def export_onnx(cell: nn.Cell, path: Path, *, height_px: int, width_px: int) -> None:
    """Write ``cell`` to ``path`` as an ONNX graph: "images" uint8 (any N, H, W, 3) -> "outputs" float32 (N, outputs).

    The file appears by one rename, so a reader sees the old one, the new one or none. ``cell`` stays in inference mode.

    Raises:
        VisionError: MindSpore can't express the cell in ONNX.
        OSError: ``path`` can't be written.
    """
    images = Tensor(shape=(None, height_px, width_px, 3), dtype=mindspore.uint8)  # None: any batch size
    cell.set_train(False)
    cell.set_inputs(images)
    # MindSpore refuses paths with spaces or letters beyond ASCII, so it writes to a folder of ours first.
    with tempfile.TemporaryDirectory(prefix="onnx-") as folder:
        draft = Path(folder) / "network.onnx"
        try:
            mindspore.onnx.export(
                cell, images, file_name=str(draft), input_names=[INPUT_NAME], output_names=[OUTPUT_NAME]
            )
        except (RuntimeError, TypeError, ValueError) as error:
            raise VisionError(f"MindSpore could not export {type(cell).__name__} as ONNX: {error}") from error
        others = sorted(file.name for file in Path(folder).iterdir() if file != draft)
        if others:
            raise VisionError(
                f"the ONNX export of {type(cell).__name__} is split over several files ({', '.join(others)}); "
                "engines load one file, which holds at most 2 GB"
            )
        write_file(path, draft.read_bytes())
