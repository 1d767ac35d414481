"""What a network sees in each image, read from a Parquet file as `sortline audit --embeddings` writes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from base.paths import path_to_text, text_to_path
from producer.errors import UsageError
from producer.reports.parquet import check_pyarrow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_embeddings(path: Path, keys: Sequence[str]) -> NDArray[np.float32]:
    """Return a vector of length 1 for each image (N, D), NaN for those that the file doesn't have.

    Args:
        keys: the images' absolute paths, as text; the file has them in the column ``path``.

    Raises:
        UsageError: the file can't be read, its vectors are not of one length, or it has none of the images.
    """
    check_pyarrow("--embeddings")
    if not path.is_file():
        raise UsageError(f"--embeddings {path}: there is no such file; `sortline audit --embeddings` writes one")
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["path", "embedding"])
        rows = table["embedding"].combine_chunks()
        vectors = rows.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(table), -1)
    except (OSError, pa.ArrowException, AttributeError, ValueError, KeyError) as error:
        raise UsageError(
            f"--embeddings {path}: it is no Parquet file with the columns path and embedding, vectors of one length "
            f"({error})"
        ) from error
    place_of = {text: place for place, text in enumerate(table["path"].to_pylist())}
    places = np.array([place_of.get(key, -1) for key in keys], np.int64)
    if not (places >= 0).any():  # an audit names files by where they really lie
        real = (path_to_text(os.path.realpath(text_to_path(key))) for key in keys)
        places = np.array([place_of.get(key, -1) for key in real], np.int64)
    if not (places >= 0).any():
        raise UsageError(f"--embeddings {path}: it has none of these images, such as {keys[0]}")
    found: NDArray[np.float32] = vectors[places]
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    found[(places < 0) | ~np.isfinite(found).all(axis=1)] = np.nan
    return found
