"""What `dprune sample` is asked for, resolved without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dprune.errors import UsageError
from dprune.precision import resolved
from dprune.sampling.seeds import BALANCED, Classes, Seeds

DEFAULT_STEPS = 60
MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class GuidanceOptions:
    """Classifier-free guidance as the options speak of it.

    Attributes:
        scale: 1 for none.
        interval: noise levels between which it acts, None for all.
        channels: how many of the first channels are guided, None for all.
    """

    scale: float = 1.0
    interval: tuple[float, float] | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        """Refuse details of a guidance that there is not."""
        for name, value in (("--cfg-interval", self.interval), ("--cfg-channels", self.channels)):
            if value is not None and self.scale == 1:
                raise UsageError(f"{name} says how to guide, and --cfg 1 does not guide: give a --cfg above 1.")

    def options(self) -> dict[str, Any]:
        """Return it as provenance holds it."""
        every = {
            "cfg": self.scale,
            "cfg_interval": self.interval and list(self.interval),
            "cfg_channels": self.channels,
        }
        return {name: value for name, value in every.items() if value is not None}


def parse_interval(text: str) -> tuple[float, float]:
    """Read two noise levels such as `0.2,0.8`.

    Raises:
        UsageError: they are not two numbers from 0 to 1, the lower first.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise UsageError(f"--cfg-interval {text}: give two noise levels from 0 (clean) to 1 (noise) such as 0.2,0.8.")
    return low, high


@dataclass(frozen=True)
class Settings:
    """Everything that changes the images, the networks aside.

    Attributes:
        seeds: one for each image.
        classes: which class each image gets; None leaves it to the model: balanced, or none.
        solver: see `dprune.flow.solve`.
        steps: of the solver, None for dopri5.
        guidance: towards the classes.
        quantize: whether latents of a vq autoencoder become codes.
        precision: dtype of the transformer's arithmetic.
        batch_size: images in one pass.
        shard_size: most images in a shard.
    """

    seeds: Seeds
    classes: Classes | None = None
    solver: str = "euler"
    steps: int | None = DEFAULT_STEPS
    guidance: GuidanceOptions = GuidanceOptions()
    quantize: bool = True
    precision: str = "float32"
    batch_size: int = 64
    shard_size: int = 1000

    @property
    def shards(self) -> int:
        """How many shards there are to be."""
        return -(-len(self.seeds) // self.shard_size)

    def options(self, *, conditional: bool, quantized: bool) -> dict[str, Any]:
        """Return what changes the images, as provenance holds it.

        Args:
            conditional: whether the transformer knows classes.
            quantized: whether the autoencoder has codes.
        """
        found = {"seeds": str(self.seeds), "solver": self.solver, **self.guidance.options()}
        found |= {"precision": self.precision, "shard_size": self.shard_size}
        found |= {"classes": str(self.classes or BALANCED)} if conditional else {}
        found |= {"quantize": self.quantize} if quantized else {}
        # The step sizes of dopri5 depend on all images of a batch.
        return found | ({"batch_size": self.batch_size} if self.steps is None else {"steps": self.steps})


def resolve(
    seeds: str,
    *,
    classes: str | None = None,
    solver: str = "euler",
    steps: int | None = None,
    cfg: float = 1.0,
    cfg_interval: str | None = None,
    cfg_channels: int | None = None,
    quantize: bool = True,
    precision: str = "auto",
    device: str = "auto",
    batch_size: int = 64,
    shard_size: int = 1000,
) -> Settings:
    """Check the options against each other and fill in what was left out.

    Raises:
        UsageError: an option cannot be read, or goes with no other.
    """
    if solver == "dopri5" and steps is not None:
        raise UsageError(f"--steps {steps}: dopri5 chooses its steps itself: leave it out.")
    interval = parse_interval(cfg_interval) if cfg_interval is not None else None
    settings = Settings(
        Seeds.parse(seeds),
        Classes.parse(classes) if classes is not None else None,
        solver,
        None if solver == "dopri5" else steps or DEFAULT_STEPS,
        GuidanceOptions(cfg, interval, cfg_channels),
        quantize,
        resolved(precision, device),
        batch_size,
        shard_size,
    )
    if settings.shards > MOST_SHARDS:
        raise UsageError(f"--shard-size {shard_size}: makes more than {MOST_SHARDS:,} shards: give a larger one.")
    return settings
