# The GPU's tests on an emulated device (tests/backend/cuda_host/device.h says what that shows, and what not).
set -u
built=$(dirname "$PUNA")/tests/cuda_host
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export LD_LIBRARY_PATH="$built${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

{ "$built/cuda_train" && "$built/cuda_prompts"; } >"$tmp/cuda_train" 2>&1 &
"$built/cuda" >"$tmp/cuda" 2>&1
status=$?
wait $! && [ $status -eq 0 ] || { cat "$tmp/cuda_train" "$tmp/cuda"; echo 'FAIL: the GPU code on the emulated device'; exit 1; }
! grep SKIPPED "$tmp/cuda" "$tmp/cuda_train" || { echo 'FAIL: not all was run'; exit 1; }
echo ok
