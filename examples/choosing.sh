#!/bin/sh
# What each way to choose keeps of a dataset: classes, cover, likeness to the whole, copies; as a table and pictures.
# Usage: examples/choosing.sh FEATURES CLUSTERS [FOLDER [SHARDS]]; pictures need the SHARDS. Run again, it goes on.
set -eu
features=$1 clusters=$2 out=${3:-choosing} shards=${4:-}
step() { printf '\n$ %s\n' "$*" >&2; "$@"; }

step dprune score random "$features" -o "$out/random.npy"
step dprune score cluster-distance "$clusters" -o "$out/distance.npy"
for method in k-center herding duplicates; do
    step dprune score $method "$features" -o "$out/$method.npy"
    step dprune score $method "$features" --clusters "$clusters" -o "$out/$method-by-cluster.npy"
done

# NAME OPTIONS of select.
choose() {
    name=$1
    shift
    for keep in 0.5 0.25 0.1; do
        file=$out/$name-$keep
        step dprune select "$@" --keep "$keep" ${shards:+--figure "$file.png" --shards "$shards"} -o "$file.npy"
    done
}
choose random "$out/random.npy"
choose random-by-cluster "$out/random.npy" --clusters "$clusters"
choose nearest "$out/distance.npy" --clusters "$clusters"
choose interval "$out/distance.npy" --order interval --clusters "$clusters"
choose furthest "$out/distance.npy" --order highest --clusters "$clusters"
for method in k-center herding duplicates; do
    choose $method "$out/$method.npy"
    choose $method-by-cluster "$out/$method-by-cluster.npy" --clusters "$clusters"
done
python "$(dirname "$0")/choosing.py" "$features" --clusters "$clusters" --json "$out/choosing.json" \
    "$out"/*-0.5.npy "$out"/*-0.25.npy "$out"/*-0.1.npy | tee "$out/choosing.md"
