"""The demo: a bilingual page that generates, changes, compares and scores images, and its API. Needs `altdiffusion[demo]`.

server.py serves page.py, whose tabs are in tabs/ and whose words, in two languages, in translations.py; api.py is the API.
Both call service.py with what request.py has checked within limits.py; draw_queue.py generates waiting images together,
grid.py one prompt by many settings; model_pool.py loads what the owner offers, guard.py refuses what is too large.
"""
