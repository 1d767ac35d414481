"""Small untrained networks whose numbers matter: random batch-norm statistics instead of zeros and ones."""

from typing import Any

import mindspore
import numpy as np
from numpy.typing import NDArray

from vision.networks.network import build_network
from vision.networks.spec import NetworkSpec
from vision.networks.weights import Arrays, get_weights, set_weights


def seeded_network(spec: NetworkSpec, seed: int = 7) -> Any:
    """Return a network in inference mode in which every parameter reaches the output."""
    mindspore.set_seed(seed)
    network = build_network(spec).set_train(False)
    set_weights(network, scattered(get_weights(network), seed))
    return network


def scattered(arrays: Arrays, seed: int) -> Arrays:
    """Return the arrays with random biases, gains and statistics, and a head large enough to have opinions."""
    random = np.random.default_rng(seed)
    found: Arrays = {}
    for name, array in arrays.items():
        values: NDArray[np.floating[Any]] = array
        if name.endswith("running_var"):
            values = random.uniform(0.5, 1.5, array.shape)
        elif name.endswith(("running_mean", "bias")):
            values = random.normal(0, 0.2, array.shape)
        elif array.ndim == 1:
            values = random.uniform(0.8, 1.3, array.shape)
        elif name.startswith(("classifier", "fc3")):
            values = random.normal(0, 0.1, array.shape)
        found[name] = values.astype(np.float32)
    return found
