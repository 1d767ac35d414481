"""What files of other frameworks say of a classifier. Each function reads one framework's, and guesses nothing."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from vision.imported.description import PROBABILITIES, Description, ImportRefused

MODEL_INFO: Final = "model_info "  # begins the names of properties that come from there
MAX_JSON_BYTES: Final = 20_000_000  # of a config with the names of a hundred thousand classes
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# PIL.Image.Resampling, as Hugging Face writes it
PILLOW_FILTERS: Final = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# `Resize.fit` of Model API's resize_type
FITS: Final = {
    "standard": "stretch",
    "crop": "crop",
    "fit_to_window": "pad-corner",
    "fit_to_window_letterbox": "pad",
}
TORCH_FILTERS: Final = ("nearest", "bilinear", "bicubic", "lanczos")  # it has no others for 8 bits
FIRST_TORCH: Final = 5  # release of transformers from which on processors resize by torch, whatever they are called
CONVNEXT: Final = ("ConvNextImageProcessor", "ConvNextFeatureExtractor", "ConvNextImageProcessorFast")
CONVNEXT_CROPS_BELOW: Final = 384  # pixels; from there on it squashes


def preset(name: str, size: tuple[int, int] | None) -> Description:
    """Return the usual pipeline called ``name`` for a graph of this (height, width), where it is known.

    Raises:
        ImportRefused: there is no such preset.
    """
    if name not in PRESETS:
        raise ImportRefused(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    side = min(size) if size else 224
    facts = {"size": (side, side), **PRESETS[name](side)}
    return Description().state(f"preset {name}", **facts)


PRESETS: Final[Mapping[str, Callable[[int], dict[str, Any]]]] = {
    # torchvision's references and most of timm: 256 to 224
    "imagenet-torch": lambda side: {
        "resize": math.floor(side / 0.875),
        "filter": "bilinear",
        "scale": 1 / 255,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    },
    # Keras' mode "tf" and TF-Slim: -1 to 1, both sides on their own
    "imagenet-tf": lambda side: {
        "resize": (side, side),
        "filter": "bilinear",
        "scale": 1 / 127.5,
        "mean": 1.0,
        "std": 1.0,
    },
    "ultralytics": lambda side: {"resize": side, "filter": "bilinear", "scale": 1 / 255, "mean": 0.0, "std": 1.0},
    "clip": lambda side: {
        "resize": side,
        "filter": "bicubic",
        "scale": 1 / 255,
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
    },
}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ImportRefused: it is too large, no JSON, or no object.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ImportRefused(f"{path.name} has {path.stat().st_size:,} bytes; at most {MAX_JSON_BYTES:,} are read")
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ImportRefused(f"{path.name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ImportRefused(f"{path.name} holds no JSON object")
    return found


def folder(path: Path, size: tuple[int, int] | None = None) -> Description:
    """Return what the configs in a folder of Hugging Face or timm say of a graph of this (height, width).

    Raises:
        ImportRefused: there are none, or they describe something else than a classifier of images.
    """
    config_file, processor_file = path / "config.json", path / "preprocessor_config.json"
    if not config_file.is_file():
        raise ImportRefused(f"{path} has no config.json; give the .onnx file itself, and say the rest by options")
    config = read_json(config_file)
    if "pretrained_cfg" in config or "input_size" in config:
        return timm(config, size)
    found = hugging_face_labels(config)
    if processor_file.is_file():
        release, _, _ = str(config.get("transformers_version", "")).partition(".")
        found.add(hugging_face_pixels(read_json(processor_file), int(release) if release.isdecimal() else 0))
    return found


def hugging_face_labels(config: Mapping[str, Any]) -> Description:
    """Return the labels in ``id2label`` of a config.json."""
    source = "config.json"
    architectures = config.get("architectures") or []
    if architectures and not any("ImageClassification" in str(name) for name in architectures):
        raise ImportRefused(
            f"{source} describes {', '.join(map(str, architectures))}; only networks for image classification label "
            "images here"
        )
    if config.get("problem_type") == "multi_label_classification":
        raise ImportRefused(f"{source}: several labels an image (problem_type) are not supported")
    names = config.get("id2label")
    return Description().state(source, labels=_numbered(names, source) if names else None)


def hugging_face_pixels(config: Mapping[str, Any], release: int = 0) -> Description:
    """Return the pipeline of a preprocessor_config.json; an absent key means what its image processor takes it for.

    Processors called Fast resize by torch and round the corner of the cut; from release 5 of transformers on, all
    resize by torch, and round it down.
    """
    source = "preprocessor_config.json"
    found = Description()
    size, crop = _hugging_face_size(config.get("size")), _hugging_face_size(config.get("crop_size"))
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    resample = config.get("resample")
    if resample is not None and resample not in PILLOW_FILTERS:
        raise ImportRefused(
            f"{source}: resample is {resample!r}; it must be one of {', '.join(map(str, PILLOW_FILTERS))}"
        )
    cut: int | tuple[int, int] | None = crop if config.get("do_center_crop", crop is not None) else None
    if kind in CONVNEXT:
        if not isinstance(size, int):
            raise ImportRefused(f"{source}: {kind} needs size with shortest_edge")
        cut = (size, size)
        size = int(size / config.get("crop_pct", 224 / 256)) if size < CONVNEXT_CROPS_BELOW else cut
    if config.get("do_resize", True) is False:
        raise ImportRefused(f"{source}: do_resize is false, so images of any size; say resize by --preprocess")
    fast = kind.endswith("Fast")
    filter_ = PILLOW_FILTERS[resample] if resample is not None else None
    if filter_ in TORCH_FILTERS and (fast or release >= FIRST_TORCH):
        filter_ = f"torch-{filter_}"
        found.remarks.append(f"filter: torch's, as {kind if fast else f'transformers {release}'} resizes")
    final = cut or (size if isinstance(size, tuple) else None)
    found.state(
        source,
        resize=size,
        filter=filter_,
        size=(final, final) if isinstance(final, int) else final,
        cut_at="round" if fast and release < FIRST_TORCH else "floor",
    )
    if config.get("do_rescale", True):
        found.state(source, scale=config.get("rescale_factor", 1 / 255))
    else:
        found.state(source, scale=1.0)
    if config.get("do_normalize", "image_mean" in config):
        found.state(source, mean=config.get("image_mean"), std=config.get("image_std"))
    else:
        found.state(source, mean=0.0, std=1.0)
    return found


def _hugging_face_size(value: Any) -> int | tuple[int, int] | None:
    """Return the short side, or (height, width)."""
    if value is None or isinstance(value, int):
        return value  # of old releases: the short side
    if isinstance(value, dict):
        if "height" in value and "width" in value:
            return value["height"], value["width"]
        if "shortest_edge" in value and value.get("longest_edge") in (None, value["shortest_edge"]):
            side = value["shortest_edge"]
            return side if isinstance(side, int) else None
    raise ImportRefused(f"preprocessor_config.json: a size of {value!r} is not supported; say resize by --preprocess")


def timm(config: Mapping[str, Any], size: tuple[int, int] | None = None) -> Description:
    """Return what a timm config.json says: its whole pipeline.

    Networks are often tested at another size than they were trained at, with a crop of its own; the graph's size shows
    which is meant.
    """
    source = "config.json"
    details = config.get("pretrained_cfg") or config
    shape, part = details.get("input_size"), details.get("crop_pct") or 0.875
    if size is not None and details.get("test_input_size") == [3, *size] != shape:
        shape, part = details["test_input_size"], details.get("test_crop_pct") or part
    if not isinstance(shape, list) or len(shape) != 3 or shape[0] != 3 or not all(type(n) is int for n in shape):
        raise ImportRefused(f"{source}: input_size is {shape!r}; networks of 3 colours are served")
    size = size or (shape[1], shape[2])
    if not isinstance(part, int | float) or not 0 < part <= 1:
        raise ImportRefused(f"{source}: crop_pct is {part!r}; it must be above 0 and at most 1")
    mode = details.get("crop_mode") or "center"
    sides = tuple(math.floor(side / part) for side in size)
    if mode not in ("center", "squash") or (mode == "center" and sides[0] != sides[1]):
        raise ImportRefused(f"{source}: crop_mode {mode!r} at {size[0]} x {size[1]} is not supported")
    names = config.get("label_names") or details.get("label_names")
    described = config.get("label_descriptions") or details.get("label_descriptions") or {}
    if isinstance(names, list) and isinstance(described, dict):
        names = [described.get(name, name) for name in names]
    filter_ = details.get("interpolation")
    return Description().state(
        source,
        labels=names,
        size=size,
        resize=sides if mode == "squash" else sides[0],
        filter="bicubic" if filter_ == "random" else filter_,
        cut_at="round",
        scale=1 / 255,
        mean=details.get("mean"),
        std=details.get("std"),
    )


def ultralytics(properties: Mapping[str, str], size: tuple[int, int] | None) -> Description:
    """Return what the metadata of an Ultralytics export says: nothing for other graphs.

    Its pipeline is that of ``classify_transforms``: the short side to the network's size with Pillow's bilinear filter,
    the centre cut out, divided by 255, no mean and no deviation; softmax is part of the graph.
    """
    if "names" not in properties or "task" not in properties:
        return Description()
    source = "Ultralytics metadata in the graph"
    if properties["task"] != "classify":
        raise ImportRefused(f"{source}: its task is {properties['task']!r}; only classify labels whole images")
    if properties.get("channels", "3") != "3":
        raise ImportRefused(f"{source}: {properties['channels']} channels; networks of 3 colours are served")
    found = Description().state(source, labels=_numbered(_literal(properties["names"], source), source))
    stated = _literal(properties["imgsz"], source) if "imgsz" in properties else None
    sides = stated if stated is not None else size
    if sides is None:
        return found
    found.state(source, size=sides)
    height, width = found.get("size")
    return found.state(
        source,
        resize=height if height == width else (height, width),
        filter="bilinear",
        cut_at="round",
        scale=1 / 255,
        mean=0.0,
        std=1.0,
        colours="RGB",
        outputs=PROBABILITIES,
    )


def openvino(properties: Mapping[str, str], size: tuple[int, int] | None, dtype: str) -> Description:
    """Return what rt_info's model_info in an OpenVINO graph says: nothing for other graphs.

    Its meaning is that of OpenVINO's Model API (https://github.com/open-edge-platform/model_api): OpenVINO's linear
    filter, then (value - mean_values) / scale_values.
    """
    said = {name.removeprefix(MODEL_INFO): value for name, value in properties.items() if name.startswith(MODEL_INFO)}
    if not said:
        return Description()
    source = "model_info in the graph"
    if (kind := said.get("model_type", "Classification")).lower() != "classification":
        raise ImportRefused(f"{source}: its model_type is {kind!r}; only Classification labels whole images")
    if odd := [name for name in ("multilabel", "hierarchical") if _is_on(said, name)]:
        raise ImportRefused(f"{source}: several labels an image ({odd[0]}) are not supported")
    if said.get("input_dtype", "u8") not in ("u8", "f32"):
        raise ImportRefused(f"{source}: input_dtype is {said['input_dtype']!r}; images have 8 bits a colour")
    found = Description().state(source, labels=said["labels"].split() if said.get("labels") else None)
    inside = _is_on(said, "embedded_processing")
    mode = said.get("intensity_mode", "none").lower()
    if mode != "none" and (mode == "percentile" or not inside):
        raise ImportRefused(f"{source}: its intensity_mode is {mode!r}, which scales values in a way of its own")
    if inside and size is None and {"orig_height", "orig_width"} <= said.keys():
        size = _whole(said["orig_height"], source), _whole(said["orig_width"], source)
        found.state(source, size=size)
    how = FITS.get(said.get("resize_type", ""))
    if size is not None and how is not None and (how != "crop" or size[0] == size[1]):  # other crops are skewed there
        linear = said.get("interpolation_mode", "LINEAR").upper() == "LINEAR"
        found.state(source, resize=size, filter="openvino-linear" if linear else None, fit=how)
        found.state(source, padding=said.get("pad_value") if how.startswith("pad") else None)
    if not inside:
        mean, std = (_spaced(said.get(name)) for name in ("mean_values", "scale_values"))
        found.state(source, scale=1.0, mean=mean or 0.0, std=std or 1.0)
    elif dtype != "uint8":
        found.state(source, scale=1.0, mean=0.0, std=1.0)
    # Turns OpenCV's BGR round, within the graph or before it. If off, a program's pictures come in any order.
    order = "BGR" if inside else "RGB"
    return found.state(source, colours=order if _is_on(said, "reverse_input_channels") else None)


def _is_on(said: Mapping[str, str], name: str) -> bool:
    return said.get(name, "").lower() in ("true", "yes", "1")  # Model API writes YES, and others True


def _spaced(text: str | None) -> str | None:
    return ",".join(text.replace(",", " ").split()) if text else None


def _whole(text: str, source: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ImportRefused(f"{source}: {text!r} is no number of pixels") from error


def standard(properties: Mapping[str, str]) -> Description:
    """Return what ONNX's standard metadata of images says: channel order and range of values."""
    source = "ONNX metadata in the graph"
    orders = {"Rgb8": "RGB", "Bgr8": "BGR"}
    ranges: dict[str, dict[str, Any]] = {
        "NominalRange_0_255": {"scale": 1.0, "mean": 0.0, "std": 1.0},
        "Normalized_0_1": {"scale": 1 / 255, "mean": 0.0, "std": 1.0},
        "Normalized_1_1": {"scale": 1 / 127.5, "mean": 1.0, "std": 1.0},
    }
    found = Description().state(source, colours=orders.get(properties.get("Image.BitmapPixelFormat", "")))
    return found.state(source, **ranges.get(properties.get("Image.NominalPixelRange", ""), {}))


def _literal(text: str, source: str) -> Any:
    """Return the Python literal that Ultralytics writes, which is never run as code."""
    if len(text) > MAX_JSON_BYTES:
        raise ImportRefused(f"{source}: {len(text):,} characters are too many")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ImportRefused(f"{source}: {text[:60]!r} is no literal") from error


def _numbered(names: Any, source: str) -> list[str]:
    """Return the labels of {0: "a", 1: "b"} or {"0": "a"} in their order."""
    if isinstance(names, list):
        return [str(name) for name in names]
    try:
        labels = {int(number): name for number, name in names.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ImportRefused(f"{source}: the labels are no numbered names") from error
    if sorted(labels) != list(range(len(labels))):
        raise ImportRefused(f"{source}: the labels are not numbered from 0 to {len(labels) - 1} without a gap")
    return [str(labels[number]) for number in range(len(labels))]
