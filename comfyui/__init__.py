"""ComfyUI nodes: prompts in AltCLIP's languages for any Stable Diffusion, and images scored by AltCLIP.

Copy or link this folder into ComfyUI's `custom_nodes/`. Everything is computed by the installed library `altdiffusion`.
"""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("altdiffusion") is None:
    raise ImportError("these nodes need the library altdiffusion in ComfyUI's Python: pip install altdiffusion")

from .nodes import NODES

NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODES}
NODE_DISPLAY_NAME_MAPPINGS = {node.__name__: node.DISPLAY_NAME for node in NODES}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
