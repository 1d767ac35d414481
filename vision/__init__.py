"""Pictures and networks, which know no queue. Its rooms have doors of their own; this one has their errors."""

from vision.errors import EngineError, VisionError, WeightsError
