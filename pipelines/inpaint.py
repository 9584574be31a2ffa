"""The white part of a mask drawn anew from a prompt in any language.

python pipelines/inpaint.py "一顶帽子" cat.png mask.png hat.png [MODEL]
"""

import sys
from pathlib import Path

from altdiffusion import AltDiffusionInpaintPipeline
from altdiffusion.images import fit, open_image

prompt, source, hole, path, *model = sys.argv[1:]
pipe = AltDiffusionInpaintPipeline.from_pretrained(*model)
picture = fit(open_image(source), pipe.unet.config.sample_size * pipe.vae_scale_factor)
mask = open_image(hole, "L").resize(picture.size)
width, height = picture.size
pipe(prompt, image=picture, mask_image=mask, width=width, height=height).images[0].save(Path(path))
