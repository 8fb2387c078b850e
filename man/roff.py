"""From plain structured text to man macros."""

from __future__ import annotations

import re
import textwrap

SPECIAL = {"\\": r"\e", "-": r"\-", "`": r"\(ga", "~": r"\(ti", "^": r"\(ha"}


def escape(text: str) -> str:
    """Write text so that roff prints it as it is; what is not ASCII becomes a named glyph."""
    pieces = (SPECIAL.get(char, char if ord(char) < 128 else rf"\[u{ord(char):04X}]") for char in text)
    return "".join(pieces)


def guard(line: str) -> str:
    """Keep roff from reading a line that begins with a dot or an apostrophe as a request."""
    return rf"\&{line}" if line[:1] in (".", "'") else line


def bold(text: str) -> str:
    """Escape text and set it in bold."""
    return rf"\fB{escape(text)}\fR"


def italic(text: str) -> str:
    """Escape text and set it in italics."""
    return rf"\fI{escape(text)}\fR"


def prose(text: str, names: tuple[str, ...] = ()) -> list[str]:
    """Fill a paragraph; `code` becomes bold, and the placeholders in `names` italic."""
    spans = re.split(r"`([^`]+)`", " ".join(text.split()))
    parts = [bold(span) if number % 2 else escape(span) for number, span in enumerate(spans)]
    filled = "".join(parts)
    for name in names:
        filled = re.sub(rf"(?<![\w]){re.escape(escape(name))}(?![\w])", lambda match: rf"\fI{match.group()}\fR", filled)
    return [guard(line) for line in textwrap.wrap(filled, 110, break_long_words=False, break_on_hyphens=False)]


def literal(lines: list[str]) -> list[str]:
    """Set lines as they stand, indented."""
    body = textwrap.dedent("\n".join(lines)).splitlines()
    # A literal apostrophe, where prose has a typographic one.
    return [".RS 4", ".nf", *(guard(escape(line).replace("'", r"\(aq")) for line in body), ".fi", ".RE"]


def definition(term: str, text: list[str]) -> list[str]:
    """Set a term, already escaped, and what it means."""
    return [".TP", guard(term), *text]


def blocks(text: str, names: tuple[str, ...] = ()) -> list[str]:
    """Set paragraphs, `## headings`, definitions (a term, then a line that begins with a colon) and indented blocks."""
    out: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.splitlines()
        if not block.strip():
            continue
        if block.startswith("## "):
            out.append(f".SS {escape(block[3:])}")
        elif len(lines) > 1 and lines[1].startswith(": "):
            out += definition(bold(lines[0]), prose(" ".join([lines[1][2:], *lines[2:]]), names))
        elif all(line.startswith("  ") for line in lines):
            out += [*([".PP"] if out else []), *literal(lines)]
        else:
            out += [*([".PP"] if out and not out[-1].startswith(".SS") else []), *prose(block, names)]
    return out
