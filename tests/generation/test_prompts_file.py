"""Files of prompts: what each kind of them says, and what is wrong with a row."""

import json

import pytest

from altdiffusion import InputError
from altdiffusion.generation.prompts_file import read_prompts_file


@pytest.fixture
def read(tmp_path):
    """Reads a file of this name and content: the rows' settings without what is unsaid, and (line, reason) of bad rows."""

    def read(name, content, **defaults):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        rows, bad = read_prompts_file(path, defaults)
        found = [(int(row.where.rpartition(":")[2]), row.settings.model_dump(exclude_defaults=True)) for row in rows]
        return found, [(int(row.where.rpartition(":")[2]), row.reason) for row in bad]

    return read


TABLES = {
    "p.csv": 'prompt,steps,Guidance scale\n一只猫,,3\n"a cat, red",5,\n',
    "p.tsv": "prompt\tsteps\tguidance_scale\r\n一只猫\t\t3\r\na cat, red\t5\t\r\n",
    "semicolons.csv": "prompt;steps;guidance-scale\n一只猫;;3\na cat, red;5;\n\n",
    "p.jsonl": '{"prompt": "一只猫", "guidance_scale": 3, "steps": null}\n{"prompt": "a cat, red", "steps": 5}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_settings_and_empty_cells_take_the_defaults(read, name):
    rows, bad = read(name, TABLES[name], steps=9, seed=1)
    assert bad == []
    assert [settings for _, settings in rows] == [
        {"prompt": "一只猫", "steps": 9, "seed": 1, "guidance_scale": 3.0},
        {"prompt": "a cat, red", "steps": 5, "seed": 1},
    ]


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_text_file_has_a_prompt_a_line_without_comments(read, start):
    rows, bad = read("p.txt", start + "一只猫\r\n\n  a cat, #1  \n# a comment\n\\#1 cat\nقطة", steps=3)
    assert [(line, settings["prompt"]) for line, settings in rows] == [
        (1, "一只猫"),
        (3, "a cat, #1"),
        (5, "\\#1 cat"),
        (6, "قطة"),
    ]
    assert bad == []


def test_a_size_is_width_and_height(read):
    (row,), bad = read("p.csv", "prompt,size\na,96x64\nb,96\n", width=8, height=8)
    assert (row[1]["width"], row[1]["height"]) == (96, 64)
    assert bad == [(3, "size: expected WIDTHxHEIGHT, such as 512x512, got '96'")]


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        ("p.csv", "prompt,steps\na,5\nb,0\n", 3, "steps: expected 1 to 999, got 0"),
        ("p.csv", "prompt,steps\na,many\nb,2\n", 2, "steps: expected a whole number or none, got 'many'"),
        ("p.csv", "prompt,steps\na\nb,2\n", 2, "1 fields where the header has 2"),
        ("p.csv", "prompt,steps\nb,2\n,3\n", 3, "prompt is missing"),
        ("p.csv", "prompt,seed\nb,2\n\"a\nb\",3\nc,-1\n", 5, "seed: expected 0 to"),
        ("p.csv", "prompt,strength\nb,\na,0.5\n", 3, "strength needs an init image"),
        ("p.csv", "prompt\na (cat\nb\n", 2, "( isn't closed"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b", "stepz": 2}\n', 2, "stepz: do you mean steps?"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', 2, "not valid JSON"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": 3}\n', 2, "prompt: expected text, got 3"),
        ("p.txt", "a\n--steps 20 --prompt b\n", 2, "options such as --steps aren't read in a .txt"),
        ("p.txt", "a\na dog --steps 20\n", 2, "options such as --steps aren't read in a .txt"),
        ("p.txt", "a\n（猫\n", 2, "（ isn't closed"),
        ("p.txt", "一只猫\n红苹果\n".encode() + "一只狗\n".encode("gbk"), 3, "not UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_its_line_and_the_others_are_read(read, name, content, line, reason):
    rows, bad = read(name, content)
    assert rows
    assert [where for where, _ in bad] == [line]
    assert reason in bad[0][1]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "p.csv",
            "prompt,stepz,sampler\na,1,x\n",
            "stepz: do you mean steps?; sampler. Expected some of prompt, negative",
        ),
        ("p.csv", "prompt,size,Size\na,8x8,8x8\n", "two columns are called size"),
        ("p.csv", "steps,seed\n1,1\n", "no column is called prompt"),
        ("p.csv", "prompt,score\na,1\n", "score"),
        ("p.csv", "", "is empty"),
        ("p.txt", "\n# a\n", "has no prompts"),
        ("p.txt", "a".encode("utf-16"), "UTF-16"),
        (
            "p.txt",
            "一只猫\n红苹果\n".encode("gbk"),
            "may be GBK: iconv -f GB18030 -t UTF-8 p.txt",
        ),
        ("p.csv", "prompt,steps\n一只猫,1\n红苹果,2\n".encode("gbk"), "may be GBK"),
        ("p.parquet", "x", "ends in .txt, .csv, .tsv, .jsonl"),
    ],
)
def test_a_file_that_cant_be_used_is_one_line(read, name, content, reason):
    with pytest.raises(InputError) as error:
        read(name, content)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_every_setting_of_an_image_can_be_a_column(read):
    said = {"negative_prompt": "x", "scheduler": "ddim", "model": "mini", "init_image": "a.png", "strength": 0.5}
    (row,), _ = read("p.jsonl", json.dumps({"prompt": "a"} | said))
    assert row[1] == {"prompt": "a"} | said


@pytest.mark.parametrize(
    "content", ["name,prompt\nelf,猫\n,狗\n", '{"prompt": "猫", "name": "elf"}\n{"prompt": "狗"}\n']
)
def test_columns_of_a_caller(tmp_path, content):
    path = tmp_path / ("p.jsonl" if content.startswith("{") else "p.csv")
    path.write_text(content, encoding="utf-8")
    rows, bad = read_prompts_file(path, {}, others=["name"])
    assert [dict(row.others) for row in rows] == [{"name": "elf"}, {}]
    assert bad == []
    assert all(row.said == {"prompt"} for row in rows)
