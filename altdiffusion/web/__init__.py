"""The demo: a bilingual page that draws, changes, compares and scores images, and its API. Needs `altdiffusion[demo]`.

server.py serves it; page.py, controls.py, tab_*.py, markup.py show it, texts.py in two languages; endpoints.py is the API;
studio.py does what both ask for, within limits.py; drawing.py is the queue that draws waiting images together; models.py
loads what the owner offers; guard.py refuses what is too large.
"""
