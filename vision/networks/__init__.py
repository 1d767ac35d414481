"""Networks as they are trained, their weights, and the parts that are served."""

from typing import TYPE_CHECKING

from base.doors import lazy

if TYPE_CHECKING:
    from vision.networks.foreign_spec import SPEC_KEY, spec_metadata
    from vision.networks.head_only import HeadSpec
    from vision.networks.layered import LayeredSpec
    from vision.networks.network import (
        SCORE_FLOOR,
        FeatureExtractor,
        Scaling,
        ServedHead,
        as_array,
        build_network,
        build_served,
        run_once,
    )
    from vision.networks.registry import network_kind, own_options, spec_from_json
    from vision.networks.spec import CONVENTIONS, USUAL_FLOAT_ENDS, FloatEnds, NetworkSpec
    from vision.networks.weights import (
        MAX_FILE_BYTES,
        Arrays,
        ImportedWeights,
        backbone_only,
        get_weights,
        read_foreign,
        read_safetensors,
        set_weights,
        to_safetensors,
    )
else:
    __getattr__ = lazy(__name__)
