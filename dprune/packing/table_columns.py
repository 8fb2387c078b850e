"""Which columns of a table are images and labels, by their types and names, and what kind of labels these are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dprune.errors import InputError
from dprune.formats.npz_images import NO_LABELS
from dprune.formats.table_files import TableFile, arrow
from dprune.packing.classes import escaped

BYTES, PATH = "bytes", "path"
"""Fields of images as Hugging Face writes them."""

_IMAGE_NAMES = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "photo", "pixels", "image_bytes")
_PATH_NAMES = ("image", "img", "image_path", "img_path", "image_file", "path", "filepath", "file_path", "file_name",
               "filename", "file")  # fmt: skip
_LABEL_NAMES = ("label", "labels", "cls", "class", "class_label", "class_id", "label_id", "fine_label", "fine_labels",
                "target", "category", "y")  # fmt: skip


@dataclass(frozen=True)
class TableChoice:
    """What is wanted of tables and of arrays in archives, in the words of `dprune pack`.

    Attributes:
        split: which of several splits; None takes the training set.
        image_column: column of images, None to find it.
        label_column: column of labels, `NO_LABELS` to leave them out, None to find it.
        beside: columns that become a JSON object beside each image.
    """

    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    beside: Sequence[str] = ()


@dataclass(frozen=True)
class Columns:
    """The columns that are taken of one file.

    Attributes:
        image: name of the column of images.
        content: field of the column that holds bytes, "" for the column itself, None where there are only paths.
        path: the same of paths.
        label: name of the column of labels, None for none.
        named: whether labels are texts, which are the names of classes; None where all are null.
        classes: names that the file states for labels that are numbers.
        beside: names of the columns that are kept.
    """

    image: str
    content: str | None
    path: str | None
    label: str | None = None
    named: bool | None = None
    classes: Sequence[str] = ()
    beside: Sequence[str] = ()

    @property
    def wanted(self) -> list[str]:
        """Names of all columns that are read."""
        return list(dict.fromkeys([self.image, *([] if self.label is None else [self.label]), *self.beside]))


def choose_columns(file: TableFile, choice: TableChoice) -> Columns:
    """Find the columns of images and labels.

    Raises:
        InputError: there is none, there are several to choose from, or the one that is named is missing or no such.
    """
    features = _features(file)
    image = _image_column(file, features, choice.image_column)
    content, path = _parts(file, image) or (None, None)
    label = _label_column(file, features, choice.label_column)
    beside = [_column_called(file, name) for name in choice.beside]
    named = None if label is None else _are_named(file, label)
    names = _class_names(features.get(label or "", {})) if named is False else ()
    return Columns(image, content, path, label, named, names, beside)


def holds_images(file: TableFile) -> bool:
    """Tell whether a column has bytes, as of images."""
    places = (_parts(file, name) for name in file.schema.names)
    return any(place is not None and place[0] is not None for place in places)


def _features(file: TableFile) -> dict[str, dict[str, Any]]:
    """Return what Hugging Face's datasets noted of each column, empty where there is nothing of the kind."""
    try:
        noted = json.loads((file.schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {str(name): feature for name, feature in noted.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _class_names(feature: dict[str, Any]) -> Sequence[str]:
    names = feature.get("names")
    return [escaped(str(name)) for name in names] if isinstance(names, list) else ()


def _told(file: TableFile) -> str:
    """List the columns with their types, the first twenty of them."""
    fields = [f"{field.name} ({_short(field.type)})" for field in file.schema]
    return ", ".join(fields[:20]) + (f" and {len(fields) - 20} more" if len(fields) > 20 else "")


def _short(kind: Any) -> str:
    text = str(kind)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _column_called(file: TableFile, name: str) -> str:
    """Return the one column of a name, in any case where none has it exactly."""
    found = [n for n in file.schema.names if n == name] or [n for n in file.schema.names if n.lower() == name.lower()]
    if len(found) != 1:
        why = f"has {len(found)} columns" if found else "has no column"
        raise InputError(f"{file.path}: {why} {name!r}: name one of {_told(file)}.")
    return str(found[0])


def _is_text(kind: Any) -> bool:
    types = arrow("pyarrow.types")
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_bytes(kind: Any) -> bool:
    types = arrow("pyarrow.types")
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _parts(file: TableFile, name: str) -> tuple[str | None, str | None] | None:
    """Return where in a column bytes and paths of images are, see `Columns`, or None for what holds no images."""
    kind = file.schema.field(name).type
    if _is_bytes(kind) or _is_text(kind):
        return ("", None) if _is_bytes(kind) else (None, "")
    if not arrow("pyarrow.types").is_struct(kind):
        return None
    fields = {field.name: field.type for field in kind}
    content = BYTES if BYTES in fields and _is_bytes(fields[BYTES]) else None
    path = PATH if PATH in fields and _is_text(fields[PATH]) else None
    return (content, path) if content else None


def _image_column(file: TableFile, features: dict[str, dict[str, Any]], asked: str | None) -> str:
    if asked is not None:
        name = _column_called(file, asked)
        if _parts(file, name) is None:
            kind = _short(file.schema.field(name).type)
            raise InputError(
                f"{file.path}: the column {name!r} holds {kind}, not images as bytes, paths or a struct of both: "
                "give another --image-column."
            )
        return name
    images = {name: parts for name in file.schema.names if (parts := _parts(file, name)) is not None}
    kinds = (
        [name for name in images if features.get(name, {}).get("_type") == "Image"],
        [name for name, (content, _) in images.items() if content == BYTES],
        [name for name, (content, _) in images.items() if content == ""],
        [name for name, (content, _) in images.items() if content is None and name.lower() in _PATH_NAMES],
    )
    found = next(filter(None, kinds), [])
    if len(found) > 1:
        found = [name for name in found if name.lower() in (*_IMAGE_NAMES, *_PATH_NAMES)] or found
    if len(found) == 1:
        return str(found[0])
    if found:
        raise InputError(f"{file.path}: {' and '.join(map(repr, found[:8]))} may be the images: give --image-column.")
    hint = "give the right one with --image-column"
    if any("url" in name.lower() for name in file.schema.names):
        hint = "img2dataset fetches what URLs name"
    raise InputError(f"{file.path}: has no column that is clearly of images, but {_told(file) or 'none'}: {hint}.")


def _label_column(file: TableFile, features: dict[str, dict[str, Any]], asked: str | None) -> str | None:
    if asked is not None:
        return None if asked == NO_LABELS else _column_called(file, asked)
    known = {name.lower(): name for name in reversed(file.schema.names)}
    stated = [name for name in file.schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    found = next((known[name] for name in _LABEL_NAMES if name in known), None)
    if found is None and len(stated) > 1:
        raise InputError(
            f"{file.path}: {' and '.join(map(repr, stated[:8]))} may be the labels: give --label-column, or "
            f"--label-column {NO_LABELS}."
        )
    return found or next(iter(stated), None)


def _are_named(file: TableFile, name: str) -> bool | None:
    """Tell labels that are texts from whole numbers, None where the column holds nothing but nulls."""
    types, kind = arrow("pyarrow.types"), file.schema.field(name).type
    if types.is_null(kind):
        return None
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if _is_text(kind):
        return True
    if types.is_integer(kind) or types.is_boolean(kind):
        return False
    raise InputError(
        f"{file.path}: the column {name!r} holds {_short(kind)}, not whole numbers or text: give another "
        f"--label-column, or --label-column {NO_LABELS}."
    )
