#!/bin/sh
# One training of one point of a study: prune, train, sample and measure.
# Usage: examples/study/point.sh FOLDER NAME SCORES|random ORDER all|clusters KEEP SEED
#
# FOLDER is what examples/study/digits.sh prepares; results go to FOLDER/NAME-KEEP/SEED. Run it again after any failure.
set -eu
out=$1 name=$2 scores=$3 order=$4 groups=$5 keep=$6 seed=$7
run=$out/$name-$keep/$seed
step() { printf '\n$ %s\n' "$*" >&2; "$@"; }

[ "$scores" = random ] && scores='' || scores=$out/$scores.npy
[ "$groups" = all ] && clusters='' || clusters="--clusters $out/clusters.safetensors"
# Without quotes, so that an empty value is no argument. The seed also draws the subset and breaks ties: one subset
# cannot show what chance does.
step dprune select $scores --order "$order" --keep "$keep" $clusters --within "$out/unpruned.npy" --seed "$seed" \
    -o "$run/keep.npy"
step dprune train-dit "$out/latents" --subset "$run/keep.npy" --arch nano/2 --batch-size 64 --steps "${STEPS:-300}" \
    --lr 2e-3 --warmup 30 --schedule cosine --ema 0.99 --seed "$seed" -o "$run/dit"
# The same seeds for all: image by image, only the model differs.
step dprune sample "$run/dit/model.safetensors" --vae "$out/vae/model.safetensors" --seeds 0-299 --cfg 2 --steps 15 \
    -o "$run/generated"
step dprune embed "$run/generated" --model pixels --image-size 8 --color grey -o "$run/features"
step dprune eval "$run/features" "$out/features" --clusters "$out/clusters.safetensors" \
    --held-out "$out/held-out.npy" -o "$run/metrics.json"
step dprune memorization "$run/features" "$out/features" --subset "$run/keep.npy" --held-out "$out/held-out.npy" \
    --figure "$run/pairs.png" --generated-shards "$run/generated" --train-shards "$out/digits" \
    --pairs "$run/pairs.npy" -o "$run/memorization.json"
