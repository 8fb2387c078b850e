#!/bin/sh
# A study as in the paper, made small: methods by pruning ratios, scores from both ends, on 1,797 handwritten digits.
# Usage: examples/study/digits.sh [FOLDER]
#
# As in the paper, scores and random subsets choose among all samples, and the distance to the centre inside each
# cluster. A second line for each shows the others inside each cluster: METHODS="random random-by-cluster ...".
# Each point is trained SEEDS="0 1 2" times, so that differences can be compared with those between trainings, for each
# of KEEPS="0.5 0.1". JOBS=2 run at the same time, one core each. Each model takes STEPS=300 steps.
# Run it again after any failure, or with more methods, keeps or seeds.
set -eu
out=${1:-study}
here=$(dirname "$0")
seeds=${SEEDS:-0 1 2} keeps=${KEEPS:-0.5 0.1}
step() { printf '\n$ %s\n' "$*" >&2; "$@"; }
# One thread per process: the models are too small for two threads.
parallel() { OMP_NUM_THREADS=1 xargs -P "${JOBS:-2}" "$@"; }

# A name, a file of scores, which scores are kept, and whether among all samples or inside each cluster.
every_method() {
    echo random random random all
    echo nearest distance lowest clusters
    echo furthest distance highest clusters
    echo random-by-cluster random random clusters
    for score in el2n grand monotonicity moso; do
        echo $score $score highest all
        echo $score-inverse $score lowest all
        echo $score-by-cluster $score highest clusters
        echo $score-inverse-by-cluster $score lowest clusters
    done
}
for name in ${METHODS:-}; do
    every_method | grep -q "^$name " || { echo "METHODS: there is no method $name" >&2; exit 2; }
done
methods() {
    every_method | while read -r name how; do
        case " ${METHODS:-$name} " in *" $name "*) echo "$name $how" ;; esac
    done
}
uses() { methods | grep -qE " ($1) "; }
points() {
    echo unpruned random random all 1.0
    for keep in $keeps; do methods | while read -r method; do echo "$method" "$keep"; done; done
}
trainings() { points | while read -r point; do for seed in $seeds; do echo "$point" "$seed"; done; done; }

step dprune pack sklearn:digits -o "$out/digits"
step dprune embed "$out/digits" --model pixels --image-size 8 --color grey -o "$out/features"
step dprune cluster "$out/features" -k 10 -o "$out/clusters.safetensors"
step dprune score cluster-distance "$out/clusters.safetensors" -o "$out/distance.npy"

# A tenth is held out of everything. It shows how far unseen digits are from those that were trained on.
step dprune select --order random --keep 10% --clusters "$out/clusters.safetensors" -o "$out/held-out.npy"
step dprune select --order random --keep 1.0 --clusters "$out/clusters.safetensors" --without "$out/held-out.npy" \
    -o "$out/unpruned.npy"
step dprune pack "$out/digits" --subset "$out/held-out.npy" -o "$out/held-out"
step dprune pack "$out/digits" --subset "$out/unpruned.npy" -o "$out/training"
step dprune train-vae "$out/training" --held-out "$out/held-out" --preset tiny -o "$out/vae"
step dprune encode "$out/digits" --vae "$out/vae/model.safetensors" -o "$out/latents"

# What scores by training dynamics need: a model of all samples with its checkpoints, and one surrogate for each fold.
train() {
    step dprune train-dit "$out/latents" --subset "$out/unpruned.npy" --arch nano/2 --batch-size 64 \
        --steps "${STEPS:-300}" --lr 2e-3 --warmup 30 --schedule cosine --ema 0.99 --save-every epoch "$@"
}
score() { method=$1; shift; step dprune score "$method" "$out/latents" "$@" --subset "$out/unpruned.npy"; }
if uses 'el2n|grand|monotonicity'; then train -o "$out/scoring"; fi
if uses 'el2n|grand'; then
    score grand --model "$out/scoring/model.safetensors" --el2n "$out/el2n.npy" -o "$out/grand.npy"
fi
if uses monotonicity; then score monotonicity "$out/scoring" -o "$out/monotonicity.npy"; fi
if uses moso; then
    for fold in 0 1 2; do train --fold "$fold/3" -o "$out/fold-$fold"; done
    score moso "$out"/fold-[0-9] --checkpoints 3 -o "$out/moso.npy"
fi

trainings | parallel -L 1 "$here/point.sh" "$out"

first=${seeds%% *}
results=$(trainings | while read -r name _ _ _ keep seed; do
    printf ' %s' "$out/$name-$keep/$seed/metrics.json" "$out/$name-$keep/$seed/memorization.json"
done)
images=$(points | while read -r name _ _ _ keep; do printf ' --images %s' "$out/$name-$keep/$first/generated"; done)
maps=$(points | while read -r name _ _ _ keep; do
    case $name in unpruned | nearest) printf ' --generated %s' "$out/$name-$keep/$first/features" ;; esac
done)
scores=$(methods | while read -r _ score _; do echo "$score"; done | sort -u | while read -r score; do
    if [ "$score" != random ]; then printf ' --scores %s' "$out/$score.npy"; fi
done)
# Without quotes, so that each is an argument.
step dprune report $results $images $scores --subsets "$out/*/*/keep.npy" --train "$out/features" $maps \
    --clusters "$out/clusters.safetensors" -o "$out/report" --overwrite
