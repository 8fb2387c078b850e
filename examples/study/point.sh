#!/bin/sh
# One point of a study: prune, train, sample and measure.
# Usage: examples/study/point.sh FOLDER NAME SCORES|random ORDER KEEP
#
# FOLDER is what examples/study/digits.sh prepares; results go to FOLDER/NAME-KEEP. Run it again after any failure.
set -eu
out=$1 name=$2 scores=$3 order=$4 keep=$5
run=$out/$name-$keep
step() { printf '\n$ %s\n' "$*" >&2; "$@"; }

[ "$scores" = random ] && scores='' || scores=$out/$scores.npy
# Without quotes, so that no scores are no argument.
step dprune select $scores --order "$order" --keep "$keep" --clusters "$out/clusters.safetensors" \
    --without "$out/held-out.npy" -o "$run/keep.npy"
step dprune train-dit "$out/latents" --subset "$run/keep.npy" --arch nano/2 --batch-size 64 --steps "${STEPS:-300}" \
    --lr 2e-3 --warmup 30 --schedule cosine --ema 0.99 -o "$run/dit"
step dprune sample "$run/dit/model.safetensors" --vae "$out/vae/model.safetensors" --seeds 0-299 --cfg 2 --steps 15 \
    -o "$run/generated"
step dprune embed "$run/generated" --model pixels --image-size 8 --color grey -o "$run/features"
step dprune eval "$run/features" "$out/features" --clusters "$out/clusters.safetensors" -o "$run/metrics.json"
step dprune memorization "$run/features" "$out/features" --subset "$run/keep.npy" --held-out "$out/held-out.npy" \
    --figure "$run/pairs.png" --generated-shards "$run/generated" --train-shards "$out/digits" \
    --pairs "$run/pairs.npy" -o "$run/memorization.json"
