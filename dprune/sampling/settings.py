"""What `dprune sample` is asked for, resolved without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprune.errors import MismatchError, UsageError
from dprune.formats.class_names import NAMELESS, ClassNames
from dprune.formats.provenance import Record
from dprune.models.baselines import TITLES
from dprune.models.classes import IntArray, TrainedClasses
from dprune.models.files import ModelFile
from dprune.models.parametrization import VELOCITY, recorded
from dprune.precision import resolved
from dprune.runtime import is_gpu
from dprune.sampling.seeds import BALANCED, PROPORTIONAL, Classes, Seeds

DEFAULT_STEPS = 60
DEFAULT_UNTIL = 0.7
DEFAULT_GUIDE_SCALE = 2.0
DEFAULT_GRID_COUNT = 64
MOST_SHARDS = 1_000_000
RATES = ("sampling_img_per_s", "decoding_and_png_img_per_s")
"""What a run tells of its own speed: images a second of each kind of work."""


@dataclass(frozen=True)
class SampleOptions:
    """Which images are asked for, in the words of `dprune sample`, which says what each means."""

    vae: str | None
    seeds: str
    classes: str | None = None
    coarse: str | None = None
    guide: str | None = None
    parametrization: str | None = None
    solver: str | None = None
    steps: int | None = None
    until: float | None = None
    guide_scale: float | None = None
    cfg: float | None = None
    cfg_interval: str | None = None
    cfg_channels: int | None = None
    quantize: bool | None = None
    shard_size: int = 1000
    grid: str | None = None
    grid_count: int | None = None
    npz: str | None = None
    precision: str = "auto"
    compiles: bool | None = None
    batch_size: int = 64
    device: str = "auto"

    def resolve(self, names: ClassNames = NAMELESS, model: str = "the model") -> SampleSettings:
        """Hold the options to each other and fill in what was left out.

        Args:
            names: what the model calls its classes.
            model: what messages call it.

        Raises:
            InputError: the model has no class of such a name.
            UsageError: an option cannot be read, or goes with no other.
        """
        adaptive = self.solver == "dopri5"
        if adaptive and self.steps is not None:
            raise UsageError(f"--steps {self.steps}: dopri5 chooses its steps itself: leave it out.")
        self._check_companions()
        if self.grid_count is not None and not self.grid:
            raise UsageError("--grid-count says how many images --grid shows: give --grid, or leave this out.")
        on_gpu = is_gpu(self.device)
        if self.compiles and not on_gpu:
            raise UsageError("--compile: blocks are compiled for a GPU only: leave it out.")
        settings = SampleSettings(
            self,
            Seeds.parse(self.seeds),
            None if self.classes is None else Classes.parse(self.classes, names, model),
            None if adaptive else self.steps or DEFAULT_STEPS,
            None if self.cfg_interval is None else parse_interval(self.cfg_interval),
            resolved(self.precision, self.device),
            on_gpu if self.compiles is None else self.compiles,
        )
        if settings.shards > MOST_SHARDS:
            raise UsageError(
                f"--shard-size {self.shard_size}: makes more than {MOST_SHARDS:,} shards: give a larger one."
            )
        return settings

    def _check_companions(self) -> None:
        """Refuse what says how to do something that is not asked for."""
        if self.until is not None and not self.coarse:
            raise UsageError(f"--until {self.until:g} says how far --coarse draws: give --coarse, or leave this out.")
        if self.guide_scale is not None and not self.guide:
            raise UsageError(
                f"--guide-scale {self.guide_scale:g} says how strongly --guide guides: give --guide, or leave this out."
            )
        guides = self.cfg not in (None, 1) or (self.guide and self.guide_scale != 1)
        for name, value in (("--cfg-interval", self.cfg_interval), ("--cfg-channels", self.cfg_channels)):
            if value is not None and not guides:
                raise UsageError(
                    f"{name} says how to guide, and --cfg 1 does not guide: give a --cfg above 1, or --guide."
                )


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
class SampleSettings:
    """What the options come to.

    Attributes:
        given: the options themselves, for those that need no reading or filling in.
        seeds: one for each image.
        classes: which class each image gets; None leaves it to the model: balanced, or none.
        steps: of the solver, None for dopri5.
        interval: noise levels between which guidance acts, None for all.
        precision: dtype of the transformer's arithmetic.
        compiles: whether the transformer's blocks are compiled.
        parametrization: what the transformer predicts, see `parametrization_of`.
    """

    given: SampleOptions
    seeds: Seeds
    classes: Classes | None
    steps: int | None
    interval: tuple[float, float] | None
    precision: str
    compiles: bool
    parametrization: str = VELOCITY

    @property
    def solver(self) -> str:
        """Of the flow."""
        return self.given.solver or "euler"

    @property
    def cfg(self) -> float:
        """Scale of guidance, 1 for none."""
        return 1.0 if self.given.cfg is None else self.given.cfg

    @property
    def until(self) -> float:
        """Time until which the coarse model draws, where there is one."""
        return DEFAULT_UNTIL if self.given.until is None else self.given.until

    @property
    def guide_scale(self) -> float:
        """Scale of guidance by a weaker model, 1 for none."""
        if not self.given.guide:
            return 1.0
        return DEFAULT_GUIDE_SCALE if self.given.guide_scale is None else self.given.guide_scale

    @property
    def quantize(self) -> bool:
        """Whether latents are replaced by codes, where there are any."""
        return self.given.quantize is not False

    @property
    def shards(self) -> int:
        """How many shards there are to be."""
        return -(-len(self.seeds) // self.given.shard_size)

    def count_in(self, shard: int) -> int:
        """Return how many images a shard is to hold."""
        return min(self.given.shard_size, len(self.seeds) - shard * self.given.shard_size)

    def seeds_in(self, shard: int) -> IntArray:
        """Return the seeds of a shard's images, int64."""
        begin = shard * self.given.shard_size
        return self.seeds.between(begin, begin + self.given.shard_size)

    def options(self, *, conditional: bool, quantized: bool) -> dict[str, Any]:
        """Return what changes the images, the networks aside, as provenance holds it.

        Args:
            conditional: whether the transformer knows classes.
            quantized: whether the autoencoder has codes.
        """
        given = self.given
        guidance = {"cfg_interval": self.interval and list(self.interval), "cfg_channels": given.cfg_channels}
        found = {"seeds": str(self.seeds), "solver": self.solver, "cfg": self.cfg}
        found |= {"until": self.until} if given.coarse else {}
        found |= {"guide_scale": self.guide_scale} if given.guide else {}
        found |= {name: value for name, value in guidance.items() if value is not None}
        found |= {"precision": self.precision, "shard_size": given.shard_size}
        found |= self._classes(conditional=conditional)
        found |= {"quantize": self.quantize} if quantized else {}
        found |= recorded(self.parametrization)
        # The step sizes of dopri5 depend on all images of a batch.
        return found | ({"batch_size": given.batch_size} if self.steps is None else {"steps": self.steps})

    def options_of_one_pass(self, *, conditional: bool) -> dict[str, Any]:
        """Return the same of a model that makes images in one pass."""
        found = {"seeds": str(self.seeds), "precision": self.precision, "shard_size": self.given.shard_size}
        return found | self._classes(conditional=conditional)

    def _classes(self, *, conditional: bool) -> dict[str, Any]:
        return {"classes": str(self.classes or BALANCED)} if conditional else {}


def check_fit(settings: SampleSettings, network: Mapping[str, Any], latents: Record, model: Path) -> None:
    """Hold options and autoencoder to the transformer.

    Args:
        settings: what the options come to.
        network: configuration of the transformer.
        latents: what the autoencoder decodes, see `latent_network`.
        model: file of the transformer.

    Raises:
        MismatchError: the autoencoder has latents of another shape.
        UsageError: an option is not for such networks.
    """
    channels, size = (network[name] for name in ("channels", "input_size"))
    given = settings.given
    if (channels, size) != (latents["channels"], latents["size"]):
        raise MismatchError(
            f"{model} makes latents of {channels} x {size} x {size}, and --vae {given.vae} takes "
            f"{latents['channels']} x {latents['size']} x {latents['size']}: give the one that it was trained with."
        )
    if latents["kind"] != "vq" and not settings.quantize:
        raise UsageError(f"--no-quantize: {given.vae} has no codes: leave it out.")
    if given.cfg_channels is not None and given.cfg_channels > channels:
        raise UsageError(f"--cfg-channels {given.cfg_channels}: the latents have {channels} channels.")
    check_classes(settings, network, model)
    if not network["classes"] and settings.cfg != 1:
        raise UsageError(f"--cfg: {model} was trained without classes: leave it out.")


def refuse_diffusion(given: SampleOptions, file: ModelFile) -> None:
    """Refuse options that a model which makes images in one pass, without an autoencoder, has no use for.

    Raises:
        UsageError: one was given.
    """
    of_diffusion = {
        "--vae": given.vae, "--coarse": given.coarse, "--guide": given.guide, "--until": given.until,
        "--guide-scale": given.guide_scale, "--solver": given.solver, "--steps": given.steps, "--cfg": given.cfg,
        "--cfg-interval": given.cfg_interval, "--cfg-channels": given.cfg_channels,
        "--parametrization": given.parametrization, "--quantize": given.quantize or None,
        "--no-quantize": given.quantize is False or None, "--compile": given.compiles or None,
    }  # fmt: skip
    for option, said in of_diffusion.items():
        if said is not None:
            raise UsageError(
                f"{option} is for diffusion models, and {file.path} is {TITLES[file.network['model']]}, which makes "
                "images in one pass: leave it out."
            )


def check_classes(settings: SampleSettings, network: Mapping[str, Any], model: Path) -> None:
    """Hold --classes to those that a model knows.

    Raises:
        UsageError: it knows none, not these, or not how often it saw each.
    """
    asked, classes = settings.classes, network["classes"]
    if asked is None:
        return
    if not classes:
        raise UsageError(f"--classes: {model} was trained without classes: leave it out.")
    if max(asked.listed, default=0) >= classes:
        raise UsageError(f"--classes {asked}: {model} has classes 0 to {classes - 1}.")
    if asked.policy == PROPORTIONAL and TrainedClasses.of(network, classes).samples is None:
        raise UsageError(
            f"--classes {PROPORTIONAL}: {model} does not say how many samples of each class it was trained on: "
            "give balanced, or train it with this dprune."
        )
