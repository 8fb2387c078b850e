"""Members of a sample by their names, and which of them are its image and its label."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dprune.errors import InputError, UsageError
from dprune.formats.checked_json import parse_json

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
LABEL_SUFFIX = "cls"
MOST_LABEL_BYTES, MOST_JSON_BYTES = 256, 16 << 20

_OUT_OF_THE_WAY = "other."
_BEGINNINGS = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png", b"RIFF": "webp"}

# Suffix and content of each member of a sample.
Members = Sequence[tuple[str, bytes]]


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into key and lower-case suffix at the first dot of its basename.

    Returns None for names that WebDataset ignores: without a dot, hidden, or in or called `__like this__`.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    first = name.partition("/")[0]
    if not stem or not dot or (len(first) > 3 and first.startswith("__") and first.endswith("__")):
        return None
    return folder + slash + stem, suffix.lower()


@dataclass(frozen=True)
class MemberChoice:
    """Which members of samples are taken, in the words of --image-member and --label-member.

    Attributes:
        image_member: suffix of images such as `input.png`; None for the first of `IMAGE_SUFFIXES` that a sample has.
        label_member: suffix of labels, or `json:label` for a field of a JSON object; None for `cls`.
    """

    image_member: str | None = None
    label_member: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no member can be called.

        Raises:
            UsageError: a suffix is none.
        """
        for option, suffix in (("--image-member", self._image), ("--label-member", self.label_suffix)):
            if not suffix or suffix.startswith(".") or "/" in suffix:
                raise UsageError(f"{option} {suffix!r}: give what follows the key's dot, such as input.png.")
        if self.label_member and self.label_member.endswith(":"):
            raise UsageError(f"--label-member {self.label_member}: name a field after the colon, such as json:label.")

    @property
    def _image(self) -> str:
        return IMAGE_SUFFIXES[0] if self.image_member is None else self.image_member.lower()

    @property
    def label_suffix(self) -> str:
        """Suffix of the members that hold labels, lower-case."""
        return LABEL_SUFFIX if self.label_member is None else self.label_member.partition(":")[0].lower()

    @property
    def most_label_bytes(self) -> int:
        """The largest member that may hold a label: one that is larger is read by nobody."""
        return MOST_JSON_BYTES if self._field else MOST_LABEL_BYTES

    @property
    def _field(self) -> str:
        return (self.label_member or "").partition(":")[2]

    def options(self) -> dict[str, Any]:
        """Return what provenance records: nothing where nothing was chosen."""
        image = {} if self.image_member is None else {"image_member": self._image}
        label = {} if self.label_member is None else {"label_member": f"{self.label_suffix}:{self._field}".rstrip(":")}
        return image | label

    def image_of(self, suffixes: Collection[str]) -> str | None:
        """Return which of a sample's suffixes, lower-case, is its image's, None for a sample without image."""
        wanted = IMAGE_SUFFIXES if self.image_member is None else (self._image,)
        return next((suffix for suffix in wanted if suffix in suffixes), None)

    def label(self, name: str, content: bytes) -> int:
        """Return the label that a member of `label_suffix` holds, -1 for none.

        Args:
            name: what messages call the member.
            content: of the member.

        Raises:
            InputError: it is not a whole number of 64 bits, or the JSON has no such field.
        """
        value: Any = content
        if self._field:
            table = parse_json(name, content, "mend the shard")
            if not isinstance(table, dict) or self._field not in table:
                raise InputError(f"{name}: has no field {self._field!r}: name one that all have with --label-member.")
            value = table[self._field]
        if value is None:
            return -1
        try:
            if isinstance(value, float | bool) or "_" in str(value):
                raise ValueError(value)
            # An int64, as labels are stored; numpy alone would take 1.5 too.
            return int(np.int64(int(value)))
        except (ValueError, TypeError, OverflowError):
            raise InputError(
                f"{name} holds {str(value)[:24] if self._field else value[:24]!r}, not a whole number of 64 bits: "
                "mend the shard."
            ) from None

    def standard(self, name: str, members: Members) -> tuple[list[tuple[str, bytes]], int] | None:
        """Rename what was chosen, so that whoever reads the members needs no choice.

        Args:
            name: what messages call the sample.
            members: in their order.

        Returns:
            The members and the position of the image among them; None for a sample without image. Members that would
            be taken for the image or the label instead are called `other.SUFFIX`.

        Raises:
            InputError: the label is none.
        """
        image = self.image_of([suffix for suffix, _ in members])
        if image is None:
            return None
        found = self._with_label(name, members) if self.label_member is not None else list(members)
        place = [suffix for suffix, _ in found].index(image)
        return (found if self.image_member is None else with_image(found, place, *_named(found[place]))), place

    def _with_label(self, name: str, members: Members) -> list[tuple[str, bytes]]:
        held = dict(members).get(self.label_suffix)
        label = -1 if held is None else self.label(f"{name}.{self.label_suffix}", held)
        # A text that was nothing but the label is replaced by it, a JSON object is kept.
        left = [m for m in members if self._field or m[0] != self.label_suffix]
        found = [(_out_of_the_way(suffix, left) if suffix == LABEL_SUFFIX else suffix, data) for suffix, data in left]
        return found if label < 0 else [*found, (LABEL_SUFFIX, str(label).encode())]


def with_image(members: Members, image: int, suffix: str, content: bytes) -> list[tuple[str, bytes]]:
    """Give a sample's image another suffix and content, so that it is what readers take for the image.

    Args:
        members: of the sample.
        image: which of them is the image.
        suffix: one of `IMAGE_SUFFIXES`.
        content: the encoded image.
    """
    rivals = IMAGE_SUFFIXES[: IMAGE_SUFFIXES.index(suffix) + 1] if suffix in IMAGE_SUFFIXES else ()
    found = [(_out_of_the_way(name, members) if name in rivals else name, data) for name, data in members]
    found[image] = (suffix, content)
    return found


def _named(member: tuple[str, bytes]) -> tuple[str, bytes]:
    """Give an image the suffix of its kind."""
    suffix, content = member[0].rpartition(".")[2], member[1]
    return suffix if suffix in IMAGE_SUFFIXES else image_suffix(content) or suffix, content


def image_suffix(content: bytes) -> str | None:
    """Return the suffix of an image's format by its first bytes, None for a format that shards do not hold."""
    return next((kind for begin, kind in _BEGINNINGS.items() if content.startswith(begin)), None)


def _out_of_the_way(suffix: str, members: Members) -> str:
    taken = {name for name, _ in members}
    while (suffix := f"{_OUT_OF_THE_WAY}{suffix}") in taken:
        pass
    return suffix
