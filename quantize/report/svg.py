"""A plot that matplotlib wrote, as part of a page: no header, no outside reference, the colours of the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from pyengine.quantize.report.markup import Markup

__all__ = ["COLOURS", "inline_svg"]

# Drawn with -> shown as, so that a plot follows the page from light to dark.
COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--line)",
    "#030303": "var(--before)",
    "#040404": "var(--after)",
    "#050505": "var(--mark)",
}

_DROPPED = ("metadata", "style")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_COLOUR = re.compile(r"#[0-9a-f]{6}")
# The page has a font of its own. Matplotlib's is named apart from its size, or, by older versions, together with it.
_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_FONT = re.compile(r"font: ([\d.]+px)[^;]*")


def inline_svg(document: bytes, prefix: str, label: str) -> Markup:
    """The root element of ``document``; ids that are used begin with ``prefix``, which is unique on the page."""
    root = ET.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in _DROPPED:
                parent.remove(child)
    elements = list(root.iter())
    for element in elements:
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
    used = {value[1:] for element in elements if (value := element.get("href", "")).startswith("#")}
    used.update(name for element in elements for value in element.attrib.values() for name in _REFERENCE.findall(value))
    for element in elements:
        element.attrib = {
            name: _attribute(name, value, prefix)
            for name, value in element.attrib.items()
            if name != "id" or value in used
        }
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    # Closing tags are written out: HTML has no self-closing ones.
    return Markup(ET.tostring(root, encoding="unicode", short_empty_elements=False))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href":
        return value.replace("#", f"#{prefix}")
    value = _REFERENCE.sub(rf"url(#{prefix}\1)", value)
    if name == "style":
        value = _FONT.sub(r"font-size: \1", _FAMILY.sub("", value))
        return _COLOUR.sub(lambda match: COLOURS.get(match[0], match[0]), value)
    return value
