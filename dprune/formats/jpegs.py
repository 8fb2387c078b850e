"""JPEGs by their headers: which of them any decoder brings to the pixels that Pillow's gives."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

from PIL import ExifTags, Image

END_OF_IMAGE = b"\xff\xd9"
YCBCR_IDS = (1, 2, 3)


class PlainJpeg(NamedTuple):
    """A JPEG that needs no more than decoding and turning.

    Attributes:
        size: bytes.
        width, height: of what a decoder gives, in pixels.
        orientation: 1 to 8 as in EXIF, how it is to be turned.
    """

    size: int
    width: int
    height: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height after turning."""
        return (self.height, self.width) if self.orientation > 4 else (self.width, self.height)


def plain_jpeg(data: bytes) -> PlainJpeg | None:
    """Read the header of a whole JPEG in grey or YCbCr of 8 bits that is not progressive.

    Returns:
        None for everything else, of which only Pillow's own decoder tells what it is, or what is wrong with it: other
        formats and colours, more pixels than Pillow's limit, and files that do not end as a JPEG does and may be cut.
        Progressive ones a GPU's decoder would leave to a single core.
    """
    if not data.endswith(END_OF_IMAGE):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A warning is all that Pillow gives for images between one and two times its limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=("JPEG",))
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - Pillow says what it is when it decodes the image
        return None
    # Pictures with previews or maps of depth behind the first are of another format to Pillow.
    if image.format != "JPEG" or "progressive" in image.info or not _usual_colours(image):
        return None
    return PlainJpeg(len(data), *image.size, orientation if orientation in range(1, 9) else 1)


def _usual_colours(image: Image.Image) -> bool:
    """Tell whether three channels are YCbCr, by libjpeg's rules; decoders that know fewer marks take all for that."""
    if image.mode == "L":
        return True
    if image.mode != "RGB":
        return False
    if "jfif" in image.info:
        return True
    if "adobe" in image.info:
        return image.info.get("adobe_transform") == 1
    return tuple(layer[0] for layer in getattr(image, "layer", ())) == YCBCR_IDS
