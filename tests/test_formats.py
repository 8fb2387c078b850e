"""Publishing, provenance and arrays."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import dprune, dprune_process

from dprune.errors import DpruneError, InputError, MismatchError, UsageError
from dprune.formats import publish as publish_module
from dprune.formats.arrays import digest_array, read_array, read_groups, read_ids, read_scores, write_array
from dprune.formats.claims import claim_in, claimed
from dprune.formats.clusters import read_clusters
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import (
    Record,
    canonical,
    check_same_dataset,
    difference,
    lineage,
    make_record,
    parent,
    parent_record,
    parents_of,
    record_digest,
    training_subset,
)
from dprune.formats.publish import publish, publish_bytes, publish_json
from dprune.formats.results import write_result
from dprune.formats.temporary import is_temporary, lock, sweep, temporary
from dprune.formats.tensors import write_tensors
from dprune.runtime import Ranks, Silent

RECORD = make_record("score random", {"draws": 8}, seed=1, fingerprint="f" * 64)


# Publishing.


def test_a_file_is_published_whole(tmp_path: Path) -> None:
    with publish(tmp_path / "new/x") as file:
        file.write(b"half")
        [partial] = os.listdir(tmp_path / "new")
        assert re.fullmatch(rf"\.x\.{os.getpid()}-[0-9a-f]{{8}}\.tmp", partial)
        file.write(b" and half")
    assert os.listdir(tmp_path / "new") == ["x"]
    assert (tmp_path / "new/x").read_bytes() == b"half and half"


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), FileNotFoundError(2, "no", "other.tar")])
def test_an_exception_leaves_the_old_file_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")

    def write() -> None:
        with publish(tmp_path / "x") as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_is_one_sentence(function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "x.npy").write_bytes(b"old")
    monkeypatch.setattr(*((publish_module.os, "fsync", full) if function == "fsync" else (Path, "replace", full)))
    with pytest.raises(DpruneError, match=r"cannot write .*x\.npy: no space left on device\.") as caught:
        publish_bytes(tmp_path / "x.npy", b"new")
    assert caught.value.exit_code == 1
    assert os.listdir(tmp_path) == ["x.npy"]


def test_a_full_disk_ends_a_command_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    np.save(tmp_path / "s.npy", np.arange(4.0))
    monkeypatch.setattr(publish_module.os, "fsync", full)
    dprune("select", tmp_path / "s.npy", "--keep", 2, "-o", tmp_path / "k.npy").fails(1, "k.npy", "no space left")
    assert os.listdir(tmp_path) == ["s.npy"]


def test_a_full_device_ends_stdout_with_1(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.arange(4.0))
    script = f"{sys.executable} -m dprune select {tmp_path}/s.npy --keep 2 > /dev/full"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no space left on device" in done.stderr


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DpruneError, match="cannot write"):
        publish_bytes(tmp_path / "file/x", b"")


def test_two_writers_of_a_file_do_not_meet(tmp_path: Path) -> None:
    with publish(tmp_path / "x") as one, publish(tmp_path / "x") as other:
        one.write(b"one")
        other.write(b"other")
        assert len(os.listdir(tmp_path)) == 2
    assert (tmp_path / "x").read_bytes() == b"one"


def test_what_dead_processes_left_is_swept_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    script = """if True:
        import os, sys
        from pathlib import Path
        from dprune.formats.publish import publish
        with publish(Path(sys.argv[1])) as file:
            file.write(b"half")
            file.flush()
            if os.fork() == 0:
                # A child that outlives its parent, as workers may, keeps nothing alive once it runs.
                print(flush=True)
                os.close(1)
                sys.stdin.read()
                os._exit(0)
            print(flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", script, tmp_path / "x"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in "parent", "child":
            writer.stdout.readline()
        [left] = os.listdir(tmp_path)
        assert is_temporary(left)
        assert sweep(tmp_path) == sweep(tmp_path, "x") == [tmp_path / left]
        writer.kill()
        writer.wait()
        assert sweep(tmp_path, "y") == []
        assert os.listdir(tmp_path) == [left]
        assert sweep(tmp_path) == []
        assert os.listdir(tmp_path) == []


def test_a_temporary_file_that_was_swept_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps = [False, True, True]

    def lock_late(descriptor: int) -> bool:
        if sweeps.pop():
            sweep(tmp_path)
        return lock(descriptor)

    monkeypatch.setattr("dprune.formats.temporary.lock", lock_late)
    with temporary(tmp_path / "x") as file:
        assert not sweeps
        assert sweep(tmp_path) == [Path(file.name)]


@pytest.mark.parametrize("name", ["é" * 127, "a" * 255, "x" * 199 + "." + "y" * 55])
def test_names_may_be_as_long_as_the_file_system_takes(name: str, tmp_path: Path) -> None:
    with publish(tmp_path / name) as file:
        file.write(b"whole")
        assert sweep(tmp_path, name) == [Path(file.name)]
        assert sweep(tmp_path, f"{name[:-1]}z") == []
    assert (tmp_path / name).read_bytes() == b"whole"


def test_what_another_user_left_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, open_ = claim_in(tmp_path, Ranks()), os.open
    left = [claim, tmp_path / ".x.17-00c0ffee.tmp"]

    def not_for_writing(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        if path in left and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_(path, flags, mode, **options)

    monkeypatch.setattr("os.open", not_for_writing)
    for path in left:
        path.touch()
    with claimed(claim, "x", Silent()):
        assert sweep(tmp_path) == [claim]
    assert os.listdir(tmp_path) == []
    with pytest.raises(DpruneError, match="cannot write x: permission denied"), claimed(claim, "x", Silent()):
        pass


def test_a_file_system_without_locks_does_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", unable)
    with publish(tmp_path / "x") as file:
        file.write(b"whole")
        # It may be that of a living process.
        assert sweep(tmp_path) == [Path(file.name)]
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("place", ["pipe", "/dev/null", "/dev/stdout", "/dev/fd/1", "/dev/new", "/proc/self/x"])
def test_only_files_and_folders_are_outputs(place: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / place
    with pytest.raises(InputError, match="is a device or a pipe"):
        publish_bytes(path, b"")
    np.save(tmp_path / "s.npy", np.arange(4.0))
    kind = os.stat(path).st_mode if path.exists() else None
    dprune_process("select", tmp_path / "s.npy", "--keep", 2, "-o", path, "--overwrite").fails(3, "is a device")
    assert kind == (os.stat(path).st_mode if path.exists() else None)


def test_folders_and_files_beside_an_output_are_no_devices(tmp_path: Path) -> None:
    pipe, features = tmp_path / "pipe", tmp_path / "f.npy"
    os.mkfifo(pipe)
    np.save(features, np.arange(8.0).reshape(4, 2))
    dprune_process("pack", "sklearn:digits", "-o", pipe, "--overwrite").fails(3, "is a device or a pipe", "another -o")
    command = ["memorization", features, features, "-o", tmp_path / "m.json"]
    dprune_process(*command, "--pairs", pipe).fails(3, "is a device or a pipe", "another --pairs")


def test_an_output_that_vanishes_is_no_success(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, sync = tmp_path / "out", publish_module.sync

    def vanish(folder: Path) -> None:
        sync(folder)
        if folder == out:
            left[0] -= 1
            if not left[0]:
                shutil.rmtree(out)

    monkeypatch.setattr(publish_module, "sync", vanish)
    pixels = ("--model", "pixels", "--image-size", 4, "--workers", 0)
    np.save(tmp_path / "s.npy", np.arange(4.0))
    commands = (
        (2, "pack", shards, "--shard-size", 6, "-o", out),
        (2, "embed", shards, *pixels, "-o", out),
        (1, "select", tmp_path / "s.npy", "--keep", 2, "-o", out / "k.npy"),
    )
    for count, *command in commands:
        left = [count]
        dprune(*command).fails(1, str(command[-1]), "removed or changed while it was made")
        shutil.rmtree(out, ignore_errors=True)


def test_json_is_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    publish_json(tmp_path / "a", {"b": 1, "a": "é"})
    publish_json(tmp_path / "b", {"a": "é", "b": 1})
    text = '{\n  "a": "é",\n  "b": 1,\n  "check": "'
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_text(encoding="utf-8").startswith(text)


# Provenance.


def test_records_keep_only_what_says_something() -> None:
    assert make_record("embed", {}) == {"dprune": RECORD["dprune"], "command": "embed", "options": {}}
    assert RECORD["seed"] == 1


def test_versions_make_no_difference_at_any_depth() -> None:
    parents = {"scores": parent_record(RECORD, "d")}
    record = make_record("select", {"keep": "0.5"}, parents=parents)
    older = json.loads(canonical(record).replace(f'"dprune":"{record["dprune"]}"', '"dprune":"0.0.1"'))
    assert older != record
    assert difference(older, record) == ""
    assert record_digest(older) == record_digest(record)
    # An option of that name is not a version.
    assert difference(make_record("a", {"dprune": 1}), make_record("a", {"dprune": 2})) == "options dprune: 1, not 2"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "carries no provenance"),
        (make_record("embed", {"draws": 8}, seed=1), "command: embed, not score random"),
        (make_record("score random", {"draws": 4}, seed=1, fingerprint="f" * 64), "options draws: 4, not 8"),
        (make_record("score random", {}, seed=1, fingerprint="f" * 64), "options draws: null, not 8"),
        (make_record("score random", {"draws": 8}, seed=1, fingerprint="e" * 64), "fingerprint: eeeeeeeeeeee…"),
    ],
)
def test_differences_in_words(found: Record, words: str) -> None:
    assert words in difference(found, RECORD)


def test_the_options_differ_before_the_parents() -> None:
    one, two = (make_record("a", {"x": n}, parents={"p": parent_record(None, str(n))}) for n in (1, 2))
    assert difference(one, two) == "options x: 1, not 2"


def test_lineage_goes_from_the_file_to_its_origins() -> None:
    clusters = make_record("cluster", {}, parents={"features": parent_record(None, "d1")})
    parents = {"scores": parent_record(RECORD, "d2"), "clusters": parent_record(clusters, "d3")}
    record = make_record("select", {}, parents=parents)
    steps = [(depth, role, step.get("command", "external")) for depth, role, step, _ in lineage(record)]
    assert steps == [(0, "", "select"), (1, "scores", "score random"), (1, "clusters", "cluster"),
                     (2, "features", "external")]  # fmt: skip


def chain(steps: int) -> Record:
    """Subset of subset of subset, each made of the one before in two roles."""
    record = make_record("score random", {})
    for number in range(steps):
        entry = parent_record(record, f"{number}")
        record = make_record("select", {"n": number}, parents={"scores": entry, "within": entry})
    return record


def test_every_ancestor_stands_in_the_table_once() -> None:
    sizes = [len(canonical(chain(steps))) for steps in (25, 50, 100)]
    assert len(chain(100)["ancestors"]) == 100
    assert sizes[2] - sizes[1] < 2.2 * (sizes[1] - sizes[0])
    steps = list(lineage(chain(100)))
    assert len(steps) == 201
    assert sum(step.repeated for step in steps) == 100
    assert training_subset(chain(100)) is None
    assert difference(chain(100), chain(100)) == ""


def test_a_table_holds_what_its_record_comes_from_and_nothing_else() -> None:
    left, right = (make_record("embed", {"n": n}) for n in (1, 2))
    both = make_record("eval", {}, parents={"a": parent_record(left, "a"), "b": parent_record(right, "b")})
    assert set(both["ancestors"]) == {record_digest(left), record_digest(right)}
    # An ancestor that was taken out of a larger table brings its own ancestors alone.
    alone = make_record("info", {}, parents={"a": parents_of(both)["a"]})
    assert set(alone["ancestors"]) == {record_digest(left)}
    assert difference(parent(both, "b"), right) == ""
    assert parent(both, "c") == parent(None, "a") == {}


def test_a_difference_between_ancestors_is_found() -> None:
    one, two = (make_record("embed", {"model": model}) for model in ("a", "b"))
    ours, theirs = (make_record("cluster", {}, parents={"features": parent_record(r, "same")}) for r in (one, two))
    assert difference(ours, theirs) == "parents features options model: a, not b"


OLD = {
    "dprune": "0.1",
    "command": "select",
    "options": {},
    "parents": {"scores": {"digest": "d", "provenance": RECORD}},
}


def damaged() -> list[Record]:
    """Tables that lack a record, hold one under a wrong key, lead in a circle, or are none."""
    sound = chain(3)
    key, *others = sound["ancestors"]
    missing = {**sound, "ancestors": {name: sound["ancestors"][name] for name in others}}
    wrong = {**sound, "ancestors": {**sound["ancestors"], key: {**sound["ancestors"][key], "options": {"n": 9}}}}
    circle = {**sound["ancestors"][key], "parents": {"scores": {"digest": "d", "record": key}}}
    return [missing, wrong, {**sound, "ancestors": {**sound["ancestors"], key: circle}}, {**sound, "ancestors": []}]


@pytest.mark.parametrize("record", [OLD, *damaged()])
def test_old_and_damaged_provenance_is_one_sentence(record: Record, tmp_path: Path) -> None:
    words = "a form that is no longer read" if record is OLD else "its provenance is damaged"
    np.save(tmp_path / "s.npy", np.arange(4.0))
    with (tmp_path / "s.npy").open("ab") as file:
        file.write(b"\n" + canonical(record).encode() + b"\n")
    dprune("select", tmp_path / "s.npy", "--keep", 2, "-o", tmp_path / "k.npy").fails(3, "s.npy", words)
    write_tensors(tmp_path / "c.safetensors", {"assignment": np.zeros(4, np.int32), "distance": np.ones(4)}, record)
    dprune("score", "cluster-distance", tmp_path / "c.safetensors").fails(3, "c.safetensors", words)
    publish_json(tmp_path / "store" / "manifest.json", {"kind": "features", "shards": [], "datasets": [],
                                                        "provenance": record})  # fmt: skip
    dprune("cluster", tmp_path / "store", "-o", tmp_path / "k").fails(3, "manifest.json", words)
    write_result(tmp_path / "m.json", "metrics", {}, {}, [], record)
    dprune("report", tmp_path / "m.json", "-o", tmp_path / "r").fails(3, "m.json", words)
    assert words in dprune("info", tmp_path / "s.npy").err
    # It is no reason not to make the file again.
    np.save(tmp_path / "fresh.npy", np.arange(4.0))
    dprune("select", tmp_path / "fresh.npy", "--keep", 2, "-o", tmp_path / "s.npy", "--overwrite").ok()


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        (np.array([0, 3_000_000_000, 1]), ("sample 1 is of cluster 3,000,000,000, and there are 3 samples",)),
        (np.array([0, 1, 2**31 - 1], dtype=np.int32), ("sample 2 is of cluster 2,147,483,647",)),
        (np.array([0.0, 1.5, 1.0]), ("'assignment' holds float64",)),
    ],
)
def test_clusters_that_no_list_of_sizes_could_hold(
    assignment: np.ndarray, words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    write_tensors(path, {"assignment": assignment, "distance": np.ones(3)}, {})
    dprune("score", "cluster-distance", path).fails(3, "c.safetensors", *words)
    dprune("select", "--order", "random", "--clusters", path, "--keep", 2).fails(3, "c.safetensors", *words)
    write_tensors(path, {"assignment": np.array([-(2**40), 5, 0])}, {})
    assert read_clusters(path).assignment.tolist() == [-1, 5, 0]


def test_inputs_speak_of_one_dataset() -> None:
    assert check_same_dataset({"a": None, "b": None}) is None
    assert check_same_dataset({"a": None, "b": "f", "c": "f"}) == "f"
    with pytest.raises(MismatchError, match=r"b and d come from different datasets \(fingerprints f and e\)") as caught:
        check_same_dataset({"a": None, "b": "f", "c": "f", "d": "e"})
    assert caught.value.exit_code == 3


def test_mixed_files_end_a_command_with_3(tmp_path: Path) -> None:
    for name in ("f", "e"):
        write_array(tmp_path / f"{name}.npy", np.arange(4), make_record("select", {}, fingerprint=name))
    args = ("--within", tmp_path / "f.npy", "--without", tmp_path / "e.npy", "-o", tmp_path / "k.npy")
    dprune("select", *args).fails(3, "f.npy", "e.npy", "different datasets")


# Arrays.


def test_the_line_behind_an_array_is_seen_by_dprune_alone(tmp_path: Path) -> None:
    values = np.arange(5, dtype=np.float32)
    write_array(tmp_path / "s.npy", values, RECORD)
    assert json.loads((tmp_path / "s.npy").read_bytes().splitlines()[-1]) == RECORD
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), values)
    mapped = np.load(tmp_path / "s.npy", mmap_mode="r")
    np.testing.assert_array_equal(mapped, values)
    del mapped
    array = read_array(tmp_path / "s.npy")
    assert (array.record, array.fingerprint) == (RECORD, "f" * 64)
    assert not array.values.flags.writeable
    assert array.as_parent() == {"digest": digest_array(values), "provenance": RECORD}


def test_arrays_of_others_are_external(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.arange(5))
    array = read_array(tmp_path / "s.npy")
    assert (array.record, array.fingerprint) == (None, None)
    assert array.as_parent()["external"] is True


def test_digests_tell_dtype_and_shape_apart() -> None:
    values = np.zeros(4, dtype=np.int32)
    digests = {digest_array(v) for v in (values, values.view(np.float32), values.reshape(2, 2), values.astype("i8"))}
    assert len(digests) == 4
    assert digest_array(np.arange(6).reshape(2, 3).T) == digest_array(np.arange(6).reshape(2, 3).T.copy())


def bytes_of(values: Any, **kwargs: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **kwargs)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, np.arange(3))
    return buffer.getvalue()


WHOLE = bytes_of(np.arange(100.0))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (WHOLE[:-1], "is not a whole .npy array"),
        (WHOLE[:60], "is not a whole .npy array"),
        (WHOLE[:6], "is not a whole .npy array"),
        (b"", "is not a .npy array"),
        (b"hello\n", "is text, not a .npy array"),
        (b"\x80\x04N.", "is a Python pickle"),
        (archive(), "is an .npz archive"),
        (bytes_of(np.array([{}, None]), allow_pickle=True), "holds pickled Python objects"),
        (WHOLE + b"not json\n", "what follows the array\\): is not valid JSON"),
        (WHOLE.replace(b"(100,)", b"(9**9)"), "is not a whole .npy array"),
        (WHOLE.replace(b"'<f8'", b"'<f8\0"), "is not a whole .npy array"),
    ],
)
def test_what_is_no_array(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "s.npy").write_bytes(data)
    with pytest.raises(InputError, match=words):
        read_array(tmp_path / "s.npy")
    dprune("select", tmp_path / "s.npy", "--keep", 2).fails(3, "s.npy")


def test_an_array_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.npy: no such file"):
        read_array(tmp_path / "x.npy")


def test_arrays_through_pipes() -> None:
    scores = bytes_of(np.array([3.0, 1.0, 2.0])) + canonical(RECORD).encode() + b"\n"
    keep = dprune("select", "-", "--keep", 2, stdin=scores).ok().out
    assert np.load(io.BytesIO(keep)).tolist() == [1, 2]
    assert json.loads(keep.splitlines()[-1])["fingerprint"] == "f" * 64


def test_an_empty_stdin_is_told() -> None:
    dprune("select", "-", "--keep", 2).fails(3, "stdin: is empty")
    both = bytes_of(np.arange(3.0))
    dprune("select", "-", "--keep", 2, "--within", "-", stdin=both).fails(3, "two inputs are given as '-'")


def test_stdin_that_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Terminal()))
    with pytest.raises(UsageError, match="stdin is a terminal"):
        read_array("-")


def test_ids_are_sorted_and_checked(tmp_path: Path) -> None:
    def read(values: Any) -> Any:
        np.save(tmp_path / "k.npy", values)
        return read_ids(tmp_path / "k.npy").values

    assert read(np.array([3, 1, 2], dtype=np.uint16)).tolist() == [1, 2, 3]
    assert read(np.array([3], dtype=np.uint8)).dtype == np.int64
    assert read(np.array([], dtype=np.int64)).tolist() == []
    assert read(np.array([False, True, True])).tolist() == [1, 2]
    for values, words in [
        (np.array([1, 2, 1]), "holds the id 1 more than once"),
        (np.array([0, -1]), "holds the id -1; ids count from 0"),
        (np.array([0.0]), "a subset is a vector of sample ids"),
        (np.array([[1]]), r"int64 of shape \[1, 1\]"),
        (np.array([[True]]), "bool"),
    ]:
        with pytest.raises(InputError, match=words):
            read(values)


def test_scores_and_groups_are_checked(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    np.save(tmp_path / "b.npy", np.array(["a"]))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(InputError, match="scores are one number per sample"):
            read_scores(tmp_path / name)
        with pytest.raises(InputError, match="groups are one whole number per sample"):
            read_groups(tmp_path / name)
    np.save(tmp_path / "c.npy", np.array([1, -1], dtype=np.int8))
    assert read_groups(tmp_path / "c.npy").values.dtype == np.int64


def test_what_stands_where_an_output_goes(tmp_path: Path) -> None:
    assert existing_record(tmp_path / "x.npy") is None
    assert existing_record(tmp_path, folder_of="shards") is None
    write_array(tmp_path / "x.npy", np.arange(2), RECORD)
    assert existing_record(tmp_path / "x.npy") == RECORD
    assert existing_record(tmp_path, folder_of="shards") == {}
    (tmp_path / "x.npy").write_text("precious")
    assert existing_record(tmp_path / "x.npy") == {}


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.arange(50.0))
    outputs = [tmp_path / "a.npy", tmp_path / "sub/b.npy"]
    for output in outputs:
        dprune_process("select", tmp_path / "s.npy", "--keep", "0.5", "--order", "random", "-o", output).ok()
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    again = dprune("select", tmp_path / "s.npy", "--keep", "0.5", "--order", "random", "-o", outputs[0]).ok()
    assert "up to date" in again.err
    dprune("select", tmp_path / "s.npy", "--keep", "0.4", "-o", outputs[0]).fails(3, "a.npy", "--overwrite")
