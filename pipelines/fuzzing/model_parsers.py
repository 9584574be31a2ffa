"""Parsers of models' files: their settings, their tensors, and what a single file is."""

# ruff: noqa: E501
from __future__ import annotations

import contextlib
import io
import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from fuzzing.file_parsers import encoded, written
from fuzzing.inputs import Maker, corpus
from fuzzing.settings_files import lora_seeds

from altdiffusion.errors import InputError


def a_model_json(make: Maker) -> bytes:
    words = [
        '{"',
        '": ',
        '"weight_map"',
        '"text_config"',
        '"model_type"',
        "{",
        "}",
        "[",
        "]",
        '"../x.safetensors"',
        '"unet"',
        "1",
        ",",
    ]
    return encoded(make.text(corpus("model_json"), words))


def model_json(content: bytes) -> None:
    from altdiffusion.checkpoints import bridge_folder, tensor_files

    for name in ("config.json", "model.safetensors.index.json"):
        path = written(f"part/{name}", content)
    for read in (tensor_files.read_config, tensor_files.read_config_type, bridge_folder.model_type):
        with contextlib.suppress(InputError):
            read(path.parent)
    for file in tensor_files.weight_files(path.parent):
        assert file.parent == path.parent, "a shard lies in the model's folder"


@cache
def tensor_seeds() -> list[tuple[str, bytes]]:
    import torch

    tensors = {"a": torch.ones(2, 3), "b.weight": torch.ones(2).half()}
    seeds = [(".safetensors", seed) for seed in lora_seeds()]
    for state in (
        tensors,
        {"state_dict": tensors, "global_step": 3, "state_dict_ema": {"model.diffusion_model.a": torch.ones(1)}},
    ):
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(state, buffer, _use_new_zipfile_serialization=new)
            seeds.append((".ckpt", buffer.getvalue()))
    return seeds


def a_tensor_file(make: Maker) -> tuple[str, bytes]:
    ending, seed = make.one(tensor_seeds())
    if ending == ".ckpt" and zipfile.is_zipfile(io.BytesIO(seed)) and make.chance(0.7):  # its pickle, packed anew
        return ending, _with_pickle(seed, make)
    words = [
        b"cos\nsystem\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"R",
        b"(",
        b"t",
        b".",
        b'"data_offsets":[0,99]',
        b'"shape":[9]',
        b"}",
    ]
    return ending, make.data([seed], words)


def _with_pickle(seed: bytes, make: Maker) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seed)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(
                name, make.data([content], [b"cos\nsystem\n", b"R", b"."]) if name.endswith("data.pkl") else content
            )
    return buffer.getvalue()


def tensors(given: tuple[str, bytes]) -> None:
    import torch

    from altdiffusion.checkpoints.tensor_files import read_tensors

    ending, content = given
    read = read_tensors(written(f"weights{ending}", content), allow_pickle=True, dtype=torch.float32)
    assert sum(tensor.nbytes for tensor in read.values()) <= 64 * len(content), "no more numbers than the file holds"


NAMES = [
    "model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2.weight", "model.diffusion_model.label_emb.0.0.weight",
    "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias", "first_stage_model.encoder.conv_in.weight",
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight", "cond_stage_model.model.token_embedding.weight",
    "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight", "cond_stage_model.model.positional_embedding",
    "cond_stage_model.model.text_projection", "cond_stage_model.roberta.embeddings.word_embeddings.weight", "v_pred", "ztsnr",
    "global_step", "edm_mean", "conditioner.embedders.0.model.x", "conditioner.embedders.1.model.token_embedding.weight",
    "lora_unet_x.lora_up.weight", "emb_params", "model_ema.x", "roberta.embeddings.x", "joint_blocks.0.x",
]  # fmt: skip


def some_tensors(make: Maker) -> tuple[dict[str, list[int]], dict[str, str], str]:
    names = [make.one(NAMES) for _ in range(1 + make.number(10))]
    if make.chance(0.7):
        names += NAMES[:2]
    if make.chance(0.5):
        names.append(make.text(NAMES, ["layers.", "9" * 5000, ".", "output_blocks.12", "resblocks.7"]))
    shapes = {name: [make.one([0, 1, 2, 4, 8, 9, 64]) for _ in range(make.one([4, 2, 1, 0, 3]))] for name in names}
    settings = make.text(['model:\n  params:\n    parameterization: "v"\n'], [" ", "parameterization:", "v", "\n", "'"])
    return (
        shapes,
        {"modelspec.prediction_type": make.one(["v", "epsilon", "", "²"])} if make.chance(0.3) else {},
        settings,
    )


def single_file(given: tuple[dict[str, list[int]], dict[str, str], str]) -> None:
    import torch

    from altdiffusion.checkpoints import single_files

    shapes, metadata, settings = given
    state: dict[str, Any] = {name: torch.zeros(shape) for name, shape in shapes.items()}
    found = single_files.look(state, Path("x.safetensors"))
    single_files.prediction(found, state, metadata, settings)
    if found.kind == "sd2":
        single_files.without_last_layer(state)
    read = {"sd1": (single_files.clip_config, single_files.CLIP_1), "xl": (single_files.open_clip_config, single_files.OPEN_CLIP_XL),
            "sd2": (single_files.open_clip_config, single_files.OPEN_CLIP_2)}.get(found.kind)  # fmt: skip
    if read:
        sizes = read[0](state, read[1])
        assert all(size > 0 for size in sizes.values() if isinstance(size, int)), json.dumps(sizes)
