"""`dprune report`: tables, curves, images and one page of any number of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.shell.help_pages import GroupedCommand

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
                       help="Result, or line of the report, that counts as unpruned. Repeatable."),
        options.option("--label", group="Page", common=True, multiple=True, metavar="RESULT=NAME",
                       help="Call a line NAME. RESULT is one of its files, its present name, or a score. Repeatable."),
        options.option("--images", group="Page", common=True, multiple=True, metavar="DIR",
                       help="Images of dprune sample for the grid of methods and ratios. Repeatable."),
        options.option("--image-seeds", group="Page", type=click.IntRange(min=1, max=64), metavar="N",
                       help="Number of seeds in the grid, a column each.  [default: 4]"),
        options.option("--picture", group="Page", common=True, multiple=True, metavar="FILE[=CAPTION]",
                       help="Show this PNG or JPEG, such as one of select --figure. Repeatable."),
        options.option("--format", group="Page", common=True, metavar="LIST",
                       help="Write each chart as a file, too: svg, png, pdf, or several such as svg,pdf."),
        options.option("--expect", group="Page", metavar="FILE",
                       help="CSV of the trainings that the study should have: line, pruned, result."),
        options.option("--scores", group="Agreement", common=True, multiple=True, metavar="FILE",
                       help="Tell how far this score ranks samples as others do. Repeatable."),
        options.option("--subsets", group="Agreement", common=True, multiple=True, metavar="FILE|GLOB",
                       help="Tell what these kept subsets have in common, and what their scores predict. Repeatable."),
        options.option("--train", group="Map", common=True, metavar="FEATURES",
                       help="Draw a map of these features of the training set."),
        options.option("--generated", group="Map", common=True, multiple=True, metavar="FEATURES",
                       help="Draw a map of these features of generated samples. Repeatable."),
        options.option("--clusters", group="Map", common=True, metavar="FILE",
                       help="Colour the map by these clusters of the training set."),
        options.choice("--projection", ["pca", "tsne"], "Projection of the map.  [default: pca]", group="Map",
                       common=True),
    ),
    options.delivers("Folder for the report.", folder=True),
)  # fmt: skip
def command(*, delivery: Delivery, results: tuple[str, ...], settings: ReportSettings) -> None:
    """Put results together as tables, curves and one HTML page.

    RESULTS are files of dprune eval and dprune memorization, in any mix. They are grouped by the provenance that they
    carry, never by their names. report.html needs no other file; beside it are the tables as Markdown and CSV, and the
    numbers of each chart as CSV. --format adds the charts as files for papers, 3.5 inches wide.

    Each recorded option that differs, and each number of samples, makes a line of its own over the pruning ratio, or a
    table. Only seeds are averaged: first samplings inside a training, then trainings. Where a method was trained more
    than once, the spread over trainings is its error.

    A training set that leaves no candidate out is unpruned, whatever the order. Samples that --within and --without
    kept from being candidates were not pruned. A set that select --counts or --tail composed at random is a data set of
    its own: all of it is unpruned, and what was chosen within it is held to that.

    Results of other tools are placed by tags, given at any step: --tag method=mine --tag keep=0.25 --tag order=lowest
    --tag seed=3. The tag keep=1 means unpruned.

    --scores tells how far scores rank samples alike. With --subsets, quoted where it is a glob, it tells what methods
    keep in common at each ratio, and how the mean score of what was kept goes with what was measured. A subset belongs
    to the results that name it in their provenance, or that were chosen alike.

    Results of dprune eval --metrics paired make a table of their own. With --images of both models, the images of one
    stand above those of the other, 8 seeds unless --image-seeds says otherwise.

    Results of dprune memorization --losses make charts of the loss gap by noise level, and a table of their own.

    A table shows which points are missing, or have fewer trainings than most. --expect says what should be there: a row
    for each training, with the name of its line, its pruning ratio (0 for the unpruned) and one of its result files,
    relative to the folder of the table. Lines without any result are shown by these names.

    Below each table are the differences from the unpruned result, with their errors, and a mark where the two can be
    told apart. The best is marked only where it can be told apart from all others.

    \b
    Examples:
      dprune report runs/*/metrics.json runs/*/memorization.json -o report
      dprune report runs/*/metrics.json --baseline runs/all/metrics.json -o report
      dprune report runs/*/metrics.json --label 'nearest=Near the centre' -o report
      dprune report runs/*/metrics.json --format svg,pdf -o report
      dprune report runs/*/metrics.json --scores el2n.npy --subsets 'runs/*/keep.npy' -o report
      dprune report metrics.json --images pruned --images unpruned -o report
      dprune report halves.json --images half-0/generated --images half-1/generated -o report
      dprune report metrics.json --picture kept.png --picture 'pairs.png=Closest pairs' -o report
      dprune report metrics.json --train features --generated generated-features -o report
    """
    from dprune.reporting.job import open_report

    delivery.deliver(open_report(results, settings, delivery.output))
