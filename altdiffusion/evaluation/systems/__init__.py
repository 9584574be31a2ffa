"""The systems of the model card's table, each with its own preprocessing: a file a family, named in `load.FAMILIES`."""
