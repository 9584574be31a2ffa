"""A script that loads a text encoder and prints its peak memory, as a multiple of the weights' size."""

from __future__ import annotations

MEASURE = """
import re, sys, torch
from altdiffusion import load_text_encoder
from transformers import AltCLIPTextModel, XLMRobertaTokenizer  # what is imported is not the weights'
def memory(what):  # in bytes; not getrusage, whose peak a child inherits from its parent
    return int(re.search(what + ":[^0-9]*([0-9]+)", open("/proc/self/status").read())[1]) * 1024
before = memory("VmRSS")
encoder, _ = load_text_encoder(sys.argv[1], dtype=getattr(torch, sys.argv[2]), allow_pickle=True)
for parameter in encoder.parameters():
    parameter.sum()  # touch every page of what is mapped
print((memory("VmHWM") - before) / sum(parameter.nbytes for parameter in encoder.parameters()))
"""
