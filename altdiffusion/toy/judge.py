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
def own_accuracy(judge: Judge, num_images: int = 3000) -> float:
    """The fraction of renderings that the judge has not seen and names right, 0 to 1."""
    random, glyphs, right = torch.Generator().manual_seed(12345), _glyphs(), 0
    for _ in range(num_images // 100):
        pixels, concepts = _jittered(glyphs, 100, random)
        right += int((judge(pixels).argmax(1) == concepts).sum())
    return right / (num_images // 100 * 100)


@torch.no_grad()
def judge_concepts(judge: Judge, images: list[Image.Image]) -> list[int]:
    """The index in CONCEPTS of what each image shows."""
    pixels = torch.stack([_pixels(image) for image in images])
    return [int(concept) for batch in torch.split(pixels, 64) for concept in judge(batch).argmax(1)]


def judge_background(image: Image.Image) -> int:
    """The index in COLOURS of the colour nearest to the background."""
    return int(np.square(np.array(list(COLOURS.values())) - _edge(image)).sum(1).argmin())


def judge_framed(image: Image.Image, colour: int) -> bool:
    """Whether the edge is nearer to the wood of `framed` than to the background, an index in COLOURS."""
    wood, background = np.array(WOOD), np.array(list(COLOURS.values())[colour])
    edge = _edge(image)
    return bool(np.square(edge - wood).sum() < np.square(edge - background).sum())


def unframed(image: Image.Image) -> Image.Image:
    """An image without its frame: the colour just inside of it goes on to the edge."""
    inside = FRAME + 1  # a pixel is blurred
    inner = image.convert("RGB").crop((inside, inside, image.width - inside, image.height - inside))
    red, green, blue = (round(value) for value in _edge(inner))
    whole = Image.new("RGB", image.size, (red, green, blue))
    whole.paste(inner, (inside, inside))
    return whole


def _edge(image: Image.Image) -> NDArray[np.float64]:
    """The median of the two outermost rows and columns of pixels: red, green, blue in 0..255."""
    pixels = np.asarray(image.convert("RGB"), float)
    edge = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[:, :2].reshape(-1, 3),
                           pixels[:, -2:].reshape(-1, 3)])  # fmt: skip
    return np.median(edge, axis=0)


def _pixels(image: Image.Image) -> Tensor:
    """float (3, 64, 64) in 0..1."""
    resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255


def _glyphs() -> Tensor:
    """All glyphs with their opacity, centred as `render` does: float (concepts, 4, 64, 64) in 0..1."""
    glyphs = []
    for concept in range(len(CONCEPTS)):
        image, canvas = glyph(concept, SIDE), Image.new("RGBA", (SIDE, SIDE))
        canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
        glyphs.append(torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255)
    return torch.stack(glyphs)


def _jittered(glyphs: Tensor, batch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random glyphs of random sizes and places on random backgrounds: float (batch, 3, 64, 64) in 0..1, and concepts."""
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
