"""What others call the tensors of an autoencoder whose layers are ours.

Encoder and decoder of latent diffusion are those of VQGAN, and diffusers and LlamaGen wrote both anew: what each file
holds is told by its names and by the shapes of its tensors, never by what it is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from dprune.models.vae_config import Layer, VAEConfig, decoder_layers, encoder_layers

Shapes = Mapping[str, tuple[int, ...]]


class Strange(ValueError):
    """What keeps tensors from being those of an autoencoder that is known."""


@dataclass(frozen=True)
class Naming:
    """How tensors are called; `{}` stands for a number.

    Attributes:
        title: what messages call a file of such names.
        down: a resolution of the encoder, from the full one on.
        up: the same of the decoder.
        lowest_first: whether the decoder's resolutions are counted in the order in which it runs them.
        block: a residual block of a resolution.
        attention: what looks at all places behind it.
        downsample: a resolution's last layer.
        upsample: the same of the decoder.
        middle: block, attention and block between the resolutions and the ends.
        norm: the last one.
        shortcut: of a block whose channels change.
        inside: an attention's norm, its three inputs, and its output.
        unit_codes: whether codes have unit length.
    """

    title: str
    down: str
    up: str
    lowest_first: bool
    block: str
    attention: str
    downsample: str
    upsample: str
    middle: tuple[str, str, str]
    norm: str
    shortcut: str
    inside: tuple[str, str, str, str, str]
    unit_codes: bool = False

    def place(self, side: str, layer: Layer, levels: int) -> str:
        """Return what a layer of `encoder` or `decoder` is called, given how many resolutions there are."""
        if layer.kind in ("first", "last"):
            return f"{side}.conv_in" if layer.kind == "first" else f"{side}.conv_out"
        if layer.kind == "norm":
            return f"{side}.{self.norm}"
        if layer.level is None:
            return f"{side}.{self.middle[1 if layer.kind == 'attention' else 2 * layer.number]}"
        names = {"block": self.block, "attention": self.attention, "down": self.downsample, "up": self.upsample}
        if side == "encoder":
            level = self.down.format(layer.level)
        else:
            level = self.up.format(levels - 1 - layer.level if self.lowest_first else layer.level)
        return f"{side}.{level}{names[layer.kind].format(layer.number)}"


TAMING = Naming(
    "VQGAN's and latent diffusion's", "down.{}", "up.{}", False, ".block.{}", ".attn.{}", ".downsample.conv",
    ".upsample.conv", ("mid.block_1", "mid.attn_1", "mid.block_2"), "norm_out", "nin_shortcut",
    ("norm", "q", "k", "v", "proj_out"),
)  # fmt: skip
LLAMAGEN = Naming(
    "LlamaGen's", "conv_blocks.{}", "conv_blocks.{}", True, ".res.{}", ".attn.{}", ".downsample.conv",
    ".upsample.conv", ("mid.0", "mid.1", "mid.2"), "norm_out", "nin_shortcut", ("norm", "q", "k", "v", "proj_out"),
    unit_codes=True,
)  # fmt: skip
DIFFUSERS = Naming(
    "diffusers'", "down_blocks.{}", "up_blocks.{}", True, ".resnets.{}", ".attentions.{}", ".downsamplers.0.conv",
    ".upsamplers.0.conv", ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"), "conv_norm_out",
    "conv_shortcut", ("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
)  # fmt: skip
DIFFUSERS_OLDER = replace(DIFFUSERS, inside=("group_norm", "query", "key", "value", "proj_attn"))
NAMINGS = (TAMING, LLAMAGEN, DIFFUSERS_OLDER, DIFFUSERS)

QUANT_CONV, POST_QUANT_CONV = "quant_conv.weight", "post_quant_conv.weight"
CODES, SCORED_CODES, SCORES = "quantize.embedding.weight", "quantize.embed.weight", "quantize.proj"
_BELONGING = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.")
# What training keeps beside a codebook; `used` says which of its codes another network knows.
_IDLE = {"quantize.codebook_used", "quantize.used", "quantize.embedding.cluster_size", "quantize.embedding.embed_avg"}


class Ingredients(NamedTuple):
    """What becomes a parameter of ours.

    Attributes:
        names: of tensors that come one below the other.
        shape: of each of them as ours has it; others may lack ones at its end, or have more.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]


def naming_of(shapes: Shapes) -> Naming:
    """Tell how tensors are called.

    Raises:
        Strange: in none of the ways that are known.
    """
    for naming in NAMINGS:
        first = f"encoder.{naming.down.format(0)}{naming.block.format(0)}.conv1.weight"
        middle = f"encoder.{naming.middle[1]}.{naming.inside[1]}.weight"
        if first in shapes and (naming is not DIFFUSERS_OLDER or middle in shapes):
            return naming
    raise Strange(f"its layers have other names, {_example(shapes)} for example")


def _example(shapes: Shapes) -> str:
    inside = [name for name in shapes if name.startswith("encoder.") and "conv_in" not in name]
    return min(inside, default="none below encoder.conv_in")


def config_of(shapes: Shapes, naming: Naming, image_size: int, groups: int) -> VAEConfig:
    """Tell an autoencoder's configuration by names and shapes.

    Args:
        shapes: of all tensors.
        naming: how they are called.
        image_size: that it is used for.
        groups: of its normalisations, which no shape tells.

    Raises:
        Strange: no autoencoder of ours has such tensors.
    """
    width = _shape(shapes, "encoder.conv_in.weight")[0]
    between, encoded = _shape(shapes, "decoder.conv_in.weight")[1], _shape(shapes, "encoder.conv_out.weight")[0]
    quant_conv, codes = QUANT_CONV in shapes, _codes(shapes)
    channels = _shape(shapes, POST_QUANT_CONV)[1] if quant_conv else between
    multipliers, blocks, attention = _resolutions(shapes, naming, width)
    if not codes and encoded != 2 * between:
        raise Strange(f"it has neither codes nor a mean and a log-variance for each of {between} channels")
    if groups < 1 or any(width * multiplier % groups for multiplier in {1, *multipliers}):
        raise Strange(f"{groups} groups do not divide the channels of every layer")
    return VAEConfig(
        kind="vq" if codes else "kl",
        image_size=image_size,
        width=width,
        multipliers=multipliers,
        blocks=blocks,
        latent_channels=channels,
        codes=codes,
        l2_codes=naming.unit_codes,
        attention=attention,
        middle_attention=f"encoder.{naming.middle[1]}.{naming.inside[1]}.weight" in shapes,
        groups=groups,
        encoded_channels=between if between != channels else 0,
        quant_conv=quant_conv,
        scored_codes=SCORED_CODES in shapes,
    )


def _codes(shapes: Shapes) -> int:
    """Return how many codes there are, 0 for Gaussian latents."""
    table = next((name for name in (CODES, SCORED_CODES) if name in shapes), None)
    if table is None and any(name.startswith("quantize.") for name in shapes):
        raise Strange("it quantises in another way")
    return 0 if table is None else _shape(shapes, table)[0]


def _resolutions(shapes: Shapes, naming: Naming, width: int) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Return the multipliers, the blocks at each resolution, and which have attention."""

    def place(kind: str, level: int, number: int) -> str:
        return naming.place("encoder", Layer(kind, 0, 0, level, number), 0)

    widths, blocks = list[int](), 0
    while f"{place('block', len(widths), 0)}.conv1.weight" in shapes:
        widths.append(_shape(shapes, f"{place('block', len(widths), 0)}.conv1.weight")[0])
    while f"{place('block', 0, blocks)}.conv1.weight" in shapes:
        blocks += 1
    if not width or any(channels % width for channels in widths):
        raise Strange(f"its channels {', '.join(map(str, widths))} are not multiples of {width}")
    attention = tuple(level for level in range(len(widths))
                      if f"{place('attention', level, 0)}.{naming.inside[1]}.weight" in shapes)  # fmt: skip
    return tuple(channels // width for channels in widths), blocks, attention


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if len(shapes.get(name, ())) < 2:
        raise Strange(f"it has no {name} of an autoencoder")
    return shapes[name]


def renaming(shapes: Shapes, naming: Naming, config: VAEConfig) -> dict[str, Ingredients]:
    """Return what each parameter of ours is made of, for an autoencoder whose every tensor has its place.

    Raises:
        Strange: one is missing, of another shape, or has no place.
    """
    recipe = dict(_recipe(naming, config))
    for parts in recipe.values():
        for name in parts.names:
            if name not in shapes:
                raise Strange(f"it has no {name}")
            if _bare(shapes[name]) != _bare(parts.shape):
                raise Strange(f"its {name} is {list(shapes[name])}, not {list(parts.shape)}")
    placed = {name for parts in recipe.values() for name in parts.names} | _IDLE
    beside = [name for name in shapes if name.startswith(_BELONGING) and name not in placed]
    if beside:
        raise Strange(f"it has {min(beside)} beside the layers that are known")
    return recipe


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _recipe(naming: Naming, config: VAEConfig) -> Iterator[tuple[str, Ingredients]]:
    sides = {"encoder": encoder_layers(config), "decoder": decoder_layers(config)}
    for side, layers in sides.items():
        for number, layer in enumerate(layers):
            place = naming.place(side, layer, len(config.multipliers))
            for ours, theirs, shape in _inside(naming, layer):
                yield from _with_bias(f"{side}.{number}{ours}", [place + name for name in theirs], shape)
    between, latent = config.between, config.latent_channels
    if config.quant_conv:
        many = (config.moments * latent, config.moments * between, 1, 1)
        yield from _with_bias("before_latent", [QUANT_CONV.removesuffix(".weight")], many)
        yield from _with_bias("after_latent", [POST_QUANT_CONV.removesuffix(".weight")], (between, latent, 1, 1))
    if config.codes:
        table = SCORED_CODES if config.scored_codes else CODES
        yield "quantizer.embedding", Ingredients((table,), (config.codes, latent))
    if config.scored_codes:
        yield from _with_bias("quantizer.scores", [SCORES], (config.codes, latent))


def _inside(naming: Naming, layer: Layer) -> Iterator[tuple[str, list[str], tuple[int, ...]]]:
    """Yield the parts of a layer: their names in ours, those of what they are made of, and the shape of a weight."""
    inputs, outputs = layer.inputs, layer.outputs
    if layer.kind == "block":
        yield ".norm1", [".norm1"], (inputs,)
        yield ".conv1", [".conv1"], (outputs, inputs, 3, 3)
        yield ".norm2", [".norm2"], (outputs,)
        yield ".conv2", [".conv2"], (outputs, outputs, 3, 3)
        if inputs != outputs:
            yield ".shortcut", [f".{naming.shortcut}"], (outputs, inputs, 1, 1)
    elif layer.kind == "attention":
        norm, query, key, value, out = (f".{name}" for name in naming.inside)
        yield ".norm", [norm], (inputs,)
        yield ".qkv", [query, key, value], (inputs, inputs, 1, 1)
        yield ".proj", [out], (inputs, inputs, 1, 1)
    elif layer.kind == "norm":
        yield "", [""], (inputs,)
    elif layer.kind != "activation":
        yield "", [""], (outputs, inputs, 3, 3)


def _with_bias(ours: str, theirs: list[str], shape: tuple[int, ...]) -> Iterator[tuple[str, Ingredients]]:
    yield f"{ours}.weight", Ingredients(tuple(f"{name}.weight" for name in theirs), shape)
    yield f"{ours}.bias", Ingredients(tuple(f"{name}.bias" for name in theirs), shape[:1])
