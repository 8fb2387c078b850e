"""The folder of a run.

- manifest.json: provenance; written first
- log.jsonl: one JSON object a line
- state.safetensors: all that is needed to go on
- checkpoints/step-N.safetensors: raw and averaged weights of some steps
- pictures/step-N.png: what the model makes
- model.safetensors: averaged weights; there only when training is complete
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprune.errors import InputError
from dprune.formats.checked_json import Object, Real, parse_json, shaped
from dprune.formats.manifests import MANIFEST, read_manifest
from dprune.formats.provenance import Record, difference, finite, record_digest
from dprune.formats.publish import publish_bytes, publish_json
from dprune.formats.whole_files import read_file
from dprune.models.files import MODEL, ModelFile

KIND = "run"
STATE = "state.safetensors"
LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"
PICTURES = "pictures"
_LINE = Object({"step": Real(0)}, {"img_per_s": Real(0)})
_TAIL = 1 << 16
"""Bytes of the end of a log: hundreds of lines."""
_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class Run:
    """A run's folder, whatever of it is there."""

    folder: Path

    @property
    def model(self) -> Path:
        """Where the finished model is."""
        return self.folder / MODEL

    @property
    def state(self) -> Path:
        """Where the state to resume from is."""
        return self.folder / STATE

    @property
    def pictures(self) -> Path:
        """Where pictures of some steps are."""
        return self.folder / PICTURES

    def checkpoint(self, step: int) -> Path:
        """Where the weights of a step are kept."""
        return self.folder / CHECKPOINTS / f"step-{step:08d}.safetensors"

    def complete(self, record: Record) -> bool:
        """Tell whether the model is there and was trained as `record` says."""
        try:
            found = ModelFile.open(self.model).record if self.model.is_file() else None
        except InputError:
            # A damaged one is made again, from the state if that is whole.
            return False
        return found is not None and not difference(found, record)

    def begin(self, record: Record) -> None:
        """Write the manifest; the model of a run that is extended stays under another name, others are removed."""
        found = read_manifest(self.folder).get("provenance") or {}
        if found and extends(found, record):
            if self.model.is_file():
                self.model.replace(self.folder / f"model-step-{found['options']['steps']:08d}.safetensors")
        elif difference(found, record):
            self._clear()
        publish_json(self.folder / MANIFEST, {"kind": KIND, "provenance": record})

    def _clear(self) -> None:
        """Remove what an overwritten run left, and nothing else."""
        ours = [MODEL, STATE, LOG, "model-step-*.safetensors", f"{CHECKPOINTS}/step-*.safetensors",
                f"{PICTURES}/step-*.png"]  # fmt: skip
        for pattern in ours:
            for path in self.folder.glob(pattern):
                path.unlink()

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line to the log."""
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(dict(line))) + "\n")

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the last lines of the log that are whole; the one that is just being written is not."""
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
                cut, data = file.tell() > 0, file.read()
        except OSError:
            return []
        found = []
        for line in data.splitlines()[1 if cut else 0 :]:
            with contextlib.suppress(InputError):
                found.append(dict(shaped(LOG, parse_json(LOG, line), _LINE)))
        return found

    def rewind_log(self, step: int) -> None:
        """Drop the lines of steps that will be done again."""
        path = self.folder / LOG
        if not path.exists():
            return
        lines = read_file(path).splitlines()
        steps = [_step(line) for line in lines]
        # The end of the last line may be cut off, by a full disk or a kill.
        if None in steps[:-1]:
            _log.warning("%s: lines of it are damaged, and are left out.", path)
        kept = [line + b"\n" for line, at in zip(lines, steps, strict=True) if at is not None and at <= step]
        publish_bytes(path, b"".join(kept))


def _step(line: bytes) -> float | None:
    """Return the step that a line of the log speaks of, None for one that is damaged."""
    try:
        return float(shaped("", parse_json("", line), _LINE)["step"])
    except InputError:
        return None


def extends(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether `wanted` goes on from where the run of `found` ends."""
    before, after = found.get("options", {}).get("steps"), wanted["options"]["steps"]
    if not isinstance(before, int) or before >= after or wanted["options"]["schedule"] != "constant":
        return False
    # Half of its steps are the curriculum's.
    if "curriculum" in wanted.get("parents", {}):
        return False
    longer = {**found, "options": {**found["options"], "steps": after}}
    return record_digest(longer) == record_digest(wanted)
