"""Checkpoints: everything that the next epoch depends on, so that a killed training goes on as if it had not been.

One ``.npz`` file an epoch with its sha256 behind it, written beside and renamed; no pickle. A file that is cut short,
damaged or of another recipe is passed over for the one before it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.files import write_file

log = logging.getLogger("sortline.train")

DIGEST_BYTES = hashlib.sha256().digest_size

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state after an epoch.

    Attributes:
        key: digest of recipe and data; a checkpoint of another key is not ours.
        epoch: epochs done.
        random: state of the NumPy generator that shuffles and augments.
        history: figures of each epoch so far, as JSON objects.
        parameters: weights, optimiser state and step counter, by name.
        best: weights of the best epoch so far, by name.
    """

    key: str
    epoch: int
    random: dict[str, Any]
    history: list[dict[str, Any]]
    parameters: Arrays
    best: Arrays


def save(folder: Path, checkpoint: Checkpoint, *, kept: int) -> None:
    """Write a checkpoint; remove all but the newest ``kept``, and those of later epochs, which are of another training.

    Raises:
        OSError: the folder can't be written; what was there before is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head = {key: getattr(checkpoint, key) for key in ("key", "epoch", "random", "history")}
    arrays = {"head": np.frombuffer(json.dumps(head).encode(), np.uint8)}
    arrays |= {f"p:{name}": array for name, array in checkpoint.parameters.items()}
    arrays |= {f"b:{name}": array for name, array in checkpoint.best.items()}
    data = io.BytesIO()
    np.savez(data, **arrays)
    path = folder / f"epoch-{checkpoint.epoch:06d}.npz"
    write_file(path, data.getvalue() + hashlib.sha256(data.getbuffer()).digest())
    # A later epoch was left by another training or is damaged; counted as the newest it would push this one out.
    files = _files(folder)
    ours = [file for file in files if file.name <= path.name][-kept:]
    for other in set(files) - set(ours):
        other.unlink(missing_ok=True)


def load_newest(folder: Path, key: str) -> Checkpoint | None:
    """Return the newest checkpoint of ``key`` that can be read, or None."""
    for path in reversed(_files(folder)):
        try:
            data = path.read_bytes()
            # Zip files have checksums too, but not of names and sizes, and no end of errors for those.
            if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
                raise ValueError("cut short or damaged")
            with np.load(io.BytesIO(data[:-DIGEST_BYTES]), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            head = json.loads(arrays.pop("head").tobytes())
            if head["key"] != key:
                log.warning("checkpoint of another recipe or data passed over: %s", path)
                continue
            return Checkpoint(
                **head,
                parameters={name[2:]: array for name, array in arrays.items() if name.startswith("p:")},
                best={name[2:]: array for name, array in arrays.items() if name.startswith("b:")},
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint passed over: %s: %s", path, error)
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.npz"))
