"""A judge of mini's images: which thing is shown, and on which background.

The judge is trained apart, on rendered glyphs alone, in a minute or two: it has seen no image of any model.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from altdiffusion.toy.glyphs import COLOURS, CONCEPTS, FRAME, WOOD, glyph

SIDE = 64


class Judge(nn.Module):
    """pixels, float (batch, 3, 64, 64) in 0..1 -> logits (batch, concepts)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 256)
        self.layers = nn.Sequential(
            *[
                nn.Sequential(nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
                for before, width in itertools.pairwise(widths)
            ]
        )
        self.head = nn.Linear(256 * 2, len(CONCEPTS))

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.layers(pixels * 2 - 1)
        return self.head(torch.cat([features.amax((2, 3)), features.mean((2, 3))], dim=1))


def train_judge(steps: int = 1500, batch: int = 96, seed: int = 0) -> Judge:
    """Train a judge on glyphs of changing size and place, on changing backgrounds, sharp and blurred."""
    torch.manual_seed(seed)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    glyphs, random = _glyphs(), torch.Generator().manual_seed(seed)
    for _ in tqdm(range(steps), desc="training the judge", mininterval=5):
        pixels, concepts = _jittered(glyphs, batch, random)
        loss = F.cross_entropy(judge(pixels), concepts)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return judge.eval()


@torch.no_grad()
def own_accuracy(judge: Judge, pictures: int = 3000) -> float:
    """The judge's share of right answers on renderings that it has not seen, 0 to 1."""
    random, glyphs, right = torch.Generator().manual_seed(12345), _glyphs(), 0
    for _ in range(pictures // 100):
        pixels, concepts = _jittered(glyphs, 100, random)
        right += int((judge(pixels).argmax(1) == concepts).sum())
    return right / (pictures // 100 * 100)


@torch.no_grad()
def judge_concepts(judge: Judge, pictures: list[Image.Image]) -> list[int]:
    """The number in CONCEPTS of what each image shows."""
    pixels = torch.stack([_pixels(picture) for picture in pictures])
    return [int(each) for part in torch.split(pixels, 64) for each in judge(part).argmax(1)]


def judge_background(picture: Image.Image) -> int:
    """The number in COLOURS of the background: the colour nearest to it."""
    return int(np.square(np.array(list(COLOURS.values())) - _edge(picture)).sum(1).argmin())


def judge_framed(picture: Image.Image, colour: int) -> bool:
    """Whether the edge is nearer to the wood of `framed` than to the background, a colour by its number in COLOURS."""
    edge = _edge(picture)
    return bool(
        np.square(edge - np.array(WOOD)).sum() < np.square(edge - np.array(list(COLOURS.values())[colour])).sum()
    )


def unframed(picture: Image.Image) -> Image.Image:
    """An image without its frame: the colour just inside of it goes on to the edge."""
    inside = FRAME + 1  # a pixel is blurred
    inner = picture.convert("RGB").crop((inside, inside, picture.width - inside, picture.height - inside))
    red, green, blue = (round(value) for value in _edge(inner))
    whole = Image.new("RGB", picture.size, (red, green, blue))
    whole.paste(inner, (inside, inside))
    return whole


def _edge(picture: Image.Image) -> NDArray[np.float64]:
    """The median of the two outermost rows of pixels: red, green, blue in 0..255."""
    pixels = np.asarray(picture.convert("RGB"), float)
    edge = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[:, :2].reshape(-1, 3),
                           pixels[:, -2:].reshape(-1, 3)])  # fmt: skip
    return np.median(edge, axis=0)


def _pixels(picture: Image.Image) -> Tensor:
    resized = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255


def _glyphs() -> Tensor:
    """All glyphs with their opacity, centred as `render` does: float (concepts, 4, 64, 64) in 0..1."""
    found = []
    for concept in range(len(CONCEPTS)):
        image, canvas = glyph(concept, SIDE), Image.new("RGBA", (SIDE, SIDE))
        canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
        found.append(torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255)
    return torch.stack(found)


def _jittered(glyphs: Tensor, batch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    concepts = torch.randint(len(glyphs), (batch,), generator=random)
    scale = 0.9 + 0.3 * torch.rand(batch, generator=random)  # above 1 is smaller
    shift = 0.3 * torch.rand(batch, 2, generator=random) - 0.15
    grids = torch.stack(
        [
            torch.stack([scale, torch.zeros(batch), shift[:, 0]], 1),
            torch.stack([torch.zeros(batch), scale, shift[:, 1]], 1),
        ],
        1,
    )
    chosen = glyphs[concepts]
    # opacity goes along with the colours, so that edges stay clean
    chosen = torch.cat([chosen[:, :3] * chosen[:, 3:], chosen[:, 3:]], 1)
    moved = F.grid_sample(
        chosen, F.affine_grid(grids, [batch, 4, SIDE, SIDE], align_corners=False), align_corners=False
    )
    colours = torch.tensor(list(COLOURS.values())).float() / 255
    background = colours[torch.randint(len(colours), (batch,), generator=random)][:, :, None, None]
    pixels = moved[:, :3] + background * (1 - moved[:, 3:])
    if torch.rand((), generator=random) < 0.5:
        pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (pixels + 0.05 * torch.randn(pixels.shape, generator=random)).clamp(0, 1), concepts
