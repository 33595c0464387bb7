# PyTorch files: read, never run.
exec python3 "$(dirname "$0")/pth.py" "$PUNA"
