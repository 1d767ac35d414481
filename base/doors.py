"""Packages whose modules are loaded when somebody first asks for one of their names.

A package names in its ``__init__`` what others may import from it. Where loading all of that at once would cost a
command its start (pydantic, Celery), or load what a process must not have (MindSpore), the names are imported for type
checkers alone, and `lazy` reads in the same lines where to find them:

    if TYPE_CHECKING:
        from jobs.app import make_app
    else:
        __getattr__ = lazy(__name__)
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy(package: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of ``package``, which gives what the imports of its ``__init__`` name."""
    modules: dict[str, str] = {}

    def find(name: str) -> Any:
        door = sys.modules[package]
        if not modules:
            for node in ast.walk(ast.parse(Path(str(door.__file__)).read_bytes())):
                if isinstance(node, ast.ImportFrom) and f"{node.module}".startswith(f"{package}."):
                    modules.update({alias.name: f"{node.module}" for alias in node.names})
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(modules[name]), name)
        setattr(door, name, found)  # from now on without us
        return found

    return find
