"""`dprune train-dit`: a diffusion transformer, trained by flow matching."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.training.dit.settings import DiTOptions
    from dprune.training.plan import TrainingOptions


@click.command(cls=GroupedCommand)
@options.apply(
    click.argument("store", metavar="STORE", help="Latent store, as dprune encode makes it."),
    options.gathers(
        "model", "dprune.training.dit.settings:DiTOptions",
        options.option("--subset", group="Data", common=True, metavar="FILE",
                       help="Ids to train on (.npy), as dprune select makes them."),
        options.option("--fold", group="Data", common=True, metavar="I/N",
                       help="Train on one of N disjoint folds, I from 0 to N-1."),
        options.option("--arch", group="Model", common=True, metavar="NAME/PATCH",
                       help="nano, tiny, S, B, L or XL, with patch 1, 2, 4 or 8.  [default: XL/2, or that of --init]"),
        options.option("--unconditional", group="Model", common=True, is_flag=True, help="Train without labels."),
        options.option("--label-dropout", group="Model", type=options.Number(0, 1), metavar="X",
                       help="Share of labels left out, without which samples cannot be guided.  [default: 0.1]"),
        options.choice("--time", ["uniform", "logit-normal"], "Distribution of the times at which the loss is taken.",
                       group="Optimisation", default="uniform"),
        options.option("--init", group="Model", common=True, metavar="FILE",
                       help="Weights to begin with: a model of dprune, or a SiT."),
        options.parametrization,
        options.option("--vae", group="Checkpoints", common=True, metavar="FILE",
                       help="Autoencoder that decodes pictures at --evaluate-every and the end."),
        options.option("--latents-on", "place", group="Running", type=click.Choice(["auto", "device", "host", "disk"]),
                       default="auto", show_default=True, help="Where latents are held."),
        options.choice("--optimizer", ["adamw", "muon"], "Muon trains the matrices of the blocks, AdamW the rest.",
                       group="Optimisation", common=True, default="adamw"),
        options.option("--compile/--no-compile", "compiles", group="Running", default=None,
                       help="Run the blocks by compiled kernels: our own in bf16, else torch.compile's.  "
                          "[default: on a GPU]"),
    ),
    options.trains(steps="120000", batch_size="256", lr="1e-4 for XL"),
    options.delivers("Run folder; model.safetensors appears in it when training is complete.", can_stop=True,
                     shares_work=True, folder=True),
)  # fmt: skip
def command(*, delivery: Delivery, store: str, model: DiTOptions, training: TrainingOptions) -> None:
    """Train a diffusion transformer on latents by flow matching.

    The folder gets a log (log.jsonl), checkpoints at --save-every, and model.safetensors with averaged weights when
    training is complete. A run that was stopped goes on with the same command; one that is finished goes on with a
    larger --steps. Under torchrun all GPUs share each batch, and their number changes nothing but rounding. Steps
    that one GPU does faster than they are launched become a CUDA graph, to the same bits, unless --no-compile is given.
    A subset smaller than a batch fills it several times, and each time a sample gets another noise, time and dropped
    label; the log says how many distinct samples a batch holds.

    Where nothing is said, a model that begins anew is trained at 1e-4 times 1152 over its width (L 1.1e-4, B 1.5e-4,
    S 3e-4, tiny 6e-4, nano 9e-4); runs of before that had no --lr took 1e-4 at any width, and go on with --lr 1e-4.
    Averaged weights reach back over a ninth of the steps so far, until --ema bounds that: short runs need no other.

    --optimizer muon reaches the same loss in fewer steps that each take a little longer; it takes the --lr of AdamW,
    and twice that suits it. It made the better models of equal seconds: small ones, of CIFAR-10.

    \b
    Examples:
      dprune train-dit latents --arch XL/2 -o run
      dprune train-dit latents --arch XL/2 --optimizer muon --lr 2e-4 --steps 60000 -o cheaper
      dprune train-dit latents --subset keep.npy --arch B/2 --epochs 200 -o run-kept
      dprune train-dit latents --arch tiny/1 --batch-size 64 --steps 2000 --vae vae/model.safetensors -o run
      dprune train-dit latents --subset keep.npy --init run/model.safetensors --lr 1e-5 --steps 20000 -o tuned
      torchrun --nproc-per-node 8 -m dprune train-dit latents --stop-after 3h50m -o run
    """
    from dprune.training.dit.job import open_train_dit

    delivery.deliver(open_train_dit(store, model, training, delivery.output))
