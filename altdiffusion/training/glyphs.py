"""Pictures with human-written names in nine languages: the data that the miniature models learn from.

A picture is a Noto Color Emoji glyph (SIL Open Font License) on a plain background; its name is Unicode's,
translated in the Unicode CLDR and packaged by PyPI's `emoji`. Captions put the name into short sentences.
"""

from __future__ import annotations

import random
from pathlib import Path

import emoji
from PIL import Image, ImageDraw, ImageFont

LANGUAGES = ("en", "zh", "es", "fr", "ru", "ja", "ko", "ar", "it")

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # Debian: fonts-noto-color-emoji
FONT_SIZE = 109  # the font's only bitmap size

# Concrete things that look different from one another: no skin tones, flags, symbols or near-twins.
CONCEPTS = (
    "🐀🐄🐅🐇🐈🐉🐊🐋🐌🐍🐎🐐🐑🐒🐓🐔🐕🐖🐘🐙🐚🐛🐜🐝🐞🐟🐠🐡🐢🐤🐦🐧🐨🐩🐪🐬🐸🐹🐺🐻🐼🐿🦀🦁🦂🦄🦅🦆🦇🦈🦉🦊"
    "🦋🦌🦍🦎🦏🦐🦑🦒🦓🦔🦕🦖🦘🦙🦚🦛🦜🦝🦞🦢🦥🦦🦩🦭🕊🕷"
    "🌭🌮🌰🌶🌽🍄🍅🍆🍇🍉🍊🍋🍌🍍🍎🍏🍐🍑🍒🍓🍔🍕🍖🍗🍙🍜🍝🍞🍟🍡🍣🍤🍦🍩🍪🍫🍬🍭🍮🍯🍰🎂🍳🍵🍷🍸🍹🍺🍿🥐🥑🥕🥚🥛🥝"
    "🥞🥟🥢🥥🥦🥨🥪🥬🧀🧁🧅🧊🧋🫐🫖☕"
    "🌱🌲🌳🌴🌵🌷🌸🌹🌺🌻☘🍁🌈🌊🌋🌙☀☁⚡❄⭐🔥💧🌪⛄🏔🏝🪐🪨🪵🪴🪷🪶"
    "✈🚀🚁🚂🚌🚑🚒🚓🚕🚗🚚🚜🚢⛵🚲🛵🏍🏎🛸🛹🚦⚓"
    "🏠🏥🏭🏯🏰🗼🗽🗿⛩⛪⛲⛺🎡🎠🎪"
    "⌚⏰⌛☂☎⚽🏀🏈🎾🎳🎯🎲🎮🎸🎹🎺🎻🥁🎤🎧🎨🎩👑👓👔👕👖👗👜👟👠💄💍💎💡💣💰💻💾📎📖📜📞📦📮📱📷📺🔋🔍🔑🔒🔔🔦🔧🔨🔪"
    "🔬🔭🔮🕯🗑🗝🚪🛋🛏🛒🛡🧢🧣🧤🧦🧩🧲🧸🧹🪁🪂🪑🪓🪜🪣✂✉✏🎁🎃🎄🎈🎒🎓🏆🏮🏹🤖👻💀"
)

# Those of CONCEPTS that the first mini draws: what its UNet learns well in an hour of two cores.
DRAWN = (
    "🐄🐅🐇🐈🐉🐌🐍🐎🐑🐕🐘🐙🐝🐢🐦🐧🐨🐬🐸🐻🐼🦀🦁🦄🦉🦊🦋🦒🦓🍄🍅🍇🍉🍊🍋🍌🍍🍎🍐🍒🍓🍔🍕🍟🍦🍩🎂🍷🍺🥕☕"
    "🌲🌳🌴🌵🌷🌹🌻🌈🌙☀☁❄⭐🔥💧⛄✈🚀🚌🚗🚲⛵🏠🏰⛺☂⚽🏀🎸🎩👑👕💡💻📖📷🔑🔔🪑✂✏🎁🎃🎄🎈🏆🤖👻💀"
)

# Background colours with their RGB values. A caption that names none means white.
COLOURS = {
    "white": (255, 255, 255),
    "red": (214, 48, 49),
    "orange": (243, 156, 18),
    "yellow": (251, 226, 92),
    "green": (39, 160, 84),
    "blue": (52, 120, 219),
    "purple": (142, 68, 173),
    "pink": (253, 160, 190),
    "grey": (149, 157, 160),
    "black": (24, 24, 24),
}

# The colours' names in the order of COLOURS, in the form that follows "on a ... background".
COLOUR_NAMES = {
    "en": tuple(COLOURS),
    "zh": ("白色", "红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "粉色", "灰色", "黑色"),
    "es": ("blanco", "rojo", "naranja", "amarillo", "verde", "azul", "morado", "rosa", "gris", "negro"),
    "fr": ("blanc", "rouge", "orange", "jaune", "vert", "bleu", "violet", "rose", "gris", "noir"),
    "ru": ("белом", "красном", "оранжевом", "жёлтом", "зелёном", "синем", "фиолетовом", "розовом", "сером", "чёрном"),
    "ja": ("白い", "赤い", "オレンジ色の", "黄色い", "緑色の", "青い", "紫色の", "ピンク色の", "灰色の", "黒い"),
    "ko": ("흰색", "빨간색", "주황색", "노란색", "초록색", "파란색", "보라색", "분홍색", "회색", "검은색"),
    "ar": ("بيضاء", "حمراء", "برتقالية", "صفراء", "خضراء", "زرقاء", "بنفسجية", "وردية", "رمادية", "سوداء"),
    "it": ("bianco", "rosso", "arancione", "giallo", "verde", "blu", "viola", "rosa", "grigio", "nero"),
}

# Sentence i means the same in every language. {a}: an English article; {m}: a Chinese measure word.
PLAIN = {
    "en": ("{n}", "{a} {n}", "a picture of {a} {n}", "a cute {n}", "please draw {a} {n}", "I want {a} {n}"),
    "zh": ("{n}", "一{m}{n}", "一张{n}的图片", "一{m}可爱的{n}", "请画一{m}{n}", "我想要一{m}{n}"),
    "es": ("{n}", "un {n}", "una imagen de {n}", "lindo {n}", "dibuja {n}, por favor", "quiero un {n}"),
    "fr": ("{n}", "un {n}", "une image de {n}", "mignon {n}", "dessine {n}, s'il te plaît", "je veux un {n}"),
    "ru": ("{n}", "один {n}", "картинка: {n}", "милый {n}", "нарисуй, пожалуйста, {n}", "хочу {n}"),
    "ja": ("{n}", "一つの{n}", "{n}の絵", "かわいい{n}", "{n}を描いてください", "{n}が欲しい"),
    "ko": ("{n}", "{n} 하나", "{n} 그림", "귀여운 {n}", "{n} 그려 주세요", "{n} 갖고 싶어요"),
    "ar": ("{n}", "{n} واحد", "صورة {n}", "{n} لطيف", "ارسم {n} من فضلك", "أريد {n}"),
    "it": ("{n}", "un {n}", "un'immagine di {n}", "carino {n}", "disegna {n}, per favore", "voglio un {n}"),
}
COLOURED = {
    "en": ("{n} on a {c} background", "{a} {n} on a {c} background", "{a} {n}, {c} background"),
    "zh": ("{c}背景上的{n}", "{c}背景上的一{m}{n}", "一{m}{n}，{c}背景"),
    "es": ("{n} sobre un fondo {c}", "un {n} sobre fondo {c}", "un {n}, fondo {c}"),
    "fr": ("{n} sur un fond {c}", "un {n} sur fond {c}", "un {n}, fond {c}"),
    "ru": ("{n} на {c} фоне", "один {n} на {c} фоне", "{n}, на {c} фоне"),
    "ja": ("{c}背景の{n}", "{c}背景に一つの{n}", "{n}、{c}背景"),
    "ko": ("{c} 배경의 {n}", "{c} 배경에 {n} 하나", "{n}, {c} 배경"),
    "ar": ("{n} على خلفية {c}", "{n} واحد على خلفية {c}", "{n}، خلفية {c}"),
    "it": ("{n} su uno sfondo {c}", "un {n} su sfondo {c}", "un {n}, sfondo {c}"),
}
MEASURE_WORDS = "只个只个朵辆条棵张座把匹"


def concept_names(language: str) -> list[str]:
    """Unicode's name of each of CONCEPTS in one of LANGUAGES."""
    emoji.config.load_language(language)
    data = emoji.EMOJI_DATA
    entries = [data.get(glyph) or data[glyph + "\ufe0f"] for glyph in CONCEPTS]
    return [entry[language].strip(":").replace("_", " ") for entry in entries]


def caption(name: str, colour: int, language: str, template: int, rng: random.Random) -> str:
    """A sentence for a concept on background `colour`; a white background is named only half of the time."""
    colour_named = colour != 0 or rng.random() < 0.5
    sentences = COLOURED[language] if colour_named else PLAIN[language]
    text = sentences[template % len(sentences)].format(
        n=name,
        a="an" if name[0].lower() in "aeiou" else "a",
        c=COLOUR_NAMES[language][colour],
        m=rng.choice(MEASURE_WORDS),
    )
    return text[0].upper() + text[1:] if rng.random() < 0.2 else text


def render(concept: int, colour: int, size: int = 64) -> Image.Image:
    """Concept number `concept` centred on a background, `size` pixels square, with a margin of a tenth."""
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((12, 12), CONCEPTS[concept], font=font, embedded_color=True)
    glyph = canvas.crop(canvas.getbbox())
    glyph.thumbnail((round(size * 0.8),) * 2, Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (size, size), list(COLOURS.values())[colour])
    picture.paste(glyph, ((size - glyph.width) // 2, (size - glyph.height) // 2), glyph)
    return picture


def held_out(concept: int, colour: int) -> bool:
    """Whether this pair is kept out of all training: 1 in 12, never on white."""
    return colour != 0 and (concept * 7 + colour * 5) % 11 == 0
