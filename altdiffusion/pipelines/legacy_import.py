"""Puts back `diffusers.pipelines.alt_diffusion`, the path that every published AltDiffusion checkpoint names.

diffusers moved that package away, so that it can't load those checkpoints; its own DreamBooth, ControlNet and custom
diffusion scripts still import it. `install()` restores the path with what scripts import from there: an encoder class that
reads every layout and gives a stock `AltCLIPTextModel`, its config, and our pipelines. It imports nothing heavy: the path
appears when diffusers itself is imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_PARENT = "diffusers.pipelines"
_PACKAGE = f"{_PARENT}.alt_diffusion"
# What the package and its modules held: each name, and where it is now.
_MODULES = ("modeling_roberta_series", "pipeline_alt_diffusion", "pipeline_alt_diffusion_img2img", "pipeline_output")
_NAMES = {
    "RobertaSeriesModelWithTransformation": (
        "altdiffusion.pipelines.legacy_encoder",
        "RobertaSeriesModelWithTransformation",
    ),
    "RobertaSeriesConfig": ("transformers", "AltCLIPTextConfig"),
    "AltDiffusionPipeline": ("altdiffusion.pipelines.alt_diffusion", "AltDiffusionPipeline"),
    "AltDiffusionImg2ImgPipeline": ("altdiffusion.pipelines.alt_diffusion", "AltDiffusionImg2ImgPipeline"),
    "AltDiffusionPipelineOutput": ("diffusers.pipelines.stable_diffusion", "StableDiffusionPipelineOutput"),
}
_PATHS = (_PACKAGE, *(f"{_PACKAGE}.{module}" for module in _MODULES))


def install() -> None:
    """Make the old path importable. Calling it twice changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if _PARENT in sys.modules:
        importlib.import_module(_PACKAGE)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the old path, and sees to it that importing diffusers' pipelines makes it an attribute there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in _PATHS:
            return importlib.machinery.ModuleSpec(fullname, _Loader(), is_package=fullname == _PACKAGE)
        if fullname == _PARENT:
            spec = importlib.machinery.PathFinder.find_spec(fullname, path)
            if spec is not None and spec.loader is not None:
                spec.loader = _ThenAlias(spec.loader)
            return spec
        return None


class _Loader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Alias(ModuleType):
    """A module at the old path; what it holds is imported when it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name not in _NAMES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module, attribute = _NAMES[name]
        return getattr(importlib.import_module(module), attribute)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_NAMES})


class _ThenAlias(importlib.abc.Loader):
    """Executes a module, then imports the old path below it."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        importlib.import_module(_PACKAGE)
        # diffusers.pipelines replaces itself in sys.modules by a lazy module: that one needs the attribute
        setattr(sys.modules[_PARENT], "alt_diffusion", sys.modules[_PACKAGE])  # noqa: B010
