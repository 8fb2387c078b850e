"""dprune select by classes that have names, from wherever labels are, and by strata of clusters and classes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, dprune, sample, write_tar
from PIL import Image
from safetensors.numpy import save_file
from stores import latent_store

NAMES = ["cat", "dog", "Smileys & Emotion", "emu, great", "7", "12", 'the "best"']
LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(7), [12, 10, 9, 7, 5, 4, 3]))
SCORES = np.random.default_rng(2).random(50).astype(np.float32)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """50 samples of seven classes in two shards, with scores and clusters; classes 5 and 6 are in cluster 0 alone."""
    for number, rows in enumerate(np.split(np.arange(50), [20])):
        members = [part for row in rows for part in sample(f"{row:02d}", int(row), int(LABELS[row]))]
        write_tar(tmp_path / "shards" / f"{number:06d}.tar", members)
    (tmp_path / "shards" / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    np.save(tmp_path / "scores.npy", SCORES)
    clusters = np.where(LABELS >= 5, 0, np.arange(50) % 3).astype(np.int32)
    clusters[7] = -1
    save_file({"assignment": clusters, "distance": SCORES}, tmp_path / "clusters.safetensors")
    return tmp_path


def select(place: Path, *args: object) -> Result:
    return dprune("select", place / "scores.npy", *args)


def kept(result: Result) -> np.ndarray:
    return np.load(io.BytesIO(result.ok().out))


def summary(place: Path, *args: object) -> dict[str, Any]:
    result = dprune("select", *args, "--json", "-o", place / "k.npy", "--overwrite").ok()
    return json.loads(result.out)


def labels_kept(place: Path, only: str) -> list[int]:
    return np.unique(LABELS[kept(select(place, "--groups", place / "shards", "--only", only))]).tolist()


@pytest.mark.parametrize(
    ("only", "labels"),
    [
        ("dog", [1]),
        ("dog,cat", [0, 1]),
        (" dog , Smileys & Emotion", [1, 2]),
        ("emu, great", [3]),
        ('dog,"emu, great"', [1, 3]),
        ('"the ""best""",0', [0, 6]),
        ('the "best"', [6]),
        # A name that is a number is the class of that name; other numbers are those of classes.
        ("7", [4]),
        ("5", [5]),
        ("12 7", [4, 5]),
        # Where names are numbers, a range is of these.
        ("7-12", [4, 5]),
        ("0-11,dog", [1, 4]),
        ("dog,dog", [1]),
        ("@names", [1, 3, 6]),
    ],
)
def test_classes_are_chosen_by_name(place: Path, only: str, labels: list[int]) -> None:
    (place / "names").write_text('dog\nemu, great\r\n\nthe "best"\n')
    assert labels_kept(place, only.replace("@", f"@{place}/")) == labels


def test_ranges_are_of_numbers_where_no_name_is_one(place: Path) -> None:
    (place / "shards" / "classes.txt").write_text("cat\ndog\nemu\n")
    assert labels_kept(place, "0-1,4-90") == [0, 1, 4, 5, 6]
    np.save(place / "g.npy", LABELS)
    found = kept(select(place, "--groups", place / "g.npy", "--only", "2-3 6"))
    np.testing.assert_array_equal(found, np.flatnonzero(np.isin(LABELS, [2, 3, 6])))


def test_numbers_are_names_where_all_names_are_numbers(place: Path) -> None:
    (place / "shards" / "classes.txt").write_text("1\n10\n2\n3\n4\n5\n6\n")
    assert labels_kept(place, "2,10") == [1, 2]
    assert labels_kept(place, "0-2") == [0, 2]
    for number in ("0", "7"):
        result = select(place, "--groups", place / "shards", "--only", number)
        result.fails(3, f"--only {number}: ", "no class of that name")


@pytest.mark.parametrize(
    ("only", "code", "words"),
    [
        ("dgo", 3, ["--only dgo", "no class of that name", "did you mean 'dog'?"]),
        ("DOG", 3, ["did you mean 'dog'?"]),
        ("smiley", 3, ["did you mean 'Smileys & Emotion'?"]),
        ("zzz", 3, ["there are cat, dog, Smileys & Emotion"]),
        ("emu, good", 3, ["--only emu:", "did you mean 'emu, great'?"]),
        ("99", 3, ["--only 99", "no such class", "shards has cat, dog"]),
        ("20-30", 3, ["--only 20-30", "no such class"]),
        ("dog,-1", 2, ["--only -1", "count from 0"]),
        (" ,", 2, ["names no group", "--only cat,dog"]),
    ],
)
def test_a_class_that_is_not_there_is_named(place: Path, only: str, code: int, words: list[str]) -> None:
    select(place, "--groups", place / "shards", "--only", only).fails(code, *words)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [("dog\ncta\n", 3, [": cta: ", "did you mean 'cat'?"]), ("9" * 99, 3, ["..."]), ("\n", 2, ["names no group"])],
)
def test_a_mistake_in_a_list_names_its_file(place: Path, text: str, code: int, words: list[str]) -> None:
    (place / "wanted").write_text(text)
    result = select(place, "--groups", place / "shards", "--only", f"@{place / 'wanted'}")
    result.fails(code, f"--only @{place / 'wanted'}: ", *words)
    assert "9" * 50 not in result.err


def test_a_class_without_samples_is_named(place: Path) -> None:
    with (place / "shards" / "classes.txt").open("a") as file:
        file.write("fox\n")
    select(place, "--groups", place / "shards", "--only", "fox").fails(3, "--only fox", "with a sample in it")


def test_names_need_a_list_of_them(place: Path) -> None:
    (place / "shards" / "classes.txt").unlink()
    args = ("--groups", place / "shards", "--only")
    select(place, *args, "dog").fails(2, "--only dog", "numbers such as 3,17", "not known from")
    assert summary(place, place / "scores.npy", *args, "3")["kept_by_class"] == {"3": 7}


def test_counts_are_by_name(place: Path) -> None:
    args = ("--order", "random", "--groups", place / "shards", "--cap", 5)
    found = summary(place, *args)
    assert found["kept_by_class"] == dict(zip(NAMES, [5, 5, 5, 5, 5, 4, 3], strict=True))
    said = dprune("select", *args, "-o", place / "other.npy").ok().err
    assert "kept by class: cat: 5, dog: 5, Smileys & Emotion: 5" in said


def test_a_cap_without_scores_is_by_chance(place: Path) -> None:
    args = ("select", "--groups", place / "shards", "--cap", 5, "-o")
    dprune(*args, place / "a.npy").ok()
    dprune(*args, place / "b.npy", "--order", "random").ok()
    assert (place / "a.npy").read_bytes() == (place / "b.npy").read_bytes()
    dprune(*args, place / "c.npy", "--keep", "0.5").fails(2, "--order lowest needs SCORES")
    dprune(*args, place / "c.npy", "--order", "lowest").fails(2, "--order lowest needs SCORES")


def test_labels_are_the_same_wherever_they_are(place: Path) -> None:
    """In shards, in the store of features, and in a .npy; provenance says which classes by their numbers."""
    dprune("embed", place / "shards", "--model", "pixels", "--image-size", 4, "--workers", 0, "-o", place / "f").ok()
    np.save(place / "g.npy", LABELS)
    tars = place / "shards" / "*.tar"
    found = [
        select(place, "--groups", groups, "--only", "2,1", "--keep", "0.5").ok().out
        for groups in (place / "shards", tars, place / "f", place / "g.npy")
    ]
    arrays = [np.load(io.BytesIO(out)).tolist() for out in found]
    assert arrays[0] == arrays[1] == arrays[2] == arrays[3]
    records = [json.loads(out.splitlines()[-1]) for out in found]
    assert all(record["options"]["only"] == [2, 1] for record in records)
    assert records[0]["findings"]["only"] == ["Smileys & Emotion", "dog"]
    assert "only" not in records[3]["findings"]
    assert records[0]["fingerprint"] == records[2]["fingerprint"]
    latents = latent_store(place / "l")
    assert set(summary(place, "--order", "random", "--groups", latents, "--cap", 2)["kept_by_class"]) <= set("01234")


def test_labels_of_other_members(place: Path, tmp_path: Path) -> None:
    members = [part for row in range(6) for part in [*sample(f"{row}", row), (f"{row}.y.txt", str(row % 2).encode())]]
    write_tar(tmp_path / "others" / "000000.tar", members)
    args = ("--order", "random", "--groups", tmp_path / "others", "--cap", 2)
    dprune("select", *args).fails(3, "others", "no sample of it has a label")
    assert summary(place, *args, "--label-member", "y.txt")["kept_by_class"] == {"0": 2, "1": 2}


def test_clusters_are_no_labels(place: Path) -> None:
    clusters = place / "clusters.safetensors"
    select(place, "--groups", clusters, "--keep", "0.5").fails(3, "holds clusters", "--clusters")


def strata(place: Path) -> list[tuple[int, int]]:
    clusters = np.where(LABELS >= 5, 0, np.arange(50) % 3)
    clusters[7] = -1
    return list(zip(clusters.tolist(), LABELS.tolist(), strict=True))


@pytest.mark.parametrize("order", ["lowest", "highest"])
def test_clusters_and_groups_are_strata(place: Path, order: str) -> None:
    """Each class of each cluster is chosen from by itself; held to a loop over them."""
    both = ("--clusters", place / "clusters.safetensors", "--groups", place / "shards")
    of = strata(place)
    expected: list[int] = []
    for one in sorted(set(of)):
        ids = [number for number, stratum in enumerate(of) if stratum == one and one[0] >= 0]
        ranked = sorted(ids, key=lambda number: SCORES[number], reverse=order == "highest")
        expected += ranked[:2]
    found = kept(select(place, *both, "--cap", 2, "--order", order))
    assert found.tolist() == sorted(expected)
    counted = summary(place, place / "scores.npy", *both, "--cap", 2, "--order", order)
    by_stratum = counted["kept_by_stratum"]
    assert by_stratum == {
        f"{cluster}/{NAMES[label]}": sum(of[number] == (cluster, label) for number in expected)
        for cluster, label in sorted(set(of))
        if cluster >= 0
    }
    assert sum(counted["kept_by_cluster"].values()) == sum(counted["kept_by_class"].values()) == len(expected)


def test_strata_have_quotas_and_classes(place: Path) -> None:
    both = ("--clusters", place / "clusters.safetensors", "--groups", place / "shards")
    equal = summary(place, place / "scores.npy", *both, "--quota", "equal")["kept_by_stratum"]
    assert len(set(equal.values())) == 1
    # What --only names are the classes, of which strata are parts.
    found = kept(select(place, *both, "--only", "dog,12", "--keep", "1.0"))
    assert found.tolist() == [number for number, one in enumerate(strata(place)) if one[1] in (1, 5) and number != 7]
    record = json.loads(select(place, *both, "--keep", "0.5").ok().out.splitlines()[-1])
    assert {"clusters", "groups"} <= record["parents"].keys()


def flat_shards(folder: Path, labels: list[int]) -> Path:
    """Images of one colour each, whose red is 4 times the number of the sample, and 200 more green than its label."""
    members = []
    for row, label in enumerate(labels):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (4 * row, 200 + label, 60)).save(buffer, "PNG")
        members += [(f"{row:02d}.png", buffer.getvalue()), (f"{row:02d}.cls", str(label).encode())]
    write_tar(folder / "000000.tar", members)
    return folder


def drawn(path: Path) -> list[list[int]]:
    """The samples that each row of a contact sheet shows, from left to right."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), int)
    flat = (pixels[..., 2] == 60) & (pixels[..., 1] >= 200) & (pixels[..., 1] < 210)
    found = []
    for line in np.flatnonzero(flat.any(1) & ~np.roll(flat.any(1), 1)):
        starts = np.flatnonzero(flat[line + 1] & ~np.roll(flat[line + 1], 1))
        found.append((pixels[line + 1, starts, 0] // 4).tolist())
    return found


@pytest.mark.parametrize("sizes", [(1, 2, 3, 4), (5, 6, 7, 8), (20, 21, 22)])
def test_a_figure_shows_no_image_twice(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes).tolist()
    shards, figure = flat_shards(tmp_path / "shards", labels), tmp_path / "f.png"
    np.save(tmp_path / "s.npy", np.arange(len(labels), dtype=np.float32))
    args = ("--groups", shards, "--keep", "0.5", "--shards", shards, "--figure", figure, "-o", tmp_path / "k.npy")
    dprune("select", tmp_path / "s.npy", *args).ok()
    rows = drawn(figure)
    assert [len(row) for row in rows] == [min(size, 21) for size in sizes]
    for row, label in zip(rows, range(len(sizes)), strict=True):
        assert row == sorted(set(row))
        assert {labels[sample] for sample in row} == {label}
        assert {row[0], row[-1]} == {labels.index(label), labels.index(label) + sizes[label] - 1}


def test_a_figure_has_names_at_its_rows(tmp_path: Path) -> None:
    """Names stand where numbers did, and what the font has no characters for is called by its number."""
    shards = flat_shards(tmp_path / "shards", [0] * 4 + [1] * 4)
    np.save(tmp_path / "s.npy", np.arange(8, dtype=np.float32))

    def sheet(names: str) -> np.ndarray:
        (shards / "classes.txt").write_text(names)
        figure = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        args = ("--groups", shards, "--keep", "0.5", "--shards", shards, "--figure", figure, "-o", tmp_path / "k.npy")
        dprune("select", tmp_path / "s.npy", *args, "--overwrite").ok()
        with Image.open(figure) as image:
            return np.asarray(image.convert("RGB"), int)

    plain, named, numbered = sheet("0\n1\n"), sheet("cat\ndog\n"), sheet("猫\n犬\n")
    first = slice(78, 78 + 32)
    assert (plain[first, :100] != named[first, :100]).any()
    assert (plain == numbered).all()
    wide = sheet("Smileys & Emotion, and all other faces\ndog\n")
    assert plain.shape[1] < wide.shape[1] < plain.shape[1] + 280


def labels_of(found: np.ndarray, groups: int = 7) -> list[int]:
    return np.bincount(LABELS[found], minlength=groups).tolist()


def test_counts_are_exact(place: Path) -> None:
    counts = 'cat:5,"emu, great":2,12:1'
    found = kept(dprune("select", "--groups", place / "shards", "--counts", counts))
    assert labels_of(found) == [5, 0, 0, 2, 0, 1, 0]
    (place / "counts.txt").write_text('7-12:3\n"emu, great":2\r\n\n')
    listed = dprune("select", "--groups", place / "shards", "--counts", f"@{place}/counts.txt")
    # As with --only, a range is of names where these are numbers.
    assert labels_of(kept(listed)) == [0, 0, 0, 2, 3, 3, 0]


def test_counts_are_drawn_by_the_seed_or_by_scores(place: Path) -> None:
    draw = ("--groups", place / "shards", "--counts", "cat:4,dog:3")
    first, again, other = (kept(dprune("select", *draw, "--seed", seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()
    lowest = [np.flatnonzero(label == LABELS)[np.argsort(SCORES[label == LABELS])[:n]] for label, n in ((0, 4), (1, 3))]
    assert kept(select(place, *draw)).tolist() == sorted(np.concatenate(lowest).tolist())


def test_counts_of_a_subset_and_their_record(place: Path) -> None:
    """--within narrows what counts are taken from, and a group is told that has too few there."""
    np.save(place / "some.npy", np.flatnonzero(LABELS == 0)[:3])
    within = ("--groups", place / "shards", "--within", place / "some.npy")
    result = dprune("select", *within, "--counts", "cat:3")
    assert labels_of(kept(result)) == [3, 0, 0, 0, 0, 0, 0]
    options = json.loads(result.out.splitlines()[-1])["options"]
    assert options == {"counts": "0:3", "order": "random", "quota": "proportional"}
    dprune("select", *within, "--counts", "cat:4").fails(3, "--counts cat:4", "class cat has 3 samples")


@pytest.mark.parametrize("quota", ["proportional", "equal"])
def test_a_count_of_a_class_is_divided_among_its_clusters(place: Path, quota: str) -> None:
    both = ("--clusters", place / "clusters.safetensors", "--groups", place / "shards")
    counted = summary(place, place / "scores.npy", *both, "--counts", "cat:6,dog:3", "--quota", quota)
    assert (counted["kept_by_class"]["cat"], counted["kept_by_class"]["dog"]) == (6, 3)
    alone = summary(place, place / "scores.npy", *both, "--only", "cat", "--keep", 6, "--quota", quota)
    for stratum, count in alone["kept_by_stratum"].items():
        assert counted["kept_by_stratum"][stratum] == count
    if quota == "equal":
        assert [n for stratum, n in alone["kept_by_stratum"].items() if stratum.endswith("/cat")] == [2, 2, 2]


def test_a_tail_is_that_of_long_tailed_cifar(tmp_path: Path) -> None:
    """The counts of CIFAR-10-LT at an imbalance of 100, which everybody trains on."""
    np.save(tmp_path / "labels.npy", np.repeat(np.arange(10), 5000))
    tail = ("select", "--groups", tmp_path / "labels.npy", "--tail")
    counts = np.bincount(kept(dprune(*tail, "0.01")) // 5000)
    assert counts.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    # Made of what it made, it is the same again.
    dprune(*tail, "0.01", "-o", tmp_path / "tailed.npy").ok()
    again = kept(dprune(*tail, "1%", "--within", tmp_path / "tailed.npy"))
    np.testing.assert_array_equal(again, np.load(tmp_path / "tailed.npy"))
    assert (np.bincount(kept(dprune(*tail, "1.0")) // 5000) == 5000).all()
    some = np.bincount(kept(dprune(*tail, "0.5", "--only", "9,2,4")) // 5000, minlength=10)
    assert some.tolist() == [0, 0, 5000, 0, 3535, 0, 0, 0, 0, 2500]


def test_a_tail_is_as_large_as_its_groups_allow(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.repeat(np.arange(3), [100, 30, 9]))
    result = dprune("select", "--groups", tmp_path / "labels.npy", "--tail", "0.25")
    # 40 of the first would take 20 and 10, of which there are only 9.
    assert np.bincount(np.load(tmp_path / "labels.npy")[kept(result)]).tolist() == [39, 19, 9]
    lost = dprune("select", "--groups", tmp_path / "labels.npy", "--tail", "0.001").ok()
    assert "--tail leaves nothing of 2" in lost.err


def test_as_many_as_another_subset(place: Path) -> None:
    """Quotas in proportion, at the ratio that equal ones give."""
    clusters = ("--clusters", place / "clusters.safetensors")
    select(place, *clusters, "--quota", "equal", "-o", place / "equal.npy").ok()
    result = select(place, *clusters, "--as-many-as", place / "equal.npy")
    equal = np.load(place / "equal.npy")
    np.testing.assert_array_equal(kept(result), kept(select(place, *clusters, "--keep", len(equal))))
    record = json.loads(result.out.splitlines()[-1])
    assert "keep" not in record["options"]
    assert "as_many_as" in record["parents"]
    np.save(place / "far.npy", [0, 50])
    select(place, "--as-many-as", place / "far.npy").fails(3, "far.npy", "50")
