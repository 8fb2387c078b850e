"""Tasks of a SLURM array share an output as they come: whichever of them there are, it becomes whole."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import Result, dprune, sample, write_tar

from dprune.errors import Interrupted
from dprune.formats.claims import at_work, claim_of, free
from dprune.formats.turns import Turns
from dprune.runtime import Silent


def task(patch: pytest.MonkeyPatch, number: int, count: int) -> None:
    """Have this process be a task of an array."""
    patch.setenv("SLURM_ARRAY_TASK_ID", str(number))
    patch.setenv("SLURM_ARRAY_TASK_COUNT", str(count))


class Pieces:
    """Pieces that are there or not, as those of an output are."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count, self.made = folder, count, set[int]()

    def missing(self, numbers: Iterable[int]) -> list[int]:
        return [number for number in numbers if number not in self.made]

    def claim(self, number: int) -> Path:
        return claim_of(self.folder, number, self.count)

    def dealt(self, *, made: bool = True, most: int = 128) -> list[list[int]]:
        """Every batch that a worker gets, each made before the next."""
        batches = []
        with Turns(self.folder / "task") as turns:
            for batch in turns.deal(self.count, self.missing, self.claim, most):
                assert [number for number in batch if not self.claim(number).exists()] == []
                batches.append(batch)
                self.made.update(batch if made else ())
        return batches


@pytest.fixture
def pieces(tmp_path: Path) -> Pieces:
    return Pieces(tmp_path / "out", 32)


def test_a_task_begins_with_its_share_and_ends_with_everything(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    task(monkeypatch, 1, 4)
    batches = pieces.dealt()
    # A fourth of a half of what is missing; then the others, which do not show, are taken to be fewer and fewer.
    assert batches[:2] == [[1, 5, 9, 13], [17, 21, 22, 25, 26, 29, 30]]
    assert sorted(number for batch in batches for number in batch) == list(range(32))
    assert len(batches) < 9
    assert not pieces.folder.exists(), "nothing is left of claims"


def test_others_at_work_leave_a_task_less(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    task(monkeypatch, 0, 4)
    with ExitStack() as others:
        for _ in range(3):
            others.enter_context(at_work(pieces.folder / "task"))
        assert [len(batch) for batch in pieces.dealt()] == [4, 4, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("number", [0, 5, 1003])
def test_numbers_need_not_be_below_the_count(pieces: Pieces, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    task(monkeypatch, number, 2)
    assert pieces.dealt()[0] == list(range(number % 2, 16, 2))
    assert pieces.made == set(range(32))


def test_more_tasks_than_pieces(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    task(monkeypatch, 77, 100)
    assert pieces.dealt()[0] == [0], "the next share that has any"
    assert pieces.made == set(range(32))


def test_what_another_process_makes_is_left_to_it(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    task(monkeypatch, 0, 2)
    with free(pieces.claim(4)) as held, free(pieces.claim(7)) as too:
        assert held
        assert too
        pieces.dealt()
        assert pieces.made == set(range(32)) - {4, 7}
    # What the dead leave is taken.
    pieces.folder.mkdir(exist_ok=True)
    pieces.claim(4).touch()
    assert sorted(number for batch in pieces.dealt() for number in batch) == [4, 7]


def test_what_others_made_before_the_claim_is_not_made_again(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    task(monkeypatch, 0, 1)

    def missing(numbers: Iterable[int]) -> list[int]:
        return [number for number in numbers if number in (3, 5) or not pieces.claim(number).exists()]

    monkeypatch.setattr(pieces, "missing", missing)
    assert pieces.dealt() == [[3, 5]]


def test_a_piece_that_vanishes_is_dealt_once(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks with other options at one output must not make each other's pieces again for ever."""
    task(monkeypatch, 0, 1)
    assert sorted(number for batch in pieces.dealt(made=False) for number in batch) == list(range(32))


def test_claims_end_with_the_work_however_that_ends(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    task(monkeypatch, 0, 1)
    monkeypatch.setattr(pieces, "made", None)
    with pytest.raises(TypeError):
        pieces.dealt()
    monkeypatch.setattr(pieces, "missing", list)
    with pytest.raises(AttributeError):
        pieces.dealt()
    assert not pieces.folder.exists()


def test_without_locks_all_is_made_and_perhaps_twice(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    task(monkeypatch, 0, 2)
    with at_work(pieces.folder / "task"), free(pieces.claim(4)) as held:
        assert held
        assert [len(batch) for batch in pieces.dealt()][:2] == [8, 6], "the other task counts"
    assert pieces.made == set(range(32))


def test_ranks_have_their_share_and_no_more(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    task(monkeypatch, 0, 2)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    pieces.made = {11}
    with Turns(pieces.folder / "task") as turns:
        assert list(turns.deal(pieces.count, pieces.missing, pieces.claim)) == [[3, 19, 27]]
        assert not pieces.folder.exists()
        with turns.alone("finish") as first, turns.alone("finish") as second:
            assert first
            assert second


def test_one_task_does_what_is_done_for_all(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    task(monkeypatch, 0, 2)
    with Turns(pieces.folder / "task") as turns:
        with turns.first("begin", Silent()), turns.alone("begin") as second, turns.alone("finish") as other:
            assert not second
            assert other
            monkeypatch.setattr(Silent, "stop_requested", lambda self: True)
            with pytest.raises(Interrupted), turns.first("begin", Silent()):
                pass
        with turns.alone("begin") as again:
            assert again


def test_a_folder_that_another_task_is_removing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, removals = tmp_path / "above" / "out", 0
    mkdir = Path.mkdir

    def removed_again(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        nonlocal removals
        mkdir(self, mode, parents, exist_ok)
        if self == folder and removals % 4 < 3:
            self.rmdir()
        removals += self == folder

    monkeypatch.setattr(Path, "mkdir", removed_again)
    with at_work(folder / "task"):
        assert [path.name.startswith(".task.") for path in folder.iterdir()] == [True]
    with free(claim_of(folder, 0, 1)) as mine:
        assert mine
        assert claim_of(folder, 0, 1).exists()
    assert removals > 4
    assert not folder.exists()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Nine shards of two samples."""
    for number in range(9):
        write_tar(
            tmp_path / "shards" / f"{number:06d}.tar",
            [*sample(f"a{number}", number), *sample(f"b{number}", 100 + number)],
        )
    return tmp_path / "shards"


def embed(shards: Path, store: Path, *more: object) -> Result:
    pixels = ("--model", "pixels", "--image-size", "4", "--workers", "0", "--json")
    return dprune("embed", shards, *pixels, *more, "-o", store)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def part(store: Path, number: int) -> Path:
    return store / f"{number:06d}.safetensors"


def test_a_task_of_a_sweep_makes_its_whole_output(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = json.loads(embed(many, tmp_path / "one").ok().out)
    task(monkeypatch, 17, 100)
    summary = json.loads(embed(many, tmp_path / "sweep").ok().out)
    assert summary == alone | {"output": str(tmp_path / "sweep"), "complete": True}
    assert content(tmp_path / "sweep") == content(tmp_path / "one")
    assert "up to date" in embed(many, tmp_path / "sweep").ok().err


def test_the_task_that_ends_last_completes_the_store(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task(monkeypatch, 0, 3)
    with free(claim_of(tmp_path / "f", 3, 9)), free(claim_of(tmp_path / "f", 8, 9)):
        result = embed(many, tmp_path / "f").ok()
        assert "other tasks are still making 2 of 9 files" in result.err
        assert "did a share of" in result.err
        summary = json.loads(result.out)
        assert (summary["complete"], summary["images"], summary["shards"], summary["shards_made"]) == (False, 14, 7, 7)
    task(monkeypatch, 5, 1)
    summary = json.loads(embed(many, tmp_path / "f").ok().out)
    assert (summary["complete"], summary["images"], summary["shards"], summary["shards_made"]) == (True, 18, 9, 2)
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    assert "up to date" in embed(many, tmp_path / "f").ok().err


def test_a_part_of_another_dataset_is_seen_by_every_task(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may be the only one at its output, so that nobody else would look."""
    embed(many, tmp_path / "f").ok()
    write_tar(many / "000004.tar", sample("new", 99))
    embed(many, tmp_path / "fresh").ok()
    for number in range(3):
        task(monkeypatch, number, 100)
        embed(many, tmp_path / "f").fails(3, "members of 000004.tar", "--overwrite")
    assert json.loads(embed(many, tmp_path / "f", "--overwrite").ok().out)["shards_made"] == 1
    assert content(tmp_path / "f") == content(tmp_path / "fresh")


def test_tasks_overwrite_a_store_of_other_shards_and_options(
    many: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(many, tmp_path / "f", "--pca", 2).ok()
    monkeypatch.chdir(tmp_path)
    for number in range(6, 9):
        (many / f"{number:06d}.tar").unlink()
    embed(many, tmp_path / "one", "--dtype", "float32").ok()
    task(monkeypatch, 2, 3)
    with free(claim_of(tmp_path / "f", 0, 6)):
        embed(many, tmp_path / "f", "--dtype", "float32", "--overwrite").ok()
    task(monkeypatch, 1, 3)
    later = json.loads(embed(many, tmp_path / "f", "--dtype", "float32", "--overwrite").ok().out)
    assert later["shards_made"] == 1
    assert content(tmp_path / "f") == content(tmp_path / "one")


def test_a_store_that_another_task_makes_with_other_options_is_no_endless_fight(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task(monkeypatch, 0, 1)
    publish = "dprune.formats.stores.Store.publish_part"
    monkeypatch.setattr(publish, lambda *_: None)
    embed(many, tmp_path / "f").fails(1, "was removed or changed while it was made")


def test_commands_that_do_not_share_work_ignore_the_array(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task(monkeypatch, 1, 2)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "two")
    dprune("pack", many, "--shard-size", 5, "--workers", 0, "-o", tmp_path / "packed").ok()
    assert len(list((tmp_path / "packed").glob("*.tar"))) == 4
    dprune("info", many).ok()
    sides = (many, tmp_path / "packed", "--model", "pixels", "--metrics", "fid", "--workers", 0)
    dprune("eval", *sides, "-o", tmp_path / "metrics.json").ok()
    embed(many, tmp_path / "f").fails(2, "SLURM_ARRAY_TASK_COUNT must be whole numbers")
    assert not (tmp_path / "f").exists()
