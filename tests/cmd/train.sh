#!/bin/sh
# puna sft, dpo and kto: losses, gradients and adapters of torch and PEFT, data of every kind,
# messages, checkpoints that go on bit for bit.
exec python3 tests/cmd/train.py "$PUNA"
