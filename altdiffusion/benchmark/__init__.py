"""What `altdiffusion benchmark` measures: ours beside the usual ways, in one process, on models with random weights.

Speed doesn't depend on the weights' values, so nothing is downloaded. A case is a file with a function `measure`.
"""
