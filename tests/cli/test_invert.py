"""`altdiffusion invert`."""

import json

import pytest
from helpers import bridges
from safetensors.torch import load_file

from altdiffusion.checkpoints.textual_inversions import read_notes


@pytest.fixture
def invert(run, made_once, published, tmp_path):
    """invert(words): runs the command with a bridge to a small Stable Diffusion, into a new folder."""
    bridge = made_once("entrance-sd1", lambda folder: bridges.save_entrance_bridge(folder, bridges.readable()))

    def invert(*words, out=tmp_path / "embeddings"):
        return run("invert", *words, "--bridge", bridge, "--text-encoder", published("m9"), "--out", out)

    return invert


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_file(invert, tmp_path):
    done = invert("一只猫, a castle", out=tmp_path / "dark-elf.safetensors")
    assert done.status == 0, done.err
    assert done.out.startswith(f"{tmp_path / 'dark-elf.safetensors'}  6 vectors  〈")
    assert done.out.endswith("〉 , a castle\n")
    assert "dark-elf in A1111 and Forge, embedding:dark-elf in ComfyUI, <dark-elf> in InvokeAI" in done.err
    assert 'load_textual_inversion("' in done.err
    assert 'token="<dark-elf>")' in done.err
    assert load_file(tmp_path / "dark-elf.safetensors")["emb_params"].shape == (6, 32)


def test_names_from_prompts(invert, tmp_path):
    done = invert("一只猫, a castle", "castle", "Castle!", "--dtype", "float16")
    assert names(tmp_path / "embeddings") == [
        "Castle-2.safetensors",
        "castle.safetensors",
        "一只猫-a-castle.safetensors",
    ]
    assert "castle is a word of CLIP's: A1111 and Forge would replace it" in done.err


def test_a_prompts_file_can_be_resumed(invert, tmp_path):
    table = tmp_path / "prompts.csv"
    table.write_text(
        "name,prompt,prompt_syntax,steps\nelf,黑暗精灵公主,,20\n,一只猫,,\nx,(猫:1.2),,\ny,(猫),none,\nelf,a,,\n"
    )
    done = invert("--prompts-file", table)
    assert done.status == 2
    assert "not read: steps" in done.err
    assert "prompts.csv:4: a textual inversion can't keep weights" in done.err
    assert "prompts.csv:6: two inversions are called elf" in done.err
    assert "2 of 5 prompts can't be used (above); the others are done" in done.err
    folder = tmp_path / "embeddings"
    assert names(folder) == ["elf.safetensors", "y.safetensors", "一只猫.safetensors"]
    assert read_notes(folder / "y.safetensors")["prompt"] == "(猫)"

    (folder / "elf.safetensors").unlink()
    kept = (folder / "y.safetensors").stat().st_mtime_ns
    done = invert("--prompts-file", table)
    assert "is there already: take another name, or --overwrite (overwrite=True) (and 1 more)" in done.err
    assert names(folder) == ["y.safetensors", "一只猫.safetensors"]
    done = invert("--prompts-file", table, "--resume")
    assert "2 of 3 inversions are there already" in done.err
    assert names(folder) == ["elf.safetensors", "y.safetensors", "一只猫.safetensors"]
    assert (folder / "y.safetensors").stat().st_mtime_ns == kept
    assert invert("--prompts-file", table, "--resume", "--route", "all").status == 2  # made from something else


def test_overwrite(invert, tmp_path):
    out = tmp_path / "elf.pt"
    for words, status in [(["猫"], 0), (["猫"], 2), (["一只猫", "--overwrite"], 0)]:
        assert invert(*words, out=out).status == status


def test_a_long_prompt_among_others(invert, tmp_path):
    done = invert("猫", "cat " * 76)
    assert "becomes 76 vectors" in done.err
    assert "1 of 2 prompts can't be used (above); the others are done" in done.err
    assert names(tmp_path / "embeddings") == ["猫.safetensors"]
    done = invert("cat " * 76, out=tmp_path / "elf.pt")
    assert (done.status, (tmp_path / "elf.pt").exists()) == (2, False)


def test_json(invert, tmp_path):
    document = json.loads(invert("一只猫, a castle", "--json", out=tmp_path / "dark-elf.pt").out)
    (inversion,) = document["inversions"]
    assert inversion["name"] == "dark-elf"
    assert inversion["vectors"] == len(inversion["tokens"]) == 6
    assert inversion["widths"] == [32]
    assert inversion["tokens"][-1] == {"text": "castle", "literal": True, "words": [], "rest": 0.0}
    assert set(inversion["tokens"][0]["words"][0]) == {"word", "share"}
    assert inversion["triggers"]["comfyui"] == "embedding:dark-elf"
    assert document["failed"] == document["there"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "PROMPT is missing"),
        (["猫", "狗", "--out", "elf.pt"], "is one file, but several prompts"),
        (["猫", "--out", "elf.bin"], "expected a folder, or a file that ends in .safetensors or .pt"),
        (["猫", "--out", "dark elf.pt"], "name is written in prompts"),
        (["`猫", "--out", "elf.pt"], "this backquote isn't closed"),
        (["[猫:狗:0.5]", "--out", "elf.pt"], "can't keep words that change over the steps"),
        (["!", "--out", "embeddings"], "no words for a file's name"),
        (["猫", "--overwrite", "--resume"], "leave one out"),
    ],
)
def test_wrong_input_is_one_line_before_anything_loads(run, words, message):
    done = run("invert", *words, "--bridge", "mini")
    assert done.status == 2
    assert message in done.err
    assert "loading" not in done.err
