"""Draws the README's pictures with mini: one sheet of the same things asked for in nine languages, enlarged.

python docs/draw_pictures.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from altdiffusion import AltDiffusionPipeline, generate

ROWS = [
    ["a cat", "一只猫", "gato", "un chat", "кошка", "ネコ", "고양이", "قطة", "un gatto"],
    [
        "a tulip",
        "一朵郁金香",
        "tulipán",
        "une tulipe",
        "тюльпан",
        "チューリップ",
        "튤립",
        "زهرة التوليب",
        "un tulipano",
    ],
]
SEED = 1


def main() -> None:
    pipe = AltDiffusionPipeline.from_pretrained()
    pictures = [[next(generate(prompt, model=pipe, seed=SEED)).image for prompt in row] for row in ROWS]
    side = 96
    sheet = Image.new("RGB", (side * len(ROWS[0]), side * len(ROWS)), "white")
    for y, row in enumerate(pictures):
        for x, picture in enumerate(row):
            sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x * side, y * side))
    folder = Path(__file__).parent / "pictures"
    folder.mkdir(exist_ok=True)
    sheet.save(folder / "nine-languages.png")


if __name__ == "__main__":
    main()
