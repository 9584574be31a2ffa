"""Images that were found, as one HTML page that needs nothing beside it, or as a contact sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from PIL import Image

from altdiffusion import files
from altdiffusion.data.image_places import thumbnail
from altdiffusion.errors import InputError
from altdiffusion.generation.contact_sheet import contact_sheet
from altdiffusion.images import BadImage

SIDE = 256  # of a thumbnail, in pixels
_LABEL = 80  # characters of a caption on a sheet

# No script, and nothing but what is inside: the page may be sent to others.
_PAGE = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!DOCTYPE html>
<html lang="und">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{{ searches[0][0] }}</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax({{ side // 16 }}em, 1fr)); gap: 1em; padding: 0 }
li { list-style: none }
figure { margin: 0 }
img { display: block }
img, .none { width: 100%; aspect-ratio: 1; object-fit: contain; background: #eee }
.none { display: grid; place-items: center; color: #777 }
small { color: #666; overflow-wrap: anywhere }
</style>
</head>
<body>
{% for name, found in searches %}
<h2 dir="auto">{{ name }}</h2>
<ol>
{% for score, image, caption, place in found %}
<li><figure>
{% if image.startswith("data:") %}
<img alt="{{ caption or place }}" src="{{ image }}">
{% else %}
<div class="none">{{ image }}</div>
{% endif %}
<figcaption><b>{{ score }}</b> <span dir="auto">{{ caption }}</span><br><small>{{ place }}</small></figcaption>
</figure></li>
{% endfor %}
</ol>
{% endfor %}
<p><small>{{ about }}</small></p>
</body>
</html>
""")


@dataclass(frozen=True)
class Found:
    """image: at most SIDE pixels wide and high; None where it can't be shown, and `defect` says why."""

    score: float
    place: str
    caption: str
    image: Image.Image | None
    defect: str = ""


def read_image(score: float, place: str, caption: str, root: Path) -> Found:
    """The image at a place. root: the folder that relative paths start from."""
    try:
        return Found(score, place, caption, thumbnail(place, root, SIDE))
    except BadImage as error:
        return Found(score, place, caption, None, str(error))


def write_page(path: Path, about: str, searches: Sequence[tuple[str, Sequence[Found]]]) -> None:
    """about: said at the page's end. Raises InputError where it can't be written."""
    shown = [
        (name, [(f"{each.score:.3f}", _embedded(each), each.caption, each.place) for each in found])
        for name, found in searches
    ]
    page = _PAGE.render(searches=shown, about=about, side=SIDE)
    _write(path, page.encode("utf-8", "backslashreplace"))


def write_sheet(path: Path, title: str, searches: Sequence[tuple[str, Sequence[Found]]]) -> None:
    """One image with a label above each. Raises InputError where it can't be written."""
    several = len(searches) > 1
    title = title if several else f"{searches[0][0]} ({title})"
    labels = [
        f"{name}\n" * several + f"{each.score:.3f} {each.caption[:_LABEL] or each.place}"
        for name, found in searches
        for each in found
    ]
    images = [each.image for _, found in searches for each in found]
    content = io.BytesIO()
    contact_sheet(title, [labels], images).save(content, "PNG")
    _write(path, content.getvalue())


def _embedded(found: Found) -> str:
    """The image as a data URL, or why there is none."""
    if found.image is None:
        return found.defect
    content = io.BytesIO()
    found.image.save(content, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _write(path: Path, content: bytes) -> None:
    try:
        files.write_bytes(path, content)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}): pick another file") from None
