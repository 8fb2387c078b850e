"""`dprune report`: tables, curves, images and one page of any number of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.reporting.job import ReportSettings


@click.command(cls=GroupedCommand)
@options.apply(
    click.argument("results", nargs=-1, required=True, metavar="RESULTS..."),
    options.gathers(
        "settings", "dprune.reporting.job:ReportSettings",
        options.option("--title", group="Page", common=True, default="What pruning did", show_default=True,
                       metavar="TEXT", help="Title of the page."),
        options.option("--baseline", group="Page", common=True, multiple=True, metavar="FILE|LABEL",
                       help="Result, or line of the report, whose training set counts as unpruned. Repeatable."),
        options.option("--images", group="Page", common=True, multiple=True, metavar="DIR",
                       help="Images of dprune sample for the grid of methods and ratios. Repeatable."),
        options.option("--image-seeds", group="Page", type=click.IntRange(min=1, max=64), metavar="N",
                       help="Images in a cell of the grid.  [default: 4]"),
        options.option("--format", group="Page", common=True, metavar="LIST",
                       help="Write each chart as a file, too, for papers: svg, png, pdf, or several with commas."),
        options.option("--train", group="Map", common=True, metavar="FEATURES",
                       help="Features of the training set, for a map."),
        options.option("--generated", group="Map", common=True, multiple=True, metavar="FEATURES",
                       help="Features of generated samples, for a map each. Repeatable."),
        options.option("--clusters", group="Map", common=True, metavar="FILE",
                       help="Clusters of the training set, which colour the map."),
        options.choice("--projection", ["pca", "tsne"], "How the map is made.  [default: pca]", group="Map",
                       common=True),
    ),
    options.delivers("Folder that the report goes to.", folder=True),
)  # fmt: skip
def command(*, delivery: Delivery, results: tuple[str, ...], settings: ReportSettings) -> None:
    """Put results together as tables, curves and one HTML page.

    RESULTS are files of dprune eval and dprune memorization, in any mix. They are grouped by the provenance that they
    carry, never by their names: each recorded option and number of samples that differs makes a line of its own over
    the pruning ratio, or a table, and only seeds are averaged: samplings inside trainings, then trainings, whose spread
    is the error where a method was trained more than once. A training set that leaves no candidate out is unpruned,
    whatever the order: what --within and --without kept from being a candidate was not pruned. For results of other
    tools, --tag method=mine --tag keep=0.25 --tag order=lowest --tag seed=3 at any step says where they belong, and
    --tag keep=1 that they are unpruned. Below each table stand the differences to the unpruned, with their errors, and
    whether they are told apart; the best is marked only where it is told apart from all others. The folder holds
    report.html, which needs no other file, the tables as Markdown and CSV, and the numbers of each chart as CSV;
    --format adds the charts as files, 3.5 inches wide.

    \b
    Examples:
      dprune report runs/*/metrics.json runs/*/memorization.json -o report
      dprune report runs/*/metrics.json --baseline runs/all/metrics.json -o report
      dprune report runs/*/metrics.json --format svg,pdf -o report
      dprune report metrics.json --images pruned/generated --images unpruned/generated -o report
      dprune report metrics.json --train features --generated run/features --clusters clusters.safetensors -o report
    """
    from dprune.reporting.job import open_report

    delivery.deliver(open_report(results, settings, delivery.output))
