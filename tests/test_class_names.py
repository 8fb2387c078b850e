"""Names of classes, from the folders that images lie in to the images that are generated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import dprune, image_bytes, sample, write_tar

from dprune.formats.class_names import CLASSES, ClassNames, names_in_folders, parse_names, read_classes
from dprune.formats.clusters import read_clusters
from dprune.formats.features import open_features
from dprune.formats.latents import open_latents
from dprune.formats.provenance import difference
from dprune.formats.shards import open_dataset
from dprune.models.files import ModelFile

NAMES = ("3", "Smileys & Emotion", "cat, great")
VAE = ("--preset", "tiny", "--image-size", 16, "--width", 8, "--codes", 16, "--workers", 0)
SMALL = ("--batch-size", 4, "--device", "cpu", "--steps", 1)


def folder_of_images(place: Path, names: tuple[str, ...] = NAMES, each: int = 4) -> Path:
    """Class folders with `each` images and one more for each class that comes before."""
    for label, name in enumerate(names):
        (place / name).mkdir(parents=True)
        for number in range(each + label):
            (place / name / f"{number:02d}.png").write_bytes(image_bytes(10 * label + number))
    return place


def packed(place: Path) -> Path:
    folder_of_images(place / "images")
    dprune("pack", place / "images", "--shard-size", 6, "--workers", 0, "-o", place / "shards").ok()
    return place / "shards"


def embed(shards: Path, output: Path, *options: object) -> Path:
    dprune("embed", shards, "--model", "pixels", "--image-size", 4, "--workers", 0, "-o", output, *options).ok()
    return output


@pytest.mark.slow
def test_names_travel_from_images_to_generated_images(tmp_path: Path) -> None:
    shards = packed(tmp_path)
    vae, latents, dit = tmp_path / "vae", tmp_path / "latents", tmp_path / "dit"
    dprune("train-vae", shards, *VAE, *SMALL, "-o", vae).ok()
    dprune("encode", shards, "--vae", vae / "model.safetensors", "--workers", 0, "-o", latents).ok()
    dprune("train-dit", latents, "--arch", "nano/2", *SMALL, "-o", dit).ok()
    weights = ("--vae", vae / "model.safetensors", "--seeds", "0-5", "--steps", 1, "--device", "cpu")
    dprune("sample", dit / "model.safetensors", *weights, "-o", tmp_path / "drawn").ok()
    dprune("cluster", embed(tmp_path / "drawn", tmp_path / "f"), "-k", 2, "-o", tmp_path / "c.safetensors").ok()
    assert open_latents(latents).class_names == ClassNames(NAMES)
    assert ModelFile.open(dit / "model.safetensors").class_names == ClassNames(NAMES)
    assert (tmp_path / "drawn" / CLASSES).read_bytes() == (shards / CLASSES).read_bytes()
    assert open_features(tmp_path / "f").class_names == ClassNames(NAMES)
    assert read_clusters(tmp_path / "c.safetensors").class_names == ClassNames(NAMES)


def test_names_are_no_part_of_what_a_file_was_made_from(tmp_path: Path) -> None:
    shards = packed(tmp_path)
    named = embed(shards, tmp_path / "named")
    (shards / CLASSES).unlink()
    nameless = embed(shards, tmp_path / "nameless")
    assert {path.name for path in named.iterdir()} - {path.name for path in nameless.iterdir()} == {CLASSES}
    for path in nameless.iterdir():
        assert path.read_bytes() == (named / path.name).read_bytes()
    for store in (named, nameless):
        dprune("cluster", store, "-k", 2, "-o", store.with_suffix(".safetensors")).ok()
    one, other = (read_clusters(store.with_suffix(".safetensors")) for store in (named, nameless))
    assert (one.class_names, other.class_names) == (ClassNames(NAMES), ClassNames())
    assert not difference(one.record or {}, other.record or {})
    assert one.as_parent()["digest"] == other.as_parent()["digest"]
    assert "up to date" in dprune("cluster", named, "-k", 2, "-o", tmp_path / "nameless.safetensors").ok().err


def test_a_list_that_is_laid_into_an_old_store_names_its_labels(tmp_path: Path) -> None:
    shards = packed(tmp_path)
    names = (shards / CLASSES).read_bytes()
    (shards / CLASSES).unlink()
    store = embed(shards, tmp_path / "store")
    assert not open_features(store).class_names
    (store / CLASSES).write_bytes(names)
    assert open_features(store).class_names == ClassNames(NAMES)
    # It is not lost when a part is made again, but it is with a store of other options, which may be of other labels.
    (store / "000001.safetensors").unlink()
    embed(shards, store)
    assert (store / CLASSES).read_bytes() == names
    embed(shards, store, "--normalize", "--overwrite")
    assert not (store / CLASSES).exists()


def test_names_count_only_where_all_folders_agree(tmp_path: Path) -> None:
    for name, content in {"a": "cat\ndog\n", "b": "cat\ndog\nemu\n", "c": "dog\ncat\n", "d": None}.items():
        write_tar(tmp_path / name / f"{name}.tar", sample(f"k{name}", 0, 1))
        if content:
            (tmp_path / name / CLASSES).write_text(content)

    def names(*folders: str) -> tuple[str, ...]:
        return open_dataset([str(tmp_path / name) for name in folders]).class_names.names

    assert names("a", "b") == ("cat", "dog", "emu")
    assert names("a", "c") == names("a", "d") == names("d") == ()


def test_labels_from_other_members_are_not_called_by_names_of_folders(tmp_path: Path) -> None:
    from dprune.formats.members import MemberChoice

    shards = packed(tmp_path)
    assert open_dataset([str(shards)]).class_names
    assert not open_dataset([str(shards)], MemberChoice(label_member="y.txt")).class_names


def test_no_two_labels_are_called_alike(tmp_path: Path) -> None:
    names = ClassNames(("3", "cat", ""))
    assert [names.name(label) for label in (0, 1, 2, 3, -1)] == ["3", "cat", "2", "label 3", "-1"]
    assert names.counts(np.array([3, 0, 0, -1])) == {"3": 2, "cat": 0, "2": 0, "label 3": 1}
    # ImageNet has two cranes.
    (tmp_path / CLASSES).write_bytes(b"crane\nbus\ncrane\n\r\n")
    assert names_in_folders([tmp_path]).names == ("crane (0)", "bus", "crane (2)")
    assert parse_names(b"a\n\n\nb").names == ("a", "", "", "b")


def test_odd_names_are_read_as_they_were_written(tmp_path: Path) -> None:
    odd = ClassNames(("a\x85b", "\udcff", "tail ", "'"))
    odd.publish(tmp_path)
    assert names_in_folders([tmp_path]) == odd
    assert read_classes("t", (tmp_path / CLASSES).read_bytes()) == list(odd.names)
    write_tar(tmp_path / "000000.tar", [part for key in "abc" for part in sample(key, ord(key), 1)])
    store = embed(tmp_path, tmp_path / "store")
    dprune("cluster", store, "-k", 1, "-o", tmp_path / "c.safetensors").ok()
    assert read_clusters(tmp_path / "c.safetensors").class_names == odd


def test_shares_of_classes_have_names(tmp_path: Path) -> None:
    one, other = packed(tmp_path), embed(folder_of_other(tmp_path), tmp_path / "g")
    args = ("--metrics", "shares", "-o", tmp_path / "m.json")
    said = dprune("eval", other, embed(one, tmp_path / "f"), *args).ok().err
    assert "no sample of the class cat, great was generated" in " ".join(said.split())
    shares = json.loads((tmp_path / "m.json").read_text())["details"]["shares"]["class"]
    assert shares["names"] == list(NAMES)
    assert shares["smallest"] == "cat, great"


def test_images_that_were_never_packed_have_names_too(tmp_path: Path) -> None:
    one, other = folder_of_images(tmp_path / "a"), folder_of_images(tmp_path / "b", each=6)
    dprune("eval", one, other, "--model", "pixels", "--metrics", "shares", "-o", tmp_path / "m.json").ok()
    assert json.loads((tmp_path / "m.json").read_text())["details"]["shares"]["class"]["names"] == list(NAMES)


def folder_of_other(place: Path) -> Path:
    """Shards with labels of the same numbers, of which nobody says what they are called."""
    folder = place / "other"
    write_tar(folder / "000000.tar", [part for row in range(8) for part in sample(f"{row}", row, row % 2)])
    return folder
