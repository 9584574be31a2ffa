"""What is done around the `__call__` of any diffusers pipeline."""
