"""The diffusion transformer, with the parameters of facebookresearch/DiT and willisma/SiT under their names.

Shapes in suffixes: B batch, T tokens, D width, C channels of the latents, H and W their height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dprune.models import diffusion
from dprune.models.parametrization import NOISE, REVERSED, VELOCITY

FREQUENCIES = 256


@dataclass(frozen=True)
class DiTConfig:
    """What determines the parameters of a DiT.

    Attributes:
        input_size: side of the latents.
        channels: of the latents.
        patch: side of the square of latents that becomes a token.
        width: of a token.
        depth: blocks.
        heads: of the attention.
        classes: labels, 0 for an unconditional model; the table has one more row, for no label.
        learn_sigma: whether the output has a second half, as DiT's published weights have, which is dropped.
        parametrization: what the weights predict, see `PREDICTIONS`; the network gives velocities all the same.
    """

    input_size: int
    channels: int
    patch: int
    width: int
    depth: int
    heads: int
    classes: int
    learn_sigma: bool = False
    parametrization: str = VELOCITY

    def as_json(self) -> dict[str, Any]:
        """Return the attributes as a table that JSON can hold; velocities, which nearly all predict, are not named."""
        values = asdict(self)
        return {name: value for name, value in values.items() if (name, value) != ("parametrization", VELOCITY)}

    @property
    def tokens(self) -> int:
        """Tokens of one sample."""
        return (self.input_size // self.patch) ** 2

    def flop(self) -> int:
        """Floating-point operations of one sample's forward pass: two for each multiplication in a matrix product."""
        per_token = 12 * self.width**2 * self.depth + self.channels * self.patch**2 * self.width * (
            2 + self.learn_sigma
        )
        attention = 2 * self.tokens * self.width * self.depth
        conditioning = self.width**2 * (6 * self.depth + 3) + FREQUENCIES * self.width
        return 2 * (self.tokens * (per_token + attention) + conditioning)


def modulate(x_BTD: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """Shift and scale every token of a sample alike."""
    return x_BTD * (1 + scale_BD[:, None]) + shift_BD[:, None]


class TimestepEmbedder(nn.Module):
    """Turns times in [0, 1], or timesteps of a diffusion, into vectors, by sines and cosines and a small network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_B: Tensor) -> Tensor:
        """Embed times [B] as [B, D]; the waves are float32 whatever the weights are, as SiT's are."""
        half = FREQUENCIES // 2
        powers = torch.arange(half, device=t_B.device, dtype=torch.float32) * (-math.log(10_000) / half)
        # Exponentials in float32 differ from one processor to the next; these are rounded alike on all.
        rates = powers.double().exp().float()
        angles = t_B.float()[:, None] * rates
        waves = torch.cat((angles.cos(), angles.sin()), dim=1)
        embedded: Tensor = self.mlp(waves.to(self.mlp.get_parameter("0.weight").dtype))
        return embedded


class LabelEmbedder(nn.Module):
    """A table of one vector a class and one more for no label."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        # Drawing the numbers that an Embedding begins with, on the meta device, imports torch's compiler for 1.6 s.
        self.embedding_table = nn.Embedding.from_pretrained(torch.zeros(classes + 1, width), freeze=False)

    def forward(self, y_B: Tensor) -> Tensor:
        """Look labels [B] up as [B, D]."""
        vectors: Tensor = self.embedding_table(y_B)
        return vectors


class PatchEmbed(nn.Module):
    """Turns squares of latents into tokens."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Embed latents [B, C, H, W] as [B, T, D]."""
        tokens: Tensor = self.proj(x_BCHW)
        return tokens.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention over all tokens of a sample."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        q, k, v = self.qkv(x_BTD).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class Mlp(nn.Module):
    """Two layers with a GELU (tanh approximation) between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x_BTD), approximate="tanh"))
        return out


class Block(nn.Module):
    """A transformer block whose norms are shifted, scaled and gated by the condition (adaLN-Zero)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x_BTD: Tensor, c_BD: Tensor) -> Tensor:
        """Map tokens [B, T, D], given the condition [B, D], to [B, T, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c_BD).chunk(6, dim=1)
        x_BTD = x_BTD + gate1[:, None] * self.attn(modulate(self.norm1(x_BTD), shift1, scale1))
        out: Tensor = x_BTD + gate2[:, None] * self.mlp(modulate(self.norm2(x_BTD), shift2, scale2))
        return out


class FinalLayer(nn.Module):
    """Turns tokens into patches of latents."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_BTD: Tensor, c_BD: Tensor) -> Tensor:
        """Map tokens [B, T, D], given the condition [B, D], to [B, T, patch * patch * C]."""
        shift, scale = self.adaLN_modulation(c_BD).chunk(2, dim=1)
        patches: Tensor = self.linear(modulate(self.norm_final(x_BTD), shift, scale))
        return patches


class DiT(nn.Module):
    """Predicts the velocity of flow matching from noisy latents, a time and a label.

    "Scalable diffusion models with transformers" (Peebles and Xie, 2023), trained as in SiT (Ma et al., 2024).
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbed(config.channels, config.patch, config.width)
        self.t_embedder = TimestepEmbedder(config.width)
        self.y_embedder = LabelEmbedder(config.classes, config.width)
        self.pos_embed = nn.Parameter(positions(config.width, config.input_size // config.patch), requires_grad=False)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        outputs = config.patch**2 * config.channels * (2 if config.learn_sigma else 1)
        self.final_layer = FinalLayer(config.width, outputs)
        # Another function takes this one's place where the blocks run by kernels: see `models.paths`.
        self.through: Through = through

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the weights as DiT does; what gates the blocks and the output is zero.

        Args:
            generator: on the device of the weights.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for weight in (self.y_embedder.embedding_table.weight, self.t_embedder.mlp[0].weight,
                       self.t_embedder.mlp[2].weight):  # fmt: skip
            assert isinstance(weight, torch.Tensor)
            nn.init.normal_(weight, std=0.02, generator=generator)
        modulations = [module.adaLN_modulation[1] for module in (*self.blocks, self.final_layer)]
        for layer in (*modulations, self.final_layer.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def matrices(self) -> list[nn.Parameter]:
        """Return the weights of the blocks that act on tokens."""
        names = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
        return [block.get_parameter(name) for block in self.blocks for name in names]

    def forget_labels(self) -> None:
        """Become unconditional: of the table of labels only the row for none stays."""
        none = self.y_embedder.embedding_table.weight[-1:]
        self.config = replace(self.config, classes=0)
        self.y_embedder = LabelEmbedder(0, self.config.width).to(none.device)
        self.y_embedder.embedding_table.weight.data.copy_(none)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, y_B: Tensor) -> Tensor:
        """Predict the velocity.

        Args:
            x_BCHW: noisy latents [B, C, H, W].
            t_B: times [B], 0 noise and 1 data.
            y_B: labels, int64 [B]; `config.classes` is no label.

        Returns:
            [B, C, H, W].
        """
        if self.config.parametrization == NOISE:
            return diffusion.velocity(lambda x, timestep: self.predicted(x, timestep, y_B), x_BCHW, t_B)
        if self.config.parametrization == REVERSED:
            return -self.predicted(x_BCHW, 1 - t_B, y_B)
        return self.predicted(x_BCHW, t_B, y_B)

    def predicted(self, x_BCHW: Tensor, t_B: Tensor, y_B: Tensor) -> Tensor:
        """Return what the weights predict, [B, C, H, W], at times or timesteps [B] as they were trained on."""
        x_BTD = self.x_embedder(x_BCHW) + self.pos_embed
        c_BD = self.t_embedder(t_B) + self.y_embedder(y_B)
        blocks: list[Any] = list(self.blocks)
        x_BTD = self.through(blocks, x_BTD, c_BD)
        return self._unpatchify(self.final_layer(x_BTD, c_BD))[:, : self.config.channels]

    def _unpatchify(self, x_BTP: Tensor) -> Tensor:
        side, patch = self.config.input_size // self.config.patch, self.config.patch
        grid: Tensor = x_BTP.unflatten(2, (patch, patch, -1)).unflatten(1, (side, side))
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def compile_blocks(self) -> None:
        """Compile each block alone: they share one compilation, which takes seconds where the whole takes minutes."""
        for block in self.blocks:
            block.compile(dynamic=False)


def unfilled(config: DiTConfig, device: torch.device | None = None) -> DiT:
    """Make a DiT, by default on the CPU, whose weights are zeros, to be filled: `torch.nn` draws them for seconds."""
    with torch.device("meta"):
        model = DiT(config)
    memory = {name: torch.zeros(value.shape, device=device) for name, value in model.state_dict().items()}
    memory["pos_embed"] = positions(config.width, config.input_size // config.patch).to(device)
    model.load_state_dict(memory, assign=True)
    return model


Through = Callable[[Sequence[Block], Tensor, Tensor], Tensor]


def through(blocks: Sequence[Block], x_BTD: Tensor, c_BD: Tensor) -> Tensor:
    """Map tokens [B, T, D], given the condition [B, D], to [B, T, D] by one block after the other."""
    for block in blocks:
        x_BTD = block(x_BTD, c_BD)
    return x_BTD


def positions(width: int, side: int) -> Tensor:
    """Return the fixed sine and cosine table of a square grid, float32 [1, side * side, width]; rows first.

    The first half of a vector tells the column and the second the row, as in MAE's and DiT's code.
    """
    # On the CPU, so that a network that is made elsewhere gets the same numbers; and on the meta device, which has
    # none, arithmetic imports torch's compiler.
    rates = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    angles = torch.arange(side, dtype=torch.float64, device="cpu")[:, None] * rates
    line = torch.cat((angles.sin(), angles.cos()), dim=1)
    columns, rows = line.expand(side, -1, -1), line[:, None].expand(-1, side, -1)
    return torch.cat((columns, rows), dim=2).flatten(0, 1)[None].float().to(torch.get_default_device())
