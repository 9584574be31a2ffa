"""AUTOMATIC1111's API: what its clients send gives the images that the library gives, and nothing is left out in silence."""

import json

import numpy as np
import pytest
from helpers.base64_images import decoded, encoded
from PIL import Image

from altdiffusion import generate
from altdiffusion.generation.infotext import image_settings
from altdiffusion.generation.label import read_label
from altdiffusion.web.serve.sd_request import Text2Image, said_of
from altdiffusion.web.translations import Refused

SMALL = {"prompt": "一只猫", "steps": 2, "width": 32, "height": 32, "seed": 5}


def post(client, path, status=200, **body):
    answer = client.post(f"/sdapi/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def info_of(answer):
    return json.loads(answer["info"])


def test_a_batch_has_an_image_for_each_seed_as_the_library_generates_them(client, service):
    answer = post(
        client, "txt2img", **SMALL, batch_size=2, n_iter=2, cfg_scale=5, negative_prompt="狗", sampler_name="DDIM"
    )
    assert info_of(answer)["all_seeds"] == [5, 6, 7, 8]
    pipe = service.models.pipeline("alt-small")
    options = {
        "negative_prompt": "狗",
        "num_images": 4,
        "seed": 5,
        "steps": 2,
        "guidance_scale": 5,
        "scheduler": "ddim",
    }
    expected = generate("一只猫", model=pipe, size=(32, 32), batch_size=4, **options)
    for text, wanted in zip(answer["images"], expected, strict=True):
        assert np.abs(np.asarray(decoded(text), float) - np.asarray(wanted.image, float)).max() <= 2


def test_an_image_carries_its_settings_and_its_label(client):
    answer = post(client, "txt2img", **SMALL)
    image = decoded(answer["images"][0])
    settings = image_settings(image)
    assert (settings.prompt, settings.seed, settings.steps, settings.width) == ("一只猫", 5, 2, 32)
    assert read_label(image).source_type == "trainedAlgorithmicMedia"
    assert info_of(answer)["infotexts"] == [image.info["parameters"]]
    found = post(client, "png-info", image=answer["images"][0])
    assert found["info"] == found["items"]["parameters"] == image.info["parameters"]
    assert found["parameters"]["Prompt"] == "一只猫"
    assert found["parameters"]["Size-1"] == "32"


def test_an_image_without_settings_has_an_empty_text(client, stripes):
    assert post(client, "png-info", image=encoded(stripes)) == {"info": "", "items": {}, "parameters": {}}


def test_half_a_character_is_left_out_of_a_prompt_and_told_as_none(client):
    body = '{"prompt": "\\ud800cat", "negative_prompt": "a\\udfff", "steps": 1, "width": 8, "height": 8}'
    answer = client.post("/sdapi/v1/txt2img", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert [answer.json()["parameters"][name] for name in ("prompt", "negative_prompt")] == ["?cat", "a?"]
    assert info_of(answer.json())["prompt"] == "cat"


def test_nothing_that_was_sent_is_kept(client, service):
    post(client, "txt2img", **SMALL)
    assert not list(service.folder.rglob("*.png"))


@pytest.mark.parametrize(
    ("sent", "size"),
    [
        ({"hr_scale": 2}, (64, 64)),
        ({"hr_resize_x": 48, "hr_resize_y": 48, "hr_second_pass_steps": 1}, (48, 48)),
        ({"hr_resize_x": 64, "denoising_strength": 0.5}, (64, 64)),
    ],
)
def test_hires_is_a_second_pass(client, sent, size):
    answer = post(client, "txt2img", **SMALL, enable_hr=True, hr_upscaler="Latent", **sent)
    assert decoded(answer["images"][0]).size == size
    assert info_of(answer)["extra_generation_params"]["Hires upscaler"] == "Lanczos"
    assert info_of(answer)["not_used"] == ["hr_upscaler"]


@pytest.mark.parametrize("inverted", [0, 1])
@pytest.mark.parametrize("only_masked", [True, False])
def test_inpainting_changes_the_masked_part_alone(client, stripes, inverted, only_masked):
    mask = Image.new("RGB", (32, 32), "white" if inverted else "black")
    mask.paste("black" if inverted else "white", (0, 0, 16, 32))
    answer = post(
        client, "img2img", **SMALL, init_images=[f"data:image/png;base64,{encoded(stripes)}"], mask=encoded(mask),
        mask_blur=0, inpainting_mask_invert=inverted, inpaint_full_res=only_masked, denoising_strength=1,
    )  # fmt: skip
    changed = np.asarray(decoded(answer["images"][0])) != np.asarray(stripes)
    assert changed[:, :16].any()
    assert not changed[:, 16:].any()
    assert answer["parameters"]["mask"] is None


def test_a_transparent_mask_counts_by_its_transparency(client, stripes):
    mask = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    mask.paste((0, 0, 0, 255), (0, 0, 16, 32))
    answer = post(client, "img2img", **SMALL, init_images=[encoded(stripes)], mask=encoded(mask), mask_blur=0)
    changed = np.asarray(decoded(answer["images"][0])) != np.asarray(stripes)
    assert changed[:, :16].any()
    assert not changed[:, 16:].any()


def test_an_image_is_cropped_where_that_is_asked_for(client):
    wide = Image.new("RGB", (64, 32), "black")
    wide.paste("white", (16, 0, 48, 32))
    kept = post(client, "img2img", **SMALL, init_images=[encoded(wide)], resize_mode=1, denoising_strength=0.5)
    square = post(client, "img2img", **SMALL, init_images=[encoded(wide.crop((16, 0, 48, 32)))], denoising_strength=0.5)
    assert np.array_equal(decoded(kept["images"][0]), decoded(square["images"][0]))


@pytest.mark.parametrize(
    ("sampler", "written"),
    [
        ({"sampler_name": "Euler a", "scheduler": "automatic"}, "EulerAncestralDiscrete"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "karras"}, "DPM++ 2M Karras"),
        ({"sampler_name": "DPM++ 2M Karras"}, "DPM++ 2M Karras"),
        ({"sampler_index": "DDIM"}, "DDIM"),
        ({"sampler_name": None}, "PNDM"),
    ],
)
def test_samplers_by_the_web_uis_names(client, sampler, written):
    assert info_of(post(client, "txt2img", **SMALL, **sampler))["sampler_name"] == written


def test_every_sampler_that_is_listed_is_taken(client, service):
    samplers = client.get("/sdapi/v1/samplers").json()
    assert len(samplers) > 10
    for sampler in samplers:
        said = said_of(Text2Image(prompt="猫", sampler_name=sampler["name"]), "")
        assert service.read_request(said).settings.scheduler


REFUSED = {
    "empty": ({"prompt": " "}, 422),
    "steps": ({"steps": 1000}, 422),
    "text for a number": ({"steps": "many"}, 422),
    "a size between": ({"width": 33}, 422),
    "a large image": ({"width": 4096, "height": 4096}, 422),
    "a large second pass": ({"enable_hr": True, "hr_scale": 4, "width": 512, "height": 512}, 422),
    "a second pass as large": ({"enable_hr": True, "hr_scale": 1}, 422),
    "a second pass of another shape": ({"enable_hr": True, "hr_resize_x": 64, "hr_resize_y": 32}, 422),
    "a second pass beyond numbers": ({"enable_hr": True, "hr_resize_x": 10**400}, 422),
    "a side beyond numbers": ({"enable_hr": True, "hr_resize_x": 64, "width": 10**400}, 422),
    "many images": ({"batch_size": 9}, 422),
    "minus times minus": ({"batch_size": -1, "n_iter": -1}, 422),
    "much work": ({"width": 768, "height": 768, "steps": 100, "batch_size": 8}, 422),
    "sampler": ({"sampler_name": "Restart"}, 422),
    "schedule without a sampler": ({"scheduler": "karras"}, 422),
    "few steps for the sampler": ({"sampler_name": "DPM++ SDE", "steps": 1, "scheduler": "beta", "seed": 2**64}, 422),
    "style": ({"styles": ["nowhere"]}, 422),
    "lora": ({"prompt": "cat <lora:nowhere:1>"}, 422),
    "clip skip": ({"override_settings": {"CLIP_stop_at_last_layers": 24}}, 422),
    "model on the hub": ({"override_settings": {"sd_model_checkpoint": "BAAI/AltDiffusion-m9"}}, 404),
    "model path": ({"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}, 404),
    "model of no text": ({"override_settings": {"sd_model_checkpoint": {"a": 1}}}, 404),
    "vae": ({"override_settings": {"sd_vae": "/etc/passwd"}}, 422),
    "option": ({"override_settings": {"outdir_samples": "/etc"}}, 422),
    "faces": ({"restore_faces": True}, 422),
    "tiles": ({"tiling": True}, 422),
    "variation": ({"subseed_strength": 0.1}, 422),
    "script": ({"script_name": "X/Y/Z plot"}, 422),
    "extension": ({"alwayson_scripts": {"ControlNet": {"args": [{"image": "x"}]}}}, 422),
    "refiner": ({"refiner_checkpoint": "x.safetensors"}, 422),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_done_is_refused_in_one_line(client, sent, status):
    answer = post(client, "txt2img", status, **SMALL | sent)
    assert set(answer) == {"error", "detail", "body", "errors"}
    assert answer["detail"]
    assert "\n" not in answer["detail"]
    assert "/tmp" not in answer["detail"]


def test_a_client_may_say_what_changes_nothing(client):
    idle = {
        "restore_faces": False, "tiling": None, "subseed": -1, "subseed_strength": 0.0, "seed_resize_from_w": -1,
        "script_name": None, "script_args": [], "alwayson_scripts": {"ADetailer": {"args": [False]}}, "hr_prompt": "",
        "override_settings": {"sd_vae": "Automatic"}, "do_not_save_grid": True, "save_images": True,
    }  # fmt: skip
    assert info_of(post(client, "txt2img", **SMALL, **idle))["not_used"] == []
    assert info_of(post(client, "txt2img", **SMALL, eta=0.5, s_churn=3, foo="x"))["not_used"] == [
        "eta",
        "foo",
        "s_churn",
    ]


IMAGES = {
    "none": [],
    "two": ["x", "x"],
    "text": ["no image"],
    "address": ["http://127.0.0.1/x.png"],
    "path": ["file:///etc/passwd"],
    "cut": [encoded(Image.new("RGB", (64, 64)))[:80]],
    "letters": ["猫"],
}


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
def test_images_that_are_none(client, images):
    assert post(client, "img2img", 422, **SMALL, init_images=images)["detail"]
    if len(images) == 1:
        assert post(client, "png-info", 422, image=images[0])["detail"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"a"', '{"prompt": "\\ud800"}', '{"prompt": "a", "steps": NaN}',
                                  '{"prompt": "a", "eta": 1e999, "\\ud800": "\\ud800"}', "[" * 10_000])  # fmt: skip
@pytest.mark.parametrize("path", ["sdapi/v1/txt2img", "sdapi/v1/options", "v1/images/generations", "v1/scores"])
def test_bodies_that_are_no_request(client, path, body):
    answer = client.post(f"/{path}", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert ("error" in answer.json()) == (path != "sdapi/v1/options" or "detail" in answer.json())


def test_a_client_chooses_a_model_of_the_owners_list_alone(client):
    assert [model["title"] for model in client.get("/sdapi/v1/sd-models").json()] == ["alt-small", "english-small"]
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "alt-small"
    post(client, "options", sd_model_checkpoint="english-small")
    try:
        assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "english-small"
        assert info_of(post(client, "txt2img", **SMALL | {"prompt": "a cat"}))["sd_model_name"] == "english-small"
        override = {"sd_model_checkpoint": "alt-small"}
        assert info_of(post(client, "txt2img", **SMALL, override_settings=override))["sd_model_name"] == "alt-small"
        for wrong in ("/etc/passwd", "../alt-small", "mini", 3, ["alt-small"]):
            post(client, "options", 404, sd_model_checkpoint=wrong)
        post(client, "options", 422, outdir_samples="/etc")
    finally:
        post(client, "options", sd_model_checkpoint="alt-small")


@pytest.mark.parametrize(
    "path",
    ["progress", "options", "sd-models", "samplers", "schedulers", "loras", "prompt-styles", "memory", "upscalers",
     "latent-upscale-modes", "sd-vae", "scripts", "progress?skip_current_image=true"],
)  # fmt: skip
def test_what_clients_ask_for_is_there(client, path):
    assert client.get(f"/sdapi/v1/{path}").status_code == 200


def test_a_full_queue_is_a_503_that_says_when_to_come_back(client, service, monkeypatch):
    def full(job):
        raise Refused("queue_full", most=5)

    monkeypatch.setattr(service.queue, "submit", full)
    for path in ("/sdapi/v1/txt2img", "/v1/images/generations"):
        answer = client.post(path, json={"prompt": "一只猫"})
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "full" in answer.text


def test_styles_stand_around_the_prompt(client):
    styles = {style["name"]: style["prompt"] for style in client.get("/sdapi/v1/prompt-styles").json()}
    answer = post(client, "txt2img", **SMALL, styles=["ink"])
    assert info_of(answer)["prompt"] == styles["ink"].replace("{prompt}", "一只猫")
