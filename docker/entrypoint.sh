#!/bin/sh
# Before the process itself: put Triton's compiled driver where Triton looks for it, since the image has no C compiler.
set -eu
if [ -d /opt/triton ] && [ -n "${TRITON_CACHE_DIR:-}" ]; then
    mkdir -p "$TRITON_CACHE_DIR"
    cp -R /opt/triton/. "$TRITON_CACHE_DIR"/
fi
exec "$@"
