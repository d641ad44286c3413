#!/bin/bash
# A launch of Megatron-LM's pretrain_gpt.py, as many write it: penstock plan --from examples/train_gpt.sh --cluster dgx-h100:2
TP=${TP:-8}
PP=2
GPUS_PER_NODE=8
NODES=${SLURM_NNODES:-2}

MODEL_ARGS=(
    --num-layers 32
    --hidden-size 4096
    --ffn-hidden-size 14336
    --num-attention-heads 32
    --group-query-attention --num-query-groups 8
    --seq-length 8192
    --max-position-embeddings 8192
    --position-embedding-type rope
    --normalization RMSNorm
    --swiglu
    --disable-bias-linear
    --untie-embeddings-and-output-weights
    --vocab-size 128256
    --attention-dropout 0.0
    --hidden-dropout 0.0
)
TRAINING_ARGS="--micro-batch-size 1 --global-batch-size 128 --bf16 --lr 3e-4 --train-iters 1000 \
    --use-distributed-optimizer --overlap-grad-reduce"

torchrun --nproc_per_node "$GPUS_PER_NODE" --nnodes "$NODES" pretrain_gpt.py \
    --tensor-model-parallel-size "$TP" \
    --pipeline-model-parallel-size $PP \
    --recompute-granularity full --recompute-method uniform --recompute-num-layers 1 \
    "${MODEL_ARGS[@]}" $TRAINING_ARGS --mock-data
