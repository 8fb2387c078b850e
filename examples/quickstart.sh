#!/bin/sh
# From images to a pruned subset, and from there to generated images: 1,797 handwritten digits, no network and no GPU.
# Usage: examples/quickstart.sh [FOLDER]
set -eu
out=${1:-demo}
step() { printf '\n$ %s\n' "$*" >&2; "$@"; }

step dprune pack sklearn:digits -o "$out/digits"
step dprune embed "$out/digits" --model pixels --image-size 8 --color grey -o "$out/features"
step dprune cluster "$out/features" -k 10 -o "$out/clusters.safetensors"
step dprune score cluster-distance "$out/clusters.safetensors" -o "$out/distance.npy"

# A tenth of every cluster is held out first: it is never trained on, whatever is pruned.
step dprune select --order random --keep 10% --clusters "$out/clusters.safetensors" -o "$out/held-out.npy"
step dprune pack "$out/digits" --subset "$out/held-out.npy" -o "$out/held-out"

# The paper's three choices at pruning ratio 0.75, in proportion to the clusters.
choose() {
    step dprune select "$out/distance.npy" --clusters "$out/clusters.safetensors" --without "$out/held-out.npy" "$@"
}
choose --keep 0.25 --order lowest -o "$out/nearest.npy" --figure "$out/nearest.png" --shards "$out/digits"
choose --keep 0.25 --order middle -o "$out/middle.npy"
choose --keep 0.25 --order highest -o "$out/furthest.npy"

# As many from every cluster as the smallest has, which brings out minorities.
choose --quota equal -o "$out/equal.npy"

step dprune pack "$out/digits" --subset "$out/nearest.npy" -o "$out/pruned"
step dprune info "$out/pruned"

# Autoencoder and diffusion transformer see nothing but the pruned digits.
step dprune train-vae "$out/pruned" --held-out "$out/held-out" --preset tiny -o "$out/vae"
step dprune encode "$out/digits" --vae "$out/vae/model.safetensors" -o "$out/latents"
step dprune train-dit "$out/latents" --subset "$out/nearest.npy" --arch nano/2 --batch-size 64 --steps 600 \
    --lr 2e-3 --warmup 50 --schedule cosine --ema 0.99 -o "$out/dit"
step dprune sample "$out/dit/model.safetensors" --vae "$out/vae/model.safetensors" --seeds 0-499 --cfg 2 --steps 20 \
    --grid "$out/generated.png" -o "$out/generated"
step dprune info "$out/generated"
