"""What `dprune encode` is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from dprune.precision import PRECISIONS
from dprune.runtime import is_gpu


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
        """The encoder's arithmetic, as records call it."""
        if self.precision != "auto":
            return PRECISIONS[self.precision]
        return PRECISIONS["fp16" if is_gpu(self.device) else "fp32"]
