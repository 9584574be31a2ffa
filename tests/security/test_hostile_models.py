"""Models that strangers build to run code, to reach outside a folder, or to fill the memory: refused in one line."""

import io
import json
import math
import pickle
import shutil
import zipfile

import pytest
import torch
from helpers.hostile_files import Touch, files_in, refused
from safetensors.torch import save, save_file

from altdiffusion import AltDiffusionPipeline, InputError
from altdiffusion.checkpoints import hub, single_files, tensor_files
from altdiffusion.generation.loras import NamedLora
from altdiffusion.generation.parts import load_loras, load_textual_inversion
from altdiffusion.text_encoder.encoder import load_text_encoder
from altdiffusion.text_encoder.tokenizer import load_any_tokenizer


def with_header(header, data=b""):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + data


SAFETENSORS = {
    "no header": b"\0" * 8,
    "a huge header": (2**60).to_bytes(8, "little") + b"{}",
    "a header of gigabytes": (2**31).to_bytes(8, "little") + b"{}",
    "not JSON": with_header(b"not JSON"),
    "nested JSON": with_header(b'{"a":' * 5000),
    "not UTF-8": with_header(b"\xff\xfe{}"),
    "a list": with_header([1, 2]),
    "an offset beyond": with_header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
    "a negative offset": with_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, bytes(4)),
    "overlapping": with_header(
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("a", "b")}, bytes(8)
    ),
    "terabytes by shape": with_header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}, bytes(8)),
    "an overflowing shape": with_header({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}}),
    "an unknown dtype": with_header({"a": {"dtype": "evil", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
}


@pytest.mark.parametrize("content", SAFETENSORS.values(), ids=SAFETENSORS)
def test_safetensors_headers(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    refused(tensor_files.read_tensors, path, match="damaged")
    refused(single_files.read_kind, path)


def test_names_of_tensors_are_no_paths(tmp_path):
    """They are kept as names, and reach no file."""
    save_file({"../../evil": torch.ones(1), "/etc/passwd": torch.ones(1)}, tmp_path / "x.safetensors")
    before = files_in(tmp_path)
    assert tensor_files.read_tensors(tmp_path / "x.safetensors").keys() == {"../../evil", "/etc/passwd"}
    refused(single_files.read_kind, tmp_path / "x.safetensors", match="no whole Stable Diffusion")
    assert files_in(tmp_path) == before


def expanded():
    """Terabytes of numbers that are one number."""
    return torch.ones(1).expand(2**20, 2**20)


PICKLES = {
    "code": lambda path: {"a": torch.zeros(1), "evil": Touch(path)},
    "code alone": Touch,
    "code in a key's place": lambda path: [Touch(path)],
    "a view of terabytes": lambda path: {"a": expanded()},
    "a view in the averages": lambda path: {
        "state_dict": {"a": torch.ones(1)},
        "state_dict_ema": {"model.diffusion_model.a": expanded()},
    },
    "a sparse tensor of terabytes": lambda path: {"a": torch.sparse_coo_tensor([[0], [0]], [1.0], (2**30, 2**30))},
    "numbers elsewhere": lambda path: {"a": torch.ones(2**40, device="meta")},
}


@pytest.mark.parametrize("ending", [".ckpt", ".bin", ".pt", ".pth"])
@pytest.mark.parametrize("build", PICKLES.values(), ids=PICKLES)
def test_pickles_even_where_they_are_allowed(tmp_path, build, ending):
    path, ran = tmp_path / f"x{ending}", tmp_path / "ran"
    for new in (True, False):
        torch.save(build(ran), path, _use_new_zipfile_serialization=new)
        refused(tensor_files.read_tensors, path, match="allow_pickle")
        refused(lambda: tensor_files.read_tensors(path, allow_pickle=True, dtype=torch.float16))
        assert not ran.exists()


def test_a_checkpoint_that_is_a_zip_bomb(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1)}, buffer)
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(tmp_path / "x.ckpt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
        packed.writestr("archive/data/9", bytes(10**6))
    refused(lambda: tensor_files.read_tensors(tmp_path / "x.ckpt", allow_pickle=True), match="unpacks to")


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "C:x", "..\\x", "nul", 5, ""]
)
def test_shards_outside_a_models_folder(tmp_path, name):
    (tmp_path / "secret.safetensors").write_bytes(save({"a": torch.ones(1)}))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refused(tensor_files.weight_files, folder)


JSONS = {
    "nested": '{"a":' * 5000,
    "a list": "[1]",
    "no JSON": "{",
    "binary": "\0\0",
    "half a character": "\ud800",
}


@pytest.mark.parametrize("text", JSONS.values(), ids=JSONS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_of_models(tmp_path, text, name):
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(tensor_files.read_config if name == "config.json" else tensor_files.weight_files, tmp_path)


@pytest.fixture(scope="module")
def mini_copy(tmp_path_factory):
    """mini's folder, whose files are read and never changed; `changed` puts another file in one's place."""
    return shutil.copytree(hub.mini_folder(), tmp_path_factory.mktemp("mini") / "mini")


@pytest.fixture
def changed(mini_copy):
    kept = {}

    def change(name, **values):
        path = mini_copy / name
        kept[path] = path.read_bytes()
        path.write_text(json.dumps(json.loads(kept[path]) | values))
        return mini_copy

    yield change
    for path, content in kept.items():
        path.write_bytes(content)


SIZES = [
    ("unet/config.json", {"layers_per_block": 10**7}),
    ("unet/config.json", {"transformer_layers_per_block": [1, [10**7, 1]]}),
    ("unet/config.json", {"block_out_channels": [10**12, 10**12]}),
    ("unet/config.json", {"sample_size": 10**9}),
    ("unet/config.json", {"attention_head_dim": 0}),
    ("unet/config.json", {"cross_attention_dim": -8}),
    ("unet/config.json", {"in_channels": math.nan}),
    ("vae/config.json", {"latent_channels": math.inf}),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}),
    ("text_encoder/config.json", {"hidden_size": math.nan}),
    ("text_encoder/config.json", {"num_attention_heads": 0}),
    ("text_encoder/config.json", {"vocab_size": 10**15}),
]
CODE = [
    ("model_index.json", {"unet": ["evil_module", "Evil"]}),
    ("model_index.json", {"scheduler": ["unet.evil", "Evil"]}),
    ("model_index.json", {"_class_name": ["evil", "Evil"]}),
]


@pytest.mark.parametrize(("name", "values"), SIZES + CODE)
def test_settings_of_a_pipeline(changed, name, values):
    refused(AltDiffusionPipeline.from_pretrained, changed(name, **values))


@pytest.mark.parametrize("values", [{"num_attention_heads": 0}, {"hidden_size": math.inf}, {"vocab_size": -5}])
def test_settings_of_a_text_encoder(changed, values):
    refused(load_text_encoder, changed("text_encoder/config.json", **values))


def test_code_beside_a_model_is_not_run(changed, mini_copy, tmp_path, monkeypatch):
    """Not of a model's part, not of its tokenizer, and nobody is asked whether to."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\nclass Evil: pass\n"
    for part in ("unet", "tokenizer", "."):
        (mini_copy / part / "evil.py").write_text(code)
    automatic = {"AutoTokenizer": ["evil.Evil", None], "AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    changed("unet/config.json", auto_map=automatic)
    changed("text_encoder/config.json", auto_map=automatic)
    folder = changed("tokenizer/tokenizer_config.json", auto_map=automatic, tokenizer_class="Evil")
    for load in (AltDiffusionPipeline.from_pretrained, lambda model: load_any_tokenizer(model / "tokenizer")):
        try:
            load(folder)
        except InputError as error:
            shown = str(error)
            assert shown.isprintable()
    assert not ran.exists()


@pytest.fixture(scope="module")
def pipe():
    return AltDiffusionPipeline.from_pretrained()


LORAS = {
    "code": lambda ran: pickled({"lora": Touch(ran)}),
    "code in safetensors": lambda ran: pickle.dumps(Touch(ran)),
    "damaged": lambda ran: with_header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 99]}}),
    "nothing of a LoRA": lambda ran: save({"../x": torch.ones(1)}),
}


def pickled(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("build", LORAS.values(), ids=LORAS)
@pytest.mark.parametrize("ending", [".safetensors", ".bin", ".pt"])
@pytest.mark.parametrize("allowed", [False, True])
def test_loras_and_textual_inversions(tmp_path, pipe, build, ending, allowed):
    path, ran = tmp_path / f"x{ending}", tmp_path / "ran"
    path.write_bytes(build(ran))
    refused(load_loras, pipe, [NamedLora("x", str(path), 1.0)], allowed)
    refused(load_textual_inversion, pipe, str(path), allowed)
    assert not ran.exists()
