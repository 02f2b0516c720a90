"""Make the golden files of this folder: what other programs say our models should compute.

transformers, torch and llama-cpp-python are not dependencies of the project, so this script runs in
a virtual environment of its own (llama-cpp-python compiles for a quarter of an hour):

    python3.11 -m venv ~/golden
    ~/golden/bin/pip install torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 \
        safetensors==0.8.0 gguf==0.19.0 numpy==2.4.6 llama-cpp-python==0.3.36
    ~/golden/bin/python tests/golden/make_golden.py --smollm2=SmolLM2-135M-Instruct.Q4_1.gguf

The versions above made the committed files; with them the script writes the same bytes again.

Every golden figure is computed by one program and checked here against a second: the logits of
Hugging Face transformers against llama.cpp's on the same weights, llama.cpp's tokens against the
`tokenizers` package's, ggml's dequantised blocks against the gguf package's.

`smollm2_greedy_reference.json` and `smollm2_logits_humaneval0_last4.npy` are not made here: they
are what transformers 5.23.0 (torch 2.13.0, float32, scaled-dot-product attention) computes with the
weights of SmolLM2-135M-Instruct.Q4_1.gguf as gguf 0.19.0 dequantises them.
"""

import argparse
from pathlib import Path

import golden_gguf
import golden_models
import golden_quants
import golden_tokens
import golden_zoo

HERE = Path(__file__).parent


def main() -> None:
    """Write every golden file into this folder, or into --out."""
    parser = argparse.ArgumentParser(description="Make the golden files of this folder.")
    parser.add_argument(
        "--smollm2", type=Path, required=True, help="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    parser.add_argument("--out", type=Path, default=HERE)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    golden_models.make(flags.out)
    golden_gguf.make(flags.out)
    golden_quants.make(flags.out)
    golden_tokens.make(flags.out, flags.smollm2)
    golden_zoo.make(flags.out)


if __name__ == "__main__":
    main()
