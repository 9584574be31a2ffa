"""The demo as a Hugging Face Space: the page that `altdiffusion demo` shows.

The owner's choices are the Space's variables: ALTDIFFUSION_MODELS (names, with spaces between), ALTDIFFUSION_MAX_QUEUE.
"""

import os

from altdiffusion.cpu import keep_memory, share_cores

if __name__ == "__main__":
    share_cores()  # before torch is imported
    keep_memory()
    from altdiffusion.web.server import Serving, serve

    models = os.environ.get("ALTDIFFUSION_MODELS", "").split()
    max_queue = int(os.environ.get("ALTDIFFUSION_MAX_QUEUE", "20"))
    serve(Serving(host="0.0.0.0", port=7860, models=models, max_queue=max_queue))
