"""What `altdiffusion benchmark` measures: ours beside the usual ways, in one process, on models with random weights.

Speed doesn't depend on the weights' values, so nothing is downloaded. The cases are listed in catalogue.py.
"""
