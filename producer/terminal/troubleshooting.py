"""Which entry of docs/guide/troubleshooting.md a message has. A unit test holds both to each other."""

from __future__ import annotations

import re

PAGE = "docs/guide/troubleshooting.md"
# Pieces of messages, each the heading of its entry.
ENTRIES = (
    "no such folder or file",
    "no images in",
    "this command has run before",
    "nothing new: all",
    "is in use by",
    "can't be written",
    "so its rows can't be trusted",
    "was cancelled after",
    "outside_data_root",
    "mount it, or train a model first",
    "say which model labels",
    "train or import one first",
    "is a backbone, not a classifier",
    "the recipe trains on the backbone",
    "put the images of each class into a folder named after the class",
    "so no worker could read it",
    "training processes died on this job",
    "update Sortline on the side of",
    "use one store for both",
    "answers the golden images with a difference of",
    "is not what was published",
    "import needs MindSpore here",
    "can't reach Redis at",
    "refuses the user or password",
    "is a read-only replica",
    "and so refuses writes",
    "which Sortline can't use",
    "broker needs SORTLINE_BROKER_CA",
    "not a URL that Sortline can connect by",
    "a password on the command line can be read by everybody here",
    "Sortline needs 6.2 or later",
    "no broker",
    "Redis is away or full",
    "warning: Redis evicts by",
    "Redis has been away for",
    "no Redis server on this machine",
    "with a broker of your own, say where",
    "is the share mounted?",
    "unknown setting",
    "no label worker answers",
    "it starts again",
    "The end of its log",
    "a stack is up already",
    "metrics can't be served",
    "no worker",
    "without a password would let everybody in",
    "Flower is not installed",
)


def entry_for(message: str) -> str | None:
    """Return the page and anchor of what to do about ``message``, if there is an entry; the longest piece decides."""
    found = max((piece for piece in ENTRIES if piece in message), key=len, default=None)
    return None if found is None else f"{PAGE}#{anchor_of(found)}"


def anchor_of(heading: str) -> str:
    """Return the anchor that a heading has on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
