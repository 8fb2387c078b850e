"""Each kind of file that dprune reads, damaged in 70 ways: the same result or one sentence, never anything else.

A damaged file may do no harm, be refused by one sentence with exit 3, or, where it is only a help, be made again.
It never gives another result, a traceback, a signal or an endless wait.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import Result, dprune, image_bytes, sample, write_tar
from damage import damaged, nonsense, odd_tensors

from dprune.console import TerminalMonitor
from dprune.formats.arrays import NPY_MAGIC, read_array, write_array
from dprune.formats.digests import with_check
from dprune.formats.tensors import read_tensors, write_tensors

pytestmark = pytest.mark.slow

LONGEST = 20
"""Seconds that a command may take on damaged input; whole, each takes a fraction of one."""

VAE = ("--preset", "tiny", "--image-size", 16, "--width", 8, "--codes", 16, "--batch-size", 6, "--workers", 0)
DIT = ("--arch", "nano/4", "--batch-size", 6, "--log-every", 1)
PIXELS = ("--model", "pixels", "--image-size", 4, "--workers", 0)
SAMPLE = ("--steps", 1, "--shard-size", 3, "--seeds", "0-8")
EL2N = ("--draws", 2, "--batch-size", 6)


@contextlib.contextmanager
def stopped_after(reports: int) -> Iterator[None]:
    """Have the command be asked to stop once it has reported so many times that something is done."""
    advance, left = TerminalMonitor.advance, reports

    def counted(monitor: TerminalMonitor, count: int = 1) -> None:
        nonlocal left
        advance(monitor, count)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TerminalMonitor, "advance", counted)
        yield


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of every kind, whole."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPRUNE_CACHE", str(folder / "cache"))
        _make_chain(folder)
    return folder


def _make_chain(at: Path) -> None:
    tar = write_tar(at / "raw.tar", [part for i in range(24) for part in sample(f"s{i:03d}", i, i % 3)])
    with zipfile.ZipFile(at / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(zipfile.ZipInfo(f"{'cat' if i % 2 else 'dog'}/{i}.png"), image_bytes(i))
    shards, features, clusters = at / "shards", at / "features", at / "clusters.safetensors"
    dprune("pack", tar, "--shard-size", 8, "-o", shards).ok()
    dprune("embed", shards, *PIXELS, "-o", features).ok()
    dprune("cluster", features, "-k", 3, "-o", clusters).ok()
    dprune("score", "cluster-distance", clusters, "-o", at / "scores.npy").ok()
    dprune("select", at / "scores.npy", "--keep", "0.5", "-o", at / "keep.npy").ok()
    dprune("train-vae", shards, *VAE, "--steps", 3, "-o", at / "vae").ok()
    dprune("encode", shards, "--vae", at / "vae" / "model.safetensors", "--workers", 0, "-o", at / "latents").ok()
    dprune("train-dit", at / "latents", *DIT, "--steps", 8, "--save-every", 4, "-o", at / "dit").ok()
    dprune("train-dit", at / "latents", *DIT, "--steps", 6, "--stop-after", "0s", "-o", at / "begun").fails(75)
    generate = ("sample", at / "dit" / "model.safetensors", "--vae", at / "vae" / "model.safetensors", *SAMPLE)
    dprune(*generate, "-o", at / "generated").ok()
    with stopped_after(1):
        dprune(*generate, "-o", at / "generating").fails(75)
    with stopped_after(18):
        dprune("pack", tar, "--shard-size", 8, "-o", at / "packing").fails(75)
    with stopped_after(2):
        dprune("score", "el2n", at / "latents", "--model", at / "dit" / "model.safetensors", *EL2N,
               "-o", at / "scoring.npy").fails(75)  # fmt: skip
    dprune("embed", at / "generated", *PIXELS, "-o", at / "of_generated").ok()
    dprune("eval", at / "of_generated", features, "--metrics", "fid,shares", "--save-stats", at / "stats.safetensors",
           "-o", at / "metrics.json").ok()  # fmt: skip
    dprune("memorization", at / "of_generated", features, "--neighbours", 3,
           "-o", at / "memorization.json").ok()  # fmt: skip
    dprune("eval", at / "generated", shards, *PIXELS, "--metrics", "fid", "-o", at / "by_shards.json").ok()


@dataclass(frozen=True)
class Reader:
    """A kind of file and a command that reads it.

    Attributes:
        file: pattern of the file in the chain's folder; the first that fits is damaged.
        args: of the command; {name} is an entry of the chain, damaged or not, and {out} a folder for output.
        result: what of the command's files is compared.
    """

    file: str
    args: tuple[object, ...]
    result: Callable[[str], bool] = lambda name: True

    def __str__(self) -> str:
        return self.file


def no_log(name: str) -> bool:
    return not name.endswith("log.jsonl")


SAMPLING = ("sample", "{dit}/model.safetensors", "--vae", "{vae}/model.safetensors", *SAMPLE)
READERS = (
    Reader("shards/000001.tar", ("embed", "{shards}", *PIXELS, "-o", "{out}/f")),
    Reader("shards/manifest.json", ("embed", "{shards}", *PIXELS, "-o", "{out}/f")),
    Reader("features/000001.safetensors", ("cluster", "{features}", "-k", 2, "-o", "{out}/c.safetensors")),
    Reader("features/manifest.json", ("cluster", "{features}", "-k", 2, "-o", "{out}/c.safetensors")),
    Reader("clusters.safetensors", ("score", "cluster-distance", "{clusters.safetensors}", "-o", "{out}/s.npy")),
    Reader("scores.npy", ("select", "{scores.npy}", "--keep", "0.25", "-o", "{out}/k.npy")),
    Reader("keep.npy", ("pack", "{shards}", "--subset", "{keep.npy}", "-o", "{out}/p")),
    Reader("vae/model.safetensors", ("encode", "{shards}", "--vae", "{vae}/model.safetensors", "--workers", 0,
                                     "-o", "{out}/l")),
    Reader("latents/000001.safetensors", ("score", "el2n", "{latents}", "--model", "{dit}/model.safetensors",
                                          *EL2N, "-o", "{out}/s.npy")),
    Reader("latents/codebook.safetensors", ("score", "el2n", "{latents}", "--model", "{dit}/model.safetensors",
                                            *EL2N, "-o", "{out}/s.npy")),
    Reader("latents/manifest.json", ("train-dit", "{latents}", *DIT, "--steps", 1, "-o", "{out}/d"), no_log),
    Reader("dit/model.safetensors", (*SAMPLING, "-o", "{out}/g")),
    Reader("dit/checkpoints/*.safetensors", ("score", "monotonicity", "{latents}", "{dit}", "--draws", 2,
                                             "-o", "{out}/s.npy")),
    Reader("begun/state*", ("train-dit", "{latents}", *DIT, "--steps", 6, "-o", "{begun}"), no_log),
    Reader("begun/log.jsonl", ("train-dit", "{latents}", *DIT, "--steps", 6, "-o", "{begun}"), no_log),
    Reader("generating/.dprune/000000.json", (*SAMPLING, "-o", "{generating}")),
    Reader("packing/.dprune/000001.json", ("pack", "{raw.tar}", "--shard-size", 8, "-o", "{packing}")),
    Reader("stats.safetensors", ("eval", "{of_generated}", "{stats.safetensors}", "--metrics", "fid",
                                 "-o", "{out}/m.json")),
    Reader("metrics.json", ("report", "{metrics.json}", "{memorization.json}", "-o", "{out}/r")),
    Reader("memorization.json", ("report", "{metrics.json}", "{memorization.json}", "-o", "{out}/r")),
    Reader(".scoring.npy.progress/000000.safetensors", ("score", "el2n", "{latents}", "--model",
                                                        "{dit}/model.safetensors", *EL2N, "-o", "{here}/scoring.npy")),
    Reader("photos.zip", ("pack", "{photos.zip}", "--strict", "--workers", 0, "-o", "{out}/p")),
    Reader("cache/*.index", ("embed", "{shards}", *PIXELS, "-o", "{out}/f")),
    Reader("cache/features/*/*.safetensors", ("eval", "{generated}", "{shards}", *PIXELS, "--metrics", "fid",
                                              "-o", "{out}/m.json")),
)  # fmt: skip


WHOLE_FILES = (".npy", ".safetensors")
NOT_FOR_INFO = ("photos.zip", "metrics.json", "memorization.json")


class TooLong(Exception):
    """A command does not come to an end."""


def _give_up(*_: object) -> None:
    raise TooLong


@dataclass(frozen=True)
class Trial:
    """A command on a chain of which one entry is a copy."""

    reader: Reader
    chain: Path
    scratch: Path
    entry: str
    inside: str

    @property
    def file(self) -> Path:
        """The one that is damaged."""
        return self.scratch / self.entry / self.inside if self.inside else self.scratch / self.entry

    def run(self, data: bytes) -> tuple[Result | None, dict[str, bytes]]:
        """Run the command with other bytes in the file; no result is one that took too long."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        out, copy = self.scratch / "out", self.scratch / self.entry
        out.mkdir(parents=True)
        whole = self.chain / self.entry
        if whole.is_dir():
            shutil.copytree(whole, copy, copy_function=_linked)
        self.file.unlink(missing_ok=True)
        self.file.write_bytes(data)
        places = {path.name: path for path in self.chain.iterdir()} | {
            self.entry: copy,
            "out": out,
            "here": self.scratch,
        }
        args = [_filled(arg, places) for arg in self.reader.args]
        apart = [self.scratch / "cache", *([] if args[-1] == str(copy) else [copy])]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DPRUNE_CACHE", str(copy if self.entry == "cache" else self.scratch / "cache"))
            before = signal.signal(signal.SIGALRM, _give_up)
            signal.setitimer(signal.ITIMER_REAL, LONGEST)
            try:
                result = dprune(*args)
            except TooLong:
                return None, {}
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
        made = [path for path in self.scratch.iterdir() if path not in apart]
        files = {str(file): file.read_bytes() for path in made for file in (path, *path.rglob("*")) if file.is_file()}
        return result, {name: content for name, content in files.items() if self.reader.result(name)}


def _linked(source: str, target: str) -> None:
    """Have two names for a file that is never changed in place, and copy any other."""
    (os.link if source.endswith(".safetensors") else shutil.copyfile)(source, target)


def _filled(arg: object, places: dict[str, Path]) -> str:
    text = str(arg)
    for name, path in places.items():
        text = text.replace("{" + name + "}", str(path))
    return text


def wrong(result: Result | None, found: dict[str, bytes], expected: dict[str, bytes] | None = None) -> str:
    """Say what is wrong with how a command met a damaged file, or return an empty string.

    Without an expected result, any will do.
    """
    if result is None:
        return "does not end"
    sentences = [line for line in result.err.splitlines() if "error: " in line]
    if result.code == 3:
        return "" if len(sentences) == 1 and "Traceback" not in result.err else f"no single sentence: {result.err}"
    if expected is None and result.code == 1 and "should not happen" not in result.err:
        # Numbers that are none at the first step, say.
        return ""
    if result.code != 0:
        return f"exit {result.code}: {result.err}"
    if expected is None:
        return ""
    unlike = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    return f"another result in silence: {', '.join(unlike)}" if unlike else ""


def trial_of(reader: Reader, chain: Path, scratch: Path) -> tuple[Trial, bytes]:
    file = min(chain.glob(reader.file))
    entry, _, inside = str(file.relative_to(chain)).partition("/")
    return Trial(reader, chain, scratch, entry, inside), file.read_bytes()


def none_wrong(found: dict[str, str]) -> None:
    bad = {name: words for name, words in found.items() if words}
    assert not bad, f"{len(bad)} of {len(found)}:\n" + "\n".join(f"{name}: {words}" for name, words in bad.items())


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_seventy_damages(reader: Reader, chain: Path, tmp_path: Path) -> None:
    trial, data = trial_of(reader, chain, tmp_path / "trial")
    result, expected = trial.run(data)
    assert result is not None
    result.ok()
    assert expected
    found = {}
    for name, changed in damaged(data, reader.file):
        result, made = trial.run(changed)
        found[name] = wrong(result, made, expected)
        if result and result.code == 3 and not reader.file.startswith(NOT_FOR_INFO):
            dprune("info", "--deep", trial.file if trial.file.suffix in WHOLE_FILES else trial.file.parent).fails(3)
    none_wrong(found)


OUTPUTS = (
    "features/000001.safetensors", "features/manifest.json", "latents/codebook.safetensors", "scores.npy",
    "dit/manifest.json", "dit/model.safetensors", "begun/manifest.json", "begun/state.safetensors", "begun/log.jsonl",
    "generating/.dprune/manifest.json", "generating/.dprune/000000.json", "generated/manifest.json",
    "packing/.dprune/manifest.json", "shards/000001.tar", "metrics.json", ".scoring.npy.progress/workload.json",
    ".scoring.npy.progress/000000.safetensors",
)  # fmt: skip
"""A file of each kind that `dprune status` looks at."""


@pytest.mark.parametrize("file", OUTPUTS)
def test_status_of_outputs_with_damaged_files(
    file: str, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells of anything: complete, not yet, or one sentence."""
    monkeypatch.setattr("dprune.watching.job.PAUSE_S", 0)
    path, data, found = chain / file, (chain / file).read_bytes(), {}
    first = file.partition("/")[0]
    output = "scoring.npy" if first.endswith(".progress") else first
    shutil.copytree(chain / first, tmp_path / first) if (chain / first).is_dir() else shutil.copy(path, tmp_path)
    nonsensical = () if file.endswith((".tar", ".jsonl")) else _rewritten(file, data, tmp_path / "other")
    for name, changed in itertools.chain([("nothing", data)], damaged(data, file), nonsensical):
        (tmp_path / file).write_bytes(changed)
        result = dprune("status", "--json", tmp_path / output)
        told = json.loads(result.out)
        fine = result.code == told["exit_code"] in (0, 75, 3) and "Traceback" not in result.err
        sentences = [line for line in result.err.splitlines() if "error: " in line]
        found[name] = "" if fine and len(sentences) == (result.code == 3) else f"exit {result.code}: {result.err}"
    none_wrong(found)


STRUCTURED = tuple(reader for reader in READERS if not reader.file.endswith((".tar", ".zip", ".jsonl")))


@pytest.mark.parametrize("reader", STRUCTURED, ids=str)
def test_seventy_kinds_of_nonsense_with_right_digests(reader: Reader, chain: Path, tmp_path: Path) -> None:
    """What somebody wrote on purpose, or another program: it need not be found out, but nothing may break."""
    trial, data = trial_of(reader, chain, tmp_path / "trial")
    none_wrong({name: wrong(*trial.run(changed)) for name, changed in _rewritten(reader.file, data, tmp_path / "file")})


def _rewritten(seed: str, data: bytes, at: Path) -> Iterator[tuple[str, bytes]]:
    """Yield a file as dprune would write it if it were told nonsense."""
    at.write_bytes(data)
    if data.startswith(b"{"):
        for words, content in nonsense(json.loads(data), seed):
            at.write_bytes(json.dumps(with_check(content) if isinstance(content, dict) else content).encode())
            yield words, at.read_bytes()
    elif data.startswith(NPY_MAGIC):
        array = read_array(at)
        for words, tensors, record in odd_tensors({"": array.values}, array.record, seed):
            write_array(at, tensors.get("", np.empty(0)), record)
            yield words, at.read_bytes()
    else:
        _, whole, metadata = read_tensors(at)
        for words, tensors, content in odd_tensors(whole, metadata, seed):
            write_tensors(at, tensors, content)
            yield words, at.read_bytes()
