"""The label of a generated image, in XMP: what platforms and laws look for to tell that no camera made it.

Two vocabularies say it: IPTC's digital source type, and the AIGC field of GB 45438-2025, China's mandatory standard for implicit
labels (field names and values: its annex E; name space: TC260-PG-20258A). Whoever publishes images answers for what their law
asks; a law may ask for a mark that people see, too.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from dataclasses import dataclass
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

from altdiffusion.generation.contact_sheet import Font, font_for
from altdiffusion.generation.infotext import to_infotext
from altdiffusion.generation.settings import ImageSettings

PNG_KEY = "XML:com.adobe.xmp"
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_TC260 = "http://www.tc260.org.cn/ns/AIGC/1.0/"
_MARK_HEIGHT = 0.05  # of the shorter side: the least that GB 45438-2025 allows


@dataclass(frozen=True)
class Label:
    """How images are labelled. producer: who answers for them, a name or a registration code; mark: a text that is drawn into
    a corner, for people to see; is_written: whether the file says what it is."""

    producer: str = ""
    mark: str | None = None
    is_written: bool = True

    def xmp(self, settings: ImageSettings) -> bytes | None:
        """An XMP packet; the same for the same settings. None where none is to be written."""
        if not self.is_written:
            return None
        # of a painted-over photo, a part is none
        source_type = "compositeWithTrainedAlgorithmicMedia" if settings.mask else "trainedAlgorithmicMedia"
        aigc = {
            "Label": "1",  # certainly generated
            "ContentProducer": self.producer,
            "ProduceID": hashlib.sha256(to_infotext(settings).encode()).hexdigest()[:32],
            "ReservedCode1": "",
            "ContentPropagator": "",
            "PropagateID": "",
            "ReservedCode2": "",
        }
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
            f'xmlns:Iptc4xmpExt="{_IPTC}" xmlns:TC260="{_TC260}">'
            f"<Iptc4xmpExt:DigitalSourceType>{_SOURCE_TYPES}{source_type}</Iptc4xmpExt:DigitalSourceType>"
            f"<TC260:AIGC>{escape(json.dumps(aigc, ensure_ascii=False))}</TC260:AIGC>"
            '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
        ).encode()

    def marked(self, image: Image.Image) -> Image.Image:
        """The image with the mark in its lower right corner, light on dark; without one, the image itself."""
        if not self.mark:
            return image
        height = max(8, round(_MARK_HEIGHT * min(image.size)))
        font = _sized(font_for(self.mark), height)
        left, top, right, bottom = font.getbbox(self.mark)
        # a font's size isn't the height of its letters
        font = _sized(font, -(-height * height // max(1, round(bottom - top))))
        left, top, right, bottom = font.getbbox(self.mark)
        margin = height // 3
        width = round(right - left) + 2 * margin
        marked = image.convert("RGB")
        corner = marked.width - width, marked.height - round(bottom - top) - 2 * margin
        dark = Image.new("RGB", (width, marked.height - corner[1]), "black")
        under = marked.crop((*corner, marked.width, marked.height)) if corner[0] >= 0 else dark
        marked.paste(Image.blend(under, dark, 0.6), corner)
        ImageDraw.Draw(marked).text((corner[0] + margin - left, corner[1] + margin - top), self.mark, "white", font)
        return marked


DEFAULT = Label()


@dataclass(frozen=True)
class FoundLabel:
    """What an image's file says of how it was made. source_type: IPTC's last word, such as trainedAlgorithmicMedia; aigc: the
    fields of GB 45438-2025. None for what it does not say."""

    source_type: str | None
    aigc: dict[str, str] | None

    def lines(self) -> list[str]:
        """For people, without fields that are empty."""
        fields = [f"{name} {value}" for name, value in (self.aigc or {}).items() if value]
        lines = [] if self.source_type is None else [f"IPTC digital source type: {self.source_type}"]
        return lines + [f"GB 45438-2025: {', '.join(fields)}"] * bool(fields)


def _sized(font: Font, size: int) -> Font:
    return font.font_variant(size=size) if isinstance(font, ImageFont.FreeTypeFont) else font


def read_label(image: Image.Image) -> FoundLabel:
    """Of any program's image: XMP as text elements or as attributes."""
    packet = image.info.get("xmp") or image.info.get(PNG_KEY) or ""
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
    source_type, aigc = _value(text, "DigitalSourceType"), _value(text, "AIGC")
    fields = None
    if aigc is not None:
        try:
            read = json.loads(aigc)
        except (ValueError, RecursionError):
            read = None
        if isinstance(read, dict):
            inner = read.get("AIGC", read)
            fields = {str(name): str(value) for name, value in inner.items()} if isinstance(inner, dict) else None
    return FoundLabel(None if source_type is None else source_type.rsplit("/", 1)[-1], fields)


def _value(xmp: str, name: str) -> str | None:
    """Of a property by its local name, whatever prefix its name space has."""
    found = re.search(rf"""<[\w-]+:{name}>([^<]*)<|\s[\w-]+:{name}=(?:"([^"]*)"|'([^']*)')""", xmp)
    return None if found is None else html.unescape(next(part for part in found.groups() if part is not None)).strip()
