"""A foreign graph run as its own framework would: ONNX Runtime in float32 on the file as it came, scaled by numpy."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vision.images import Pixels
from vision.imported.description import LOGITS, PROBABILITIES, Description, ImportRefused
from vision.imported.graph import INPUT, ForeignGraph
from vision.imported.ir import IrGraph
from vision.imported.running import sentence

SUM_TOLERANCE: Final = 1e-3  # of the probabilities of an image, which add up to 1
SEVERAL_TOLERANCE: Final = 1e-4  # of a probability, whether images go in alone or together
FEW: Final = 3  # images that show what the outputs are, and whether a graph takes several at once

Outputs = NDArray[np.float32]


class Reference:
    """The original graph, and how the facts say that images are given to it and answers are read.

    What the facts don't say of the outputs is found out by running it, and stated.

    Raises:
        ImportRefused: ONNX Runtime is missing or refuses the graph, or its answers are not those of a classifier.
    """

    def __init__(self, graph: ForeignGraph | IrGraph, facts: Description) -> None:
        self.graph, self.facts = graph, facts
        self._session = graph.open()
        self.output, self.dimensions = self._find_output()
        self._find_kind()

    def __call__(self, images: Pixels) -> Outputs:
        """Return float32 (N, classes) probabilities of uint8 (N, H, W, 3) RGB images."""
        return self.probabilities(images, self.facts)

    def probabilities(self, images: Pixels, facts: Description) -> Outputs:
        """Return the probabilities that other facts would give."""
        raw = self._raw(images, facts)
        return softmax(raw) if facts.get("outputs") == LOGITS else raw

    def takes_several(self, served: Any) -> bool:
        """Return whether the served form answers images together as it does one by one."""
        images, session = self._noise(), self.graph.open_served(served)
        try:
            together = session.run(None, {INPUT: images})[0]
        except Exception:  # a batch of one is built into the graph; ONNX Runtime's exceptions share no base
            return False
        alone = np.concatenate([session.run(None, {INPUT: image[None]})[0] for image in images])
        return together.shape == alone.shape and bool(np.abs(together - alone).max() <= SEVERAL_TOLERANCE)

    def _raw(self, images: Pixels, facts: Description) -> Outputs:
        """Return the outputs of images that go in one by one, as every graph can take them."""
        batch = self._batch(images, facts)
        ones = (batch[index : index + 1] for index in range(len(batch)))
        outputs = [self._session.run([self.output], {self.graph.input: one})[0] for one in ones]
        return np.stack([np.asarray(output, np.float32).reshape(-1) for output in outputs])

    def _batch(self, images: Pixels, facts: Description) -> NDArray[Any]:
        batch: NDArray[Any] = images
        if self.graph.dtype != "uint8":
            mean, std = (np.asarray(facts.get(name), np.float64) for name in ("mean", "std"))
            batch = (images * facts.get("scale") - mean) / std
        if facts.get("colours", "RGB") == "BGR":
            batch = batch[..., ::-1]
        if self.graph.layout == "NCHW":
            batch = batch.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(batch, dtype=self.graph.dtype)

    def _find_output(self) -> tuple[str, int]:
        """Return the output with a number a class, and how many dimensions it has."""
        height, width = self.facts.get("size")
        try:
            found = self._session.run(None, {self.graph.input: self._batch(self._noise()[:1], self.facts)})
        except Exception as error:  # ONNX Runtime's exceptions share no base
            raise ImportRefused(
                f"the graph does not run on one image of {height} x {width}: {sentence(error)}"
            ) from error
        classes, wanted = len(self.facts.get("labels")), self.facts.get("output")
        shapes = {name: np.shape(array) for name, array in zip(self.graph.outputs, found, strict=True)}
        listed = ", ".join(f"{name} ({' x '.join(map(str, shape))})" for name, shape in shapes.items())
        if wanted is not None and wanted not in shapes:
            raise ImportRefused(f"the graph has no output {wanted!r}; it has {listed}")
        numbers = {name: int(np.prod(shape)) for name, shape in shapes.items() if len(shape) > 1 and shape[0] == 1}
        fits = [name for name, count in numbers.items() if count == classes and wanted in (None, name)]
        if not fits:
            extra = classes + 1 in numbers.values()
            hint = "; with one more than labels, the first is often for the background" if extra else ""
            raise ImportRefused(f"there are {classes} labels, and the graph's outputs are {listed}{hint}")
        if len(fits) > 1:
            raise ImportRefused(f"several outputs hold a number a class: {listed}; say --preprocess output=NAME")
        if len(shapes) > 1:
            self.facts.remarks.append(f"outputs: {fits[0]} is used of {listed}")
        return fits[0], len(shapes[fits[0]])

    def _find_kind(self) -> None:
        """Find out whether the outputs are logits or probabilities, and hold stated facts to it."""
        raw = self._raw(self._noise(), self.facts)
        if not np.isfinite(raw).all():
            raise ImportRefused("the graph answers noise with numbers that are not finite; export it in float32")
        last, stated = self.graph.last.get(self.output, ""), self.facts.get("outputs")
        adds_up = bool((raw >= 0).all() and np.allclose(raw.sum(axis=1), 1, atol=SUM_TOLERANCE))
        if last in ("Sigmoid", "HardSigmoid"):
            raise ImportRefused(
                "each output is a probability of its own (sigmoid), so an image may have several labels, which is not "
                "supported; a network with softmax over its classes is"
            )
        if stated == PROBABILITIES and not adds_up:
            raise ImportRefused("outputs are stated as probabilities and do not add up to 1; they are logits")
        if stated == LOGITS and adds_up:
            raise ImportRefused("outputs are stated as logits and add up to 1; softmax would be applied twice")
        if stated is None:
            self.facts.state(f"the graph ends in {last} and was run", outputs=PROBABILITIES if adds_up else LOGITS)

    def _noise(self) -> Pixels:
        height, width = self.facts.get("size")
        return np.random.default_rng(0).integers(0, 256, (FEW, height, width, 3), np.uint8)


def softmax(raw: Outputs) -> Outputs:
    """Return the softmax of each row."""
    raised = np.exp(raw.astype(np.float64) - raw.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
