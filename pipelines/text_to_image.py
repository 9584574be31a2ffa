"""An image from a prompt in any language.

python pipelines/text_to_image.py "一只猫" cat.png [MODEL]
"""

import sys
from pathlib import Path

from altdiffusion import AltDiffusionPipeline, choose_attention

prompt, path, *model = sys.argv[1:]
pipe = AltDiffusionPipeline.from_pretrained(*model)
choose_attention(pipe)
pipe(prompt, num_inference_steps=25).images[0].save(Path(path))
