"""`batch generate`: tars of images, each from its own seed, whatever partition it falls into."""

import io
import json
import tarfile

import pytest
from helpers.batch_data import run_here
from PIL import Image

from altdiffusion.batch.settings import GenerateBatch
from altdiffusion.errors import InputError
from altdiffusion.generation.generate import generate

PROMPTS = "prompt,seed,uid,note\n一只猫,,u1,x\na dog,7,u2,\n,,u3,\na sun,,u4,y\n"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text(PROMPTS, encoding="utf-8")
    return {"source": "p.csv", "out": "out", "steps": 1, "seed": 100, "keep": ["note"], "batch_size": 2}


def members_of(out):
    return {
        member.name: tar.extractfile(member).read()
        for path in sorted((out / "images").glob("*.tar"))
        for tar in [tarfile.open(path)]
        for member in tar
    }


def test_images_settings_and_errors(settings, tmp_path):
    (outcome,) = run_here("generate", GenerateBatch(**settings))
    members = members_of(tmp_path / "out")
    keys = ["000000000", "000000001", "000000003"]
    assert list(members) == [f"{key}.{end}" for key in keys for end in ("png", "txt", "json")]
    assert members["000000000.txt"].decode() == "一只猫"
    said = [json.loads(members[f"{key}.json"]) for key in keys]
    assert [each["seed"] for each in said] == [100, 7, 103]
    assert [(each["id"], each.get("note")) for each in said] == [("u1", "x"), ("u2", ""), ("u4", "y")]
    (alone,) = generate("一只猫", steps=1, seed=100)
    assert Image.open(io.BytesIO(members["000000000.png"])).convert("RGB").tobytes() == alone.image.tobytes()
    assert outcome.done.items == 3
    (error,) = [json.loads(line) for line in (tmp_path / "out/errors/00000.jsonl").read_text().splitlines()]
    assert error["id"] == "u3"
    assert "prompt is missing" in error["reason"]


def test_partitions_change_no_image(settings, tmp_path):
    run_here("generate", GenerateBatch(**settings | {"batch_size": 1}))
    run_here("generate", GenerateBatch(**settings | {"batch_size": 1, "partition_size": 1, "out": "single"}))
    assert members_of(tmp_path / "out") == members_of(tmp_path / "single")
    assert len(list((tmp_path / "single/images").iterdir())) == 4


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("prompt,stepps\ncat,4\n", "stepps"),
        ("prompt,model\ncat,other\n", "model"),
        ("prompt,bridge\ncat,b\n", "bridge: the same for all images"),
        ("prompt,steps\ncat,0\n", "steps: expected 1 to 999"),
    ],
)
def test_rows_that_say_what_no_row_can_are_errors(settings, tmp_path, rows, said):
    (tmp_path / "p.csv").write_text(rows)
    (outcome,) = run_here("generate", GenerateBatch(**settings))
    assert outcome.done.items == 0
    assert said in next(iter(outcome.done.failed))


def test_flags_are_checked_before_models_are_loaded():
    with pytest.raises(InputError, match="strength"):
        GenerateBatch(source="p.csv", out="out", strength=0.5)
