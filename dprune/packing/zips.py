"""Images in zip archives."""

from __future__ import annotations

import os
import zipfile
from collections import Counter

from dprune.errors import BadImage, InputError
from dprune.packing.files import FileChoice, ImageFile
from dprune.packing.folders import ImageFiles

_DOS = 0
_UTF_8 = 0x800
_END, _COUNT, _MANY = b"PK\x05\x06", slice(10, 12), 1 << 16
_LONGEST_END = 22 + _MANY
_LOCAL_HEADER, _LENGTH_OF_NAME = 30, slice(26, 28)


class ZipSource(ImageFiles):
    """Images in a zip archive, read without unpacking it."""

    def __init__(self, location: str, choice: FileChoice) -> None:
        """List the archive, and hold what it leaves out to the names that stand before the contents.

        Raises:
            InputError: it is no zip archive or a damaged one, or holds no images.
            UsageError: there are several splits to choose from.
        """
        try:
            with zipfile.ZipFile(location) as archive:
                entries = enumerate(archive.infolist())
                files = [(i.is_dir(), ImageFile(_path(i.filename, i), i.file_size, i.CRC, n)) for n, i in entries]
                _check_count(archive)
                lost = [name for (_, file) in files if (name := _lost(archive, file))]
        except Exception as error:  # damaged archives make zipfile raise nearly anything
            raise InputError(f"{location}: is not a whole zip archive: {error}.") from error
        if lost:
            raise InputError(f"{location}: is damaged: its directory does not list {lost[0]!r}: copy or make it again.")
        self._open: tuple[int, zipfile.ZipFile] | None = None
        super().__init__(location, (file for is_folder, file in files if not is_folder), choice, Counter())

    def _read(self, file: ImageFile) -> bytes:
        # Forked workers would share one file position, so each opens the archive for itself.
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), zipfile.ZipFile(self._location))
        try:
            # By entry, since two may have one name.
            content = self._open[1].read(self._open[1].infolist()[file.entry])
        except Exception as error:  # damaged archives make the decompressors raise nearly anything
            raise BadImage(f"cannot be read from the archive: {error}") from error
        if len(content) != file.size:
            raise BadImage(f"cannot be read from the archive: has {len(content):,} bytes, not {file.size:,} as listed")
        return content


def _path(name: str, entry: zipfile.ZipInfo) -> str:
    """Return a path without what leads nowhere, with the slashes that writers on Windows may turn around."""
    name = name.replace("\\", "/") if entry.create_system == _DOS else name
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _check_count(archive: zipfile.ZipFile) -> None:
    """Hold the directory to the number of entries that its end states, modulo 65,536: damage may swallow some."""
    assert archive.fp is not None
    size = archive.fp.seek(0, os.SEEK_END)
    archive.fp.seek(max(0, size - _LONGEST_END))
    end = archive.fp.read()
    stated = int.from_bytes(end[end.rfind(_END) :][_COUNT], "little")
    if stated not in (len(archive.infolist()) % _MANY, _MANY - 1):
        raise zipfile.BadZipFile(f"its directory lists {len(archive.infolist()):,} of {stated:,} entries")


def _lost(archive: zipfile.ZipFile, file: ImageFile) -> str | None:
    """Return the name of an image that the directory says to be none; of images, reading compares both names."""
    if file.is_image and not file.hidden:
        return None
    assert archive.fp is not None
    entry = archive.infolist()[file.entry]
    archive.fp.seek(entry.header_offset)
    length = int.from_bytes(archive.fp.read(_LOCAL_HEADER)[_LENGTH_OF_NAME], "little")
    name = archive.fp.read(length).decode("utf-8" if entry.flag_bits & _UTF_8 else "cp437", "replace")
    found = ImageFile(_path(name, entry), 0)
    return name if found.is_image and not found.hidden else None
