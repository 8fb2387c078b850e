"""`dprune encode`: latents of the images in shards."""

from __future__ import annotations

import click

from dprune import options
from dprune.delivery import Delivery


@click.command()
@options.apply(
    options.shards,
    click.option("--vae", required=True, metavar="FILE", help="Autoencoder, the model.safetensors of train-vae."),
    click.option("--flips", is_flag=True, help="Store the latents of the mirrored images too."),
    click.option("--verify", type=click.IntRange(min=0), metavar="N", default=0, show_default=True,
                 help="Samples to encode again and to decode once the store is made."),
    options.strict,
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True,
                 help="Arithmetic of the encoder; auto is fp32 without tf32."),
    options.device,
    options.batch_size,
    options.workers,
    click.option("--seed", type=click.IntRange(min=0), metavar="N", default=0, show_default=True,
                 help="Chooses the samples of --verify."),
    options.delivers("Latent store, a folder with one file a shard.", can_stop=True, shares_work=True, folder=True),
)  # fmt: skip
def command(
    *,
    delivery: Delivery,
    shards: tuple[str, ...],
    vae: str,
    flips: bool,
    verify: int,
    strict: bool,
    precision: str,
    device: str,
    batch_size: int,
    workers: int | None,
    seed: int,
) -> None:
    """Turn the images of shards into a store of latents.

    Images are brought to the size that the autoencoder was trained at: shorter side, middle square. Of a vq
    autoencoder the store holds codes and the codebook, of a kl one means and log-variances. A rerun encodes only
    the shards that are missing; processes with RANK and WORLD_SIZE set share the shards of one store. An image
    that cannot be decoded gets a row of zeros and is marked as not valid.

    \b
    Examples:
      dprune encode shards --vae vae/model.safetensors -o latents
      dprune encode 'shards/{000000..000099}.tar' --vae vae/model.safetensors --flips -o latents
      dprune encode shards --vae vae/model.safetensors --verify 64 -o latents
      torchrun --nproc-per-node 8 -m dprune encode shards --vae vae/model.safetensors --stop-after 3h50m -o latents
    """
    from dprune.encoding.job import EncodeJob, Verification
    from dprune.formats.shards import open_dataset
    from dprune.models.vae_files import open_vae
    from dprune.runtime import default_workers

    job = EncodeJob(
        open_dataset(shards), open_vae(vae), flips, precision, strict, Verification(verify, seed), device, batch_size,
        default_workers() if workers is None else workers, delivery.output,
    )  # fmt: skip
    delivery.deliver(job)
