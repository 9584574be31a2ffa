"""An image changed by a prompt in any language.

python pipelines/image_to_image.py "一只狗" cat.png dog.png [MODEL]
"""

import sys
from pathlib import Path

from altdiffusion import AltDiffusionImg2ImgPipeline
from altdiffusion.images import fit, open_image

prompt, source, path, *model = sys.argv[1:]
pipe = AltDiffusionImg2ImgPipeline.from_pretrained(*model)
native = pipe.unet.config.sample_size * pipe.vae_scale_factor
image = fit(open_image(source), native)
pipe(prompt, image=image, strength=0.8, num_inference_steps=25).images[0].save(Path(path))
