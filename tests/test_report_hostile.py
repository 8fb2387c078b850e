"""dprune report and texts of other people: nothing that they hold does anything, in the page or beside it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from conftest import Result, dprune, sample, write_tar
from studies import Run, rewrite, shares, write_memorization, write_metrics

ATTEMPTS = [
    "<script>alert(1)</script>", "</title><script>alert(1)</script>", "</style><script>alert(1)</script>",
    "</svg><script>alert(1)</script>", "</details></section></main><script>alert(1)</script>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>", "<SCRIPT SRC=//x.example/a.js></SCRIPT>",
    "<script\x00>alert(1)</script>",
    "\x00<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)", "\" onload=\"alert(1)", "\" autofocus onfocus=alert(1) x=\"", "` onclick=`alert(1)`",
    "<svg onload=alert(1)>", "<svg><script>alert(1)</script></svg>", "<svg><use href='data:image/svg+xml,x'/></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x></svg>", "<svg><foreignObject><iframe src=//x.example></svg>",
    "<a href=\"javascript:alert(1)\">x</a>", "<a href='JaVaScRiPt&colon;alert(1)'>x</a>", "javascript:alert(1)",
    "<iframe src=//x.example></iframe>", "<object data=//x.example></object>", "<embed src=//x.example>",
    "<link rel=stylesheet href=//x.example/a.css>", "<style>*{background:red}</style>", "<base href=//x.example/>",
    "<meta http-equiv=refresh content='0;url=//x.example'>", "<form action=//x.example><input type=submit></form>",
    "--><script>alert(1)</script><!--", "<!--", "]]><script>alert(1)</script>", "<![CDATA[<script>alert(1)</script>]]>",
    "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>&e;", "{{7*7}}${7*7}<%=7*7%>{%x%}",
    "&lt;script&gt;alert(1)&lt;/script&gt;", "&#60;script&#62;alert(1)&#60;/script&#62;", "+ADw-script+AD4-alert(1)",
    "\udcff<script>alert(1)</script>\udcc3\udca9", "a\x1b[31mb\x9bc\x7fd\u202e\u2066e\u2028f\ufffe\uffffg",
    "\x0c\x0b\r\n<script>\nalert(1)\n</script>", "=cmd|' /C calc'!A0", "@SUM(1+1)*cmd|'", "-2+3+cmd|'", "+1\t=1",
    "[x](javascript:alert(1))", "![x](//x.example/a.png)", "|||\n|---|\n# heading", "$\\href{javascript:alert(1)}{x}$",
]  # fmt: skip
TAGS = {"html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "nav", "ul", "li", "a",
        "main", "section", "table", "caption", "thead", "tbody", "tr", "th", "td", "div", "span", "strong", "figure",
        "figcaption", "script", "svg", "path", "text", "tspan", "line", "rect", "g", "details",
        "summary", "dl", "dt", "dd", "img", "footer"}  # fmt: skip
ATTRIBUTES = {"lang", "charset", "name", "content", "href", "id", "class", "scope", "title", "tabindex", "xmlns",
              "viewbox", "role", "aria-label", "aria-hidden", "d", "x", "y", "text-anchor", "cx", "cy", "r", "width",
              "height", "stroke-dasharray", "stroke-width", "opacity", "fill", "transform", "src", "alt", "colspan",
              "style", "http-equiv", "type", "data-chart", "data-line", "font-family", "font-size", "font-weight", "x2",
              "y2", "dy", "stroke", "stroke-miterlimit", "stroke-linecap", "stroke-linejoin", "fill-opacity",
              "stroke-opacity", "open"}  # fmt: skip
SCRIPT = files("dprune.charts").joinpath("page.js").read_text(encoding="utf-8")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Of a process whose names of files and streams are ASCII; with LANG=C alone, Python takes UTF-8."""


class Page(HTMLParser):
    """A page that holds what dprune writes and nothing else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name in ATTRIBUTES, (tag, name, value)
            if name in ("href", "src"):
                assert re.fullmatch(r"#[a-z]+|data:image/png;base64,[A-Za-z0-9+/=]+", value), value
        self.inside = tag

    def handle_comment(self, data):
        raise AssertionError(data)

    unknown_decl = handle_pi = handle_comment

    def handle_data(self, data):
        if self.inside == "script":
            # Our own, or what only it unpacks.
            assert data == SCRIPT or re.fullmatch(r"[A-Za-z0-9+/=]+", data), data
        self.text.append(data)

    def handle_endtag(self, tag):
        self.inside = ""


def check(folder: Path) -> str:
    """Hold all files of a report to what they may hold, and return what the page says."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    for path in folder.rglob("*"):
        if path.suffix in (".html", ".svg", ".md", ".csv"):
            text = path.read_text(encoding="utf-8")
            assert all(line.isprintable() for line in text.split("\n")), path
        if path.suffix == ".svg":
            for element in ET.fromstring(text).iter():
                assert element.tag.rpartition("}")[2] in TAGS, element.tag
                assert {name.lower() for name in element.attrib} <= ATTRIBUTES
        if path.suffix == ".csv":
            cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
            assert not any(cell[:1] in ("=", "+", "-", "@") and not number(cell) for cell in cells)
        if path.suffix == ".md":
            assert not re.search(r"<[a-zA-Z/!?]", text)
            assert not re.search(r"(?<!\\)\]\(", text)
    return " ".join(Page(page).text)


def number(text: str) -> bool:
    try:
        return float(text) is not None
    except ValueError:
        return False


def hostile_study(folder: Path, texts: list[str]) -> list[Path]:
    """Results that hold texts wherever people's own words come into a report."""
    files = [write_metrics(folder / "u.json", Run())]
    for n, text in enumerate(texts):
        tags = {"train-dit": {text: text, "method": text}, "select": {"order": text}, "sample": {"note": text}}
        model = {"arch": text, text: text}
        run = Run(scores=text, keep="0.5", tags=tags, embed={"model": text}, train=model, score={text: text})
        details = shares(run, 3)
        details["shares"]["cluster"]["names"] = [text, f"{text} 2", "c"]
        files.append(write_metrics(folder / f"q{n}.json", run, details=details, tags={text: text}))
        if n % 5 == 0:
            files.append(write_memorization(folder / f"m{n}.json", run))
    for path, text in zip(files, texts, strict=False):
        rewrite(path, lambda content, text=text: [side.update(model=text) for side in content["inputs"]])
    return files


@pytest.mark.parametrize("first", range(0, len(ATTEMPTS), 17))
def test_texts_do_nothing_in_a_report(first: int, tmp_path: Path) -> None:
    texts = ATTEMPTS[first : first + 17]
    files = hostile_study(tmp_path, texts)
    title = " and ".join(texts).replace("\x00", "")
    dprune("report", *files, "--title", title, "--tag", f"x={title}", "--format", "svg", "-o", tmp_path / "report").ok()
    said = check(tmp_path / "report")
    for text in texts:
        if text.isprintable() and "//" not in text:
            assert text in said


def python(*args: object, env: dict[str, str]) -> Result:
    """A process that reads its locale anew."""
    command = [sys.executable, "-m", "dprune", *(str(arg) for arg in args)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **env}, check=False)
    return Result(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


@pytest.mark.parametrize("locale", [ASCII, {"LANG": "C"}, {"PYTHONIOENCODING": "latin-1:strict"}])
def test_a_report_in_any_locale(locale: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "Füße"
    folder.mkdir()
    odd = write_metrics(folder / "größer.json", Run(), tags={"Maß": "→ß"}).rename(folder / "x\udcff.json")
    out = folder / "ö\udcfe"
    args = ("report", odd, "--title", "Größe → Maß\udcff", "--tag", "ä=ö\udcfe", "-o", out)
    result = python(*args, "--json", env=locale).ok()
    assert json.loads(result.out)["results"] == 1
    assert "Größe → Maß\\udcff" in check(out)
    python("info", out, odd, out / "none.json", env=locale).fails(3, "none.json: no such file")


def test_help_in_any_locale() -> None:
    """It holds letters that ASCII lacks."""
    python("eval", "--help", env=ASCII).ok()


def test_names_of_shards_in_any_locale(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "ö\udcfe.tar", [*sample("é\udcff", 0, 1), *sample("b", 1, 0)])
    python("pack", shard, "--workers", 0, "-o", tmp_path / "ü\udcfd", env=ASCII).ok()
    python("info", shard, tmp_path / "ü\udcfd", env=ASCII).ok()
