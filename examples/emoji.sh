#!/bin/sh
# From a folder of pictures and somebody's JSON to a report: 3,786 emoji of ten categories, on one GPU.
# Usage: examples/emoji.sh [FOLDER]; needs npm and jq. Run again, it goes on where it stopped.
# FEATURES='--model pixels --image-size 16' needs no weights from the hub.
set -eu
out=${1:-emoji}
features=${FEATURES:---model dinov2-s}
step() { printf '\n$ %s\n' "$*" >&2; "$@"; }

mkdir -p "$out"
if [ ! -e "$out/package" ]; then
    (cd "$out" && npm pack --silent emoji-datasource-twitter@16.0.0 && tar -xzf emoji-datasource-twitter-*.tgz)
fi
if [ ! -e "$out/labels.csv" ]; then
    jq -r '["file_name", "label"], (.[] | .category as $c | (., .skin_variations[]?) | [.image, $c]) | @csv' \
        "$out/package/emoji.json" > "$out/labels.csv"
fi

step dprune pack "$out/package/img/twitter/64" --labels "$out/labels.csv" -o "$out/shards"
# shellcheck disable=SC2086 # several words
step dprune embed "$out/shards" $features -o "$out/features"
step dprune cluster "$out/features" -k 16 -o "$out/clusters.safetensors"
step dprune score cluster-distance "$out/clusters.safetensors" -o "$out/distance.npy"

# A tenth of each category is held out first: nothing is ever trained on it.
step dprune select --order random --keep 10% --groups "$out/shards" -o "$out/held-out.npy"
choose() { step dprune select --without "$out/held-out.npy" "$@"; }
choose --order random --keep 100% --clusters "$out/clusters.safetensors" -o "$out/unpruned.npy"
choose --order random --keep 25% --clusters "$out/clusters.safetensors" -o "$out/random.npy"
choose "$out/distance.npy" --keep 25% --clusters "$out/clusters.safetensors" -o "$out/nearest.npy"
choose "$out/distance.npy" --keep 25% --clusters "$out/clusters.safetensors" --quota equal -o "$out/equal.npy" \
    --figure "$out/equal.png" --shards "$out/shards"

step dprune train-vae "$out/shards" --subset "$out/unpruned.npy" --kind kl --image-size 64 --downsample 4 --width 64 \
    --perceptual none --flip --lr 3e-4 --steps 3000 -o "$out/vae"
step dprune encode "$out/shards" --vae "$out/vae/model.safetensors" -o "$out/latents"

set --
for name in unpruned random nearest equal; do
    run=$out/$name
    step dprune train-dit "$out/latents" --subset "$out/$name.npy" --arch S/2 --batch-size 128 --steps 6000 --lr 3e-4 \
        --schedule cosine -o "$run/dit"
    step dprune sample "$run/dit/model.safetensors" --vae "$out/vae/model.safetensors" --seeds 0-1499 --cfg 2 \
        --grid "$run/generated.png" -o "$run/generated"
    # shellcheck disable=SC2086
    step dprune embed "$run/generated" $features -o "$run/features"
    step dprune eval "$run/features" "$out/features" --clusters "$out/clusters.safetensors" \
        --held-out "$out/held-out.npy" -o "$run/metrics.json"
    step dprune memorization "$run/features" "$out/features" --subset "$out/$name.npy" \
        --held-out "$out/held-out.npy" --figure "$run/pairs.png" --generated-shards "$run/generated" \
        --train-shards "$out/shards" -o "$run/memorization.json"
    set -- "$@" "$run/metrics.json" "$run/memorization.json" --images "$run/generated"
done
step dprune report "$@" -o "$out/report"
