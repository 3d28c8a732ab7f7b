"""A model that comes as one GGUF file, as a folder that trimtab and transformers load.

    python examples/model_from_gguf.py MODEL.gguf OUT_FOLDER
    # in a run file: judge: {name: local, model: OUT_FOLDER}

The weights are dequantized to float32: what the file's quantization lost stays lost. Tokenizer and
chat template are the file's own. A file that is given out in parts is joined first, as in
``cat part01.bin part02.bin > MODEL.gguf``; compare its SHA-256, which this script prints, with the
one that its publisher gives. The folder must not exist; it is there when it is complete.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trimtab.core.embedded import convert
from trimtab.core.files import sha256_of


def main(arguments: list[str] | None = None) -> None:
    """Convert the file."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    if not given.gguf.is_file():
        parser.error(f"there is no file {given.gguf}")
    if given.out.exists():
        parser.error(f"{given.out} is there already")
    print(f"SHA-256 {sha256_of(given.gguf)}")
    convert(given.gguf, given.out)
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
