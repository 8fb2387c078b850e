#!/bin/sh
# How far can a score be trusted? Rank correlation of two scorings with different noise, for 1, 8 and 32 draws at three
# noise levels.
# Usage: examples/study/repeatability.sh LATENTS MODEL [FOLDER]
set -eu
latents=$1 model=$2 out=${3:-repeatability}

for draws in 1 8 32; do
    for seed in 0 1; do
        dprune score grand "$latents" --model "$model" --sigma .06,.29,.6 --per-sigma --draws $draws --seed $seed \
            --el2n "$out/el2n-$draws-$seed.npy" -o "$out/grand-$draws-$seed.npy"
    done
done
python - "$out" <<'END'
import sys

import numpy as np
from scipy.stats import spearmanr

print("score\tdraws\tsigma .06\tsigma .29\tsigma .6\tall three")
for score in ("el2n", "grand"):
    for draws in (1, 8, 32):
        found = []
        for sigma in (".s0.06", ".s0.29", ".s0.6", ""):
            one, two = (np.load(f"{sys.argv[1]}/{score}-{draws}-{seed}{sigma}.npy") for seed in (0, 1))
            found.append(f"{spearmanr(one, two, nan_policy='omit').statistic:.2f}")
        print(score, draws, *found, sep="\t")
END
