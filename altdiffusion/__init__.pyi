# The public names and where they live: `__init__.py` reads this file to import each when it is first used.
from .altclip.model import AltCLIP as AltCLIP
from .altclip.model import AltCLIPProcessor as AltCLIPProcessor
from .altclip.onnx_export import export_onnx as export_onnx
from .altclip.onnx_scorer import OnnxScorer as OnnxScorer
from .altclip.scorer import PromptScorer as PromptScorer
from .altclip.torchmetric import AltCLIPScore as AltCLIPScore
from .errors import InputError as InputError
from .generation.generate import generate as generate
from .generation.generate import generate_all as generate_all
from .generation.load import load_pipeline as load_pipeline
from .pipelines.alt_diffusion import AltDiffusionImg2ImgPipeline as AltDiffusionImg2ImgPipeline
from .pipelines.alt_diffusion import AltDiffusionInpaintPipeline as AltDiffusionInpaintPipeline
from .pipelines.alt_diffusion import AltDiffusionPipeline as AltDiffusionPipeline
from .pipelines.convert import convert as convert
from .pipelines.swap import swap_text_encoder as swap_text_encoder
from .prompts.inversion import invert_prompt as invert_prompt
from .prompts.states import encode_prompts as encode_prompts
from .speed.attention import choose_attention as choose_attention
from .speed.low_memory import save_memory as save_memory
from .speed.optimize import optimize as optimize
from .text_encoder.bridge import Bridge as Bridge
from .text_encoder.bridge_layers import PreTrainedModel as PreTrainedModel  # type: ignore[attr-defined]
from .text_encoder.encoder import load_text_encoder as load_text_encoder
from .text_encoder.exit_bridge import BridgedTextEncoder as BridgedTextEncoder

__version__: str
__all__: list[str]
