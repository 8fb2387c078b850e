"""Still pictures of charts: what Vega draws as SVG, without what only its own view needs, a third of the size."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

_NAMESPACE = "http://www.w3.org/2000/svg"
_OF_VIEWS = {"class", "role", "aria-hidden", "aria-label", "aria-roledescription", "pointer-events", "version"}
_EMPTY = {"", "M0,0h0v0h0Z"}
# Children have these of their parents.
_INHERITED = ("fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin",
              "font-size", "font-weight", "text-anchor")  # fmt: skip
_GEOMETRY = ("transform", "d", "x", "y", "x2", "y2", "width", "height")
_LONG = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")


def still_picture(vega: dict[str, Any]) -> str:
    """Draw a description of Vega's as SVG; no address is allowed in it, so that nothing can send for anything."""
    import vl_convert

    drawn = ET.fromstring(vl_convert.vega_to_svg(vega, allowed_base_urls=[]))
    families = {text.attrib.pop("font-family") for text in drawn.iter() if "font-family" in text.attrib}
    _thin(drawn)
    for family in families:
        # All texts are of one.
        drawn.set("font-family", family)
    ET.register_namespace("", _NAMESPACE)
    return ET.tostring(drawn, encoding="unicode").replace(" />", "/>")


def _thin(element: ET.Element) -> None:
    said = element.get("aria-label")
    for name in _OF_VIEWS & element.attrib.keys():
        del element.attrib[name]
    if element.get("opacity") == "1":
        del element.attrib["opacity"]
    for name in _GEOMETRY:
        if name in element.attrib:
            element.set(name, _LONG.sub(_rounded, element.attrib[name]))
    for child in list(element):
        _thin(child)
        if _is_unseen(child):
            element.remove(child)
    if said and not element.tag.endswith("}g"):
        # Browsers show this when a mark is pointed at, and need no script for it.
        ET.SubElement(element, f"{{{_NAMESPACE}}}title").text = said
    if element.tag.endswith("}g"):
        _unwrap(element)
        _hoist(element)


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")


def _is_unseen(element: ET.Element) -> bool:
    """Tell whether an element shows nothing: what is there for a pointer to meet, or frames and holds nothing."""
    if element.tag.endswith("}g"):
        return not len(element)
    if element.tag.endswith("}path") and (element.get("d") in _EMPTY or not {"fill", "stroke"} & element.attrib.keys()):
        return True
    return element.get("fill-opacity") == "0"


def _unwrap(group: ET.Element) -> None:
    """Put the children of groups that say nothing in their places."""
    for place in reversed(range(len(group))):
        if (child := group[place]).tag.endswith("}g") and not child.attrib:
            group[place : place + 1] = list(child)


def _hoist(group: ET.Element) -> None:
    """Say once what all children say."""
    for name in _INHERITED:
        values = {child.get(name) for child in group}
        if len(group) > 1 and len(values) == 1 and None not in values:
            group.set(name, values.pop() or "")
            for child in group:
                del child.attrib[name]
