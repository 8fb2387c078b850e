#!/bin/sh
# A study as in the paper, made small: methods by pruning ratios, scores from both ends, on 1,797 handwritten digits.
# Usage: examples/study/digits.sh [FOLDER]
#
# JOBS=2 points run at the same time, one core each; each model takes STEPS=300 steps.
set -eu
out=${1:-study}
here=$(dirname "$0")
step() { printf '\n$ %s\n' "$*" >&2; "$@"; }

step dprune pack sklearn:digits -o "$out/digits"
step dprune embed "$out/digits" --model pixels --image-size 8 --color grey -o "$out/features"
step dprune cluster "$out/features" -k 10 -o "$out/clusters.safetensors"
step dprune score cluster-distance "$out/clusters.safetensors" -o "$out/distance.npy"

# A tenth is held out of everything: it tells how far unseen digits are from those that were trained on.
step dprune select --order random --keep 10% --clusters "$out/clusters.safetensors" -o "$out/held-out.npy"
step dprune select --order random --keep 1.0 --clusters "$out/clusters.safetensors" --without "$out/held-out.npy" \
    -o "$out/unpruned.npy"
step dprune pack "$out/digits" --subset "$out/held-out.npy" -o "$out/held-out"
step dprune pack "$out/digits" --subset "$out/unpruned.npy" -o "$out/training"
step dprune train-vae "$out/training" --held-out "$out/held-out" --preset tiny -o "$out/vae"
step dprune encode "$out/digits" --vae "$out/vae/model.safetensors" -o "$out/latents"

# What scores by training dynamics need: the unpruned model with its checkpoints, and one surrogate for each fold.
train() {
    step dprune train-dit "$out/latents" --subset "$out/unpruned.npy" --arch nano/2 --batch-size 64 \
        --steps "${STEPS:-300}" --lr 2e-3 --warmup 30 --schedule cosine --ema 0.99 --save-every epoch "$@"
}
train -o "$out/unpruned-1.0/dit"
for fold in 0 1 2; do train --fold "$fold/3" -o "$out/fold-$fold"; done

score() { method=$1; shift; step dprune score "$method" "$out/latents" "$@" --subset "$out/unpruned.npy"; }
score grand --model "$out/unpruned-1.0/dit/model.safetensors" --el2n "$out/el2n.npy" -o "$out/grand.npy"
score monotonicity "$out/unpruned-1.0/dit" -o "$out/monotonicity.npy"
score moso "$out"/fold-[0-9] --checkpoints 3 -o "$out/moso.npy"

# A name, a file of scores, and which of them are kept.
methods() {
    echo random random random
    echo nearest distance lowest
    echo furthest distance highest
    for score in el2n grand monotonicity moso; do
        echo $score $score highest
        echo $score-inverse $score lowest
    done
}
points() {
    echo unpruned random random 1.0
    for keep in 0.5 0.1; do methods | while read -r method; do echo "$method" $keep; done; done
}
# One thread a point: the models are too small for two threads to share.
points | OMP_NUM_THREADS=1 xargs -P "${JOBS:-2}" -L 1 "$here/point.sh" "$out"

images=$(points | while read -r name _ _ keep; do printf ' --images %s/%s-%s/generated' "$out" "$name" "$keep"; done)
# Without quotes, so that each is an argument.
step dprune report "$out"/*/metrics.json "$out"/*/memorization.json $images \
    --train "$out/features" --generated "$out/nearest-0.1/features" --clusters "$out/clusters.safetensors" \
    -o "$out/report"
