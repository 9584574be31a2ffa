"""What people call the things of the toy world in AltDiffusion-m18's languages, from Unicode's CLDR.

    npm pack cldr-annotations-full && tar xzf cldr-annotations-full-*.tgz
    python pipelines/mini/cldr_names.py package > altdiffusion/toy/cldr_names.toml

Of each thing in CONCEPTS its name and its keywords, as they are there; Chinese in both scripts. Nothing else is taken.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from altdiffusion.checkpoints import hub
from altdiffusion.toy.glyphs import CONCEPTS

LANGUAGES = [*hub.LANGUAGES["AltDiffusion-m18"].split(), "zh-Hant"]

_HEAD = """\
# Names and keywords of the things in captions.toml, entry i of the i-th of its concepts, from Unicode's Common Locale Data
# Repository: npm's cldr-annotations-full {version}, written by pipelines/mini/cldr_names.py. Under the licence below.
#
{licence}
"""


def main() -> None:
    (folder,) = map(Path, sys.argv[1:])
    version = json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"]
    licence = "\n".join(f"# {line}".rstrip() for line in (folder / "LICENSE").read_text(encoding="utf-8").splitlines())
    found = {language: read(folder / f"annotations/{language}/annotations.json") for language in LANGUAGES}
    print(_HEAD.format(version=version, licence=licence))
    for part, index in (("names", 0), ("keywords", 1)):
        print(f"[{part}]")
        for language, entries in found.items():
            print(f"{language} = {json.dumps([entry[index] for entry in entries], ensure_ascii=False)}")
        print()


def read(path: Path) -> list[tuple[str, list[str]]]:
    """(name, keywords other than it) of each concept."""
    given = json.loads(path.read_text(encoding="utf-8"))["annotations"]["annotations"]
    entries = [given.get(glyph) or given[f"{glyph}\ufe0f"] for glyph in CONCEPTS]
    return [(entry["tts"][0], [word for word in entry["default"] if word != entry["tts"][0]]) for entry in entries]


if __name__ == "__main__":
    main()
