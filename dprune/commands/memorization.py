"""`dprune memorization`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery

if TYPE_CHECKING:
    from dprune.measuring.sources import Embedding


@click.command()
@options.apply(
    click.argument("generated", metavar="GENERATED"),
    click.argument("train", metavar="TRAIN"),
    click.option("--held-out", metavar="VAL",
                 help="Samples that the model did not see: as GENERATED, or a .npy of ids in TRAIN."),
    click.option("--subset", metavar="FILE", help="The ids in TRAIN that the model was trained on (.npy), or -."),
    click.option("--full", is_flag=True, help="Compare with all of TRAIN, whatever the model was trained on."),
    click.option("--pairs", metavar="FILE", help="Write generated id, training id and distance, sorted (.npy)."),
    click.option("--figure", metavar="FILE", help="Draw the closest pairs side by side (PNG)."),
    click.option("--figure-count", type=click.IntRange(min=1), metavar="N", default=24, show_default=True,
                 help="Pairs in the figure."),
    click.option("--generated-shards", multiple=True, metavar="SHARDS",
                 help="With --figure: the images, unless GENERATED is shards. Repeatable."),
    click.option("--train-shards", multiple=True, metavar="SHARDS",
                 help="With --figure: the images, unless TRAIN is shards. Repeatable."),
    click.option("--neighbours", type=click.IntRange(2, 1024), metavar="N", default=50, show_default=True,
                 help="Neighbourhood of the calibrated ratio."),
    click.option("--alpha", type=options.Number(min=0, min_open=True), metavar="X", default=0.5, show_default=True,
                 help="Nearer than this times the neighbourhood's mean distance is a copy."),
    click.option("--cells", type=click.IntRange(min=1), metavar="N",
                 help="Cells of the copying test.  [default: one for each 50 of the smallest set, up to 1000]"),
    click.option("--jackknife", type=click.IntRange(min=0), metavar="N", default=20, show_default=True,
                 help="Blocks of the standard error; 0 for none."),
    options.embeds(default="dinov2-b"),
    options.seed,
    options.delivers("The result: a .json file, or - for stdout.", can_stop=True),
)  # fmt: skip
def command(
    *,
    delivery: Delivery,
    generated: str,
    train: str,
    held_out: str | None,
    subset: str | None,
    full: bool,
    pairs: str | None,
    figure: str | None,
    figure_count: int,
    generated_shards: tuple[str, ...],
    train_shards: tuple[str, ...],
    neighbours: int,
    alpha: float,
    cells: int | None,
    jackknife: int,
    embedding: Embedding,
    seed: int,
) -> None:
    """Find generated samples that repeat training samples.

    GENERATED and TRAIN are feature stores, arrays of features (.npy, .safetensors) or shards, whose features are
    made and cached. Each generated sample's nearest training sample is found exactly, whatever the sizes; copies are
    at distance 0. Held-out samples show how near unseen ones come, and make Meehan's test possible: C_T far below 0
    means copying. Where the provenance of GENERATED names a training subset, --subset must be that one.

    \b
    Examples:
      dprune memorization generated-features features --held-out val-features -o memorization.json
      dprune memorization generated-features features --subset keep.npy --held-out held-out.npy -o memorization.json
      dprune memorization generated shards --model dinov2-b --pairs pairs.npy --figure pairs.png -o memorization.json
      dprune memorization generated.npy train.npy -o - | python -m json.tool
    """
    from dprune.measuring.memorization_job import Settings, open_memorization
    from dprune.measuring.sources import holds_shards

    if full and subset is not None:
        raise click.UsageError("--full and --subset exclude each other.")
    if cells is not None and held_out is None:
        raise click.UsageError("--cells is for the copying test, which needs --held-out: give both, or neither.")
    if figure is None and (generated_shards or train_shards):
        raise click.UsageError("--generated-shards and --train-shards are for --figure: give it, or leave them out.")
    sheet = None
    if figure is not None:
        from dprune.reporting.pair_sheet import PairSheet

        found = {"generated": generated_shards or ((generated,) if holds_shards(generated) else ()),
                 "train": train_shards or ((train,) if holds_shards(train) else ())}  # fmt: skip
        for role, shards in found.items():
            if not shards:
                raise click.UsageError(f"--figure shows images, and {role} is features: give --{role}-shards.")
        sheet = PairSheet.open(found["generated"], found["train"], figure, figure_count)
    settings = Settings(neighbours, alpha, cells, jackknife, seed)
    job = open_memorization(
        generated, train, held_out, subset, full=full, settings=settings, embedding=embedding,
        pairs=pairs, sheet=sheet, output=delivery.output,
    )  # fmt: skip
    delivery.deliver(job)
