"""Settings that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from altdiffusion.settings import Settings, setting

if TYPE_CHECKING:
    from altdiffusion.generation.label import Label

Dtype = Literal["float32", "float16", "bfloat16"]


def device_setting() -> Any:
    """Of every command. Whether this machine has the device is seen when torch is there."""
    return setting(
        None, "cuda, cuda:1, mps, cpu (default: the best there is)",
        pattern=r"^(cuda(:\d+)?|mps|cpu)$", form="cuda, cuda:1, mps or cpu", metavar="D",
    )  # fmt: skip


class DeviceSettings(Settings):
    """Where a model runs, and how it is read."""

    group: ClassVar[str] = "Device and files"

    device: str | None = device_setting()
    dtype: Dtype | None = setting(None, "arithmetic (default: float16 on a GPU, else float32)")
    allow_pickle: bool = setting(False, "read .bin, .pt and .ckpt files, which can carry code")


class ExactSettings(DeviceSettings):
    """The same for what measures."""

    dtype: Dtype | None = setting(None, "arithmetic (default: float32, the exact one)")


class LabelSettings(Settings):
    """What generated images say of themselves."""

    group: ClassVar[str] = "Label"

    no_label: bool = setting(False, "leave out the label that says that no camera made the image")
    producer: str = setting(
        "", "who answers for the images, in the label: a name or a registration code", metavar="WHO"
    )
    mark: str | None = setting(None, "text for people to see, in a corner: AI, AI生成", metavar="TEXT")

    @property
    def label(self) -> Label:
        from altdiffusion.generation.label import Label

        return Label(self.producer, self.mark, is_written=not self.no_label)


class JsonSettings(Settings):
    """For programs that read our output."""

    as_json: bool = setting(False, "print one JSON document on standard output", flag="json")
