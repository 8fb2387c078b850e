#!/bin/sh
# The study of "Data Pruning in Generative Diffusion Models" (Briq, Wang and Kesselheim, arXiv 2411.12523), with each
# stage as in the paper and its published code.
# Usage: examples/like-the-paper.sh celeba-hq|imagenet TRAINING VALIDATION [FOLDER]
#
# TRAINING and VALIDATION are what `dprune pack` takes: folders of images, zips or shards. Run it again after any
# failure or time limit: finished work is not repeated. METHODS, RATIOS and SEEDS choose a part of the study, so that
# several jobs can share it once METHODS= has made what all of them need. LAUNCH=dprune uses one GPU instead of all of
# a node, and FEATURES='--model dinov2-s --image-size 266 --normalize' uses the paper's other network.
#
#   sbatch --nodes=1 --gpus-per-node=8 --wrap 'examples/like-the-paper.sh imagenet train val /data/imagenet'
#
# What the paper does, and what dprune would do without the options of the last column:
#
#   stage        the paper and its code                          dprune otherwise            here
#   -----------  ----------------------------------------------  --------------------------  --------------------------
#   images       256 pixels, never mirrored                      as they are, not mirrored   pack --size 256
#   features     CLIP ViT-B/32                                   DINOv2 ViT-B/14 at 224      embed --model clip-b32
#                or DINOv2 ViT-S/14 at 266 pixels, unit length   pixels, as they come        FEATURES, see above
#   clusters     24 (CelebA-HQ), 1,000 (ImageNet), 100           24, from k-means++, until   -k, --init random
#                iterations from random samples                  they settle                 --tolerance 0
#   autoencoder  KL of 4 channels, 91,000 steps (CelebA-HQ);     VQ of 16,384 codes,         --kind, --steps, LPIPS=FILE
#                VQ of 16,384 codes of 8 numbers, 100,000        100,000 steps, no           --gan-weight --gan-start
#                (ImageNet); both with LPIPS and discriminator   discriminator
#   latents      times one number: .18215, .826                  each channel to mean 0      no option
#                                                                and deviation 1
#   surrogate    60,000 steps on all samples                     120,000                     train-dit --steps 60000
#   EL2N, GraNd  one draw, each sample its own noise, t=120 of   8 noises that all samples   --draws 1 --noise own
#                1,000 (CelebA-HQ), 15 (ImageNet); its code      share, at .06, which is 15  --sigma .29, .06;
#                for flow matching: any t                        of 1,000                    SIGMA=uniform
#   monotonicity how often the loss rose, at that t              the same, 8 draws           --sigma .29, .06
#   MoSo         12 surrogates of 20 epochs, 10 random           all checkpoints alike,      --sigma uniform --noise own
#                checkpoints, weighted by rate; own noise at     shared noises at .06,       --draws 1 --normalize none
#                any t; scores as they are                       scores scaled in a fold     --checkpoint-weights lr
#   selection    scores and random ones among all samples,       the same                    --clusters for distances
#                distances and balance in clusters                                           alone
#   counts       rounded down in each cluster                    exact                       no option
#   DiT          XL/2, flow matching, batch 256, rate 1e-4;      the same with labels,       --unconditional --steps
#                220,000 steps without labels (CelebA-HQ),       120,000 steps, bf16         220000, --precision tf32
#                120,000 with (ImageNet), tf32
#   average      decay .9999 from the first step                 rises to .9999 in 90,000    no option
#   solver       Euler at 60 points, which are 59 steps          60 steps                    --steps 59
#   guidance     4, on the first 3 channels (ImageNet)           none, on all channels       --cfg 4 --cfg-channels 3
#   decoding     latents as they are (ImageNet)                  set to the nearest codes    --no-quantize
#   classes      random (ImageNet)                               balanced                    --classes random
#   samples      4,096 (CelebA-HQ), 12,800 (ImageNet)            as --seeds says             --seeds
#   trainings    one per point                                   as --seed says              SEEDS=0
#   quality      FID, Inception score, precision and recall      the same and more           eval against VALIDATION
#                (k=3), Vendi score, against the validation set                              --model inception
#   copies       mean and median distance to the nearest of all  to the nearest of those     memorization --full
#                training images                                 that were trained on
#
# Where there is no option: latents differ by a scale and a shift of each channel, counts by less than one sample per
# cluster, and of the averages at 120,000 steps 19 parts in 20 have the same weights. All checkpoints give what 10
# random ones estimate.
set -eu
usage='usage: like-the-paper.sh celeba-hq|imagenet TRAINING VALIDATION [FOLDER]'
dataset=${1:?$usage} training=${2:?$usage} validation=${3:?$usage} out=${4:-$1}
case $dataset in
    celeba-hq)
        k=24 sigma=.29 samples=4096 steps=220000 saving=5000
        autoencoder='--kind kl --latent-channels 4 --steps 91000'
        labels=--unconditional sampling=
        ;;
    imagenet)
        k=1000 sigma=.06 samples=12800 steps=120000 saving=epoch
        autoencoder='--kind vq --codes 16384 --latent-channels 8 --steps 100000'
        labels= sampling='--classes random --cfg 4 --cfg-channels 3 --no-quantize'
        ;;
    *) echo "$usage" >&2; exit 2 ;;
esac
adversary="--gan-weight 0.5 --gan-start 20000${LPIPS:+ --lpips-weights $LPIPS}"
autoencoder=${AUTOENCODER:-$autoencoder --multipliers 1,2,4,4 $adversary}
features=${FEATURES:---model clip-b32} judge=${JUDGE:---model inception}
methods=${METHODS-random nearest middle furthest balanced el2n el2n-inverse grand grand-inverse moso moso-inverse \
    monotonicity monotonicity-inverse}
# All GPUs of the node; LAUNCH=dprune is one process.
launch=${LAUNCH:-torchrun --standalone --nproc-per-node=gpu -m dprune}

# Options are words, so these are without quotes throughout.
step() { printf '\n$ %s\n' "$*" >&2; "$@"; }
on_all() { step $launch "$@"; }
train() {
    on_all train-dit "$out/latents" --arch "${ARCH:-XL/2}" --batch-size "${BATCH:-256}" --lr 1e-4 --ema 0.9999 $labels \
        --precision tf32 "$@"
}

step dprune pack "$training" --size "${SIZE:-256}" -o "$out/training"
step dprune pack "$validation" --size "${SIZE:-256}" -o "$out/validation"
on_all embed "$out/training" $features -o "$out/features"
on_all cluster "$out/features" -k "${K:-$k}" --init random --iterations 100 --tolerance 0 -o "$out/clusters.safetensors"
step dprune score cluster-distance "$out/clusters.safetensors" -o "$out/distance.npy"
on_all train-vae "$out/training" $autoencoder -o "$out/vae"
on_all encode "$out/training" --vae "$out/vae/model.safetensors" -o "$out/latents"

uses() { case " $methods " in *" $1 "* | *" $1-inverse "*) true ;; *) false ;; esac; }
score() { method=$1; shift; on_all score "$method" "$out/latents" "$@"; }
if uses el2n || uses grand || uses monotonicity; then
    train --steps "${SURROGATE_STEPS:-60000}" --save-every "${SAVING:-$saving}" -o "$out/surrogate"
fi
if uses el2n || uses grand; then
    score grand --model "$out/surrogate/model.safetensors" --sigma "${SIGMA:-$sigma}" --draws 1 --noise own \
        --el2n "$out/el2n.npy" -o "$out/grand.npy"
fi
if uses monotonicity; then score monotonicity "$out/surrogate" --sigma "$sigma" -o "$out/monotonicity.npy"; fi
if uses moso; then
    # With XL/2 each checkpoint takes 5.4 GB. examples/slurm/folds.sbatch trains and measures the folds side by side.
    folds=${FOLDS:-12} runs=
    for fold in $(seq 0 $((folds - 1))); do
        train --fold "$fold/$folds" --epochs "${FOLD_EPOCHS:-20}" --save-every epoch -o "$out/folds/$fold"
        runs="$runs $out/folds/$fold"
    done
    score moso $runs --sigma uniform --noise own --draws 1 --normalize none --checkpoint-weights lr -o "$out/moso.npy"
fi

everything=$out/unpruned-0/all.npy
step dprune select "$out/distance.npy" --keep 1.0 -o "$everything"
choose() {
    method=$1 prune="--prune $2"
    clusters="--clusters $out/clusters.safetensors"
    shift 2
    case $method in
        unpruned) set -- --order random --keep 1.0 --within "$everything" "$@" ;;
        random) set -- --order random $prune --within "$everything" "$@" ;;
        nearest) set -- "$out/distance.npy" --order lowest $prune $clusters "$@" ;;
        middle) set -- "$out/distance.npy" --order middle $prune $clusters "$@" ;;
        furthest) set -- "$out/distance.npy" --order highest $prune $clusters "$@" ;;
        balanced) set -- "$out/distance.npy" --order lowest --quota equal $clusters "$@" ;;
        *-inverse) set -- "$out/${method%-inverse}.npy" --order lowest $prune "$@" ;;
        *) set -- "$out/$method.npy" --order highest $prune "$@" ;;
    esac
    step dprune select "$@"
}
points() {
    echo unpruned 0
    for method in $methods; do
        # Taking as many of each cluster as the smallest has leaves no choice of a ratio.
        [ "$method" != balanced ] || { echo balanced equal; continue; }
        for ratio in ${RATIOS:-0.25 0.5 0.75 0.9}; do echo "$method" "$ratio"; done
    done
}
measure() {
    run=$out/$1-$2/$3
    choose "$1" "$2" --seed "$3" -o "$run/keep.npy"
    train --subset "$run/keep.npy" --steps "${STEPS:-$steps}" --seed "$3" -o "$run/dit"
    on_all sample "$run/dit/model.safetensors" --vae "$out/vae/model.safetensors" --solver euler --steps 59 \
        --seeds "0-$((${SAMPLES:-$samples} - 1))" --precision fp32 $sampling -o "$run/generated"
    on_all embed "$run/generated" $features -o "$run/features"
    step dprune eval "$run/generated" "$out/validation" $judge -o "$run/metrics.json"
    step dprune memorization "$run/features" "$out/features" --full -o "$run/memorization.json"
}
trainings=$(points | while read -r point; do for seed in ${SEEDS:-0}; do echo "$point" "$seed"; done; done)
results=
set -- $trainings
while [ $# -gt 0 ]; do
    measure "$1" "$2" "$3"
    results="$results $out/$1-$2/$3/metrics.json $out/$1-$2/$3/memorization.json"
    shift 3
done
step dprune report $results -o "$out/report" --overwrite
