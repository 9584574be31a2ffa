"""Our ComfyUI nodes in a real ComfyUI: graphs run through its API on a CPU, and compared with diffusers' pipelines.

    git clone https://github.com/comfyanonymous/ComfyUI && pip install -r ComfyUI/requirements.txt
    python pipelines/comfyui_check.py --comfyui ComfyUI --out checked

ComfyUI is started with a base folder of its own, so that neither the checkout nor its models are touched. Checked are, with
SD-mini and with a CLIP of Stable Diffusion 1.x's size (random weights) from ComfyUI's own loader: that conditionings are those
of our pipelines, that English prompts are those of CLIP Text Encode, LoRAs and clip skip, images by Chinese prompts, scores,
best of N, what is said of wrong input, and the example workflow in the page itself (Chromium, by playwright). Status 1 where
one isn't so. The images are in --out. `--python` names the interpreter that ComfyUI runs in, where it is another; it needs
altdiffusion, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from comfyui_checks.browser import run_example
from comfyui_checks.random_models import make_models
from PIL import Image, ImageChops
from safetensors.torch import load_file

from altdiffusion import AltDiffusionPipeline, PromptScorer, encode_prompts, load_pipeline

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = [
    "一只猫",
    "a cat, 蓝色背景",
    "(一只猫:1.3), 蓝色背景",
    "((红苹果)) `on a blue background`",
    "кошка на синем фоне, (masterpiece:0.8)",
    "一只猫，红苹果，蓝色背景，a dog, a house, " * 6,
]
ENGLISH = ["a cat", "", "a (red:1.2) apple, (blue background:0.7)", "a cat, a dog, a house, " * 12]
TOLERANCE = 2e-4  # of states of about 1: ComfyUI's and transformers' CLIP add up in another order


class ComfyUI:
    """A running ComfyUI's API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
            return json.loads(answer.read())

    def image(self, image: dict[str, str]) -> bytes:
        with urllib.request.urlopen(f"{self.url}/view?{urllib.parse.urlencode(image)}", timeout=60) as answer:
            return answer.read()

    def run(self, graph: dict[str, Any]) -> dict[str, Any]:
        """What the graph's output nodes gave, by their ids. Raises RuntimeError with what ComfyUI would show."""
        body = json.dumps({"prompt": graph}).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}/prompt", body), timeout=60) as answer:
                prompt_id = json.loads(answer.read())["prompt_id"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from None
        while not (history := self.get(f"/history/{prompt_id}")):
            time.sleep(0.1)
        result = history[prompt_id]
        for kind, message in result["status"]["messages"]:
            if kind == "execution_error":
                raise RuntimeError(message["exception_message"].strip())
        return result["outputs"]


class Graph(dict[str, Any]):
    """A graph in the API's form."""

    def add(self, class_type: str, **inputs: Any) -> str:
        name = str(len(self) + 1)
        self[name] = {"class_type": class_type, "inputs": inputs}
        return name


class Checks:
    """What was found so far."""

    failed = 0

    def say(self, what: str, good: bool, found: str = "") -> None:
        self.failed += not good
        print(f"{'good' if good else 'BAD '}  {what}{f': {found}' if found else ''}", flush=True)

    def same(self, what: str, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
        if ours.shape != theirs.shape:
            self.say(what, False, f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}")
            return
        distance = float((ours - theirs).abs().max())
        self.say(what, distance <= tolerance, f"differs by {distance:.1e} at most")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, metavar="DIR", help="a checkout of ComfyUI")
    parser.add_argument("--python", default=sys.executable, metavar="P", help="its interpreter (default: this one)")
    parser.add_argument("--xl", action="store_true", help="with the two CLIPs of XL, too: 12 GB of memory")
    parser.add_argument("--out", type=Path, default=Path("comfyui-checked"), metavar="DIR", help="for images")
    parser.add_argument("--port", type=int, default=8199, metavar="N", help="(default: 8199)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    checks = Checks()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        pipes = {
            kind: make_models(base, options.comfyui, kind) for kind in (["sd15", "sdxl"] if options.xl else ["sd15"])
        }
        with served(options, base) as comfy:
            check_offered(checks, comfy)
            check_mini(checks, comfy, base, options.out)
            check_full_size(checks, comfy, base, pipes)
            check_altdiffusion(checks, comfy, base)
            check_refusals(checks, comfy)
            check_browser(checks, comfy, options.out)
    print(f"{checks.failed} not as they should be" if checks.failed else "all as they should be")
    return 1 if checks.failed else 0


@contextmanager
def served(options: argparse.Namespace, base: Path) -> Any:
    """ComfyUI with our nodes and the check's, until it answers; its output is in --out/comfyui.log."""
    nodes = base / "custom_nodes"
    for folder in (nodes, base / "output"):
        folder.mkdir(parents=True)
    shutil.copytree(ROOT / "comfyui", nodes / "altdiffusion-nodes")
    shutil.copy(ROOT / "pipelines" / "comfyui_checks" / "check_nodes.py", nodes)
    command = [options.python, "main.py", "--cpu", "--base-directory", str(base), "--port", str(options.port)]
    command += ["--fp32-text-enc", "--fp32-unet", "--disable-auto-launch"]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    url = f"http://127.0.0.1:{options.port}"
    with (options.out / "comfyui.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=options.comfyui,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": paths},
        )
        try:
            comfy = ComfyUI(url)
            for _ in range(600):
                if process.poll() is not None:
                    raise SystemExit(f"ComfyUI did not start: see {log.name}")
                try:
                    comfy.get("/system_stats")
                    break
                except OSError:
                    time.sleep(0.5)
            version = comfy.get("/system_stats")["system"]["comfyui_version"]
            print(f"ComfyUI {version}", flush=True)
            yield comfy
        finally:
            process.terminate()
            process.wait(timeout=60)


def check_offered(checks: Checks, comfy: ComfyUI) -> None:
    """What ComfyUI's front end asks for."""
    offered = comfy.get("/object_info")
    ours = [name for name, node in offered.items() if node["python_module"] == "custom_nodes.altdiffusion-nodes"]
    checks.say("nodes are offered", len(ours) == 6, ", ".join(offered[name]["display_name"] for name in ours))
    workflows = comfy.get("/workflow_templates").get("altdiffusion-nodes", [])
    checks.say("example workflows are offered", bool(workflows), ", ".join(workflows))
    translated = comfy.get("/i18n").get("zh", {}).get("nodeDefs", {})
    checks.say(
        "names in Chinese are offered",
        set(ours) <= set(translated),
        ", ".join(translated[n]["display_name"] for n in ours),
    )


def conditionings(
    comfy: ComfyUI, base: Path, graph: Graph, wanted: dict[str, list[Any]]
) -> dict[str, dict[str, torch.Tensor]]:
    """The states, and pooled vectors, of conditionings by name, all computed by one run."""
    for name, link in wanted.items():
        graph.add("CheckSaveConditioning", conditioning=link, name=name)
    comfy.run(graph)
    return {name: load_file(base / "output" / f"{name}.safetensors") for name in wanted}


def check_prompts(checks: Checks, comfy: ComfyUI, base: Path, what: str, graph: Graph, clip: list[Any], bridge: list[Any],
                  pipe: Any, clip_skip: int | None = None) -> None:  # fmt: skip
    """Conditionings by ComfyUI's CLIP beside our pipeline's, and English ones beside CLIP Text Encode's."""
    wanted = {f"ours-{i}": [graph.add("AltCLIPBridgeTextEncode", clip=clip, bridge=bridge, text=text), 0]
              for i, text in enumerate(PROMPTS)}  # fmt: skip
    for i, text in enumerate(ENGLISH):
        wanted[f"english-{i}"] = [graph.add("AltCLIPBridgeTextEncode", clip=clip, bridge=bridge, text=text), 0]
        wanted[f"stock-{i}"] = [graph.add("CLIPTextEncode", clip=clip, text=text), 0]
    found = conditionings(comfy, base, graph, wanted)
    for i, text in enumerate(PROMPTS):
        theirs = encode_prompts(pipe, text, weighting="comfyui", clip_skip=clip_skip)
        checks.same(f"{what}, {text[:40]!r}", found[f"ours-{i}"]["states"], theirs["prompt_embeds"])
        if "pooled_prompt_embeds" in theirs:
            checks.same(f"{what}, {text[:40]!r}, pooled", found[f"ours-{i}"]["pooled"], theirs["pooled_prompt_embeds"])
    for i, text in enumerate(ENGLISH):
        checks.same(
            f"{what}, {text[:40]!r} as CLIP Text Encode",
            found[f"english-{i}"]["states"],
            found[f"stock-{i}"]["states"],
            0,
        )


def check_browser(checks: Checks, comfy: ComfyUI, out: Path) -> None:
    """The page itself, in Chromium: the example workflow from the templates."""
    found = run_example(comfy.url, out)
    checks.say(
        "the page knows the example's nodes and their values", not found["missing"] and not found["unset"], f"{found}"
    )
    checks.say("a checkpoint that isn't there is named", "ckpt_name" in found["error"], found["error"][:120])
    checks.say("the example runs with SD-mini in its place", not found["refused"] and found["images"] == 1)


def check_mini(checks: Checks, comfy: ComfyUI, base: Path, out: Path) -> None:
    """SD-mini: prompts, a LoRA and clip skip, images, scores, the best of N."""
    pipe = load_pipeline("sd-mini", text_encoder="mini", bridge="mini")
    graph = Graph()
    mini, altclip = (
        graph.add("CheckSDMini"),
        graph.add("AltCLIPLoader", model="mini", dtype="float32", allow_pickle=False),
    )
    bridge = graph.add("AltCLIPBridgeLoader", bridge="mini", altclip=[altclip, 0])
    check_prompts(checks, comfy, base, "SD-mini", Graph(graph), [mini, 1], [bridge, 0], pipe)

    with_lora = Graph(graph)
    lora = with_lora.add("LoraLoader", model=[mini, 0], clip=[mini, 1], lora_name="random.safetensors", strength_model=1.0,
                         strength_clip=0.7)  # fmt: skip
    skipped = with_lora.add("CLIPSetLastLayer", clip=[lora, 1], stop_at_clip_layer=-2)
    pipe.load_lora_weights(base / "models" / "loras" / "random.safetensors", adapter_name="random")
    pipe.set_adapters(["random"], [0.7])
    check_prompts(
        checks, comfy, base, "SD-mini with LoRA and clip skip", with_lora, [skipped, 0], [bridge, 0], pipe, clip_skip=1
    )

    scorer = PromptScorer.from_pretrained("mini", device="cpu")
    for name, prompt in (("cat", "一只猫，蓝色背景"), ("apple", "一个(红苹果:1.1)"), ("dog", "собака")):
        drawn = Graph(graph)
        text = drawn.add("AltCLIPBridgeTextEncode", clip=[mini, 1], bridge=[bridge, 0], text=prompt)
        empty = drawn.add("AltCLIPBridgeTextEncode", clip=[mini, 1], bridge=[bridge, 0], text="")
        latent = drawn.add("EmptyLatentImage", width=128, height=128, batch_size=4)
        sampled = drawn.add("KSampler", model=[mini, 0], positive=[text, 0], negative=[empty, 0], latent_image=[latent, 0],
                            seed=1, steps=20, cfg=4.0, sampler_name="ddim", scheduler="ddim_uniform", denoise=1.0)  # fmt: skip
        images = drawn.add("VAEDecode", samples=[sampled, 0], vae=[mini, 2])
        score = drawn.add("AltCLIPScore", altclip=[altclip, 0], images=[images, 0], prompt=prompt)
        best = drawn.add("AltCLIPBestOf", altclip=[altclip, 0], images=[images, 0], prompt=prompt, keep=2)
        every = drawn.add("SaveImage", images=[images, 0], filename_prefix=f"{name}-all")
        two = drawn.add("SaveImage", images=[best, 0], filename_prefix=f"{name}-best")
        english = drawn.add("PreviewAny", source=[text, 1])
        outputs = comfy.run(drawn)
        files = {}
        for kind, node in (("all", every), ("best", two)):
            files[kind] = [out / image["filename"] for image in outputs[node]["images"]]
            for path, image in zip(files[kind], outputs[node]["images"], strict=True):
                path.write_bytes(comfy.image(image))
        scores = scorer.score(files["all"], prompt.replace("(", "").replace(":1.1)", ""))[:, 0]
        places = [int(line.split(":")[0]) - 1 for line in outputs[best]["text"][0].splitlines()]
        told = torch.tensor([float(line.split(": ")[1]) for line in outputs[score]["text"][0].splitlines()])
        # a saved image is cut to 8 bits
        checks.same(f"scores of {prompt}", told, scores, 0.01)
        checks.say(
            f"best of 4, {prompt}",
            places == told.argsort(descending=True, stable=True)[:2].tolist(),
            f"{told.tolist()}, {places}",
        )
        checks.say(
            f"the best come out, {prompt}", _same_pixels([files["all"][place] for place in places], files["best"])
        )
        print(f"      understood: {outputs[english]['text'][0]}")


def _same_pixels(ones: list[Path], others: list[Path]) -> bool:
    return all(
        ImageChops.difference(Image.open(one), Image.open(other)).getbbox() is None
        for one, other in zip(ones, others, strict=True)
    )


def check_full_size(checks: Checks, comfy: ComfyUI, base: Path, pipes: dict[str, Any]) -> None:
    """CLIPs of the sizes that Stable Diffusion 1.x and XL have, by ComfyUI's own loaders."""
    for kind, pipe in pipes.items():
        graph = Graph()
        if kind == "sdxl":
            clip = graph.add(
                "DualCLIPLoader", clip_name1="sdxl-l.safetensors", clip_name2="sdxl-g.safetensors", type="sdxl"
            )
        else:
            clip = graph.add("CLIPLoader", clip_name="sd15-l.safetensors", type="stable_diffusion")
        bridge = graph.add("AltCLIPBridgeLoader", bridge=f"random-{kind}")
        check_prompts(checks, comfy, base, f"{kind} of full size", graph, [clip, 0], [bridge, 0], pipe)


def check_altdiffusion(checks: Checks, comfy: ComfyUI, base: Path) -> None:
    """AltCLIP's own states."""
    graph = Graph()
    altclip = graph.add("AltCLIPLoader", model="mini", dtype="float32", allow_pickle=False)
    prompts = ["一只猫", "(红苹果:1.3), 蓝色背景", "", "a cat, " * 40]
    wanted = {
        f"alt-{i}": [graph.add("AltCLIPTextEncode", altclip=[altclip, 0], text=text), 0]
        for i, text in enumerate(prompts)
    }
    found = conditionings(comfy, base, graph, wanted)
    pipe = AltDiffusionPipeline.from_pretrained("mini")
    for i, text in enumerate(prompts):
        checks.same(
            f"AltDiffusion, {text[:40]!r}", found[f"alt-{i}"]["states"], encode_prompts(pipe, text)["prompt_embeds"]
        )


def check_refusals(checks: Checks, comfy: ComfyUI) -> None:
    """One line each for what can't be."""

    def refused(what: str, expected: str, add: Any) -> None:
        graph = Graph()
        mini, altclip = (
            graph.add("CheckSDMini"),
            graph.add("AltCLIPLoader", model="mini", dtype="float32", allow_pickle=False),
        )
        bridge = graph.add("AltCLIPBridgeLoader", bridge="mini", altclip=[altclip, 0])
        add(graph, [mini, 1], [altclip, 0], [bridge, 0])
        try:
            comfy.run(graph)
        except RuntimeError as error:
            lines = str(error).splitlines()
            checks.say(f"refused: {what}", len(lines) == 1 and expected in lines[0], lines[0])
        else:
            checks.say(f"refused: {what}", False)

    def encode(graph: Graph, clip: Any, bridge: Any, text: str = "一只猫") -> None:
        node = graph.add("AltCLIPBridgeTextEncode", clip=clip, bridge=bridge, text=text)
        graph.add("CheckSaveConditioning", conditioning=[node, 0], name="refused")

    def score(graph: Graph, altclip: Any, prompt: str, width: int = 64, keep: int = 1) -> None:
        image = graph.add("EmptyImage", width=width, height=1 if width > 64 else 64, batch_size=2, color=0)
        node = graph.add("AltCLIPBestOf", altclip=altclip, images=[image, 0], prompt=prompt, keep=keep)
        graph.add("PreviewAny", source=[node, 2])

    def load(graph: Graph, **inputs: Any) -> Any:
        return [graph.add("AltCLIPLoader", dtype="float32", allow_pickle=False, **inputs), 0]

    refused("no such AltCLIP", "unknown model", lambda g, c, a, b: score(g, load(g, model="no-such"), "猫"))
    refused("no name", "no model is named", lambda g, c, a, b: score(g, load(g, model=" "), "猫"))
    refused("a Stable Diffusion to score by", "sd-mini", lambda g, c, a, b: score(g, load(g, model="sd-mini"), "猫"))
    refused(
        "no such bridge",
        "unknown model",
        lambda g, c, a, b: encode(g, c, [g.add("AltCLIPBridgeLoader", bridge="no-such"), 0]),
    )
    refused("a bridge to another CLIP", "was trained with CLIPs of width",
            lambda g, c, a, b: encode(g, c, [g.add("AltCLIPBridgeLoader", bridge="random-sd15"), 0]))  # fmt: skip
    refused("an open backquote", "backquote", lambda g, c, a, b: encode(g, c, b, "一只`猫"))
    refused("an empty prompt to score by", "empty", lambda g, c, a, b: score(g, a, " "))
    refused("an image of one line", "pixels", lambda g, c, a, b: score(g, a, "猫", width=4096))
    refused("more images than there are", "keep is 3", lambda g, c, a, b: score(g, a, "猫", keep=3))


if __name__ == "__main__":
    sys.exit(main())
