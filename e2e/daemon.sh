# A minke daemon of a run's own: private directories, socket, images from our registry.
# Sourced; needs common.sh, images/packages.sh and registry.sh.

# build_minke: sets MINKE to the release binary.
build_minke() {
  if [ -z "${MINKE:-}" ]; then
    (cd "$TOP" && cargo build --release --quiet --bin minke) >&2 || return 1
    MINKE="${CARGO_TARGET_DIR:-$TOP/target}/release/minke"
  fi
  export MINKE
}

# build_minke_oci: sets MINKE_OCI to that of the executor's command line.
build_minke_oci() {
  if [ -z "${MINKE_OCI:-}" ]; then
    (cd "$TOP" && cargo build --release --quiet -p minke-oci) >&2 || return 1
    MINKE_OCI="${CARGO_TARGET_DIR:-$TOP/target}/release/minke-oci"
  fi
  export MINKE_OCI
}

# start_minke DIR [EXTRA_TOML]: serves below DIR; sets MINKE_PID and MINKE_SOCK.
start_minke() {
  local dir="$1"
  mkdir -p "$dir/certs.d"
  [ -z "${REGISTRY:-}" ] || mirror_all "$dir/certs.d"
  cat >"$dir/config.toml" <<F
root = "$dir/root"
state = "$dir/state"
socket = "$dir/minke.sock"
${2:-}

[images]
certs_dirs = ["$dir/certs.d"]
F
  cat >"$dir/crictl.yaml" <<F
runtime-endpoint: unix://$dir/minke.sock
image-endpoint: unix://$dir/minke.sock
timeout: 30
F
  export CRI_CONFIG_FILE="$dir/crictl.yaml"
  run_minke "$dir"
}

# run_minke DIR: starts the daemon that start_minke set up, or starts it again.
run_minke() {
  "$MINKE" --config "$1/config.toml" serve >>"$1/minke.log" 2>&1 &
  MINKE_PID=$!
  MINKE_SOCK="$1/minke.sock"
  wait_until 10 crictl_at version >/dev/null
}

# stop_minke DIR: ends the daemon, removes every pod, the network and the records.
stop_minke() {
  kill -TERM "$MINKE_PID" 2>/dev/null
  wait "$MINKE_PID" 2>/dev/null
  timeout 60 "$MINKE" --config "$1/config.toml" reset --yes >>"$1/minke.log" 2>&1 || tail -n 3 "$1/minke.log" >&2
}

# crictl_at ARGS...: crictl against this run's daemon.
crictl_at() { "$CRICTL" "$@"; }
