#!/usr/bin/env bash
# Checks bans, licences and sources of all dependencies; cargo-deny is built once and kept.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
version=0.20.2
dir="$MINKE_CACHE/cargo-deny-$version"
if [ ! -x "$dir/bin/cargo-deny" ]; then
  CARGO_TARGET_DIR="$dir/build" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
    cargo install --locked --quiet --root "$dir" --version "$version" cargo-deny >&2
  rm -rf "$dir/build"
fi
"$dir/bin/cargo-deny" --config "$TOP/.deny.toml" check bans licenses sources
