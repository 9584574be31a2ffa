"""A script that loads text encoders and prints the peak memory of each, as a multiple of its weights' size."""

from __future__ import annotations

# its words: FOLDER DTYPE FOLDER DTYPE ...
MEASURE = """
import re, sys, torch
from altdiffusion import load_text_encoder
from transformers import AltCLIPTextModel, XLMRobertaTokenizer  # what is imported is not the weights'
def memory(what):  # in bytes; not getrusage, whose peak a child inherits from its parent
    return int(re.search(what + ":[^0-9]*([0-9]+)", open("/proc/self/status").read())[1]) * 1024
for folder, dtype in zip(sys.argv[1::2], sys.argv[2::2]):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = memory("VmRSS")
    encoder, _ = load_text_encoder(folder, dtype=getattr(torch, dtype), allow_pickle=True)
    for parameter in encoder.parameters():
        parameter.sum()  # touch every page of what is mapped
    print((memory("VmHWM") - before) / sum(parameter.nbytes for parameter in encoder.parameters()))
    del encoder, parameter
"""
