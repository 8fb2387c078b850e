#!/bin/sh
# How far can a score be trusted? Rank correlation of two scorings with different noise, for 1, 8 and 32 draws at three
# noise levels.
# Usage: examples/study/repeatability.sh LATENTS MODEL [FOLDER]
#
# The model that `make demo-grid` scores by (study/scoring), on all 1,797 digits:
#
#   score  draws  sigma .06  sigma .29  sigma .6  all three
#   el2n       1       0.37       0.43      0.25       0.60
#   el2n       8       0.99       0.89      0.97       0.98
#   el2n      32       0.99       0.98      0.99       1.00
#   grand      1       0.26       0.33     -0.11       0.45
#   grand      8       0.87       0.87      0.94       0.94
#   grand     32       0.97       0.96      0.99       0.99
#
# One draw is mostly noise, eight leave little noise, and 32 almost none.
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
