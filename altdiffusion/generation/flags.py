"""What an image is generated from, and its label, as flags of a command. Light on purpose: no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from altdiffusion.generation.settings import SIZE, SIZE_FORM, ImageSettings, settings_with, with_size
from altdiffusion.settings import Settings, setting, subset_of

if TYPE_CHECKING:
    from altdiffusion.generation.label import Label

_Flags: Any = subset_of(ImageSettings, settings_with("metavar"), group="Image")


class ImageFlags(_Flags):
    """The settings of an image that are flags, but for its prompt."""

    group: ClassVar[str] = "Image"

    size: str | None = setting(
        None, "pixels, multiples of 8 (default: the model's own)",
        pattern=f"^{SIZE.pattern}$", form=SIZE_FORM, metavar="WxH",
    )  # fmt: skip

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Width and height."""
        if self.size is None:
            return None
        size = with_size({"size": self.size})
        return size["width"], size["height"]

    @property
    def of_image(self) -> dict[str, Any]:
        """The settings of an image, without its prompt."""
        flags = {name: getattr(self, name) for name in _Flags.model_fields}
        width, height = self.pixels or (None, None)
        return flags | {"width": width, "height": height}

    @property
    def said(self) -> dict[str, Any]:
        """Those that aren't their defaults."""
        fields = ImageSettings.model_fields
        values = self.of_image.items()
        return {name: value for name, value in values if value != fields[name].get_default(call_default_factory=True)}


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
