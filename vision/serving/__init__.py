"""A network's graph runs in an engine: images -> labels. Nothing here knows how it was trained."""

from typing import TYPE_CHECKING

from base.doors import lazy

if TYPE_CHECKING:
    from vision.serving.cascade import FirstStage
    from vision.serving.classifier import Classifier, Outcome, Source
    from vision.serving.engines import (
        ENGINES,
        Engine,
        Images,
        MindSporeNetwork,
        ModelFiles,
        Outputs,
        open_engine,
        precision_here,
        precisions,
    )
    from vision.serving.engines.half import can_halve
    from vision.serving.engines.openvino import import_openvino
    from vision.serving.engines.protocol import FEATURES, PROBABILITIES, GraphSpec
    from vision.serving.export import (
        OUTLIER,
        exchange_weights,
        export_checkpoint,
        export_head,
        export_mindir,
        export_onnx,
        export_openvino,
        graph_spec_of,
        run_checkpoint,
        run_mindir,
        run_onnx,
        run_openvino,
        run_safetensors,
    )
    from vision.serving.forwarding import forward, replay
    from vision.serving.quantisation import CALIBRATION_IMAGES, can_quantise, quantise
else:
    __getattr__ = lazy(__name__)
