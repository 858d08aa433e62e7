"""Makes a toy of gpt-oss's architecture: two layers of random weights under the real tokenizer. Runs by path in vLLM's environment.

usage: tiny_gpt_oss.py FOLDER

With `--load-format dummy` vLLM serves it as it serves the real one, in the harmony format with its channels; what it says is noise.
The vocabulary comes out of openai_harmony itself, which carries it; nothing is downloaded.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import openai_harmony  # type: ignore[import-not-found, unused-ignore]
from transformers import GptOssConfig, PreTrainedTokenizerFast  # type: ignore[import-not-found, unused-ignore]
from transformers.convert_slow_tokenizer import TikTokenConverter  # type: ignore[import-not-found, unused-ignore]

FIRST_SPECIAL, LAST_SPECIAL = 199_998, 200_018
# o200k's own, as tiktoken has it.
PATTERN = "|".join(
    (
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    )
)
ROPE = {  # vLLM reads all of these for the architecture; the values are the real model's
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def main(folder: Path) -> None:
    """Write the tokenizer and the configuration; weights there are none."""
    folder.mkdir(parents=True, exist_ok=True)
    encoding = openai_harmony.load_harmony_encoding("HarmonyGptOss")._inner
    ranks = folder / "o200k_base.tiktoken"
    lines = (
        base64.b64encode(bytes(encoding.decode_bytes([token]))) + b" %d\n" % token for token in range(FIRST_SPECIAL)
    )
    ranks.write_bytes(b"".join(lines))
    _tokenizer(encoding, ranks).save_pretrained(folder)
    ranks.unlink()
    config = GptOssConfig(
        num_hidden_layers=2, hidden_size=256, intermediate_size=256, num_local_experts=4, num_experts_per_tok=2,
        head_dim=64, num_attention_heads=4, num_key_value_heads=2, vocab_size=201088, sliding_window=128,
        max_position_embeddings=4096, initial_context_length=4096, eos_token_id=200002, pad_token_id=199999,
        dtype="bfloat16", tie_word_embeddings=False,
    )  # fmt: skip
    config.architectures = ["GptOssForCausalLM"]
    config.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rope_parameters": ROPE}))
    generation = {"eos_token_id": [200002, 199999, 200012], "pad_token_id": 199999, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(generation))


def _tokenizer(encoding: object, ranks: Path) -> PreTrainedTokenizerFast:
    marks = {encoding.encode(mark, [mark])[0]: mark for mark in encoding.special_tokens()}  # type: ignore[attr-defined]
    special = [marks.get(token, f"<|reserved_{token}|>") for token in range(FIRST_SPECIAL, LAST_SPECIAL + 1)]
    made = TikTokenConverter(vocab_file=str(ranks), pattern=PATTERN, extra_special_tokens=special).converted()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|return|>", pad_token="<|endoftext|>")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
