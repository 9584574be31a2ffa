"""The APIs that other programs speak: AUTOMATIC1111's, OpenAI's images, and our scores. Needs `altdiffusion[serve]`.

app.py puts them together, server.py serves them; sdapi.py, openai_images.py and scores.py are the endpoints, sd_request.py
and openai_request.py what their requests mean to `DemoService`, so that the page's queue, limits and checks hold here, too.
"""
