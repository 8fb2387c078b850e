"""`dprune encode`: latents of the images in shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import options
from dprune.delivery import Delivery
from dprune.shell.help_pages import GroupedCommand

if TYPE_CHECKING:
    from dprune.encoding.settings import EncodeSettings
    from dprune.formats.members import MemberChoice


@click.command(cls=GroupedCommand)
@options.shards
@options.gathers(
    "encoding", "dprune.encoding.settings:EncodeSettings",
    options.option("--vae", group="Model", common=True, required=True, metavar="FILE",
                   help="Autoencoder: the model.safetensors of train-vae or of another program; or pixels."),
    options.count("--image-size", "Side of the images in pixels.  [default: as trained, 256, or of pixels the first's]",
                  group="Images", common=True, most=1 << 14),
    options.option("--flips", group="Images", common=True, is_flag=True,
                   help="Store the latents of the mirrored images, too."),
    options.count("--verify", "Number of samples to encode again and decode as a check of the finished store.",
                  group="Output", common=True, default=0, least=0),
    options.strict,
    options.choice("--precision", ["auto", "fp32", "tf32", "fp16", "bf16"],
                   "Precision of the encoder. auto is fp16 on a GPU, else fp32, which uses no tf32.",
                   group="Running", default="auto"),
    options.device,
    options.batch_size,
    options.workers,
    options.count("--seed", "Seed that chooses the samples of --verify.", group="Running", default=0, least=0),
)  # fmt: skip
@options.members
@options.delivers("Latent store: a folder with one file per shard.", can_stop=True, shares_work=True, folder=True)
def command(*, delivery: Delivery, shards: tuple[str, ...], members: MemberChoice, encoding: EncodeSettings) -> None:
    """Turn the images of shards into a store of latents.

    Images are resized and cropped to the square that the autoencoder was trained on, or to --image-size. A rerun
    encodes only the shards that are missing.

    --vae pixels stores the images themselves, without loss, for diffusion models that work on pixels. Such a store is
    trained on, scored and sampled from as any other is. Patches of several pixels keep it quick, as in --arch S/4, and
    should hold fewer numbers than the model is wide: 3 for each pixel.

    For a vq autoencoder the store holds codes and the codebook, for a kl one means and log-variances. Processes with
    RANK and WORLD_SIZE set share the shards of one store, and so do the tasks of a SLURM array. An image that cannot be
    decoded gets a row of zeros and is marked as not valid.

    On a GPU the encoder computes in float16 unless --precision says otherwise. Where two codes are almost equally near,
    it may choose another one than float32 does: at 1.5% of the places with 16,384 codes, which changed the
    reconstruction of photos by less than 0.02 dB each. bf16 is as fast and changes 12.5%. A store has one precision.

    Autoencoders of other programs are read as they are: Stable Diffusion's, alone or inside a checkpoint, and folders
    of diffusers; VQGANs of taming-transformers and latent-diffusion; LlamaGen's. The names and shapes of the tensors
    tell what a file holds; dprune-files(7) has the details. These autoencoders take images of any size.

    \b
    Examples:
      dprune encode shards --vae vae/model.safetensors -o latents
      dprune encode shards --vae sd-vae-ft-mse.safetensors --image-size 256 -o latents
      dprune encode shards --vae vae/model.safetensors --flips -o latents
      dprune encode shards --vae pixels --image-size 32 --flips -o pixels
      dprune encode shards --vae vae/model.safetensors --verify 64 -o latents
      dprune encode 'shards/{000000..000099}.tar' --vae vae/model.safetensors -o latents
      torchrun --nproc-per-node 8 -m dprune encode shards --vae vae/model.safetensors --stop-after 3h50m -o latents
    """
    from dprune.encoding.job import open_encode

    delivery.deliver(open_encode(shards, encoding, delivery.output, members))
