"""Image files -> uint8 RGB pixels of shape (height, width, 3), for training and serving alike."""

from vision.images.colour import Pixels, to_srgb
from vision.images.decode import DEFAULT_LIMITS, ImageLimits, decode_within
from vision.images.exif import photo_facts
from vision.images.pages import Page, PagedFile
from vision.images.preprocess import Fit, Preprocessing, load_image
from vision.images.quality import Quality, quality_of
from vision.images.resize import MAX_SIDE_PX, CutAt, Filter, Resize, ResizeFit, bicubic_weights
