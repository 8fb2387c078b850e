"""Several folders, zips and sets of shards in one pack: their order, keys, classes and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, dprune, image_bytes, members, sample, write_tar
from test_folders import labels, pack, tree, zipped

from dprune.packing.folders import FolderSource
from dprune.packing.samples import Sample


def joined(output: Path, *sources: object) -> dict[str, Any]:
    """What a pack of several sources says in JSON."""
    summary: dict[str, Any] = json.loads(dprune("pack", *sources, "-o", output, "--workers", 0, "--json").ok().out)
    return summary


def refused(*sources: object) -> Result:
    return dprune("pack", *sources, "-o", "refused", "--workers", 0)


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """A folder, a zip and a set of shards, whose classes overlap."""
    photos = tree(tmp_path / "photos", "cat/p0.png", "dog/p1.png", "notes.txt")
    more = zipped(tree(tmp_path / "more", "ape/z0.png", "dog/z1.jpg", "more.txt"))
    pack(tree(tmp_path / "third", "cat/s0.png", "emu/s1.png"), tmp_path / "shards")
    return [photos, more, tmp_path / "shards"]


def test_kinds_are_mixed_in_the_order_given_and_classes_are_merged(sources: list[Path], tmp_path: Path) -> None:
    summary = joined(tmp_path / "out", *sources)
    assert (summary["samples"], summary["classes"], summary["left_out"]) == (6, 4, {".txt": 2})
    assert labels(tmp_path / "out") == {"cat/p0": 1, "dog/p1": 2, "ape/z0": 0, "dog/z1": 2, "cat/s0": 1, "emu/s1": 3}
    assert list(labels(tmp_path / "out")) == ["cat/p0", "dog/p1", "ape/z0", "dog/z1", "cat/s0", "emu/s1"]
    assert (tmp_path / "out" / "classes.txt").read_text() == "ape\ncat\ndog\nemu\n"
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())["provenance"]
    assert list(record["parents"]) == ["images", "images 2", "shards 3"]
    assert "up to date" in dprune("pack", *sources, "-o", tmp_path / "out").ok().err
    dprune("pack", *reversed(sources), "-o", tmp_path / "out").fails(3, "made differently")
    joined(tmp_path / "turned", *reversed(sources))
    assert list(members(tmp_path / "turned")) == [
        name for key in ("cat/s0", "emu/s1", "ape/z0", "dog/z1", "cat/p0", "dog/p1")
        for name in members(tmp_path / "out") if name.startswith(f"{key}.")
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_bytes_do_not_depend_on_who_makes_them(sources: list[Path], tmp_path: Path, workers: int) -> None:
    for name, options in (("a", ["--workers", 0]), ("b", ["--workers", workers])):
        dprune("pack", *sources, "-o", tmp_path / name, "--shard-size", 4, *options).ok()
    for file in ("000000.tar", "000001.tar", "classes.txt", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_stopped_pack_goes_on_in_the_middle_of_a_source(sources: list[Path], tmp_path: Path) -> None:
    joined(tmp_path / "whole", *sources, "--shard-size", 1)
    out = tmp_path / "out"
    joined(out, *sources, "--shard-size", 1)
    (out / "000003.tar").unlink()
    assert "up to date" not in dprune("pack", *sources, "-o", out, "--shard-size", 1, "--workers", 0).ok().err
    assert members(out) == members(tmp_path / "whole")


def test_what_a_source_reads_many_at_a_time_is_read_once(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined(tmp_path / "whole", *sources)
    asked = list[tuple[int, int]]()

    def read(self: FolderSource, begin: int, end: int) -> Iterator[Sample]:
        asked.append((begin, end))
        yield from map(self.load, range(begin, end))

    monkeypatch.setattr(FolderSource, "read", read)
    for count in (0, 2):
        joined(
            tmp_path / str(count), *sources[:2], sources[0], "--keys", "unique", "--shard-size", 3, "--workers", count
        )
        assert asked == [(0, 2), (0, 2)]
        asked.clear()
    assert labels(tmp_path / "2") == {
        "cat/p0": 1, "dog/p1": 2, "ape/z0": 0, "dog/z1": 2, "cat/p0-2": 1, "dog/p1-2": 2
    }  # fmt: skip


def test_keys_that_clash_are_refused_or_told_apart(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "one", "cat/a.png"), tree(tmp_path / "two", "cat/a.png")
    refused(one, two).fails(3, "the key 'cat/a' occurs twice", "--keys unique")
    joined(tmp_path / "out", one, zipped(two), "--keys", "unique")
    assert labels(tmp_path / "out") == {"cat/a": 0, "cat/a-2": 0}


def test_sets_of_shards_may_have_shards_of_one_name(tmp_path: Path) -> None:
    for number, names in enumerate((["cat/a.png", "emu/b.png"], ["ape/c.png", "emu/d.png"])):
        pack(tree(tmp_path / f"in{number}", *names), tmp_path / f"set{number}")
    joined(tmp_path / "out", tmp_path / "set0", tmp_path / "set1")
    assert [path.name for path in sorted((tmp_path / "out").glob("*.tar"))] == ["000000.tar"]
    assert labels(tmp_path / "out") == {"cat/a": 1, "emu/b": 2, "ape/c": 0, "emu/d": 2}
    np.save(tmp_path / "keep.npy", np.array([1, 2]))
    joined(tmp_path / "kept", tmp_path / "set0", tmp_path / "set1", "--subset", tmp_path / "keep.npy")
    assert labels(tmp_path / "kept") == {"emu/b": 2, "ape/c": 0}
    photos = tree(tmp_path / "photos", "x.png")
    refused(tmp_path / "set0", photos, "--subset", tmp_path / "keep.npy").fails(2, "pack", "photos first")


def test_an_order_of_classes_that_was_meant_is_kept(tmp_path: Path) -> None:
    pack(tree(tmp_path / "in", "cat/a.png", "emu/b.png"), tmp_path / "shards")
    (tmp_path / "shards" / "classes.txt").write_text("emu\ncat\n")
    photos = tree(tmp_path / "photos", "ape/c.png", "cat/d.png")
    joined(tmp_path / "out", photos, tmp_path / "shards")
    assert (tmp_path / "out" / "classes.txt").read_text() == "emu\ncat\nape\n"
    assert labels(tmp_path / "out") == {"ape/c": 2, "cat/d": 1, "cat/a": 0, "emu/b": 1}


def test_numbers_and_names_do_not_mix(tmp_path: Path) -> None:
    photos, flat = tree(tmp_path / "photos", "cat/a.png"), tree(tmp_path / "flat", "b.png")
    numbered = [write_tar(tmp_path / name / "0.tar", sample(name, 3, 7)).parent for name in ("x", "y")]
    for order in ([photos, numbered[0]], [numbered[0], photos]):
        refused(*order).fails(3, "photos has class names and", "x has labels without", "--labels")
    pack(photos, tmp_path / "named")
    refused(tmp_path / "named", numbered[0]).fails(3, "named has class names and", "x has labels without")
    joined(tmp_path / "out", *numbered, flat)
    assert labels(tmp_path / "out") == {"x": 7, "y": 7}
    assert not (tmp_path / "out" / "classes.txt").exists()
    joined(tmp_path / "some", flat, photos, write_tar(tmp_path / "plain" / "0.tar", sample("z", 4)))
    assert labels(tmp_path / "some") == {"cat/a": 0}


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    """An empty name, as tables may have, is a line of its own."""
    shards = write_tar(tmp_path / "s" / "0.tar", [*sample("a", 1, 0), *sample("b", 2, 1)]).parent
    (shards / "classes.txt").write_text("\ncat\n")
    joined(tmp_path / "out", shards, tree(tmp_path / "photos", "ape/c.png"))
    assert (tmp_path / "out" / "classes.txt").read_text() == "\nape\ncat\n"
    assert labels(tmp_path / "out") == {"a": 0, "b": 2, "ape/c": 1}


def test_a_label_without_a_name_is_refused_where_it_would_be_another(tmp_path: Path) -> None:
    shards = write_tar(tmp_path / "s" / "0.tar", sample("a", 1, 2)).parent
    (shards / "classes.txt").write_text("cat\ndog\n")
    joined(tmp_path / "alone", shards)
    assert labels(tmp_path / "alone") == {"a": 2}
    refused(shards, tree(tmp_path / "photos", "ape/b.png")).fails(3, "s: the label 2 has no name among its 2 classes")


def test_options_reach_the_sources_that_they_speak_of(tmp_path: Path) -> None:
    photos = tree(tmp_path / "photos", "train/cat/a.png", "train/cat/a.txt", "val/cat/b.png")
    shards = write_tar(tmp_path / "s" / "0.tar", [("x.input.png", image_bytes(1)), ("x.png", image_bytes(2))])
    args = [photos, shards, "--split", "val", "--beside", "txt", "--image-member", "input.png"]
    assert joined(tmp_path / "out", *args)["split"] == "val"
    assert members(tmp_path / "out")["x.png"] == image_bytes(1)
    refused(photos, "--split", "val", "--image-member", "input.png").fails(2, "are for shards alone")
    refused(shards, "sklearn:digits", "--split", "val").fails(2, "are for folders and zips of images")


def test_streams_stay_alone(tmp_path: Path) -> None:
    tar, photos = write_tar(tmp_path / "in.tar", sample("s", 1)), tree(tmp_path / "photos", "a.png")
    refused(photos, f"file://{tar}").fails(2, "a stream is packed with other streams only")
    import gzip

    (tmp_path / "z.tar.gz").write_bytes(gzip.compress(tar.read_bytes()))
    refused(photos, tmp_path / "z.tar.gz").fails(2, "z.tar.gz: a stream is packed with other streams only")
    refused("-", photos).fails(2, "stdin: a stream")


def test_the_output_is_none_of_the_sources(sources: list[Path]) -> None:
    dprune("pack", *sources, "-o", sources[2], "--overwrite").fails(3, "is the folder that is to be packed")
