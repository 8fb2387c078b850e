"""What `dprune encode` is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from dprune.precision import PRECISIONS


@dataclass(frozen=True)
class EncodeSettings:
    """How latents are made, in the words of `dprune encode`, which says what each means."""

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
