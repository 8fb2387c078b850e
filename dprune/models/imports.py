"""Importing torchvision and the libraries that stand on it without torch's compiler.

They name it when they are imported, though no network here is compiled by them, and to import it takes longer than all
that they are made of: of five seconds for torchvision, more than four.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"


class _StandIn(ModuleType):
    """A module whose every name is a function that imports the real one when it is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def called(*args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(self.__name__), name)(*args, **kwargs)

        return called


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Keep torch's compiler out of what is imported in the block; it can be imported as ever after it."""
    if COMPILER in sys.modules:
        yield
        return
    names, disable = (COMPILER, f"{COMPILER}.utils"), torch.compiler.disable
    sys.modules.update({name: _StandIn(name) for name in names})
    torch.compiler.disable = _left_alone  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for name in names:
            del sys.modules[name]


def _left_alone(function: Any = None, *_: Any, **__: Any) -> Any:
    """Decorate as `torch.compiler.disable` does what nothing compiles."""
    return function or _left_alone
