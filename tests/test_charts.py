"""Charts: what is drawn of numbers, as pictures, as files for papers, and as data in a page."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dprune.charts.axes import extent, padded
from dprune.charts.correlation import correlation_marks
from dprune.charts.curves import offsets, ratio_curves
from dprune.charts.densities import density_steps
from dprune.charts.figure import FORMATS, Figure
from dprune.charts.heatmap import HeatCell, heat_map
from dprune.charts.lines import SOLID, Estimated, LineStyle, baseline_style, legend_markup, pruned_style
from dprune.charts.page import PageCharts
from dprune.charts.ranking import ranked_dots
from dprune.charts.scatter import scatter
from dprune.charts.shares import GroupBar, share_bars
from dprune.charts.sweep import sweep_curves
from dprune.charts.theme import style_sheet
from dprune.charts.tradeoff import precision_recall

SVG = "{http://www.w3.org/2000/svg}"
LINES = (
    baseline_style("unpruned", 0),
    pruned_style("nearest", 0, "circle", SOLID, "cluster distance, lowest"),
    pruned_style("furthest", 0, "square", (6, 3)),
    pruned_style("random", 1, "diamond", SOLID),
)


def estimated(line: int, ratio: float, mean: float, half: float | None = 0.5, *, dotted: bool = False) -> Estimated:
    return Estimated(line, ratio, mean, half, dotted, f"{mean} ± {half}")


def curves(points: Sequence[Estimated], lines: tuple[LineStyle, ...] = LINES) -> Figure:
    return ratio_curves("Fréchet distance ↓", "said", lines, points, [estimated(0, 0, 9)], note="bars: intervals")


POINTS = [estimated(line, ratio, 10 + line + 5 * ratio) for line in (1, 2, 3) for ratio in (0.5, 0.75, 0.9)]
FIGURES = {
    "curves": curves(POINTS),
    "dots": ranked_dots("KID ↓", "said", LINES, [estimated(line, 0.5, 5 - line) for line in range(4)], 1, "lower"),
    "bars": share_bars("a", "said", [GroupBar("dogs", 0.5, 0.1, 0.3, 0.2), GroupBar("cats", 0.5, None, 0.7)], top=0.7,
                       colour="red", of="classes"),
    "steps": density_steps("a", "said", [0, 1, 2], [0.5, 0.5], {"unseen": [0.2, 0.8]}, top=1, colour="red", about="x"),
    "tradeoff": precision_recall("a", "said", LINES, {0: ([1, 0.5], [0, 1]), 1: ([0.9, 0.4], [0, 0.8])}),
    "map": scatter("a", "said", [(0, 0), (1, 1)], [0, -1], [(0.5, 0.5)], [3], ((0, 0), (1, 1))),
    "squares": heat_map("a", "said", ["one", "other"], {(0, 1): HeatCell(".58", 0.58, "one and other\n.58")}),
    "marks": correlation_marks("a", "said", LINES, [(x, estimated(x, 0.5, 5 - x)) for x in (1, 2)],
                               [estimated(0, 0, 4)], "mean score"),
    "sweep": sweep_curves([2, 4, 8], [9.0, 4.0, 3.0], [None, 0.2, 0.1], 4, "inertia"),
}  # fmt: skip


def marks(figure: Figure, name: str) -> list[dict[str, str]]:
    return [dict(element.attrib) for element in ET.fromstring(figure.picture).iter(SVG + name)]


def places(figure: Figure) -> list[tuple[float, float]]:
    """Where the marks that say something are."""
    found = [element for element in ET.fromstring(figure.picture).iter() if element.find(f"{SVG}title") is not None]
    moved = [re.fullmatch(r"translate\(([-\d.]+),([-\d.]+)\)", element.get("transform", "")) for element in found]
    return [(float(match[1]), float(match[2])) for match in moved if match]


@pytest.mark.parametrize("name", FIGURES)
def test_pictures_and_files_are_whole_the_same_twice_and_send_for_nothing(name: str) -> None:
    figure = FIGURES[name]
    for kind in FORMATS:
        data = figure.on_paper(kind)
        assert data == figure.on_paper(kind)
        assert data.startswith({"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}[kind])
    with Image.open(io.BytesIO(figure.on_paper("png"))) as picture:
        assert np.asarray(picture.convert("L")).std() > 2
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    paper = figure.on_paper("svg").decode()
    assert "var(" not in paper
    assert figure.title.split()[0] in paper
    for drawn in (paper, figure.picture):
        assert drawn == figure.picture or drawn == paper
        assert not re.search(r"url\(|href|<image|NaN|undefined|Infinity", drawn)


def test_every_colour_of_a_page_has_two_values() -> None:
    used = {name for figure in FIGURES.values() for name in re.findall(r"var\((--[\w-]+)\)", figure.picture)}
    light, dark = style_sheet().split("@media")
    assert used
    for name in used:
        assert f"{name}:#" in light
        assert f"{name}:#" in dark


def test_points_at_one_ratio_stand_apart_however_many() -> None:
    """At ratios that lie close together they take no more room than there is, in the same order everywhere."""
    n = 20
    crowd = [estimated(line, ratio, 10.0) for line in range(1, n + 1) for ratio in (0.5, 0.9, 0.95)]
    lines = (LINES[0], *(pruned_style(f"line {k}", k % 8, "circle", SOLID) for k in range(n)))
    moved = offsets(crowd, 0.57, 0.12)
    for ratio in (0.5, 0.9, 0.95):
        at = [ratio + moved[line, ratio] for line in range(1, n + 1)]
        assert (np.diff(at) > 0).all()
        assert sum(at) / n == pytest.approx(ratio)
    assert 0.9 + moved[n, 0.9] < 0.95 + moved[1, 0.95]
    drawn = places(curves(crowd, lines))
    assert len({x for x, y in drawn if y == drawn[-1][1]}) == 3 * n
    two = offsets([estimated(1, 0.5, 1), estimated(2, 0.5, 1)], 0.6, 0.6)
    assert (two[2, 0.5] - two[1, 0.5]) / 0.6 * 300 > 6


def test_no_crowd_runs_over_the_ends_of_the_axis() -> None:
    crowd = [estimated(line, ratio, 10.0) for line in range(60) for ratio in (0.5, 0.75)]
    figure = curves(crowd, tuple(pruned_style(f"line {k}", k % 8, "circle", SOLID) for k in range(60)))
    low, high = figure.words["across"]
    at = [row["x"] for row in figure.data["points"]]
    assert low < min(at) < max(at) < high


def test_a_missing_cell_is_a_gap() -> None:
    """A line through the neighbours of what was not measured would claim it."""
    gappy = [estimated(1, ratio, 10 + ratio) for ratio in (0.2, 0.4, 0.6, 0.8)]
    whole = [estimated(2, ratio, 12 + ratio) for ratio in (0.2, 0.4, 0.5, 0.6, 0.8)]
    figure = curves(gappy + whole)
    assert [row["x"] for row in figure.data["paths"] if row["y"] is None] == [0.5]
    lines = [path["d"] for path in marks(figure, "path") if "L" in path["d"] and "Z" not in path["d"]]
    assert sorted(line.count("M") for line in lines) == [1, 2]


def test_intervals_beyond_the_axis_end_in_arrows() -> None:
    """With two trainings t is 12.7: the axis follows the means, and the chart says that the interval goes on."""
    points = [estimated(1, 0.5, 10.0, 100.0), estimated(2, 0.5, 12.0)]
    low, high = extent(points)
    assert low > 0
    assert high < 20
    (wide, narrow) = curves(points).data["points"]
    assert (wide["below"], wide["above"], wide["low"], wide["high"]) == (True, True, *curves(points).words["up"])
    assert (narrow["below"], narrow["above"]) == (False, False)
    assert len(marks(curves(points), "path")) - len(marks(curves([points[1], estimated(1, 0.5, 10.0)]), "path")) == 2


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (11.8, 78.2), (-3e-6, 4e-6), (5.0, 5.0), (1e7, 3e7), (0.0, 0.0)])
def test_bounds_lie_beyond_all_values(low: float, high: float) -> None:
    found = padded([low, high], 0.07)
    assert found[0] < low <= high < found[1]


def test_rows_of_what_was_not_measured_say_so() -> None:
    figure = ranked_dots("a", "said", LINES, [estimated(0, 0.5, 2), estimated(2, 0.5, 1)], 1, "lower")
    texts = [element.text for element in ET.fromstring(figure.picture).iter(SVG + "text")]
    assert {"furthest", "nearest: not measured", "random: not measured"} <= set(texts)
    assert len(places(figure)) == 2


@pytest.mark.parametrize(("better", "order"), [("lower", [3, 2, 1, 0]), ("higher", [0, 1, 2, 3]), ("", [0, 1, 2, 3])])
def test_rows_are_ranked_by_what_is_better(better: str, order: list[int]) -> None:
    estimates = [estimated(line, 0.5, 5 - line) for line in range(4)]
    figure = ranked_dots("a", "said", LINES, estimates, 1, better)
    assert [row["line"] for row in figure.data["points"]] == order
    heights = dict(zip([row["line"] for row in figure.data["points"]], places(figure), strict=True))
    assert [line for line, _ in sorted(heights.items(), key=lambda item: item[1][1])] == order
    assert [row["line"] for row in figure.data["levels"]] == [0]


def test_a_long_title_takes_lines_and_is_not_cut() -> None:
    words = "nearest to the centre of its cluster, equal quotas, inside the half with the lowest loss, pruned 0.75"
    figure = share_bars(words, "said", [GroupBar("0", 0.5, None, 0.3)], top=0.7, colour="red", of="classes")
    texts = ["".join(element.itertext()) for element in ET.fromstring(figure.on_paper("svg")).iter(SVG + "tspan")]
    assert " ".join(texts) == words


def test_densities_are_flat_in_each_bin() -> None:
    heights = [0.1, 0.7, 0.2]
    figure = density_steps("a", "s", [0, 1, 2, 3], heights, {"b": heights}, top=0.7, colour="#123456", about="x")
    outlines = [path["d"] for path in marks(figure, "path")]
    assert len(outlines) == 2
    for outline in outlines:
        points = re.findall(r"[ML]([-\d.]+),([-\d.]+)", outline)[:6]
        ups = [float(y) for _, y in points]
        assert ups[::2] == ups[1::2]
        assert np.argsort(ups[::2]).tolist() == [1, 2, 0]


def test_names_of_groups_stand_beside_bars() -> None:
    names = [f"class number {n}" for n in range(12)]
    groups = [GroupBar(name, 1 / 12, None, 1 / 12) for name in names]
    figure = share_bars("a", "said", groups, top=0.1, colour="red", of="classes")
    assert set(names) <= {element.text for element in ET.fromstring(figure.picture).iter(SVG + "text")}


def unpacked(page: str, name: str) -> str:
    packed = re.search(rf'<script type="text/plain" id="{name}">([A-Za-z0-9+/=]+)</script>', page)
    assert packed
    return gzip.decompress(base64.b64decode(packed[1])).decode()


def test_a_page_holds_the_library_once_and_its_policy_lets_nothing_else_run() -> None:
    charts = PageCharts()
    drawn = [charts.markup(figure) for figure in FIGURES.values()]
    scripts, policy = charts.scripts(), charts.policy()
    assert scripts.count('id="vega"') == 1
    assert "window.vegaEmbed" in unpacked(scripts, "vega")
    own = re.findall("<script>(.*?)</script>", scripts, re.DOTALL)
    for script in (*own, unpacked(scripts, "vega")):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]
    assert all("<svg" in figure for figure in drawn)


def test_what_a_page_draws_anew_is_what_stands_in_it() -> None:
    import vl_convert

    charts = PageCharts()
    charts.markup(FIGURES["curves"])
    charts.markup(curves(POINTS[:6]))
    content: dict[str, Any] = json.loads(unpacked(charts.scripts(), "charts"))
    assert len(content["templates"]) == 1
    assert [figure["lines"] for figure in content["figures"]] == [[line.name for line in LINES]] * 2
    figure, template = content["figures"][0], content["templates"][0]
    data = {name: [dict(zip(table["names"], row, strict=True)) for row in table["rows"]]
            for name, table in figure["data"].items()}  # fmt: skip
    anew = {
        **template,
        "signals": [{**s, "value": figure["words"].get(s["name"], s.get("value"))} for s in template["signals"]],
        "data": [{**d, "values": data[d["name"]]} if d["name"] in data else d for d in template["data"]],
    }
    assert vl_convert.vega_to_svg(anew).count("aria-label") == FIGURES["curves"].picture.count("<title>")


BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
PROBE = """
const wait = (ms) => new Promise((done) => setTimeout(done, ms)), said = [];
const marks = (n) => [...document.querySelectorAll(`[data-chart="${n}"] .mark-symbol path[aria-label]`)];
const full = (n) => marks(n).filter((mark) => +getComputedStyle(mark).opacity === 1).map((mark) => mark.ariaLabel[0]);
setTimeout(async () => {
  const entries = [...document.querySelectorAll("[data-line]")], click = (n, shiftKey) =>
    entries[n].dispatchEvent(new MouseEvent("click", { bubbles: true, shiftKey }));
  for (const act of [() => {}, () => click(1), () => click(2, true), () => click(3), () => click(3)]) {
    act();
    await wait(300);
    said.push(full(0).join("") + "|" + full(1).join(""));
  }
  const at = marks(0)[0].getBoundingClientRect(), to = { bubbles: true, clientX: at.x + 3, clientY: at.y + 3 };
  marks(0)[0].dispatchEvent(new MouseEvent("mousemove", to));
  marks(0)[0].dispatchEvent(new PointerEvent("pointermove", to));
  await wait(300);
  said.push(document.querySelector(".tip").innerText);
  document.title = JSON.stringify(said);
}, 1500);
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_in_a_browser_points_tell_and_the_legend_isolates(tmp_path: Path) -> None:
    """Under the policy of the page, to which the probe alone is added."""
    charts, lines = PageCharts(), tuple(replace(line, name=f"{n} {line.name}") for n, line in enumerate(LINES))
    drawn = charts.markup(curves(POINTS, lines)) + charts.markup(curves(POINTS[:6], lines))
    own = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    (tmp_path / "page.html").write_text(
        f'<!doctype html><meta charset=utf-8><meta http-equiv=Content-Security-Policy content="{charts.policy()} '
        f"'sha256-{own}'\"><style>{style_sheet()}</style><body>{legend_markup(lines)}{drawn}{charts.scripts()}"
        f"<script>{PROBE}</script>"
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=900,1500", "--virtual-time-budget=20000"]
    command = [str(BROWSER), *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    page = subprocess.run([*command, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, check=True)
    found = re.search("<title>(.*)</title>", page.stdout)
    assert found, page.stdout[-2000:]
    *shown, tip = json.loads(html.unescape(found[1]))
    assert shown == ["111222333|111222", "111|111", "111222|111222", "333|", "111222333|111222"]
    assert tip == "1 nearest\n13.5 ± 0.5"


def test_texts_do_nothing_in_a_page() -> None:
    evil = "</script><script>alert(1)</script>\" onclick='alert(1)"
    lines = (LINES[0], pruned_style(evil, 0, "circle", SOLID, evil), *LINES[2:])
    charts = PageCharts()
    page = legend_markup(lines) + charts.markup(curves(POINTS, lines)) + charts.scripts()
    assert page.count("<script") == 3
    assert "<script>alert" not in page
    found: list[str] = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attrs: found.extend(name for name, _ in attrs)  # type: ignore[method-assign]
    reader.feed(page)
    assert "data-line" in found
    assert not [name for name in found if name.startswith("on")]


def test_nothing_is_imported_before_a_chart_is_made() -> None:
    code = (
        "import dprune.reporting.job, dprune.clustering.sweep_plot, sys; "
        "print([m for m in ('altair', 'vl_convert', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_squares_are_as_deep_as_their_weight_and_empty_ones_have_frames_of_dashes() -> None:
    cells = {
        (0, 0): HeatCell("1", 1, "itself"),
        (0, 1): HeatCell("-.5", -0.5, "apart"),
        (1, 0): HeatCell("0", 0, "even"),
    }
    figure = heat_map("a", "said", ["one", "other"], cells)
    told = {element.find(f"{SVG}title").text: element for element in ET.fromstring(figure.picture).iter()
            if element.find(f"{SVG}title") is not None}  # fmt: skip
    depths = {said: float(element.get("fill-opacity", "1")) for said, element in told.items()}
    assert depths["itself"] == pytest.approx(2 * depths["apart"])
    assert told["itself"].get("fill") != told["apart"].get("fill")
    dashed = [mark for mark in marks(figure, "path") if mark.get("stroke-dasharray") == "2,2"]
    assert len(dashed) == 1
    texts = [element.text for element in ET.fromstring(figure.picture).iter(SVG + "text")]
    assert texts.count("one") == texts.count("other") == 2
    assert {"1", "-.5", "0"} <= {*texts}


def test_many_squares_keep_numbers_that_can_be_read() -> None:
    names = [f"line {number}" for number in range(24)]
    cells = {(row, column): HeatCell("-.58", -0.58, "") for row in range(24) for column in range(24)}
    sizes = {text.get("font-size") for text in ET.fromstring(heat_map("a", "b", names, cells).picture).iter()}
    assert all(float(size.removesuffix("px")) >= 6 for size in sizes if size)


def test_marks_stand_where_both_numbers_are_with_the_baseline_across() -> None:
    figure = FIGURES["marks"]
    (start, level), (left, upper), (right, lower) = sorted(places(figure))
    assert 0 == start < left < right
    assert level == upper < lower, "4 is above 3"
