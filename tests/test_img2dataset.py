"""Folders that img2dataset wrote: shards with a table of their rows and statistics beside them."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import DATA, Result, dprune, members
from safetensors.numpy import load_file
from test_encode import make_vae

SHARDS = DATA / "datacomp" / "shards"


def say(result: Result) -> str:
    """What a command said that worked, without what it wrote."""
    return "\n".join(line for line in result.ok().err.splitlines() if "wrote" not in line)


def names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHARDS, tmp_path / "shards"))


def test_it_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = ("--model", "pixels", "--image-size", "4")
    assert say(dprune("embed", SHARDS, *pixels, "-o", tmp_path / "f")) == ""
    assert say(dprune("pack", SHARDS, "-o", tmp_path / "p")) == ""
    vae = make_vae(tmp_path / "vae.safetensors")
    assert say(dprune("encode", SHARDS, "--vae", vae, "-o", tmp_path / "l", "--workers", "0")) == ""
    assert "warning" not in say(dprune("eval", SHARDS, tmp_path / "f", "-o", tmp_path / "m.json", "--metrics", "kid"))
    assert list(members(tmp_path / "p")) == [name for path in sorted(SHARDS.glob("*.tar")) for name in names(path)]


def test_ids_follow_the_tars_and_not_the_tables(tmp_path: Path) -> None:
    """Each table has six rows, one or two of which have no member, and the first is in the order of the threads."""
    dprune("embed", SHARDS, "--model", "pixels", "--image-size", "4", "-o", tmp_path / "f").ok()
    parts = [len(load_file(path)["features"]) for path in sorted((tmp_path / "f").glob("*.safetensors"))]
    assert parts == [4, 5, 5, 5]
    tables = [pq.read_table(path).num_rows for path in sorted(SHARDS.glob("*.parquet"))]
    assert tables == [6, 6, 6, 6]
    np.save(tmp_path / "ids.npy", np.array([4, 18]))
    dprune("pack", SHARDS, "--subset", tmp_path / "ids.npy", "-o", tmp_path / "p").ok()
    assert sorted(name for name in members(tmp_path / "p") if name.endswith(".jpg")) == [
        "000000010000.jpg",
        "000000030005.jpg",
    ]


def test_labels_come_from_the_json(tmp_path: Path) -> None:
    args = ("--label-member", "json:width", "--model", "pixels", "--image-size", "4")
    dprune("embed", SHARDS, *args, "-o", tmp_path / "f").ok()
    labels = [load_file(path)["label"] for path in sorted((tmp_path / "f").glob("*.safetensors"))]
    assert np.concatenate(labels).tolist() == [16] * 19


def test_info_tells_what_the_statistics_say() -> None:
    found = json.loads(dprune("info", SHARDS, "--json").ok().out)["files"][0]["content"]
    assert found["download"] == {"count": 24, "successes": 19, "failed_to_download": 4, "failed_to_resize": 1}
    assert found["failures"] == {"<urlopen error [Errno 111] Connection refused>": 4, "image too small": 1}
    assert "failures" in dprune("info", SHARDS).ok().out.decode()


def test_info_holds_shards_to_their_statistics(folder: Path) -> None:
    path = folder / "00000001_stats.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "successes": 6}))
    dprune("info", folder).fails(3, "00000001.tar: holds 5 samples, its _stats.json says 6")


def test_info_misses_shards_that_have_statistics(folder: Path) -> None:
    """The ids of all samples behind it are others without it, and no other command can know that it was there."""
    (folder / "00000002.tar").unlink()
    dprune("info", folder).fails(3, "00000002.tar is missing, whose _stats.json is there")
    dprune("info", folder / "00000001.tar", folder / "00000003.tar").ok()


@pytest.mark.parametrize("text", ["{", '{"count": 6}', '{"successes": -1}', "[]"])
def test_damaged_statistics_are_a_problem_of_info_alone(folder: Path, text: str, tmp_path: Path) -> None:
    (folder / "00000001_stats.json").write_text(text)
    dprune("info", folder).fails(3, "00000001_stats.json")
    dprune("pack", folder, "-o", tmp_path / "p").ok()


@pytest.mark.parametrize("args", [("info",), ("pack", "-o", "{out}"), ("score", "random", "-o", "{out}.npy")])
def test_a_shard_whose_download_was_cut_is_told_of_in_a_sentence(
    folder: Path, args: tuple[str, ...], tmp_path: Path
) -> None:
    (folder / "00000001_stats.json").unlink()
    said = dprune(*(arg.format(out=tmp_path / "out") for arg in args), folder).ok().err
    assert said.count("00000001.tar lacks the _stats.json that others have") == 1
    (folder / "00000003_stats.json").unlink()
    assert "00000001.tar and 1 more shard lack the" in dprune("info", folder).ok().err


def test_shards_without_statistics_lack_none(folder: Path) -> None:
    for path in folder.glob("*_stats.json"):
        path.unlink()
    result = dprune("info", folder).ok()
    assert result.err == ""
    assert b"download" not in result.out


def test_statistics_of_datacomps_resharder(folder: Path) -> None:
    """It writes the number of samples alone."""
    for path in folder.glob("*_stats.json"):
        path.write_text(json.dumps({"successes": json.loads(path.read_text())["successes"]}))
    found = json.loads(dprune("info", folder, "--json").ok().out)["files"][0]["content"]
    assert found["download"] == {"successes": 19}
    assert "failures" not in found


def test_folders_in_place_of_tars_are_no_classes(folder: Path, tmp_path: Path) -> None:
    """So writes img2dataset with `--output_format files` (its FilesSampleWriter): folders, and the rest beside them."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            tar.extractall(path.with_suffix(""), filter="data")
        path.unlink()
    result = dprune("pack", folder, "-o", tmp_path / "p").ok()
    assert "classes: 0" in result.err
    assert "its images get no labels" in result.err
    found = members(tmp_path / "p")
    assert next(iter(found)) == "00000000/000000000000.jpg"
    assert len(found) == 19
    (folder / "00000001_stats.json").unlink()
    assert "classes: 4" in dprune("pack", folder, "-o", tmp_path / "q").ok().err


def test_a_subset_by_key_keeps_captions(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("000000020003\n000000000005\n")
    dprune("pack", SHARDS, "--subset", tmp_path / "keys.txt", "-o", tmp_path / "p").ok()
    found = members(tmp_path / "p")
    assert list(found) == [
        f"{key}.{kind}" for key in ("000000000005", "000000020003") for kind in ("jpg", "json", "txt")
    ]
    assert json.loads(found["000000020003.json"])["caption"] == "colour 3 of 2"


def test_shards_in_a_folder_that_cannot_be_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be entered all the same. Those who run tests as root could list it."""
    listed = os.listdir

    def refuse(path: str) -> list[str]:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert dprune("info", folder / "00000001.tar").ok().err == ""
