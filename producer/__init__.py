"""The command line and all that it does. Other packages need only the way in."""

from typing import TYPE_CHECKING

from base.doors import lazy

if TYPE_CHECKING:
    from producer.__main__ import main
else:
    __getattr__ = lazy(__name__)
