"""What must hold for every input, tried by hypothesis: what a writer writes, its reader reads."""

import csv
import io
import string

from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from altdiffusion.data.text_lines import LineTable
from altdiffusion.errors import spelled_out
from altdiffusion.generation.infotext import from_infotext, image_settings, png_info, to_infotext
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.prompt_syntax import choose, expand_choices, parse_weights, schedule, stretches, take_loras

TRIES = settings(max_examples=60, deadline=None, derandomize=True, database=None)
WHOLE = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
SYNTAX = some.text(some.sampled_from("()[]{}:|<>\\`,，（） a猫1.0"), max_size=40)
WORDS = some.text(some.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30).filter(
    lambda text: not text.isspace()
)


@TRIES
@given(
    prompt=WHOLE.filter(str.strip),
    negative=WHOLE,
    steps=some.integers(1, 999),
    seed=some.integers(0, 2**63 - 1),
    model=WHOLE,
)
def test_an_image_carries_its_settings(prompt, negative, steps, seed, model):
    said = ImageSettings(
        prompt=prompt, negative_prompt=negative, steps=steps, seed=seed, model=model or None, prompt_syntax="none"
    )
    read = from_infotext(to_infotext(said))
    assert (read.prompt, read.negative_prompt, read.steps, read.seed) == (prompt, negative, steps, seed)


@TRIES
@given(prompt=WORDS, steps=some.integers(1, 999))
def test_a_png_carries_them(prompt, steps):
    buffer = io.BytesIO()
    said = ImageSettings(prompt=prompt, steps=steps, prompt_syntax="none")
    Image.new("L", (1, 1)).save(buffer, "PNG", pnginfo=png_info(said))
    with Image.open(buffer) as image:
        read = image_settings(image)
    assert (read.prompt, read.steps) == (prompt, steps)


@TRIES
@given(prompt=SYNTAX)
def test_lenient_syntax_reads_every_prompt(prompt):
    text, _ = take_loras(prompt, lenient=True)
    for part in schedule(choose(text, 7, lenient=True), 10, lenient=True):
        read = parse_weights(part.prompt, lenient=True)
        assert [span.start for span in read.spans] == [0, *(span.end for span in read.spans)][: len(read.spans)]


@TRIES
@given(options=some.lists(some.text(string.ascii_letters, min_size=1, max_size=5), min_size=2, max_size=5))
def test_choices_give_every_option_in_order(options):
    prompt = "{" + "|".join(options) + "}"
    assert expand_choices(f"a {prompt}") == [f"a {option}" for option in options]


@TRIES
@given(text=SYNTAX.filter(lambda text: "`" not in text), holes=some.booleans())
def test_stretches_cover_the_text(text, holes):
    parts = stretches(text, holes=holes)
    assert "".join(text[part.start : part.end] for part in parts) == text


ROW = some.tuples(WORDS, WORDS)


@TRIES
@given(rows=some.lists(ROW, min_size=1, max_size=5), delimiter=some.sampled_from([",", "\t"]))
def test_tables_that_csv_writes_are_read(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.mktemp("rows") / ("x.csv" if delimiter == "," else "x.tsv")
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows([("en", "zh"), *rows])
    table = LineTable(path, ["en", "zh"], images=False, skip=lambda where, reason: None)
    assert [(record["en"], record["zh"]) for record in table] == rows


@TRIES
@given(text=some.text(max_size=50))
def test_an_error_is_one_line(text):
    assert len(spelled_out(text).splitlines()) <= 1
