"""A served graph with 8-bit convolutions, made of the float one after training: NNCF's post-training quantisation.

Weights get a scale a channel, activations one a map, from the ranges that some images show; what rounding shifts on
average is put back into the biases. The first convolutions, which see every pixel, the last ones and the head stay in
float32; how many of them is for each network to say.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

from base.install import pip_install
from vision.errors import EngineError
from vision.serving.engines.openvino import CONVOLUTIONS, has_vnni, import_openvino
from vision.serving.engines.protocol import Images, ModelFiles

CALIBRATION_IMAGES: Final = 300


def can_quantise() -> bool:
    """Return whether NNCF is installed, and this CPU could judge what it makes."""
    return importlib.util.find_spec("nncf") is not None and has_vnni()


def quantise(files: ModelFiles, images: Images, float_first: int, float_last: int) -> tuple[bytes, bytes]:
    """Return the .xml and the .bin of OpenVINO's format of the graph in 8 bits.

    Args:
        images: uint8 (N, H, W, 3) RGB, about 300 of those that it was trained on.
        float_first, float_last: convolutions at each end that stay in float32.

    Raises:
        EngineError: the graph has too few convolutions, or NNCF can't quantise it.
    """
    openvino = import_openvino()
    with tempfile.TemporaryDirectory(prefix="int8-") as folder, redirect_stdout(io.StringIO()):  # progress bars
        draft = Path(folder) / "network.onnx"
        draft.write_bytes(files.onnx)
        try:
            # The conversion of ONNX folds batch norm into the convolutions.
            model = openvino.Core().read_model(*files.ir) if files.ir is not None else openvino.convert_model(draft)
            model.reshape([-1, *images.shape[1:]])
            kept = kept_in_float(model, float_first, float_last)
            nncf = _import_nncf()
            quantised = nncf.quantize(
                model,
                nncf.Dataset(range(len(images)), lambda index: images[index : index + 1]),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(images),
                fast_bias_correction=False,
                ignored_scope=nncf.IgnoredScope(names=kept),
            )
            openvino.save_model(quantised, draft.with_suffix(".xml"), compress_to_fp16=False)
        except EngineError:
            raise
        except Exception as error:  # NNCF's exceptions share no base but this
            raise EngineError(f"NNCF can't quantise the graph: {error}") from error
        return draft.with_suffix(".xml").read_bytes(), draft.with_suffix(".bin").read_bytes()


def kept_in_float(model: Any, first: int, last: int) -> list[str]:
    """Return the names of the first and last convolutions of each scale, and of all that no convolution needs."""
    nodes = model.get_ordered_ops()
    depths: dict[str, int] = {}  # convolutions one behind the other, up to and with a node
    needed: set[str] = set()
    for node in nodes:
        before = [depths[source.get_node().get_friendly_name()] for source in node.input_values()]
        depths[node.get_friendly_name()] = max(before, default=0) + _is_convolution(node)
    for node in reversed(nodes):
        if _is_convolution(node) or node.get_friendly_name() in needed:
            needed |= {
                node.get_friendly_name(),
                *(source.get_node().get_friendly_name() for source in node.input_values()),
            }
    deepest = max(depths.values(), default=0)
    if deepest <= first + last:
        raise EngineError(f"too few convolutions for 8 bits: {deepest}")
    in_8_bits = range(first + 1, deepest - last + 1)
    return sorted(
        name
        for node, name in ((node, node.get_friendly_name()) for node in nodes)
        if (_is_convolution(node) and depths[name] not in in_8_bits)
        or (name not in needed and node.get_type_name() not in ("Constant", "Parameter", "Result"))
    )


def _is_convolution(node: Any) -> bool:
    return node.get_type_name() in CONVOLUTIONS


def _import_nncf() -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use to Intel and Google Analytics, as OpenVINO would
    try:
        import nncf
    except ImportError as error:
        raise EngineError(f"NNCF is not installed; run: {pip_install('sortline[int8]')}") from error
    nncf.set_log_level(logging.ERROR)
    return nncf
