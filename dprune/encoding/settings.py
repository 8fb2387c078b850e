"""What `dprune encode` is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from dprune.precision import PRECISIONS


@dataclass(frozen=True)
class EncodeSettings:
    """How latents are made.

    Attributes:
        vae: the autoencoder's file.
        flips: whether to store the mirrored images' latents too.
        verify: samples of the finished store to compare with their images.
        strict: whether an image that cannot be decoded ends the work.
        precision: of the encoder's arithmetic, `auto` or a key of `PRECISIONS`.
        device: name of the device.
        batch_size: images in one forward pass.
        workers: processes that decode, None for one a core.
        seed: chooses the samples to compare.
    """

    vae: str
    flips: bool = False
    verify: int = 0
    strict: bool = False
    precision: str = "auto"
    device: str = "auto"
    batch_size: int = 256
    workers: int | None = None
    seed: int = 0

    @property
    def dtype(self) -> str:
        """Dtype of the encoder's arithmetic."""
        # float32 on a GPU too: with a codebook of thousands, bfloat16 makes another code the nearest at about every
        # sixth place (a table of 4,096 codes of 4 channels drawn from the encoder's outputs), which one depends on
        # the batch, and latents are made once but trained on many times.
        return PRECISIONS["fp32" if self.precision == "auto" else self.precision]
