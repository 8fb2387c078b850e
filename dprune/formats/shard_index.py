"""The index of a shard: which samples it holds and at which offsets their members lie, by one walk over its headers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.members import MemberChoice, split_name
from dprune.formats.ranges import open_blocks
from dprune.formats.tar import TarLink, TarMember, follow, walk

IntArray = npt.NDArray[np.int64]

MOST_SUFFIXES, MOST_SHOWN = 8, 160


@dataclass(frozen=True)
class LeftOut:
    """What of shards belongs to no sample though it looks as if it should.

    Attributes:
        keys: that have members and no image.
        suffixes: of those members with their numbers, the most frequent.
        links: that lead to no member of their tar.
        first_link: one of them, `name -> target`.
    """

    keys: int = 0
    suffixes: Mapping[str, int] = field(default_factory=dict)
    links: int = 0
    first_link: str = ""

    def __add__(self, other: LeftOut) -> LeftOut:
        """Return both together."""
        suffixes = most_frequent(Counter(self.suffixes) + Counter(other.suffixes))
        first = self.first_link or other.first_link
        return LeftOut(self.keys + other.keys, suffixes, self.links + other.links, first)

    def counts(self) -> Counter[str]:
        """Return how many there are of each kind that there is."""
        return +Counter({"keys without an image": self.keys, "links out of the tar": self.links})

    def words(self) -> str:
        """Say what was left out, and what to do about it; empty if nothing was."""
        found = []
        if self.keys:
            shown = ", ".join(f"{_short(suffix)} ({count:,})" for suffix, count in self.suffixes.items())
            keys = f"{self.keys:,} keys have" if self.keys > 1 else "1 key has"
            found.append(f"{keys} no image; their suffixes: {shown}: name one with --image-member")
        if self.links:
            links = f"{self.links:,} links lead" if self.links > 1 else "1 link leads"
            found.append(f"{links} to no file of the tar ({_short(self.first_link)}): pack what it leads to")
        return "; ".join(found)


def _short(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def most_frequent(suffixes: Counter[str]) -> dict[str, int]:
    """Return the suffixes that come most often; those that come equally often by name."""
    return dict(sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))[:MOST_SUFFIXES])


@dataclass(frozen=True)
class ShardIndex:
    """Samples and members of one shard.

    Attributes:
        digest: SHA-256 over every member's name and size, in tar order.
        left: what belongs to no sample.
        names: all members' names joined by zero bytes, uint8.
        name_stop: end of each member's name in `names`, int64 [members].
        offset: where each member's content begins in the tar, int64 [members].
        size: each member's size in bytes, int64 [members].
        header: CRC-32 of the header before each member's content, int64 [members].
        start: each sample's first member, int64 [samples].
        stop: one past each sample's last member, int64 [samples].
        image: the member that is each sample's image, int64 [samples].
        label: the member that is each sample's label, -1 for none, int64 [samples].
    """

    digest: str
    left: LeftOut
    names: npt.NDArray[np.uint8]
    name_stop: IntArray
    offset: IntArray
    size: IntArray
    header: IntArray
    start: IntArray
    stop: IntArray
    image: IntArray
    label: IntArray

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.start)

    def name(self, member: int) -> str:
        """Return a member's name."""
        begin = int(self.name_stop[member - 1]) + 1 if member else 0
        return self.names[begin : int(self.name_stop[member])].tobytes().decode("utf-8", "surrogateescape")

    def key(self, row: int) -> str:
        """Return a sample's key."""
        split = split_name(self.name(int(self.start[row])))
        assert split is not None
        return split[0]

    def keys(self) -> list[str]:
        """Return the keys of all samples."""
        names = self.names.tobytes().decode("utf-8", "surrogateescape").split("\0")
        splits = (split_name(names[member]) for member in self.start.tolist())
        return [split[0] for split in splits if split is not None]

    def suffix(self, member: int) -> str:
        """Return what follows the key in a member's name, lower-case."""
        split = split_name(self.name(member))
        assert split is not None
        return split[1]


def build_index(location: str, choice: MemberChoice | None = None) -> ShardIndex:
    """Walk a shard's headers.

    Args:
        location: path or URL.
        choice: which members are images and labels, None for the default.

    Raises:
        InputError: the tar is damaged or cut short, a key occurs twice, or a key's members are not adjacent.
    """
    return _Grouping(location, choice or MemberChoice()).of(follow(walk(open_blocks(location))))


def not_adjacent(location: str, key: str) -> InputError:
    """Describe a shard in which a key comes back."""
    return InputError(
        f"{location}: the members of {key!r} are not adjacent, or the key occurs twice: "
        "write the shard again with each sample's members together."
    )


def named_twice(location: str, member: str) -> InputError:
    """Describe a shard in which two members of one key have one suffix."""
    return InputError(f"{location}: holds {member!r} twice: write the shard again with unique keys.")


class _Grouping:
    """Members of a shard on their way to samples."""

    def __init__(self, location: str, choice: MemberChoice) -> None:
        self._location, self._choice = location, choice
        self._sha = hashlib.sha256()
        self._names: list[bytes] = []
        self._places: list[tuple[int, int, int]] = []
        self._samples: list[tuple[int, int, int, int]] = []
        self._keys: set[str] = set()
        self._key: str | None = None
        self._suffixes: dict[str, int] = {}
        self._without, self._left_suffixes = 0, Counter[str]()

    def of(self, entries: Iterable[TarMember | TarLink]) -> ShardIndex:
        """Return the index of a shard with these entries, in tar order."""
        dangling: list[TarLink] = []
        for entry in entries:
            if isinstance(entry, TarMember):
                self._add(entry)
            elif split_name(entry.name) is not None:
                dangling.append(entry)
        self._close()
        links = (len(dangling), f"{dangling[0].name} -> {dangling[0].target}") if dangling else (0, "")
        left = LeftOut(self._without, most_frequent(self._left_suffixes), *links)
        samples = np.array(self._samples, dtype=np.int64).reshape(-1, 4).T.copy()
        places = np.array(self._places, dtype=np.int64).reshape(-1, 3).T.copy()
        lengths = np.array([len(name) + 1 for name in self._names], dtype=np.int64)
        names = np.frombuffer(b"".join(name + b"\0" for name in self._names), dtype=np.uint8)
        return ShardIndex(self._sha.hexdigest(), left, names, np.cumsum(lengths) - 1, *places, *samples)

    def _add(self, member: TarMember) -> None:
        self._sha.update(f"{member.name}\0{member.size}\n".encode("utf-8", "surrogateescape"))
        split = split_name(member.name)
        if split is None:
            return
        if split[0] != self._key:
            self._close()
            self._begin(split[0])
        if split[1] in self._suffixes:
            raise named_twice(self._location, member.name)
        self._suffixes[split[1]] = len(self._names)
        self._names.append(member.name.encode("utf-8", "surrogateescape"))
        self._places.append((member.offset, member.size, member.header))

    def _begin(self, key: str) -> None:
        self._key, self._suffixes = key, {}
        if key in self._keys:
            raise not_adjacent(self._location, key)
        self._keys.add(key)

    def _close(self) -> None:
        image = self._choice.image_of(self._suffixes)
        if image is not None:
            begin, label = min(self._suffixes.values()), self._suffixes.get(self._choice.label_suffix, -1)
            self._samples.append((begin, begin + len(self._suffixes), self._suffixes[image], label))
        elif self._suffixes:
            self._without += 1
            self._left_suffixes.update(self._suffixes.keys())
