"""What all decoders give: uint8, RGB, C-contiguous, shape (height, width, 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
