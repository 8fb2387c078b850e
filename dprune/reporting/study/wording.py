"""How people say what records hold: methods, orders, options, and where in a chain they were given."""

from __future__ import annotations

from dprune.formats.provenance import DRAWING
from dprune.reporting.study.factors import ASIDE, COMMAND, COUNT, EPOCHS, GENERATED, OWN, SOURCE, Factor

_METHODS = {
    "cluster-distance": "cluster distance",
    "el2n": "EL2N",
    "grand": "GraNd",
    "moso": "MoSo",
    "monotonicity": "loss monotonicity",
}
# What a method's ends are called where they have names of their own.
_ENDS = {
    ("cluster-distance", "lowest"): "nearest",
    ("cluster-distance", "middle"): "midway",
    ("cluster-distance", "highest"): "furthest",
    ("k-center", "lowest"): "k-center",
    ("herding", "lowest"): "herding",
    ("duplicates", "lowest"): "duplicates removed",
}
_BY_VALUE = ("below", "above")
"""What an order begins with that is a bound of scores."""
_SCORES = {
    "cluster-distance": "distance to the centre of its cluster",
    "el2n": "EL2N, the error of the model",
    "grand": "GraNd, the norm of the gradient",
    "moso": "MoSo, the change of the risk without the sample",
    "monotonicity": "loss monotonicity, how often the loss rose",
    "k-center": "place in the farthest-first order of k-center",
    "herding": "place in the order of herding",
    "duplicates": "the largest similarity to an earlier sample",
    "influence": "influence on the target samples",
}
_KEPT = {"lowest": "the lowest", "middle": "the middle", "highest": "the highest", "interval": "every m-th"}

# What an option is, and how a value of it is said; a table where values have words of their own.
_OPTIONS: dict[tuple[str, str], tuple[str, str | dict[str, str]]] = {
    ("select", "quota"): ("quotas", "{} quotas"),
    ("select", "below"): ("the upper bound of scores (below)", "below {}"),
    ("select", "above"): ("the lower bound of scores (above)", "above {}"),
    ("select", "cap"): ("the cap of a group", "cap {}"),
    ("select", "counts"): ("the counts of groups", "counts {}"),
    ("select", "tail"): ("the tail", "long tail {}"),
    ("select", "only"): ("the groups", "only {}"),
    ("cluster", "k"): ("the number of clusters", "{} clusters"),
    ("cluster", "metric"): ("the metric of clusters", {"l2": "Euclidean clusters", "cosine": "cosine clusters"}),
    ("score", "sigma"): ("the noise level (sigma)", "\N{GREEK SMALL LETTER SIGMA}={}"),
    ("score", "draws"): ("draws", "{} draws"),
    ("score", "metric"): ("the metric of scores", {"l2": "Euclidean", "cosine": "by angle"}),
    ("score", "prefer"): ("which samples come first (prefer)", "{} first"),
    ("score", "checkpoints"): ("checkpoints", "{} checkpoints"),
    ("encode", "network kind"): (
        "what diffusion works on",
        {"pixels": "on pixels", "vq": "on codes", "kl": "on latents"},
    ),
    ("sample", "cfg"): ("guidance (cfg)", "guidance {}"),
    ("sample", "solver"): ("the solver", "{} solver"),
    ("sample", "steps"): ("sampling steps", "{} sampling steps"),
    ("sample", "until"): ("the share of the way that the coarse model draws (until)", "a coarse model until {}"),
    ("sample", "guide_scale"): ("the scale of autoguidance (guide_scale)", "autoguidance {}"),
    ("sample", "quantize"): ("whether images are quantized (quantize)", {"yes": "quantized", "no": "not quantized"}),
    ("train-dit", "arch"): ("the architecture (arch)", "{}"),
    ("train-dit", "steps"): ("training steps", "{} training steps"),
    ("train-dit", "epochs"): ("epochs", "equal epochs"),
    ("train-dit", "fold"): ("the part of the training set (fold)", "{}"),
    ("train-dit", "lr"): ("the learning rate", "learning rate {}"),
    ("train-dit", "batch_size"): ("the batch size", "batch size {}"),
    ("train-dit", "ema"): ("the EMA decay", "EMA {}"),
    ("embed", "model"): ("the model of the features", "{} features"),
    ("eval", "k"): ("neighbours (k)", "k={}"),
    ("memorization", "full"): ("what distances are to (full)", {"yes": "to the full training set"}),
}
_LIKE = {"train-baseline": "train-dit"}
"""Commands whose options are called as those of others."""
_COMMANDS = {
    "pack": "packing",
    "embed": "features",
    "cluster": "clustering",
    "select": "selection",
    "train-vae": "autoencoder",
    "encode": "encoding",
    "train-dit": "training",
    "train-baseline vae": "training",
    "train-baseline gan": "training",
    "sample": "sampling",
    "eval": "evaluation",
}
_ROLES = {
    "train": "training",
    "held_out": "held-out",
    "scores": "scoring",
    "clusters": "clustering",
    "vae": "autoencoder",
    "init": "initial",
    "coarse": "coarse model",
    "guide": "weaker model",
    "without": "left-out",
    "within": "candidate",
    "or": "added",
    "against": "baseline",
}
# Roles that every chain has, or that go without saying between others.
_PLAIN = ("generated", "shards", "subset", "model", "latents", "images")
# What it means that a selection had an input, where others had none.
_STEPS = {
    "clusters": "within clusters",
    "groups": "within groups",
    "without": "some left out",
    "within": "among some",
    "or": "some added",
}
# What it means that a training was told something of each sample.
_DRAWN = {"weights": "weighted", "sigma_min": "noise from a level of each sample", "curriculum": "curriculum"}
_BESIDE = ("coarse", "guide")
"""Roles of other networks that take part in drawing; options of `sample` tell that there are any."""
_OVERSAMPLED = "balanced oversampling"
"""What `select` makes weights for."""
_MODELS = {"train-dit": "DiT", "train-baseline vae": "VAE", "train-baseline gan": "GAN"}
"""What kind of model a training makes."""
_LONGEST, _DIGITS = 32, 12
_DIGEST = 8


def method_name(method: str) -> str:
    """Write the name of a method as its paper does."""
    name, *rest = method.split(" ", 1)
    return " ".join([_METHODS.get(name, name), *rest])


def choice_name(method: str, order: str) -> str:
    """Name a method and which of its scores were kept, `nearest` or `EL2N, highest`."""
    between = " " if order.startswith(_BY_VALUE) else ", "
    return _ENDS.get((method, order)) or between.join(filter(None, (method_name(method), order)))


def choice_text(method: str, order: str) -> str:
    """Say in full what was kept, `the lowest by distance to the centre of the own cluster (cluster-distance)`."""
    if method == "random":
        return "a random choice"
    if not order:
        return method_name(method)
    by = _SCORES.get(method, method_name(method))
    option = f" ({method})" if method in _SCORES else ""
    kept = f"those {order}" if order.startswith(_BY_VALUE) else _KEPT.get(order, order)
    return f"{kept} by {by}{option}"


def is_model(factor: Factor) -> bool:
    """Tell whether a factor says what kind of model made the samples."""
    made = factor.name == COMMAND and factor.path[:1] == (GENERATED,) and factor.path[-1] == "model"
    return made and not is_of_drawing(factor)


def is_of_drawing(factor: Factor) -> bool:
    """Tell whether a factor says how the training was to draw its samples, or how what told it that was made.

    How that of another network was, such as of a weaker model, it does not say.
    """
    return next((role in DRAWING for role in factor.path if role in ASIDE), False)


def role_name(role: str) -> str:
    """Name the side of a result, or what an input was for."""
    word, _, number = role.partition(" ")
    return " ".join(filter(None, (_ROLES.get(word, word), number)))


def place_of(factor: Factor) -> str:
    """Say where in a chain a factor was given, empty where that goes without saying."""
    words = [role_name(role) for role in factor.path if role.partition(" ")[0] not in _PLAIN]
    return " ".join(dict.fromkeys(words[-2:]))


def noun(factor: Factor, *, of_command: bool = False, of_place: bool = False, of_value: bool = False) -> str:
    """Name what a factor says.

    Args:
        factor: a recorded choice.
        of_command: whether other commands have an option of that name.
        of_place: whether another step of that command differs in it, too.
        of_value: whether it has several values, and is not only there or not.
    """
    place = place_of(factor)
    if factor.name == OWN:
        return f"{_aside(factor) or place or 'against'} {'of ' if place else ''}the training subset"
    if factor.name == COUNT:
        return f"the number of {_samples(factor)}"
    if factor.name in (SOURCE, COMMAND):
        return _step(factor)
    if factor.name.startswith("tag "):
        return factor.name.removeprefix("tag ")
    known = _option_words(factor)
    words = [place] if of_place or _is_beside(factor) else []
    if known is None and (of_command or len(factor.name) == 1):
        words.append(_command(factor.command))
    return " ".join(filter(None, [*words, known[0] if known else spoken(factor.name)]))


def phrase(
    factor: Factor, value: str, *, of_command: bool = False, of_place: bool = False, of_value: bool = False
) -> str:
    """Say the value of a factor, as in `equal quotas`; see `noun`."""
    if factor.name == COUNT:
        return _singular(f"{shortened(factor, value)} {_samples(factor)}")
    if factor.name == OWN:
        return noun(factor)
    if factor.name in (SOURCE, COMMAND):
        return _made(factor, value, of_value=of_value)
    shown, known = shortened(factor, value), _option_words(factor)
    if factor.name == EPOCHS and of_value:
        return f"{shown} epochs"
    if factor.name.startswith("tag "):
        return f"{noun(factor)}={shown}"
    if known is None:
        return _option(noun(factor, of_command=of_command, of_place=of_place), shown)
    said = known[1] if isinstance(known[1], str) else known[1].get(value, f"{known[0]} {{}}")
    said = _singular(said.format(shown.removesuffix(".0") if "." in shown else shown))
    if role := next((role for role in factor.path if role in _DRAWN), ""):
        return f"{_whose(factor)}{_DRAWN[role]} by {said}"
    return f"{place_of(factor)} {said}".strip() if of_place or _is_beside(factor) else said


def _option_words(factor: Factor) -> tuple[str, str | dict[str, str]] | None:
    command = factor.command.partition(" ")[0]
    return _OPTIONS.get((_LIKE.get(command, command), factor.name))


def shortened(factor: Factor, value: str) -> str:
    """Write a value as short as it can be told."""
    if factor.name == COUNT:
        return f"{int(value):,}" if value.isdecimal() else value
    if factor.name == SOURCE:
        return value[:_DIGEST]
    if factor.name == "fold":
        return _part(value)
    whole = factor.name == COMMAND or factor.name.startswith("tag ")
    return value if whole or len(value) <= _LONGEST else value[:_DIGITS] + "\N{HORIZONTAL ELLIPSIS}"


def _part(fold: str) -> str:
    """Say which part of several a fold is; they are counted from 0 as options, and from 1 among people."""
    number, _, parts = fold.partition("/")
    if not (number.isdecimal() and parts.isdecimal()):
        return fold
    return f"{'half' if parts == '2' else 'part'} {int(number) + 1} of {parts}"


def spoken(name: str) -> str:
    """Write the name of an option as people say it."""
    return {"lr": "learning rate"}.get(name, name.replace("_", " "))


def _singular(said: str) -> str:
    return said.removesuffix("s") if said.startswith("1 ") else said


def _option(name: str, shown: str) -> str:
    if shown in ("yes", "no", "none"):
        return name if shown == "yes" else f"no {name}"
    between = "=" if len(name) == 1 else " "
    return f"{name}{between}{shown}"


def _command(command: str) -> str:
    scored = command.removeprefix("score ")
    return method_name(scored) if scored != command else _COMMANDS.get(command, command)


def _samples(factor: Factor) -> str:
    return f"{place_of(factor)} samples".strip()


def _aside(factor: Factor) -> str:
    return next((role_name(role) for role in factor.path if role in ASIDE), "")


def _step(factor: Factor) -> str:
    """Name the step or file at the end of a path."""
    if is_model(factor):
        return "the kind of model"
    last = factor.path[-1] if factor.path else "measurement"
    if aside := _aside(factor):
        return f"the training set of the {aside}" if "subset" in factor.path else f"the {aside}"
    return role_name(last) if place_of(factor) in ("", role_name(last)) else f"{place_of(factor)} {role_name(last)}"


def _made(factor: Factor, value: str, *, of_value: bool) -> str:
    """Say that a step was made at all, or which file stands in its place."""
    role = factor.path[-1].partition(" ")[0] if factor.path else ""
    if is_model(factor):
        return _MODELS.get(value, value)
    if role in _DRAWN:
        return _whose(factor) + _drawn(role, factor, value)
    if role in _BESIDE and factor.name == COMMAND:
        return ""
    if "subset" in factor.path and (aside := _aside(factor)):
        return f"{aside} of the subset {shortened(factor, value)}" if of_value else f"{aside} of a subset"
    if len(factor.path) == 2 and factor.path[0] == "subset" and role in _STEPS and not of_value:
        return _STEPS[role]
    return f"{_step(factor)} {shortened(factor, value)}"


def _is_beside(factor: Factor) -> bool:
    """Tell whether a factor is of a network that takes part in drawing, which else would be taken for the model's."""
    return any(role in _BESIDE for role in factor.path)


def _whose(factor: Factor) -> str:
    """Name the network that was trained so, where it is not the model."""
    return "" if is_of_drawing(factor) else f"{_aside(factor)} "


def _drawn(role: str, factor: Factor, value: str) -> str:
    """Say by what a training was told how to draw its samples."""
    if (role, value) == ("weights", "select"):
        return _OVERSAMPLED
    return f"{_DRAWN[role]} by {_command(value) if factor.name == COMMAND else shortened(factor, value)}"
