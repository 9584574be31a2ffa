"""Images as the APIs send and take them."""

import base64
import io

from PIL import Image


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def decoded(text):
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image
