"""The example workflow in ComfyUI's own browser page: it opens whole, and with SD-mini in its loaders' place it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORKFLOW = Path(__file__).resolve().parents[2] / "comfyui/example_workflows/prompt_in_any_language.json"
# Of the example's nodes, by type: what stands for files that aren't there.
SMALL = {
    "AltCLIPLoader": ["mini", "float32", False],
    "AltCLIPBridgeLoader": ["mini"],
    "AltCLIPBridgeTextEncode": ["一只猫，蓝色背景", "auto", ""],
    "EmptyLatentImage": [128, 128, 2],
    "KSampler": [1, "fixed", 20, 4.0, "ddim", "ddim_uniform", 1.0],
    "AltCLIPBestOf": ["一只猫，蓝色背景", 1, "cosine"],
}


def run_example(url: str, out: Path) -> dict[str, Any]:
    """{"missing": types of nodes that the page doesn't know, "unset": those of ours whose widgets lost values, "error": what
    ComfyUI says without the models, "refused": with small ones, "images": how many the page shows then}.

    Screenshots: example.png, example-run.png in out.
    """
    from playwright.sync_api import sync_playwright

    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(url)
        page.wait_for_function("() => window.app?.graph && window.app.canvas", timeout=120_000)
        page.get_by_text(WORKFLOW.stem, exact=True).wait_for(timeout=60_000)  # a new user is shown the templates
        page.locator(".p-dialog-close-button").click()
        page.evaluate(  # as its card does; that waits for ComfyUI's own templates, which may not be installed
            """async name => {
                const file = await fetch(`/api/workflow_templates/altdiffusion-nodes/${name}.json`);
                await window.app.loadGraphData(await file.json());
            }""",
            WORKFLOW.stem,
        )
        page.wait_for_timeout(2000)
        found: dict[str, Any] = {}
        opened = _nodes(page)
        found["missing"] = [node["type"] for node in opened if node["missing"]]
        given = {node["id"]: node.get("widgets_values") for node in workflow["nodes"]}
        found["unset"] = [
            node["type"]
            for node in opened
            if node["type"].startswith("AltCLIP") and node["widgets"][: len(given[node["id"]])] != given[node["id"]]
        ]
        page.screenshot(path=out / "example.png")
        found["error"] = _queue(page)
        page.locator(".p-dialog-close-button").click()

        for node in workflow["nodes"]:
            if node["type"] == "CheckpointLoaderSimple":
                node["type"], node["properties"] = "CheckSDMini", {}
            if node["type"] in SMALL:
                node["widgets_values"] = SMALL[node["type"]]
        page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
        found["refused"] = _queue(page)
        page.wait_for_function(
            "() => window.app.graph.nodes.some(node => node.type === 'SaveImage' && node.imgs?.length)", timeout=300_000
        )
        page.wait_for_timeout(1000)
        page.screenshot(path=out / "example-run.png")
        found["images"] = page.evaluate(
            "() => window.app.graph.nodes.find(node => node.type === 'SaveImage').imgs.length"
        )
        browser.close()
    return found


def _nodes(page: Any) -> list[dict[str, Any]]:
    """As the page has them."""
    return page.evaluate(
        """() => window.app.graph.nodes.map(node => ({
            id: node.id, type: node.type, missing: !!node.has_errors,
            widgets: (node.widgets ?? []).map(widget => widget.value),
        }))"""
    )


def _queue(page: Any) -> str:
    """What the page was told when it sent the workflow, "" where that was taken."""
    return page.evaluate(
        """async () => {
            await window.app.queuePrompt(0);
            const errors = window.app.lastNodeErrors;
            return errors && Object.keys(errors).length ? JSON.stringify(errors).slice(0, 300) : '';
        }"""
    )
