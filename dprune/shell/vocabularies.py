"""Words that values of options may be, for shells to complete; some stand in files that were named before.

Nothing here is imported before a shell asks, and each list no sooner than it is asked for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Params = Mapping[str, Any]
"""Values of the parameters that were given before, by their names."""


def _models(params: Params) -> Iterable[str]:
    from dprune.embedding.settings import SHORT_NAMES

    return (*SHORT_NAMES, "inception", "pixels", "timm:", "open_clip:")


def _architectures(params: Params) -> Iterable[str]:
    from dprune.models.architectures import ARCHITECTURES, PATCHES

    return (f"{name}/{patch}" for name in ARCHITECTURES for patch in PATCHES)


def _metrics(params: Params) -> Iterable[str]:
    from dprune.metrics.catalogue import METRICS

    return METRICS


def _classes(params: Params) -> Iterable[str]:
    """Ways of choosing classes, and the names of those that the model knows."""
    from dprune.models.files import ModelFile

    yield from ("balanced", "random", "proportional")
    if "model" in params:
        file = ModelFile.open(params["model"])
        yield from map(file.class_names.name, range(file.network.get("classes", 0)))


def _groups(params: Params) -> Iterable[str]:
    """Names of the classes of --groups where there are some, else the numbers of --clusters."""
    from dprune.formats.class_names import classes_of_folder
    from dprune.formats.tensor_files import TensorFile

    groups, clusters = params.get("groups"), params.get("clusters")
    if groups and os.path.isdir(groups):
        return classes_of_folder(groups)
    if not clusters:
        return ()
    return map(str, range(TensorFile.open(clusters).places["centroids"].shape[0]))


VOCABULARIES: Mapping[tuple[str, str], Callable[[Params], Iterable[str]]] = {
    ("--model", "MODEL"): _models,
    ("--arch", "NAME/PATCH"): _architectures,
    ("--metrics", "LIST"): _metrics,
    ("--classes", "CLASSES"): _classes,
    ("--only", "GROUPS"): _groups,
}
"""By an option and its placeholder."""
_LISTS = {"--metrics", "--classes", "--only"}
"""Options that take several words with commas between them."""


def offered(option: str, placeholder: str, params: Params, incomplete: str) -> list[str]:
    """Return what a value that is begun may become, none where nothing is known of it.

    Args:
        option: such as `--only`.
        placeholder: of its value.
        params: what was given before.
        incomplete: beginning of the value, in a list with the words before it.
    """
    if (vocabulary := VOCABULARIES.get((option, placeholder))) is None:
        return []
    before, comma, last = incomplete.rpartition(",") if option in _LISTS else ("", "", incomplete)
    words, said = list[str](), before.split(",")
    # Whatever is wrong with a file, a shell that completes is not who is told.
    with contextlib.suppress(Exception):
        words.extend(vocabulary(params))
    # Shells would take a word apart at spaces.
    fitting = (word for word in words if word.startswith(last) and word not in said and not {" ", ","} & set(word))
    return [f"{before}{comma}{word}" for word in fitting]
