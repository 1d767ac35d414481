"""The lock files pin what pyproject.toml asks for, and the demo's is a part of the other."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The extras that are compiled into each file, as in the Makefile; gpu and onnx can't lie beside train.
EXTRAS = {
    "requirements.lock": PROJECT["optional-dependencies"].keys() - {"gpu", "onnx"},
    "requirements-demo.lock": {"train", "demo", "build"},
}


def pins(name: str) -> dict[str, tuple[str, list[str]]]:
    """Return (version and marker, hashes) of each package in a lock file."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, tuple[str, list[str]]] = {}
    for line in text.splitlines():
        pin, *hashes = re.split(r"\s+--hash=", line.strip())
        found[canonicalize_name(pin.split("==")[0])] = (pin, hashes)
    return found


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_pins_with_hashes_what_the_project_asks_for(name: str) -> None:
    asked = PROJECT["dependencies"] + [
        line for extra in EXTRAS[name] for line in PROJECT["optional-dependencies"][extra]
    ]
    pinned = pins(name)

    for requirement in map(Requirement, asked):
        version = Requirement(pinned[canonicalize_name(requirement.name)][0]).specifier
        assert requirement.specifier.contains(next(iter(version)).version), f"{requirement} is not {version}: make lock"
    assert all(hashes for _, hashes in pinned.values())
    assert "torch" not in pinned


def test_the_demo_installs_a_part_of_what_the_tests_install() -> None:
    demo, all_pins = pins("requirements-demo.lock"), pins("requirements.lock")

    assert {name: pin for name, pin in demo.items() if pin != all_pins.get(name)} == {}
    assert not {"playwright", "moto", "mypy", "pytest", "s3fs", "flower", "nncf"} & demo.keys()
