"""Packages whose modules are loaded when somebody first asks for one of their names.

A package names in its ``__init__`` what others may import from it. Where loading all of that at once would cost a
command its start (pydantic, Celery), or load what a process must not have (MindSpore), the names are imported for type
checkers alone, and `lazy` finds them at run time:

    if TYPE_CHECKING:
        from jobs.app import make_app
    else:
        __getattr__ = lazy(__name__, {"app": "make_app"})
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of ``package``: for each of its modules the names it gives, parted by spaces."""
    modules = {name: module for module, listed in names.items() for name in listed.split()}

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, found)  # from now on without us
        return found

    return find
