"""Build `mini`, the model inside the wheel: the whole method in miniature, every stage by its public trainer.

    apt-get install fonts-noto-color-emoji libtcmalloc-minimal4
    OMP_WAIT_POLICY=passive LD_PRELOAD=libtcmalloc_minimal.so.4 python pipelines/build_mini.py --out mini-build

    data       316 things on ten backgrounds, and captions in nine languages
    teacher    a CLIP that reads English only                                            train contrast --trainable both
    phase-1    an XLM-R text tower learns the teacher's text space from parallel text    train distill
    phase-2    the same tower is tuned on images in nine languages: AltCLIP            train contrast
    vae        64 x 64 pixels to 16 x 16 latents                                         train autoencoder
    sd-mini    a small Stable Diffusion on the teacher's states: it reads English only   train align --trainable unet
    bridge-states   AltCLIP's states to the teacher's: SD-mini reads nine languages      train bridge
    bridge     the same bridge goes on, its error as SD-mini's UNet sees it               train bridge --bridge
    fine-tune  SD-mini with a frame around everything: what the bridge is tried on        train align --trainable unet
    lora       the same style as a LoRA                                                  train align --trainable lora
    trigger, inversion, text-lora, clip-skip   what people add to a Stable Diffusion: see mini/add_ons.py
    kv, unet   AltDiffusion's own road: the encoder swapped, K and V aligned, then all   train align
    bridge-kv  a bridge trained only for as long as kv took, to compare the two          train bridge

A stage that is done is kept in --out; an interrupted build goes on where it stopped, bit for bit (trigger, inversion
and text-lora, of minutes, begin anew). With --from-mini SD-mini is the package's, and only what is added to it is trained.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from mini.add_ons import ADD_ONS, AddOns
from mini.calibration import calibrate
from mini.data import save_data, shape
from transformers import (
    AltCLIPTextConfig,
    AltCLIPTextModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    XLMRobertaTokenizer,
)

from altdiffusion import AltDiffusionPipeline
from altdiffusion.altclip.model import load_similarity
from altdiffusion.files import new_folder, write_text
from altdiffusion.pipelines.convert import forget_paths
from altdiffusion.pipelines.load import load_diffusion
from altdiffusion.text_encoder.bridge import load_bridge
from altdiffusion.text_encoder.tokenizer import MAX_TOKENS
from altdiffusion.toy.glyphs import CONCEPTS, LANGUAGES, concept_names, render
from altdiffusion.training import stage_settings

CAPTIONS = [*LANGUAGES, *(f"{language}-wordy" for language in LANGUAGES)]  # the columns of the data, plain and wordy
WIDTH = 192  # of the text towers' states, and of what the UNet attends to

# Optimizer steps; with the batch sizes below about eight hours of two CPU cores without AMX.
STEPS = {
    "teacher": 600,
    "phase-1": 2200,
    "phase-2": 400,
    "vae": 9000,
    "sd-mini": 9000,
    "bridge-states": 6000,
    "bridge": 1500,
    "fine-tune": 1500,
    "lora": 2000,
    "trigger-unet": 2000,
    "trigger": 250,
    "inversion": 400,
    "text-lora": 200,
    "clip-skip-trained": 400,
    "kv": 700,
    "unet": 5200,
    "bridge-kv": 480,
}
STAGES = ("data", "teacher", "phase-1", "phase-2", "vae", "sd-mini", "bridge-states", "bridge", "fine-tune", "lora",
          *ADD_ONS, "kv", "unet", "bridge-kv", "mini")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the mini model, stage by stage.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the stages and the finished model")
    parser.add_argument("--until", choices=STAGES, default="mini", help="stop after this stage")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--from-mini", action="store_true", help="train only what is added to SD-mini, the package's")
    options = parser.parse_args()
    build = Build(options.out, smoke=options.smoke, from_mini=options.from_mini)
    for name, stage in build.stages():
        if not (options.out / name).is_dir():
            print(f"== {name}", file=sys.stderr, flush=True)
        stage()
        if name == options.until:
            break


class Build:
    """The stages in their order; each one finds what it needs in `out`, where those before it left it."""

    def __init__(self, out: Path, smoke: bool, from_mini: bool = False) -> None:
        self.out, self.smoke, self.from_mini = out, smoke, from_mini

    def stages(self) -> Iterator[tuple[str, Any]]:
        """(name, the method that runs it)."""
        steps = dict.fromkeys(STEPS, 4) if self.smoke else STEPS
        add_ons = AddOns(self.out, steps, self._train, self._unet_settings("en"))
        for name in ("data", "sd-mini", *ADD_ONS) if self.from_mini else STAGES:
            yield name, getattr(add_ons if name in ADD_ONS else self, name.replace("-", "_"))

    def data(self) -> None:
        if not (self.out / "data").is_dir():
            save_data(self.out / "data", range(12 if self.smoke else len(CONCEPTS)), shape if self.smoke else render)

    def teacher(self) -> None:
        if (self.out / "teacher/model").is_dir():
            return
        tokenizer = CLIPTokenizer().train_new_from_iterator(self._texts(["en"]), vocab_size=2400)
        tokenizer.model_max_length = MAX_TOKENS
        text = dict(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=768, num_hidden_layers=4)
        text |= dict(num_attention_heads=4, projection_dim=128, eos_token_id=tokenizer.eos_token_id)
        text |= dict(bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id)
        vision = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
        vision |= dict(image_size=64, patch_size=16, projection_dim=128)
        torch.manual_seed(0)
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
        processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
        self._start("teacher", clip, tokenizer, processor)
        self._train(
            "contrast",
            "teacher",
            model=str(self.out / "teacher/start"),
            languages=["en"],
            trainable="both",
            batch_size=256,
            learning_rate=1e-3,
            validation_data=[str(self.out / "data/held-out.jsonl")],
        )

    def phase_1(self) -> None:
        if (self.out / "phase-1/model").is_dir():
            return
        tokenizer = XLMRobertaTokenizer().train_new_from_iterator(self._texts(LANGUAGES), vocab_size=6000)
        tokenizer.model_max_length = MAX_TOKENS
        config = AltCLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS + 3,
            project_dim=WIDTH,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        config.use_attention_mask = True  # tells Stable Diffusion pipelines to pass the mask
        torch.manual_seed(0)
        self._start("phase-1", AltCLIPTextModel(config), tokenizer)
        self._train(
            "distill",
            "phase-1",
            teacher=str(self.out / "teacher/model"),
            student=str(self.out / "phase-1/start"),
            languages=CAPTIONS,
            batch_size=256,
            learning_rate=1.5e-3,
            teacher_cache=self.out / "phase-1/teacher-cache",
            validation_data=[str(self.out / "data/held-out.jsonl")],
        )

    def phase_2(self) -> None:
        self._train(
            "contrast",
            "phase-2",
            model=str(self.out / "phase-1/model"),
            languages=CAPTIONS,
            batch_size=256,
            learning_rate=2e-4,
            image_cache=self.out / "phase-2/image-cache",
            validation_data=[str(self.out / "data/held-out.jsonl")],
        )

    def vae(self) -> None:
        if not (self.out / "vae/start").is_dir():
            torch.manual_seed(0)
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                block_out_channels=(32, 64, 96),
                norm_num_groups=16,
                sample_size=64,
            )
            self._start("vae", vae)
        self._train(
            "autoencoder",
            "vae",
            model=str(self.out / "vae/start"),
            batch_size=4,
            learning_rate=1e-3,
            ema_decay=0.998,
            validation_data=[str(self.out / "data/held-out.jsonl")],
        )

    def sd_mini(self) -> None:
        if self.from_mini:
            if not (self.out / "sd-mini/model").is_dir():
                with new_folder(self.out / "sd-mini/model") as folder:
                    load_diffusion("sd-mini").save_pretrained(folder)
            return
        if not (self.out / "sd-mini/start").is_dir():
            torch.manual_seed(0)
            unet = UNet2DConditionModel(
                sample_size=16,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=(64, 160),
                layers_per_block=1,
                attention_head_dim=4,
                norm_num_groups=16,
                cross_attention_dim=WIDTH,
            )
            teacher = self.out / "teacher/model"
            pipe = StableDiffusionPipeline(
                vae=AutoencoderKL.from_pretrained(self.out / "vae/model"),
                text_encoder=CLIPModel.from_pretrained(teacher).text_model,
                tokenizer=CLIPTokenizer.from_pretrained(teacher),
                unet=unet,
                scheduler=noise_scheduler(),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
            self._start("sd-mini", pipe)
        self._train("align", "sd-mini", model=str(self.out / "sd-mini/start"), languages=["en"], trainable="unet",
                    learning_rate=1e-3, **self._unet_settings("en"))  # fmt: skip

    def bridge_states(self, name: str = "bridge-states") -> None:
        sizes = dict(hidden_size=WIDTH, num_attention_heads=4, intermediate_size=768)
        self._translate(name, batch_size=64, learning_rate=1.5e-3, **sizes)

    def bridge(self) -> None:
        self._translate("bridge", bridge=str(self.out / "bridge-states/model"), prediction_weight=3.0,
                        batch_size=32, learning_rate=7e-4)  # fmt: skip

    def bridge_kv(self) -> None:
        self.bridge_states("bridge-kv")

    def _translate(self, name: str, **settings: Any) -> None:
        self._train(
            "bridge",
            name,
            text_encoder=str(self.out / "phase-2/model"),
            model=str(self.out / "sd-mini/model"),
            languages=[
                *LANGUAGES,
                *(f"{language}-wordy=0.3" for language in LANGUAGES),
                *(f"{language}-named" for language in LANGUAGES if language != "en"),
            ],
            literal=0.75,
            padding_weight=0.3,
            cross_attention_weight=1.0,
            ema_decay=0.998,
            validation_data=[str(self.out / "data/held-out.jsonl")],
            **settings,
        )

    def fine_tune(self) -> None:
        self._framed("fine-tune", trainable="unet", learning_rate=3e-4)

    def lora(self) -> None:
        self._framed("lora", trainable="lora", lora_rank=16, lora_layers="all", learning_rate=1e-3)

    def _framed(self, name: str, **settings: Any) -> None:
        """Another style for SD-mini, read by its own English encoder."""
        settings |= self._unet_settings("en") | {"latent_cache": self.out / "fine-tune/latent-cache"}
        settings |= {"train_data": [str(self.out / "data/framed-train.jsonl")], "languages": ["en"]}
        self._train("align", name, model=str(self.out / "sd-mini/model"), **settings)

    def kv(self) -> None:
        self._train("align", "kv", model=str(self.out / "sd-mini/model"), text_encoder=str(self.out / "phase-2/model"),
                    trainable="kv", languages=CAPTIONS, learning_rate=1.5e-3, **self._unet_settings("zh"))  # fmt: skip

    def unet(self) -> None:
        self._train("align", "unet", model=str(self.out / "kv/model"), trainable="unet", languages=CAPTIONS,
                    learning_rate=1e-3, **self._unet_settings("zh"))  # fmt: skip

    def mini(self) -> None:
        """All that ships, in float16: the published road's pipeline, AltCLIP, and SD-mini with the bridge to it."""
        if (self.out / "mini").is_dir():
            return
        clip, tokenizer, processor = load_similarity(self.out / "phase-2/model")
        with new_folder(self.out / "mini") as folder:
            pipe = AltDiffusionPipeline.from_pretrained(self.out / "unet/model", dtype=torch.float16)
            pipe.save_pretrained(folder)
            for part in (clip.half(), tokenizer, processor):
                part.save_pretrained(folder / "altclip")
            sd = StableDiffusionPipeline.from_pretrained(self.out / "sd-mini/model", torch_dtype=torch.float16)
            sd.save_pretrained(folder / "sd-mini")
            shutil.rmtree(folder / "sd-mini/vae")  # the same as mini's
            bridge = load_bridge(self.out / "bridge/model", torch.float16)
            bridge.config.text_encoder, bridge.config.model = "mini", "sd-mini"
            bridge.save_pretrained(folder / "bridge")
            shutil.copytree(self.out / "bridge/model/tokenizer", folder / "bridge/tokenizer")
            for file in folder.glob("**/tokenizer.json"):
                write_text(file, shortened(json.loads(file.read_text(encoding="utf-8"))))
            for config in folder.glob("**/config.json"):  # what the libraries load by default
                settings = json.loads(config.read_text(encoding="utf-8"))
                if "dtype" in settings:
                    write_text(config, json.dumps(settings | {"dtype": "float32"}, indent=2) + "\n")
            forget_paths(folder)
            if not self.smoke:  # which has too few captions
                calibrate(folder / "altclip")

    def _train(self, stage: str, name: str, **settings: Any) -> None:
        """Run a public trainer, unless its model is there; what it had begun goes on."""
        if (self.out / name / "model").is_dir():
            return
        steps = 4 if self.smoke else STEPS[name]
        if self.smoke:
            settings["batch_size"] = 8
        defaults: dict[str, Any] = {
            "train_data": [str(self.out / "data/train.jsonl")],
            "output_dir": self.out / name,
            "max_train_steps": steps,
            "lr_warmup_steps": min(100, steps // 10),
            "adam_beta2": 0.98,
            "checkpointing_steps": 1000,
            "validation_steps": 1000,
            "logging_steps": 100,
            "data_workers": 1,
            "device": "auto",
            "resume": True,
        }
        settings_class, _ = stage_settings.STAGES[stage]
        stage_settings.run_stage(stage, settings_class(**(defaults | settings)))
        shutil.rmtree(self.out / name / "checkpoints")  # the model is whole

    def _start(self, name: str, *parts: Any) -> None:
        """Save what a stage begins with."""
        if not (self.out / name / "start").is_dir():
            with new_folder(self.out / name / "start") as folder:
                for part in parts:
                    part.save_pretrained(folder)

    def _texts(self, languages: Iterable[str]) -> Iterator[list[str]]:
        """The training captions, to train a tokenizer on."""
        with (self.out / "data/train.jsonl").open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                yield [record[language] for language in languages]

    def _unet_settings(self, language: str) -> dict[str, Any]:
        names = concept_names(language)
        prompts = [names[i] for i in range(0, len(names), 20)]
        return {
            "batch_size": 24,
            "resolution": 64,
            "ema_decay": 0.999,
            "latent_cache": self.out / "sd-mini/latent-cache",
            "validation_prompts": prompts,
            "validation_guidance_scale": 4.0,
        }


def noise_scheduler() -> DDIMScheduler:
    """Latent diffusion's own betas; v prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def shortened(tokenizer: dict[str, Any]) -> str:
    """A tokenizer's file without white space; five decimals of the pieces' scores, which decide between equal cuts alone."""
    if tokenizer["model"]["type"] == "Unigram":
        tokenizer["model"]["vocab"] = [[piece, round(score, 5)] for piece, score in tokenizer["model"]["vocab"]]
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main()
