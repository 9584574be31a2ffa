"""Every sentence of the page, in English and in Chinese, and the errors that speak both."""

from __future__ import annotations

from typing import Any, Literal

from altdiffusion.errors import InputError

Language = Literal["en", "zh"]
LANGUAGES: dict[Language, str] = {"en": "English", "zh": "中文"}

# key: (English, Chinese). {} are filled in by `say`.
TEXTS: dict[str, tuple[str, str]] = {
    # the page
    "title": ("AltDiffusion: images from prompts in any language", "AltDiffusion：用任何语言的提示词画图"),
    "language": ("Language", "语言"),
    "model": ("Model", "模型"),
    "tab_draw": ("Draw", "画图"),
    "tab_change": ("Change an image", "改图"),
    "tab_compare": ("Compare", "对比"),
    "tab_score": ("Score", "打分"),
    "tab_read": ("Read settings", "读取设置"),
    "tab_history": ("History", "历史"),
    "mini_about": (
        "mini is the small model inside the package: small images of 316 things, from nine languages.",
        "mini 是包内自带的小模型：能读九种语言，画 316 种东西的小图。",
    ),
    "licence": (
        "BAAI's weights are under CreativeML OpenRAIL-M, whose use restrictions bind you.",
        "BAAI 的权重采用 CreativeML OpenRAIL-M 许可，其使用限制对您有约束力。",
    ),
    # drawing
    "prompt": ("Prompt", "提示词"),
    "prompt_hint": (
        "What to draw, in any language. Ctrl+Enter draws, Esc cancels.",
        "想画什么？任何语言都可以。Ctrl+Enter 开始，Esc 取消。",
    ),
    "negative_prompt": ("Negative prompt", "反向提示词"),
    "negative_hint": ("What should not be in the image", "不希望画面里出现的内容"),
    "examples": ("Examples", "示例"),
    "draw": ("Draw", "开始画"),
    "cancel": ("Cancel", "取消"),
    "settings": ("Settings", "设置"),
    "shape": ("Shape", "画面比例"),
    "shape_square": ("square", "正方形"),
    "shape_exact": ("width and height below", "用下面的宽和高"),
    "width": ("Width, pixels", "宽（像素）"),
    "height": ("Height, pixels", "高（像素）"),
    "steps": ("Steps", "步数"),
    "guidance_scale": ("Guidance: how closely to follow the prompt", "引导强度：多大程度上遵循提示词"),
    "scheduler": ("Scheduler", "采样器"),
    "scheduler_own": ("the model's own", "模型自带"),
    "seed": ("Seed", "种子"),
    "seed_hint": ("empty: random", "留空：随机"),
    "dice": ("🎲 Random seed", "🎲 随机种子"),
    "again": ("↻ Same seed again", "↻ 再用这个种子"),
    "images": ("Images", "张数"),
    "best_of": ("Keep the best of: draw so many, AltCLIP chooses", "优中选优：先画这么多张，由 AltCLIP 挑选"),
    "preview": ("Live preview", "实时预览"),
    "gallery": ("Images", "图片"),
    "image_settings": ("Settings of the chosen image", "所选图片的设置"),
    "copy_settings": ("Copy settings", "复制设置"),
    "download": ("Download PNG, settings inside", "下载 PNG（内含设置）"),
    "choose_image": ("Choose an image to see its settings.", "点选一张图片查看它的设置。"),
    # what happens
    "waiting": ("Waiting: {ahead} before you", "排队中：前面还有 {ahead} 个"),
    "loading": ("Loading the model: the first image takes longer", "正在加载模型：第一张图会慢一些"),
    "drawing": ("Step {done} of {total}, about {seconds} s left", "第 {done} 步，共 {total} 步，约剩 {seconds} 秒"),
    "scoring": ("AltCLIP is looking at the images", "AltCLIP 正在看图打分"),
    "drawn": ("Done in {seconds} s", "完成，用时 {seconds} 秒"),
    "cancelled": ("Cancelled", "已取消"),
    "caption": ("seed {seed}", "种子 {seed}"),
    "caption_scored": ("seed {seed}, score {score}", "种子 {seed}，得分 {score}"),
    "filtered": ("the safety checker found something: black", "安全检查器发现问题：已涂黑"),
    "no_scores": ("No scores: no AltCLIP is known for this model", "没有得分：这个模型没有对应的 AltCLIP"),
    # changing
    "start_image": ("Image to start from", "起始图片"),
    "paint": (
        "Paint over what is to be generated anew; unpainted: the whole image is changed",
        "涂抹要重画的部分；不涂则改动整张图",
    ),
    "strength": ("Strength: how much to change", "改动强度"),
    # comparing
    "left": ("Left", "左"),
    "right": ("Right", "右"),
    "left_model": ("Model, left", "左边的模型"),
    "right_model": ("Model, right", "右边的模型"),
    "left_prompt": ("Prompt, left", "左边的提示词"),
    "right_prompt": ("Prompt, right", "右边的提示词"),
    "compare_about": (
        "The same seed on both sides: two languages, or another model, such as one that reads English alone.",
        "两边种子相同：对比两种语言，或换一个模型，比如只懂英文的模型。",
    ),
    "compare": ("Compare", "对比"),
    # scoring
    "pictures": ("Images", "图片"),
    "prompts": ("Prompts, one a line, in any language", "提示词，每行一个，任何语言"),
    "score": ("Score", "打分"),
    "score_about": (
        "How well each image fits each prompt: AltCLIP's cosine, the higher the better. Only scores of one model compare.",
        "每张图与每个提示词的匹配程度：AltCLIP 的余弦值，越高越好。只有同一模型的得分才能互相比较。",
    ),
    "heat_map": ("Heat map", "热力图"),
    "bars": ("Bars", "条形图"),
    "labels": ("Labels, one a line", "标签，每行一个"),
    "template": ("Template, {} stands for the label", "模板，用 {} 代表标签"),
    "classify": ("Which label fits", "哪个标签最合适"),
    "classify_about": (
        "How probable each label is, if it must be one of them.",
        "如果只能是其中之一，每个标签的可能性。",
    ),
    "rank": ("Rank by a prompt", "按提示词排序"),
    "ranked": ("Best first", "最好的在前"),
    "image_number": ("image {number}", "图 {number}"),
    # settings
    "read_image": ("PNG with settings inside", "内含设置的 PNG"),
    "read": ("Read", "读取"),
    "found_settings": ("What is inside", "里面的设置"),
    "send": ("Send to Draw", "送到“画图”"),
    "clamped": ("Beyond the limits of this page, so brought within: {names}", "超出本页限制，已调整：{names}"),
    "history_about": (
        "What you have drawn in this session. It is gone when the page is closed; nobody else sees it.",
        "本次会话画过的图片。关闭页面后即消失，别人看不到。",
    ),
    # refusals: what was got, what is expected
    "no_prompt": (
        "The prompt is empty: write what to draw, such as “一只猫”",
        "提示词为空：请写下想画的内容，例如“一只猫”",
    ),
    "long_text": ("A text of {got} characters: at most {most} are read", "文字长 {got} 个字符：最多 {most} 个"),
    "bad_number": ("{name}: expected a number from {least} to {most}", "{name}：应为 {least} 到 {most} 之间的数"),
    "bad_number_above": (
        "{name}: expected a number above {least}, at most {most}",
        "{name}：应为大于 {least}、不超过 {most} 的数",
    ),
    "bad_multiple": ("{name}: expected a multiple of 8", "{name}：应为 8 的倍数"),
    "many_pixels": (
        "{width} × {height} pixels: at most {most} are generated here, such as {side} × {side}",
        "{width} × {height} 像素：这里最多画 {most} 像素，例如 {side} × {side}",
    ),
    "much_work": ("Too much at once: fewer pixels, steps or images", "一次的工作量太大：请减少像素、步数或张数"),
    "few_steps": (
        "This strength of so few steps leaves none to draw: raise either",
        "步数太少或强度太低，没有一步可画：请提高其一",
    ),
    "best_of_few": (
        "The best {images} of {best_of}: draw at least as many as are kept",
        "从 {best_of} 张里选 {images} 张：画的张数不能少于保留的张数",
    ),
    "unknown_model": ("This model is not in the list", "列表中没有这个模型"),
    "unknown_scheduler": ("This scheduler is not in the list", "列表中没有这个采样器"),
    "unloadable": (
        "The model can't be loaded: the owner of this page finds the reason in the log",
        "模型无法加载：请页面主人查看日志",
    ),
    "no_scorer": (
        "No AltCLIP is known for this model, so nothing can be scored",
        "这个模型没有对应的 AltCLIP，无法打分",
    ),
    "queue_full": (
        "The queue is full ({most} are waiting): try again in a moment",
        "队列已满（{most} 个在等待）：请稍后再试",
    ),
    "no_image": ("No image: add one", "没有图片：请先添加"),
    "bad_image": (
        "This file is no whole image of a known format (PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF)",
        "这个文件不是完整的图片，或格式不支持（PNG、JPEG、WebP、GIF、BMP、TIFF、AVIF）",
    ),
    "large_image": ("The image has too many pixels: at most {most} are read", "图片像素太多：最多 {most}"),
    "long_image": ("The image is over 100 times longer than the other side", "图片的长边超过短边的 100 倍"),
    "large_file": ("The file is too large: at most {most} MB", "文件太大：最多 {most} MB"),
    "mask_size": ("Mask and image differ in size: make them equal", "蒙版与图片大小不同：请使它们一致"),
    "many_images": ("{got} images: at most {most} at once", "{got} 张图片：一次最多 {most} 张"),
    "many_texts": ("{got} lines: at most {most} at once", "{got} 行：一次最多 {most} 行"),
    "no_texts": ("No prompts or labels: write one a line", "没有提示词或标签：请每行写一个"),
    "bad_template": ("The template needs {} where the label goes", "模板里要有 {}，代表标签"),
    "no_settings": (
        "This image carries no settings: it was made or saved by another program",
        "这张图片里没有设置：可能由其他程序绘制或保存",
    ),
    "bad_input": ("This input can't be used", "无法使用这样的输入"),
    "failed": (
        "Something went wrong here: try again, or tell the owner of this page",
        "出错了：请重试，或告诉页面主人",
    ),
}

# Gradio 6.31's own words that its Chinese lacks, by its names for them.
GRADIO_ZH: dict[str, dict[str, str]] = {
    "image_editor": {
        "brush": "画笔",
        "brush_size": "画笔大小",
        "clear_canvas": "清空画布",
        "color": "颜色",
        "erase": "擦除",
        "eraser_size": "橡皮大小",
        "fit_to_screen": "适应屏幕",
        "pan": "平移",
        "paste": "粘贴",
        "redo": "重做",
        "save_changes": "保存修改",
        "select_draw_tool": "选择画笔开始涂抹",
        "upload": "上传",
        "upload_image": "上传图片",
        "zoom_in": "放大",
        "zoom_out": "缩小",
    },
    "common": {"download_all": "全部下载", "progress": "进度", "run": "运行"},
    "status": {"queue_position": "排队：第 {position} 个，共 {size} 个"},
}


def say(key: str, language: str = "en", **values: Any) -> str:
    """A sentence of TEXTS; any language but Chinese gets English."""
    text = TEXTS[key][1 if language == "zh" else 0]
    return text.format(**values) if values else text


class Refused(InputError):
    """A visitor's request that isn't granted. Its message is English; `said` has it in the page's languages. No path is in it."""

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(_filled(key, "en", values))
        self.key, self.values = key, values

    def said(self, language: str) -> str:
        return _filled(self.key, language, self.values)


def _filled(key: str, language: str, values: dict[str, Any]) -> str:
    """The sentence, with the name of a setting as the page calls it."""
    named = {"name": say(values["name"], language)} if values.get("name") in TEXTS else {}
    return say(key, language, **(values | named))
