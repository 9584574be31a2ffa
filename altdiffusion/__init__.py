"""Stable Diffusion in Chinese, English and sixteen more languages: AltCLIP's text encoder on today's diffusers."""

import lazy_loader

from altdiffusion.pipelines import legacy_import

__version__ = "0.5.0"

# The names are in __init__.pyi. Each is imported when first used, as torch and diffusers take seconds.
__getattr__, _, _names = lazy_loader.attach_stub(__name__, __file__)
# Not for `import *`: AltCLIPScore needs an extra. diffusers looks for PreTrainedModel here, to know how a saved
# BridgedTextEncoder is loaded.
__all__ = [*(name for name in _names if name not in ("AltCLIPScore", "PreTrainedModel")), "__version__"]  # noqa: PLE0604


def __dir__() -> list[str]:
    return sorted(__all__)


legacy_import.install()
