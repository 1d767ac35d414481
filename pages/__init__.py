"""HTML reports: their templates, the one stylesheet, and what the pages have in common.

A page needs nothing but itself. Labels, paths and messages come from strangers: whatever a template is given passes
Jinja's escaping and stands in one line of valid Unicode, and the page's policy is a second lock. Jinja is loaded with
the first template: commands that make no page don't wait for it.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


def template(name: str) -> Template:
    """Return one of the templates of this package."""
    return _environment().get_template(name)


def asset(name: str) -> str:
    """Return a file that a served page asks for by its name."""
    return TEMPLATES.joinpath(name).read_text("utf-8")


def data_uri(kind: str, data: bytes) -> str:
    """Return an image file ("png", "jpeg", "webp") as the address of itself."""
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def card(name: str, value: str, note: str = "") -> dict[str, str]:
    """Return one of the figures at the top of a page."""
    return {"name": name, "value": value, "note": note}


def accuracy_card(name: str, right: int, images: int, interval: tuple[float, float]) -> dict[str, str]:
    """Return the card of a share of images with its 95 % interval, from 0 to 1."""
    low, high = interval
    note = f"{right:,} of {images:,}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    return card(name, f"{100 * right / images:.1f} %", note)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def text_of(name: str) -> Markup:
        return Markup(TEMPLATES.joinpath(name).read_text("utf-8"))  # noqa: S704 - ours

    def csp_hash(text: Markup) -> str:
        return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"

    def finalize(value: Any) -> Any:
        return printable(value) if type(value) is str else value  # not of a Markup, which is a str too

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=finalize,
    )
    environment.filters["csp_hash"] = csp_hash
    environment.globals.update(style=text_of("style.css"), text_of=text_of)
    return environment
