"""``python -m worker.devices``: which engines and devices this machine has, as JSON for ``sortline doctor``."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

from base.install import pip_install


def look() -> dict[str, dict[str, object]]:
    """Return, for each engine, whether it can be used here and a line for people."""
    return {"openvino": _openvino(), "onnxruntime": _onnxruntime(), "mindspore": _mindspore()}


def _openvino() -> dict[str, object]:
    try:
        from vision.serving import import_openvino

        core = import_openvino().Core()
        abilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        precisions = [name for name, ability in (("f32", "FP32"), ("bf16", "BF16")) if ability in abilities]
        return _answer(
            True, f"{version('openvino')} on {', '.join(core.available_devices)}; CPU does {', '.join(precisions)}"
        )
    except (ImportError, RuntimeError) as error:
        return _answer(False, f"not usable ({error}); {pip_install('openvino>=2026.4,<2027')}")


def _onnxruntime() -> dict[str, object]:
    try:
        import onnxruntime

        providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
        return _answer(True, f"{onnxruntime.__version__} with {providers}")
    except ImportError:
        return _answer(False, f"not installed; {pip_install('sortline[onnx]')}, or [gpu] for NVIDIA GPUs")


def _mindspore() -> dict[str, object]:
    try:
        return _answer(True, f"{version('mindspore')}; trains on this machine")
    except PackageNotFoundError:
        return _answer(
            False, f"not installed: this machine labels but does not train; {pip_install('sortline[train]')}"
        )


def _answer(usable: bool, text: str) -> dict[str, object]:
    return {"usable": usable, "text": text}


if __name__ == "__main__":
    print(json.dumps(look()))
