"""Images with human-written names in nine languages: the data that the miniature models learn from.

An image is a Noto Color Emoji glyph (SIL Open Font License) on a plain background; its name is Unicode's,
translated in the Unicode CLDR and packaged by PyPI's `emoji`. Captions put the name into short sentences.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import emoji
from PIL import Image, ImageDraw, ImageFont

from altdiffusion.errors import InputError

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

# The style of `framed`: a brown that no colour of COLOURS is near to; the frame's width, of 64 pixels.
WOOD, FRAME = (120, 72, 32), 4

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

# A caption is a request, a thing, maybe a background, and an ending. Entry i means the same in every language.
# {n}: the name; {a}: an English article; {m}: a Chinese measure word; {x}: the thing; {c}: the colour.
REQUESTS = {
    "en": ("", "a picture of ", "a photo of ", "draw ", "please draw ", "I want ", "show me "),
    "zh": ("", "一幅画：", "照片：", "画", "请画", "我想要", "给我看"),
    "es": ("", "una imagen de ", "una foto de ", "dibuja ", "por favor, dibuja ", "quiero ", "muéstrame "),
    "fr": ("", "une image de ", "une photo de ", "dessine ", "dessine, s'il te plaît, ", "je veux ", "montre-moi "),
    "ru": ("", "картинка: ", "фото: ", "нарисуй ", "пожалуйста, нарисуй ", "я хочу ", "покажи мне "),
    "ja": ("", "絵：", "写真：", "描いて：", "描いてください：", "欲しい：", "見せて："),
    "ko": ("", "그림: ", "사진: ", "그려 줘: ", "그려 주세요: ", "갖고 싶어: ", "보여 줘: "),
    "ar": ("", "صورة ", "صورة فوتوغرافية ", "ارسم ", "من فضلك ارسم ", "أريد ", "أرني "),
    "it": ("", "un'immagine di ", "una foto di ", "disegna ", "per favore disegna ", "voglio ", "mostrami "),
}
THINGS = {
    "en": ("{n}", "{a} {n}", "the {n}", "a cute {n}", "a small {n}", "a big {n}", "a beautiful {n}"),
    "zh": ("{n}", "一{m}{n}", "这{m}{n}", "一{m}可爱的{n}", "一{m}小小的{n}", "一{m}大大的{n}", "一{m}漂亮的{n}"),
    "es": ("{n}", "un {n}", "el {n}", "lindo {n}", "un pequeño {n}", "un gran {n}", "un hermoso {n}"),
    "fr": ("{n}", "un {n}", "le {n}", "un mignon {n}", "un petit {n}", "un grand {n}", "un beau {n}"),
    "ru": ("{n}", "один {n}", "этот {n}", "милый {n}", "маленький {n}", "большой {n}", "красивый {n}"),
    "ja": ("{n}", "一つの{n}", "その{n}", "かわいい{n}", "小さな{n}", "大きな{n}", "きれいな{n}"),
    "ko": ("{n}", "{n} 하나", "그 {n}", "귀여운 {n}", "작은 {n}", "큰 {n}", "아름다운 {n}"),
    "ar": ("{n}", "{n} واحد", "هذا {n}", "{n} لطيف", "{n} صغير", "{n} كبير", "{n} جميل"),
    "it": ("{n}", "un {n}", "il {n}", "un carino {n}", "un piccolo {n}", "un grande {n}", "un bel {n}"),
}
BACKGROUNDS = {
    "en": ("{x} on a {c} background", "{x}, {c} background"),
    "zh": ("{c}背景上的{x}", "{x}，{c}背景"),
    "es": ("{x} sobre un fondo {c}", "{x}, fondo {c}"),
    "fr": ("{x} sur un fond {c}", "{x}, fond {c}"),
    "ru": ("{x} на {c} фоне", "{x}, на {c} фоне"),
    "ja": ("{c}背景の{x}", "{x}、{c}背景"),
    "ko": ("{c} 배경의 {x}", "{x}, {c} 배경"),
    "ar": ("{x} على خلفية {c}", "{x}، خلفية {c}"),
    "it": ("{x} su uno sfondo {c}", "{x}, sfondo {c}"),
}
ENDINGS = {
    "en": ("", ".", "!", " please"),
    "zh": ("", "。", "！", "，谢谢"),
    "es": ("", ".", "!", ", por favor"),
    "fr": ("", ".", " !", ", s'il vous plaît"),
    "ru": ("", ".", "!", ", пожалуйста"),
    "ja": ("", "。", "！", "、お願いします"),
    "ko": ("", ".", "!", " 부탁해요"),
    "ar": ("", ".", "!", " من فضلك"),
    "it": ("", ".", "!", ", per favore"),
}
MEASURE_WORDS = "只个只个朵辆条棵张座把匹"

# Prompts that people would write, in words that no caption has: mini is evaluated with them.
FREE_PROMPTS = {
    "en": ("could you paint {a} {n} for me?", "my lovely {n}", "{a} {n} like in a cartoon"),
    "zh": ("能帮我画一{m}{n}吗？", "超级萌的{n}", "来一{m}卡通{n}"),
    "es": ("¿me pintas un {n}?", "mi querido {n}", "un {n} de dibujos animados"),
    "fr": ("tu peux me peindre un {n} ?", "mon adorable {n}", "un {n} de dessin animé"),
    "ru": ("можешь изобразить {n} для меня?", "мой любимый {n}", "мультяшный {n}"),
    "ja": ("{n}のイラストを作れますか？", "私の大好きな{n}", "アニメ風の{n}"),
    "ko": ("{n} 좀 만들어 줄래요?", "내가 좋아하는 {n}", "만화 같은 {n}"),
    "ar": ("هل يمكنك تصميم {n} لي؟", "{n} المفضل عندي", "{n} كرتوني"),
    "it": ("puoi dipingermi un {n}?", "il mio amato {n}", "un {n} dei cartoni animati"),
}
SPACELESS = ("zh", "ja")


def concept_names(language: str) -> list[str]:
    """Unicode's names of CONCEPTS in one of LANGUAGES."""
    emoji.config.load_language(language)
    data = emoji.EMOJI_DATA
    entries = [data.get(glyph) or data[glyph + "\ufe0f"] for glyph in CONCEPTS]
    return [entry[language].strip(":").replace("_", " ") for entry in entries]


def captions(concept: int, colour: int, names: dict[str, list[str]], rng: random.Random) -> dict[str, str]:
    """A caption in every language, all of the same form, for an index in CONCEPTS on a background, an index in COLOURS.

    names: `concept_names` by language. A white background is named in a quarter of the captions only.
    """
    named = colour != 0 or rng.random() < 0.25
    plain = rng.random() < 0.3  # the name alone, as people often prompt
    choices = [0 if plain else rng.randrange(size) for size in (7, 7, 2, 4)]
    upper, measure = rng.random() < 0.2, rng.choice(MEASURE_WORDS)
    texts = {}
    for language, names_of_concepts in names.items():
        text = fill(THINGS[language][choices[1]], names_of_concepts[concept], measure)
        if named:
            text = BACKGROUNDS[language][choices[2]].format(x=text, c=COLOUR_NAMES[language][colour])
        text = REQUESTS[language][choices[0]] + text + ENDINGS[language][choices[3]]
        texts[language] = text[0].upper() + text[1:] if upper else text
    return texts


def filler_words(language: str) -> list[str]:
    """Some 1,500 words of Unicode's names of all other emoji: none is part of a concept's name, or of a colour's.

    Chinese and Japanese, which don't part words, give pieces of up to three characters. No word of FREE_PROMPTS is here.
    """
    names = [name.lower() for name in concept_names(language)]
    pieces, stem = (".{1,3}", 1) if language in SPACELESS else (r"[^\W\d_]+", 3)
    colours = [name[:stem] for name in COLOUR_NAMES[language]]
    candidates: dict[str, None] = {}
    for entry in emoji.EMOJI_DATA.values():
        for word in re.findall(r"[^\W\d_]+", entry.get(language, "").lower().replace("_", " ")):
            candidates |= dict.fromkeys(re.findall(pieces, word))
    known: Any = " ".join([*names, *COLOUR_NAMES[language], *FREE_PROMPTS[language]]).lower()
    if language not in SPACELESS:
        known = set(re.findall(pieces, known))
    return [
        word
        for word in candidates
        if word not in known
        and not any(colour in word for colour in colours)
        and not (language in SPACELESS and any(name in word for name in names))
    ]


def wordy(text: str, words: list[str], rng: random.Random, space: str = " ") -> str:
    """A text among up to six other words, in which a model has to find what matters."""
    before, after = ([rng.choice(words) for _ in range(rng.randrange(4))] for _ in range(2))
    return space.join([*before, text, *after]) + rng.choice(("", "", "?"))


def fill(sentence: str, name: str, measure: str = "个") -> str:
    """A sentence about a thing: one of THINGS or FREE_PROMPTS with its name put in."""
    return sentence.format(n=name, a="an" if name[0].lower() in "aeiou" else "a", m=measure)


def render(concept: int, colour: int, size: int = 64) -> Image.Image:
    """A concept centred on a background (indices in CONCEPTS, COLOURS), `size` pixels square, with a margin of a tenth."""
    foreground = glyph(concept, size)
    image = Image.new("RGB", (size, size), list(COLOURS.values())[colour])
    image.paste(foreground, ((size - foreground.width) // 2, (size - foreground.height) // 2), foreground)
    return image


def glyph(concept: int, size: int) -> Image.Image:
    """The glyph alone, RGBA, its longer side four fifths of `size`."""
    if not FONT.is_file():
        raise InputError(
            f"{FONT} is missing, the font that these images are rendered with: apt-get install fonts-noto-color-emoji"
        )
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((12, 12), CONCEPTS[concept], font=font, embedded_color=True)
    image = canvas.crop(canvas.getbbox())
    image.thumbnail((round(size * 0.8),) * 2, Image.Resampling.LANCZOS)
    return image


def framed(image: Image.Image) -> Image.Image:
    """An image in another style: in a wooden frame, as wide as a latent, which touches no glyph."""
    image = image.convert("RGB")
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=WOOD, width=FRAME)
    return image


def held_out(concept: int, colour: int) -> bool:
    """Whether this pair is kept out of all training: 1 in 12, never on white."""
    return colour != 0 and (concept * 7 + colour * 5) % 11 == 0
