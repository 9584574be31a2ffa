"""The white part of a mask generated anew from a prompt in any language.

python pipelines/inpaint.py "一顶帽子" cat.png mask.png hat.png [MODEL]
"""

import sys
from pathlib import Path

from altdiffusion import AltDiffusionInpaintPipeline
from altdiffusion.images import fit, open_image

prompt, source, mask_source, path, *model = sys.argv[1:]
pipe = AltDiffusionInpaintPipeline.from_pretrained(*model)
image = fit(open_image(source), pipe.unet.config.sample_size * pipe.vae_scale_factor)
mask = open_image(mask_source, "L").resize(image.size)
width, height = image.size
generated = pipe(prompt, image=image, mask_image=mask, width=width, height=height).images[0]
pipe.image_processor.apply_overlay(mask, image, generated).save(Path(path))  # what the mask leaves out stays as it was
