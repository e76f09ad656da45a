#!/bin/sh
# Makes the built-in model, models/tiny/tiny-Q8_0.gguf and models/tiny/mmproj-tiny-bf16.gguf, with gust's own converter.
#
#     scripts/make_tiny.sh CHECKPOINT [GUST]
#
# CHECKPOINT is the folder that scripts/tiny writes, in either layout. GUST is the program [target/release/gust].
set -eu
checkpoint=$1
gust=${2:-target/release/gust}
folder=$(dirname "$0")/../models/tiny
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$gust" convert "$checkpoint" -o "$work/tiny-Q8_0.gguf" --type Q8_0 --mmproj-type BF16 --name "gust tiny"
mv "$work/tiny-Q8_0.gguf" "$folder/tiny-Q8_0.gguf"
mv "$work/mmproj-tiny-Q8_0.gguf" "$folder/mmproj-tiny-bf16.gguf"
