"""Whether a lower precision labels as f32 does: what decides which one ``precision = auto`` serves."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from base.errors import ImageError
from base.process import available_cpus
from model_store import PrecisionProof
from vision.images import ImageLimits, Preprocessing, load_image
from vision.serving import Engine, ModelFiles, open_engine
from vision.training import LabelledImage

ENGINE = "openvino"  # the one that computes in more than f32 on a CPU
GPU_F16 = "onnxruntime/f16"
LEAST_EQUAL = 0.97  # part of the images that must get f32's answer
MOST_LOST = 0.005  # accuracy that may be lost, whatever a test makes of it
SIGNIFICANCE = 0.05
READ_AT_ONCE = 64

# Other CPUs round elsewhere, so they may miss f32 by as much, but hardly by three times what was found at publication.
GOLDEN_MARGIN = 3.0
UNRECORDED_TOLERANCE = 0.1  # of probabilities, where the publishing host could not compute in the precision

log = logging.getLogger("sortline.precision")


def judge_precisions(
    engines: Mapping[str, Engine], images: Sequence[LabelledImage], preprocessing: Preprocessing, limits: ImageLimits
) -> dict[str, PrecisionProof]:
    """Let ``engines``, by "engine/precision", label ``images``; return a proof for each precision below f32.

    Each image is decoded once. One that can't be read any more is left out. A precision that has given so many other
    answers that the rest can't save it is dropped there, and its proof is of the images until then.
    """
    full = f"{ENGINE}/f32"
    reduced = [name for name, engine in engines.items() if engine.precision != "f32"]
    answers: dict[str, list[NDArray[np.int64]]] = {name: [] for name in (full, *reduced)}
    targets: list[int] = []
    if reduced:
        left = {name: engines[name] for name in answers}
        for pixels, indices in read_images(images, preprocessing, limits):
            targets += indices
            for name, engine in left.items():
                answers[name].append(engine.graph.parted(engine.predict(pixels))[0].argmax(axis=1))
            for name in reduced:
                if _differing(answers[name], answers[full]) > len(images) - least_equal(len(images)):
                    left.pop(name, None)
    if not targets:
        return {}
    given = {name: np.concatenate(parts) for name, parts in answers.items()}
    truth = np.array(targets)
    proofs = {
        name: judge(own, given[full][: len(own)], truth[: len(own)])
        for name, own in ((name, given[name]) for name in reduced)
    }
    for name, proof in proofs.items():
        log.info("precision judged name=%s %s", name, proof)
    return proofs


def is_judged(name: str) -> bool:
    """Return whether `judge_precisions` needs this "engine/precision": one below f32, or that it is held to."""
    return name == f"{ENGINE}/f32" or not name.endswith("/f32")


def open_on_cpu(model: ModelFiles, name: str) -> Engine:
    """Return the engine of an "engine/precision" on this host's CPU.

    Raises:
        EngineError: it is not to be had here.
    """
    engine, _, precision = name.partition("/")
    return open_engine(model, engine=engine, device="cpu", precision=precision)


def judge(answers: NDArray[np.int64], f32_answers: NDArray[np.int64], truth: NDArray[np.int64]) -> PrecisionProof:
    """Return how ``answers`` compare with f32's, and whether they are near enough; all are class indices, (N,).

    They pass when at least 97 % are f32's and the accuracy is not lower by more than half a point, or by no more than a
    paired test can tell from chance at 5 %. Where the class of no image is known (-1), f32's answers are taken for the
    truth, and the 97 % alone decide.
    """
    known = bool((truth >= 0).any())
    truth = truth if known else f32_answers
    equal, right, f32_right = answers == f32_answers, answers == truth, f32_answers == truth
    lost, won = int((f32_right & ~right).sum()), int((right & ~f32_right).sum())
    images = len(truth)
    enough = int(equal.sum()) >= least_equal(images)
    small = lost - won <= MOST_LOST * images + 1e-9
    return PrecisionProof(
        images=images,
        equal=float(equal.mean()),
        accuracy=float(right.mean()),
        f32_accuracy=float(f32_right.mean()),
        passed=enough and (not known or small or chance_of_loss(lost, won) >= SIGNIFICANCE),
    )


def least_equal(images: int) -> int:
    return math.ceil(LEAST_EQUAL * images - 1e-9)  # 97 of 100 must not fail by a rounding of 0.97


def _differing(answers: list[NDArray[np.int64]], f32_answers: list[NDArray[np.int64]]) -> int:
    return sum(int((own != full).sum()) for own, full in zip(answers, f32_answers, strict=False))


def chance_of_loss(lost: int, won: int) -> float:
    """Return how often chance alone would lose as many or more of the images that only one side gets right.

    McNemar's exact test with one side: gaining is no reason to refuse, so that half of the chance is not shared.
    """
    differing = lost + won
    return sum(math.comb(differing, count) for count in range(lost, differing + 1)) / 2**differing


def golden_tolerance(tolerance: float, agreement: Mapping[str, float], engine: Engine) -> float:
    """Return how far the engine's outputs may be from those that the reference gave for the golden images.

    Args:
        tolerance: of f32.
        agreement: how far each "engine/precision" was where the version was published.
    """
    if engine.precision == "f32":
        return tolerance
    recorded = agreement.get(f"{engine.name}/{engine.precision}")
    return max(tolerance, UNRECORDED_TOLERANCE if recorded is None else GOLDEN_MARGIN * recorded)


def read_images(
    images: Sequence[LabelledImage], preprocessing: Preprocessing, limits: ImageLimits
) -> Iterator[tuple[NDArray[np.uint8], list[int]]]:
    """Yield the pixels of some images and their class indices, until all were read that can be."""
    load = partial(_load, preprocessing=preprocessing, limits=limits)
    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(images), READ_AT_ONCE):
            some = images[start : start + READ_AT_ONCE]
            loaded = list(pool.map(load, some))
            read = [
                (pixels, image.class_index) for pixels, image in zip(loaded, some, strict=True) if pixels is not None
            ]
            if read:
                yield np.stack([pixels for pixels, _ in read]), [index for _, index in read]


def _load(image: LabelledImage, preprocessing: Preprocessing, limits: ImageLimits) -> NDArray[np.uint8] | None:
    try:
        return load_image(image.path, preprocessing, limits).pixels
    except ImageError as error:
        log.warning("left out: %s: %s", image.path, error)
        return None
