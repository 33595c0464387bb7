#!/bin/sh
# Training on the GPU: the goldens of training, and the CPU beside it; not run where there is none.
exec python3 tests/cmd/train_cuda.py "$PUNA"
