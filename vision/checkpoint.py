"""Checkpoints: everything that the next epoch depends on, so that a killed training goes on as if it had not been.

One ``.npz`` file an epoch, written beside and renamed; no pickle. A file that is cut short or of another recipe is
passed over for the one before it.
"""

from __future__ import annotations

import io
import json
import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision.files import write_file

log = logging.getLogger("sortline.train")

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
    """Write a checkpoint and remove all but the newest ``kept``."""
    folder.mkdir(parents=True, exist_ok=True)
    head = {
        "key": checkpoint.key,
        "epoch": checkpoint.epoch,
        "random": checkpoint.random,
        "history": checkpoint.history,
    }
    arrays = {"head": np.frombuffer(json.dumps(head).encode(), np.uint8)}
    arrays |= {f"p:{name}": array for name, array in checkpoint.parameters.items()}
    arrays |= {f"b:{name}": array for name, array in checkpoint.best.items()}
    data = io.BytesIO()
    np.savez(data, **arrays)
    write_file(folder / f"epoch-{checkpoint.epoch:06d}.npz", data.getvalue())
    for old in _files(folder)[:-kept]:
        old.unlink(missing_ok=True)


def load_newest(folder: Path, key: str) -> Checkpoint | None:
    """Return the newest checkpoint of ``key`` that can be read, or None."""
    for path in reversed(_files(folder)):
        try:
            # np.load on a path leaves the file open when it turns out to be cut short.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
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
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            log.warning("checkpoint passed over: %s: %s", path, error)
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.npz"))
