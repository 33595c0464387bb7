# The default model's recorded chats, and an answer over the cache beside one from scratch.
set -eu
unset PUNA_MODEL PUNA_PROMPT PUNA_TEMPERATURE
python3 tests/cmd/smollm2.py "$PUNA"
