"""dprune report: how the page is laid out, what is on top of it, and that it can be read by ear and without scripts."""

from __future__ import annotations

import csv
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import dprune
from studies import Run, shares, write_memorization, write_metrics

from dprune.reporting.curves import short_count
from dprune.reporting.study.grouping import MISSING

NEAREST = Run(scores="cluster-distance")
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Node:
    """An element of a page."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: Node | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Node] = []
        self.own: list[str] = []

    def all(self, tag: str, **attributes: str) -> list[Node]:
        found = [node for child in self.children for node in (child, *child.all(""))]
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [n for n in found if tag in ("", n.tag) and all(n.attributes.get(k) == v for k, v in wanted.items())]

    def inside(self, tag: str) -> bool:
        return self.parent is not None and (self.parent.tag == tag or self.parent.inside(tag))

    @property
    def text(self) -> str:
        return " ".join(" ".join([*self.own, *(child.text for child in self.children)]).split())


class Tree(HTMLParser):
    """The elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.here = self.root = Node("", {}, None)
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        node = Node(tag, {name: value or "" for name, value in attrs}, self.here)
        self.here.children.append(node)
        if tag not in VOID:
            self.here = node

    def handle_startendtag(self, tag, attrs):
        self.here.children.append(Node(tag, {name: value or "" for name, value in attrs}, self.here))

    def handle_endtag(self, tag):
        self.here = self.here.parent or self.root

    def handle_data(self, data):
        self.here.own.append(data)


def page(folder: Path, *args: object) -> Node:
    """Report all results of a folder."""
    dprune("report", *sorted(folder.glob("*.json")), *args, "-o", folder / "report").ok()
    return Tree((folder / "report" / "report.html").read_text()).root


def study(folder: Path) -> None:
    runs = [replace(NEAREST, order=order, keep=keep) for order in ("lowest", "highest") for keep in ("0.5", "0.25")]
    for number, run in enumerate([Run(), *runs]):
        write_metrics(folder / f"q{number}.json", run, details=shares(run))
        write_memorization(folder / f"m{number}.json", run)


def open_tables(root: Node) -> list[Node]:
    return [table for table in root.all("table") if not table.inside("details")]


def heads(table: Node) -> list[str]:
    return [head.text for head in table.all("thead")[0].all("th")]


def rows(table: Node) -> list[list[str]]:
    found = [row for body in table.all("tbody") for row in body.all("tr")]
    return [[cell.text for cell in row.children] for row in found]


def test_a_few_metrics_are_on_top_and_all_others_folded(tmp_path: Path) -> None:
    study(tmp_path)
    root = page(tmp_path)
    (top,) = open_tables(root)
    assert heads(top) == ["Line", "Fréchet distance ↓", "F-score ↑", "Vendi score ↑",
                          "Distance to training, generated / held-out"]  # fmt: skip
    # Quality and memorization of a line are one row, the numbers those of the files beside the page.
    first = rows(top)[0]
    known = {}
    for name in ("quality", "memorization"):
        with (tmp_path / "report" / f"{name}.csv").open() as file:
            known |= next(csv.DictReader(file))
    for cell, key in zip(first[1:], ("frechet_distance", "f_score", "vendi", "nearest_distance_ratio"), strict=True):
        assert float(cell.split()[0]) == pytest.approx(float(known[key]), rel=1e-3)
    folded = [head for table in root.all("table") if table.inside("details") for head in heads(table)]
    for name in ("Precision ↑", "KID ↓", "Cluster entropy", "C_T", "AuthPct ↑"):
        assert name in folded


def test_rows_of_one_ratio_are_a_group_and_what_is_the_same_everywhere_is_said_once(tmp_path: Path) -> None:
    study(tmp_path)
    (top,) = open_tables(page(tmp_path))
    said = [row[0] for row in rows(top)]
    half, quarter = "pruned 0.5, 1,000 training samples", "pruned 0.75, 500 training samples"
    assert said == ["unpruned", half, "nearest", "furthest", quarter, "nearest", "furthest"]
    note = top.parent.parent.children[top.parent.parent.children.index(top.parent) + 1]
    every = "Every row: 1 training, 1 sampling of each training, 500 generated samples."
    assert note.text == f"{every} Unpruned: 2,000 training samples."


def test_only_tables_that_need_it_scroll_inside_their_frame(tmp_path: Path) -> None:
    study(tmp_path)
    frames = {heads(table)[1:][-1]: table.parent.attributes["class"] for table in page(tmp_path).all("table")}
    assert frames["Distance to training, generated / held-out"] == "scroll narrow"
    assert frames["Vendi score ↑"] == "scroll"


def test_counts_that_differ_have_a_column(tmp_path: Path) -> None:
    for number, run in enumerate((Run(), NEAREST, replace(NEAREST, seed=1))):
        write_metrics(tmp_path / f"q{number}.json", run)
        write_memorization(tmp_path / f"m{number}.json", run)
    write_metrics(tmp_path / "q3.json", replace(NEAREST, order="highest"))
    (top,) = open_tables(page(tmp_path))
    assert heads(top)[-1] == "Trainings"
    counts = {row[0]: row[-1] for row in rows(top)}
    assert counts == {"unpruned": "1", "pruned 0.75, 500 training samples": "", "nearest": "2", "furthest": "1"}
    # What was not measured is missing, and nothing else is.
    assert [row[4] for row in rows(top) if len(row) > 2].count(MISSING) == 1


def test_lines_of_their_own_have_tables_of_their_own(tmp_path: Path) -> None:
    write_metrics(tmp_path / "q.json", NEAREST)
    write_memorization(tmp_path / "m.json", Run())
    assert [heads(table)[1] for table in open_tables(page(tmp_path))] == [
        "Fréchet distance ↓", "Distance to training, generated / held-out"
    ]  # fmt: skip


def test_without_the_usual_metrics_the_first_ones_are_on_top(tmp_path: Path) -> None:
    write_metrics(tmp_path / "a.json", NEAREST, {"kid": 0.1, "cmmd": 0.2, "precision": None, "recall": None})
    (top,) = open_tables(page(tmp_path))
    assert heads(top) == ["Line", "KID ↓", "CMMD ↓"]


def test_memorization_without_held_out_samples_is_the_distance_itself(tmp_path: Path) -> None:
    write_memorization(tmp_path / "a.json", NEAREST, {"nearest_distance_mean": 5.0, "copying_c_t": None}, details={})
    (top,) = open_tables(page(tmp_path))
    assert (heads(top), rows(top)[-1]) == (["Line", "Generated to training"], ["nearest", "5"])


def test_the_page_can_be_read_by_ear_and_keyboard(tmp_path: Path) -> None:
    study(tmp_path)
    root = page(tmp_path)
    assert root.all("html")[0].attributes["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer", "h1", "title"):
        assert len([node for node in root.all(landmark) if not node.inside("svg")]) == 1
    ids = [node.attributes["id"] for node in root.all("") if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    links = [link.attributes["href"] for link in root.all("nav")[0].all("a")]
    assert links == [f"#{name}" for name in ("results", "lines", "quality", "shares", "memorization", "measured")]
    # A browser unfolds what a link leads into.
    for name in map("#".__add__, ids):
        target = next(node for node in root.all("") if node.attributes.get("id") == name[1:])
        assert target.tag in ("section", "script") or target.inside("details")
    for table in root.all("table"):
        assert table.all("caption")[0].text
        assert all(head.attributes["scope"] in ("col", "row", "rowgroup") for head in table.all("th"))
        frame = table.parent.attributes
        assert (frame["tabindex"], frame["role"]) == ("0", "region")
        assert frame["aria-label"]
    assert all(picture.attributes["alt"] for picture in root.all("img"))
    assert all(details.children[0].tag == "summary" for details in root.all("details"))


def test_names_are_explained_where_they_stand_and_in_a_table(tmp_path: Path) -> None:
    study(tmp_path)
    root = page(tmp_path)
    (top,) = open_tables(root)
    nearest = next(head for head in top.all("th", scope="row") if head.text == "nearest")
    (lines,) = [table for table in root.all("table") if table.all("caption")[0].text == "What the lines are"]
    row = next(row for row in rows(lines) if row[0] == "nearest")
    assert row[1]
    assert row[1] in nearest.attributes["title"]


@pytest.mark.parametrize("count", [1, 60])
def test_any_number_of_lines_makes_a_page(tmp_path: Path, count: int) -> None:
    for number in range(count):
        tags = {"select": {"method": f"method {number}"}}
        write_metrics(tmp_path / f"{number}.json", replace(NEAREST, tags=tags))
    root = page(tmp_path)
    (top,) = open_tables(root)
    assert len(top.all("th", scope="row")) == count
    assert not root.all("img")


def test_how_much_was_trained_on_stands_by_the_ratios(tmp_path: Path) -> None:
    study(tmp_path)
    root = page(tmp_path)
    assert "Unpruned: 2,000 training samples." in root.text
    chart = next(node for node in root.all("svg") if "pruning ratio, training samples" in node.text)
    assert "0.75 500" in chart.text
    rows = list(csv.DictReader((tmp_path / "report" / "quality.csv").read_text().splitlines()))
    assert {(row["pruned"], row["trained_on"]) for row in rows} == {("0.0", "2000"), ("0.5", "1000"), ("0.75", "500")}


def test_where_lines_were_trained_on_unlike_numbers_the_axis_says_none(tmp_path: Path) -> None:
    """Where candidates were fewer, half of them is fewer."""
    for number, (order, samples) in enumerate((("lowest", 1000), ("highest", 900))):
        for keep in ("0.5", "0.25"):
            run = replace(NEAREST, order=order, keep=keep, samples=samples if keep == "0.5" else 500)
            write_metrics(tmp_path / f"q{number}-{keep}.json", run)
    root = page(tmp_path)
    assert "pruned 0.5, 900 to 1,000 training samples" in root.text
    assert "pruning ratio, training samples" not in root.text


@pytest.mark.parametrize(
    ("count", "said"),
    [(809, "809"), (5_000, "5,000"), (9_999, "9,999"), (25_000, "25k"), (128_117, "128k"), (1_281_167, "1.28M")],
)
def test_counts_below_an_axis_are_short(count: int, said: str) -> None:
    assert short_count(count) == said
