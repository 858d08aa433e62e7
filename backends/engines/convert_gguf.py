"""Turns a GGUF file into a model folder that vLLM loads (safetensors in bfloat16). Runs by path in vLLM's environment.

usage: convert_gguf.py MODEL.gguf FOLDER
"""

from __future__ import annotations

import os
import sys

import torch  # type: ignore[import-not-found, unused-ignore]
from transformers import (  # type: ignore[import-not-found, unused-ignore]
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
)


def main(gguf: str, folder: str) -> None:
    """Read, unpack the 4-bit weights, write."""
    where, file = os.path.split(gguf)
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file)
    unpacked = GgufConfig(dequantize=True)  # packed weights, the default, cannot be saved (transformers 5)
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=file, dtype=torch.float32, quantization_config=unpacked
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
