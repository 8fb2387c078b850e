#!/bin/sh
# What does training on a quarter of the data do? From 1,797 handwritten digits to a report, without network and GPU.
# Usage: examples/quickstart.sh [FOLDER]
set -eu
out=${1:-demo}
step() { printf '\n$ %s\n' "$*" >&2; "$@"; }

step dprune pack sklearn:digits -o "$out/digits"
step dprune embed "$out/digits" --model pixels --image-size 8 --color grey -o "$out/features"
step dprune cluster "$out/features" -k 10 -o "$out/clusters.safetensors"
step dprune score cluster-distance "$out/clusters.safetensors" -o "$out/distance.npy"

# A tenth of every cluster is held out first. It is never trained on, whatever is pruned.
step dprune select --order random --keep 10% --clusters "$out/clusters.safetensors" -o "$out/held-out.npy"
step dprune pack "$out/digits" --subset "$out/held-out.npy" -o "$out/held-out"

# The paper's three choices at pruning ratio 0.75, in proportion to the clusters.
choose() {
    step dprune select "$out/distance.npy" --clusters "$out/clusters.safetensors" --without "$out/held-out.npy" "$@"
}
choose --keep 0.25 --order lowest -o "$out/nearest.npy" --figure "$out/nearest.png" --shards "$out/digits"
choose --keep 0.25 --order middle -o "$out/middle.npy"
choose --keep 0.25 --order highest -o "$out/furthest.npy"

# The same number from every cluster, as many as the smallest has, which brings out minorities.
choose --quota equal -o "$out/equal.npy"

step dprune pack "$out/digits" --subset "$out/nearest.npy" -o "$out/pruned"
step dprune info "$out/pruned"

# What the pruned set is compared with: all that is not held out.
step dprune select --order random --keep 1.0 --clusters "$out/clusters.safetensors" --without "$out/held-out.npy" \
    -o "$out/unpruned.npy"

# One autoencoder for both, which has seen no held-out digit either.
step dprune pack "$out/digits" --subset "$out/unpruned.npy" -o "$out/training"
step dprune train-vae "$out/training" --held-out "$out/held-out" --preset tiny -o "$out/vae"
step dprune encode "$out/digits" --vae "$out/vae/model.safetensors" -o "$out/latents"

# The same training and the same seeds: models differ in their training sets alone.
train() {
    step dprune train-dit "$out/latents" --batch-size 64 --steps 600 --lr 2e-3 --warmup 50 --schedule cosine \
        --ema 0.99 "$@"
}
generate() {
    run=$1
    shift
    step dprune sample "$run/dit/model.safetensors" --vae "$out/vae/model.safetensors" --cfg 2 --steps 20 \
        --grid "$run/generated.png" "$@" -o "$run/generated"
    step dprune embed "$run/generated" --model pixels --image-size 8 --color grey -o "$run/features"
}
measure() {
    run=$out/$1
    train --subset "$out/$1.npy" --arch nano/2 -o "$run/dit"
    generate "$run" --seeds 0-499
    step dprune eval "$run/features" "$out/features" --clusters "$out/clusters.safetensors" \
        --held-out "$out/held-out.npy" -o "$run/metrics.json"
    step dprune memorization "$run/features" "$out/features" --subset "$out/$1.npy" --held-out "$out/held-out.npy" \
        --figure "$run/pairs.png" --generated-shards "$run/generated" --train-shards "$out/digits" \
        --pairs "$run/pairs.npy" -o "$run/memorization.json"
}

# Models of disjoint halves, which share no digit; the autoencoder has seen both. Larger patches take half the time.
half() {
    train --subset "$out/unpruned.npy" --fold "$1/2" --arch nano/4 -o "$out/half-$1/dit"
    generate "$out/half-$1" --seeds 0-199
}

first() {
    measure nearest
    half 0
}
second() {
    measure unpruned
    half 1
}

# Both run at the same time, with one thread each: the models are too small for two threads. The messages of the second
# follow those of the first.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
mkdir -p "$out"
second > "$out/second.log" 2>&1 &
other=$!
trap 'kill "$other" 2> /dev/null || :' EXIT
trap 'exit 130' INT
first
wait "$other" && code=0 || code=$?
trap - EXIT INT
cat "$out/second.log" >&2
rm "$out/second.log"
[ "$code" -eq 0 ] || exit "$code"

# Do models of disjoint halves make the same images of the same noise?
step dprune eval "$out/half-0/features" "$out/half-1/features" --metrics paired -o "$out/halves.json"

step dprune report "$out/halves.json" "$out/nearest/metrics.json" "$out/nearest/memorization.json" \
    "$out/unpruned/metrics.json" "$out/unpruned/memorization.json" \
    --images "$out/nearest/generated" --images "$out/unpruned/generated" \
    --images "$out/half-0/generated" --images "$out/half-1/generated" \
    --train "$out/features" --generated "$out/nearest/features" --generated "$out/unpruned/features" \
    --clusters "$out/clusters.safetensors" -o "$out/report"
