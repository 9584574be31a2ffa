"""Prompts as a text encoder reads them: tokens with weights, in chunks, and the hidden states of all that."""
