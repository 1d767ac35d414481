"""Labels as XMP sidecars beside the photos, where photo managers read them; the photos themselves stay untouched.

Each label is a keyword (``dc:subject``) and a place in the tree of keywords (``lr:hierarchicalSubject`` of Lightroom,
``digiKam:TagsList``). What others wrote stays; what was added by us is noted in the sidecar, so that it can be replaced
by another run's labels and taken back. XMP: ISO 16684-1.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree

from base.files import write_file
from base.paths import path_to_text, text_to_path
from base.urls import is_url
from producer.errors import UsageError
from producer.reports import Sidecar
from producer.reports.layout import Layout
from producer.reports.sorting import Done, check_pages
from producer.runfile import RunFile

MAX_BYTES: Final = 10_000_000  # of a sidecar; those of editors hold their steps and reach some 100 kB
NAMESPACES: Final = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "sortline": "urn:sortline:xmp/1.0/",
}
RDF: Final = f"{{{NAMESPACES['rdf']}}}"
ABOUT: Final = f"{RDF}about"
DESCRIPTION: Final = f"{RDF}Description"
EMPTY: Final = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='{NAMESPACES['rdf']}'/></x:xmpmeta>"
PACKET: Final = (b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n', b'\n<?xpacket end="w"?>\n')

for _prefix, _uri in NAMESPACES.items():
    ElementTree.register_namespace(_prefix, _uri)


class Property(NamedTuple):
    """A list in XMP: its namespace's prefix and name, the kind of RDF container, and what parts levels in a value."""

    prefix: str
    name: str
    kind: str
    mark: str = ""

    @property
    def key(self) -> str:
        return f"{self.prefix}:{self.name}"

    @property
    def tag(self) -> str:
        return f"{{{NAMESPACES[self.prefix]}}}{self.name}"

    def joined(self, levels: list[str]) -> str:
        """Return the value of a label: the last level, or all of them; a mark within a level would make another."""
        cleaned = [CONTROL.sub(" ", level) for level in levels]
        if not self.mark:
            return cleaned[-1]
        return self.mark.join(level.replace(self.mark, "_") for level in cleaned)


LISTS: Final = (
    Property("dc", "subject", "Bag"),
    Property("lr", "hierarchicalSubject", "Bag", "|"),
    Property("digiKam", "TagsList", "Seq", "/"),
)
ADDED: Final = Property("sortline", "added", "Bag")  # "dc:subject=glass": what we added and nobody had before
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")  # what XML can't hold


class SidecarError(Exception):
    """A sidecar can't be changed without harm."""


@dataclass(slots=True)
class Tagged(Done):
    """What became of the images of a run: sidecars written or removed, and those that are right already, too."""

    written: int = 0
    unchanged: int = 0


def tag_images(run: RunFile, layout: Layout, sidecar: Sidecar, least: float, *, undo: bool = False) -> Tagged:
    """Write each labelled image's sidecar, or take back what was added with ``undo``.

    Args:
        least: images of less confidence get no label, and lose the one of an earlier run; so do unknown images.

    Raises:
        UsageError: the images are behind a URL.
    """
    if is_url(run.plan.data_root):
        raise UsageError("sortline tag: only with images of this machine, not with a URL")
    check_pages(run, "sortline tag")
    done = Tagged()
    seen: set[Path] = set()  # sidecars that several images would have, as photo.jpg and photo.png with "stem"
    for row in run.rows():
        if not row.top:
            continue
        photo = Path(os.path.join(run.plan.base, text_to_path(row.path)))  # noqa: PTH118 - may be absolute
        index, confidence = row.top[0]
        is_tagged = undo or (confidence >= least and layout.decision(row) != "unknown")
        levels = [layout.names[index]] if is_tagged else []
        if levels and layout.groups[index]:
            levels.insert(0, str(layout.groups[index]))
        try:
            beside = sidecar_of(photo, sidecar)
            if not photo.is_file():
                raise SidecarError("no file here")
            if beside in seen:
                raise SidecarError(f"another image has the sidecar {beside.name} already")
            if sidecar == "stem":
                seen.add(beside)
            if change_sidecar(beside, [] if undo else levels):
                done.written += 1
            else:
                done.unchanged += 1
        except (SidecarError, OSError) as error:
            done.leave(f"{path_to_text(str(photo))}: {error}; left as it is")
    return done


def sidecar_of(photo: Path, sidecar: Sidecar) -> Path:
    """Return where a photo's sidecar lies."""
    return photo.with_name(f"{photo.name}.xmp") if sidecar == "name" else photo.with_suffix(".xmp")


def change_sidecar(path: Path, levels: list[str]) -> bool:
    """Have a sidecar hold this label, from the group down, and no other of ours; return whether it had to be changed.

    Without levels, what we added is taken back; a file that then holds nothing else is removed.

    Raises:
        SidecarError: it is no XMP, too large, or a link.
        OSError: it can't be read or written.
    """
    if path.is_symlink():
        raise SidecarError(f"its sidecar {path.name} is a link")
    before = _read(path)
    if before is None and not levels:
        return False
    tree = _parse(EMPTY if before is None else before, path.name)
    found = _lists(tree)
    ours = set(found[ADDED])
    wanted: dict[Property, list[str]] = {ADDED: []}
    for one in LISTS:
        kept = [value for value in found[one] if f"{one.key}={value}" not in ours]
        if levels and (value := one.joined(levels)) not in kept:
            kept.append(value)
            wanted[ADDED].append(f"{one.key}={value}")
        wanted[one] = kept
    if found == wanted:
        return False
    for one, values in wanted.items():
        _set(tree, one, values)
    if levels or any(len(description) or set(description.attrib) - {ABOUT} for description in tree.iter(DESCRIPTION)):
        write_file(path, PACKET[0] + ElementTree.tostring(tree, encoding="utf-8") + PACKET[1])
    else:
        path.unlink()
    return True


def _read(path: Path) -> str | None:
    """Return the text of a sidecar, None where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > MAX_BYTES:
        raise SidecarError(f"its sidecar {path.name} has more than {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SidecarError(f"its sidecar {path.name} is not UTF-8") from error


def _parse(text: str, name: str) -> ElementTree.Element:
    """Return the tree of an XMP packet; namespaces keep the prefixes that they have in it."""
    if "<!DOCTYPE" in text:  # entities could grow without bound
        raise SidecarError(f"its sidecar {name} has a document type, as no XMP has")
    try:
        for _, (prefix, uri) in ElementTree.iterparse(io.StringIO(text), events=["start-ns"]):  # noqa: S314
            if uri not in NAMESPACES.values():
                with suppress(ValueError):  # a prefix such as ns1, which the writer makes itself
                    ElementTree.register_namespace(prefix, uri)
        builder = ElementTree.TreeBuilder(insert_comments=True, insert_pis=True)
        tree = ElementTree.fromstring(text, ElementTree.XMLParser(target=builder))  # noqa: S314 - no entities, see above
    except (ElementTree.ParseError, RecursionError, ValueError) as error:
        raise SidecarError(f"its sidecar {name} is no XMP: {error}") from error
    if next(tree.iter(f"{RDF}RDF"), None) is None:
        raise SidecarError(f"its sidecar {name} is no XMP: it has no rdf:RDF")
    return tree


def _lists(tree: ElementTree.Element) -> dict[Property, list[str]]:
    """Return the values of each list of ours, also of those that are not there."""
    return {
        one: [item.text or "" for element in tree.iter(one.tag) for item in element.iter(f"{RDF}li")]
        for one in (ADDED, *LISTS)
    }


def _set(tree: ElementTree.Element, one: Property, values: list[str]) -> None:
    """Have the list hold these values, where it stands or in the first description."""
    rdf = next(tree.iter(f"{RDF}RDF"))
    descriptions = list(rdf.iter(DESCRIPTION)) or [ElementTree.SubElement(rdf, DESCRIPTION, {ABOUT: ""})]
    holder = next((each for each in descriptions if each.find(one.tag) is not None), descriptions[0])
    for description in descriptions:
        for element in description.findall(one.tag):
            description.remove(element)
    if values:
        items = ElementTree.SubElement(ElementTree.SubElement(holder, one.tag), f"{RDF}{one.kind}")
        for value in values:
            ElementTree.SubElement(items, f"{RDF}li").text = value
