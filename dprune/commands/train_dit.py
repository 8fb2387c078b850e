"""`dprune train-dit`: a diffusion transformer, trained by flow matching."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.shell.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.training.dit.settings import DiTOptions
    from dprune.training.plan import TrainingOptions


@click.command(cls=GroupedCommand)
@options.apply(
    click.argument("store", metavar="STORE", help="Latent store, as dprune encode makes it."),
    options.gathers(
        "model", "dprune.training.dit.settings:DiTOptions",
        options.option("--subset", group="Data", common=True, metavar="FILE",
                       help="Train on these samples only: ids, keys or a mask."),
        options.option("--fold", group="Data", metavar="I/N",
                       help="Train on fold I, from 0 to N-1, of N disjoint ones."),
        options.option("--weights", group="Data", common=True, metavar="FILE",
                       help="How often each sample is drawn: one number a sample, 0 for never."),
        options.option("--sigma-min", group="Data", metavar="FILE",
                       help="Noise level from which on each sample is trained on, from 0 to below 1."),
        options.option("--curriculum", group="Data", metavar="FILE",
                       help="Scores. The lowest are trained on first, all from half of the steps on."),
        options.option("--arch", group="Model", common=True, metavar="NAME/PATCH",
                       help="Size (nano, tiny, S, B, L, XL) and patch (1, 2, 4, 8, 16).  [default: XL/2, or that of "
                            "--init]"),
        options.option("--unconditional", group="Model", common=True, is_flag=True, help="Train without labels."),
        options.option("--label-dropout", group="Model", type=options.Number(0, 1), metavar="X",
                       help="Share of labels to leave out at random. Guided sampling needs some.  [default: 0.1]"),
        options.choice("--time", ["uniform", "logit-normal"],
                       "Distribution of the times at which the loss is computed.", group="Optimisation",
                       default="uniform"),
        options.option("--init", group="Model", common=True, metavar="FILE",
                       help="Initial weights: a model of dprune, or a SiT."),
        options.parametrization,
        options.option("--vae", group="Checkpoints", common=True, metavar="FILE",
                       help="Autoencoder that decodes pictures. They are drawn at --evaluate-every and at the end."),
        options.option("--latents-on", "place", group="Running", type=click.Choice(["auto", "device", "host", "disk"]),
                       default="auto", show_default=True, help="Where the latents are kept during training."),
        options.choice("--optimizer", ["adamw", "muon"],
                       "Optimiser. Muon trains the matrices of the blocks, and AdamW the rest.", group="Optimisation",
                       common=True, default="adamw"),
        options.option("--compile/--no-compile", "compiles", group="Running", default=None,
                       help="Compile the blocks, with dprune's kernels in bf16, else by torch.compile.  "
                          "[default: on a GPU]"),
    ),
    options.trains(steps="120000", batch_size="256", lr="1e-4 for XL"),
    options.delivers("Run folder. Its model.safetensors appears when training is complete.", can_stop=True,
                     shares_work=True, folder=True),
)  # fmt: skip
def command(*, delivery: Delivery, store: str, model: DiTOptions, training: TrainingOptions) -> None:
    """Train a diffusion transformer on latents by flow matching.

    The run folder gets a log, checkpoints, and model.safetensors when training is complete. A run that was stopped goes
    on when the same command is run again, and a finished one with a larger --steps.

    The log is log.jsonl. The weights of model.safetensors are averages. They reach back over a ninth of the steps
    so far, until --ema bounds that, so short runs need no other. Under torchrun all GPUs share each batch; their
    number changes nothing but rounding. Steps that one GPU finishes faster than they can be launched become a CUDA
    graph, with the same bits, unless --no-compile is given. A subset smaller than a batch fills it several times,
    each time with another noise, time and dropped label; the log says how many distinct samples a batch holds.

    --weights, --sigma-min and --curriculum take one number a sample of the store: a .npy, or a table as CSV. With
    --weights an epoch, of which --epochs says how many, has as many visits as the weights add up to, and at least one
    for each sample. So whole numbers say how often a sample comes in an epoch, and other weights are relative to each
    other: a weight that asks for half a visit gives one in every other epoch. Samples of weight 0 or NaN are left out,
    as by --subset.

    --sigma-min is for bad images beside good ones: blurred ones teach the layout, from a noise level on at which the
    blur no longer shows, and not the details. Good images get 0. All noise levels are trained on as often as without
    the option (Ambient Diffusion Omni), so that images with 0 come the more often, and the others the less.

    --curriculum begins with the easiest tenth of the samples, which have the lowest scores, and adds a tenth at a time
    until half of the steps are done. From there on training is as without it. A finished run of it has no larger
    --steps.

    Without --lr, a new model is trained at 1e-4 times 1152 over its width (L 1.1e-4, B 1.5e-4, S 3e-4, tiny 6e-4,
    nano 9e-4). Older runs without --lr took 1e-4 at any width; they go on with --lr 1e-4.

    --optimizer muon reaches the same loss in fewer steps, each of which takes a little longer. It takes the --lr of
    AdamW, and works best at twice that. In equal time it made better models in trials with small models on CIFAR-10.

    \b
    Examples:
      dprune train-dit latents --arch XL/2 -o run
      dprune train-dit latents --subset keep.npy --arch B/2 --epochs 200 -o kept
      dprune train-dit latents --arch tiny/1 --batch-size 64 --steps 2000 -o tiny
      dprune train-dit pixels --arch S/4 --vae pixels --evaluate-every 5000 -o run
      dprune train-dit latents --weights balanced.npy --arch B/2 -o balanced
      dprune train-dit latents --sigma-min blurred.npy --arch B/2 -o all
      dprune train-dit latents --curriculum el2n.npy --arch B/2 -o easy-first
      dprune train-dit latents --init run/model.safetensors --lr 1e-5 -o tuned
      dprune train-dit latents --arch tiny/1 --evaluate-every 500 --vae vae/model.safetensors -o run
      dprune train-dit latents --arch XL/2 --optimizer muon --lr 2e-4 --steps 60000 -o cheaper
      torchrun --nproc-per-node 8 -m dprune train-dit latents --stop-after 3h50m -o run
    """
    from dprune.training.dit.job import open_train_dit

    delivery.deliver(open_train_dit(store, model, training, delivery.output))
