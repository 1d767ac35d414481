"""A folder behind a path or a URL, for producer and worker.

What reads URLs needs the extra ``remote``, which is imported when the first such folder is opened.
"""

from storage.local import LocalFolder
from storage.opening import open_folder
from storage.protocol import ExtraMissing, Folder, TooManyBytes, TransientError, with_retries
