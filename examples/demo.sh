#!/bin/sh
# The second half of `make demo`, from the repository's folder: pick a trained network as the source of another one that
# is to read the letters a to z, carry its weights over, and train beside a random start. About a minute.
set -eu
# Small networks are fastest with one thread, and then the figures do not depend on the number of cores.
export OMP_NUM_THREADS=1
target=small:resnet-2x16
out=build/demo
rm -rf "$out"

printf '\n== Which small network of the embedded zoo is the best start for %s?\n\n' "$target"
kzoo recommend $target --in-chans 1 --classes 26 --library local -k 5
source=$(kzoo recommend $target --in-chans 1 --classes 26 --library local -k 1 --json |
    python -c 'import json, sys; print(json.load(sys.stdin)["results"][0]["model"])')

printf '\n== The weights of %s, carried into %s\n\n' "$source" "$target"
kzoo transfer $source $target --in-chans 1 --classes 26 --out $out/start --quiet

printf '\n== Six epochs on the letters a to z from that start\n\n'
# The recipe of the start, which ends before data and training, and these two as the random start has them.
{ cat $out/start/recipe.yaml; sed -n '/^data:/,$p' examples/demo-random.yaml; } > $out/transferred.yaml
kzoo run $out/transferred.yaml --out $out/transferred

printf '\n== The same six epochs from a random start\n\n'
kzoo run examples/demo-random.yaml --out $out/random

printf '\n== Beside each other\n\n'
kzoo curves $out/transferred $out/random --out $out/curves.svg
printf '\nThe curves are in %s; the model that was trained after the transfer is in\n' "$out/curves.svg"
printf '%s, with its card in %s.\n' "$out/transferred" "$out/transferred/README.md"
