# Runs the benchmark: minke, containerd and the bare kernel in one network and mount namespace of
# their own, each on a disk of its own, so that nothing of them is left on the machine.
# Sourced by the parts; needs common.sh and check.sh.

. "$E2E/images/packages.sh"
. "$E2E/registry.sh"
. "$E2E/daemon.sh"
. "$E2E/peers.sh"

# bench_programs small|large: builds all that is measured and what measures; sets CRICTL, MINKE, MINKE_OCI
# and BENCH. The small bench does without youki, which takes minutes to build. What is fetched for the
# images is fetched here, too: the bench itself runs in a namespace without a way out.
bench_programs() {
  CRICTL=$(crictl_path) && build_minke && build_minke_oci && BENCH=${BENCH:-$(bench_program)} || return 1
  containerd_path >/dev/null && runc_path >/dev/null && cni_dir >/dev/null && have_nft && have mkfs.ext4 e2fsprogs && build_images || return 1
  # The images that are pulled for their size are made with it.
  [ "${BENCH_IMAGES:-}" = none ] || have zstd zstd || return 1
  [ "$1" = small ] || youki_path >/dev/null || return 1
  export CRICTL BENCH
}

# bench small|large|none ARGS...: measures with the small or the large images, or none that are pulled for
# their size; ARGS go to the driver.
bench() {
  # shellcheck disable=SC2046
  export -f $(compgen -A function)
  "$BENCH" hurry unshare -n -m bash -c 'bench_in_namespaces "$@"' bench "$@"
}

# bench_program: builds the driver and prints its path.
bench_program() {
  local target="${CARGO_TARGET_DIR:-$TOP/target}/e2e-bench"
  (cd "$E2E/bench" && CARGO_TARGET_DIR="$target" cargo build --release --quiet --locked) >&2 || return 1
  printf '%s\n' "$target/release/bench"
}

# stage_bench FOLDER: what a node needs to run part bench, beside what stage_node puts there.
stage_bench() {
  local folder="$1" path
  bench_programs large && floor_program "$folder" || return 1
  cp "$BENCH" "$folder/bench" && cp "$MINKE_OCI" "$folder/minke-oci" && cp -r "$(crun_dir)" "$folder/crun" || return 1
  for path in "$CRICTL" "$(containerd_path)" "$(runc_path)" "$(cni_dir)/bridge" "$(dirname "$(youki_path)")" "$MINKE_CACHE/libseccomp/complete"; do
    cp -r "$(dirname "$path")" "$folder/cache/" || return 1
  done
}

# bench_tests: the driver's own.
bench_tests() {
  cd "$E2E/bench" && CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$TOP/target}/e2e-bench" cargo test --release --quiet --locked
}

# floor_program DIR: builds the floor and prints its path, unless FLOOR says it.
floor_program() {
  [ -z "${FLOOR:-}" ] || { printf '%s\n' "$FLOOR"; return; }
  "${CC:-cc}" -O2 -Wall -Wextra -Werror -o "$1/floor" "$E2E/bench/floor.c" >&2 && printf '%s\n' "$1/floor"
}

# floor_root DIR: unpacks busybox out of the registry and prints where.
floor_root() {
  local repository="http://$REGISTRY/v2/library/busybox" digest
  digest=$(curl -fsS -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' "$repository/manifests/latest" |
    sed 's/.*"layers"//' | grep -o 'sha256:[0-9a-f]*' | head -n 1)
  mkdir -p "$1/floor-root"
  curl -fsS "$repository/blobs/$digest" | tar -xz -C "$1/floor-root" && printf '%s\n' "$1/floor-root"
}

# bench_disk DIR: a journalled ext4 there, as nodes have below their runtimes' images, and nothing else
# on it: whoever waits for the disk waits for what was written to this one alone. It ends with the last
# mount of it.
bench_disk() {
  mkdir -p "$1" && truncate -s 8G "$1.ext4" &&
    mkfs.ext4 -q -F -J size=64 -E lazy_itable_init=0,lazy_journal_init=0 "$1.ext4" &&
    mount -o loop "$1.ext4" "$1" && rmdir "$1/lost+found"
}

# bench_in_namespaces small|large|none ARGS...: measures; ARGS go to the driver, runtimes among them.
bench_in_namespaces() {
  local images="$1" code cgroup="bench-$$" directory youki=()
  shift
  # youki waits for the end of a program from after its start on, and for ever if it has come by then: not
  # with the signal blocked, which keeps it.
  [ "$images" = small ] || youki=(--oci "youki=env --block-signal=CHLD $(youki_path)"
    --note "youki's run misses the end of a program that is quicker than it is, unless it is started with that signal blocked: a millisecond of its time is that of env, which does so.")
  mount --make-rprivate / && ip link set lo up || return 1
  dir=$(mktemp -d -t minke-bench-XXXXXX)
  # What nodes have below /run, where both keep their state, is a tmpfs.
  mkdir -p "$dir/minke/state" "$dir/containerd/state"
  # The names of network namespaces are files below /run too: nobody else's are looked at.
  mkdir -p /run/netns && mount -t tmpfs netns /run/netns || return 1
  mount -t tmpfs state "$dir/minke/state" && mount -t tmpfs state "$dir/containerd/state" || return 1
  bench_disk "$dir/minke/root" && bench_disk "$dir/containerd/root" && bench_disk "$dir/bench/floor" || return 1
  start_registry "$dir/registry" || return 1
  [ "$images" = none ] || "$E2E/bench/images" "$REGISTRY" "$images" >"$dir/images.log" 2>&1 || return 1
  start_minke "$dir/minke" && start_containerd "$dir/containerd" || return 1
  "$BENCH" measure --dir "$dir/bench" --cgroup "$cgroup" --floor "$(floor_program "$dir")" --floor-root "$(floor_root "$dir")" \
    --oci "minke-oci=$MINKE_OCI" --oci "runc=$(runc_path)" "${youki[@]}" \
    --says "CNI plugins=$(peer_version cni github.com/containernetworking/plugins)" \
    --disk "$dir/minke/root" --disk "$dir/containerd/root" \
    --files "$dir/minke/state" --files "$dir/minke/root" --files "$dir/bench/logs" --files /run/netns \
    --note "Each runtime has its images and writable layers on a journalled ext4 of its own (a loop device on a file)." \
    "minke=$MINKE_SOCK,$MINKE_PID" "containerd=$CONTAINERD_SOCK,$CONTAINERD_PID" "$@"
  code=$?
  stop_minke "$dir/minke"
  kill -TERM "$CONTAINERD_PID" "$REGISTRY_PID" 2>/dev/null
  wait "$CONTAINERD_PID" 2>/dev/null
  # The daemons have left it now.
  for directory in /sys/fs/cgroup/"$cgroup" /sys/fs/cgroup/*/"$cgroup"; do
    [ ! -d "$directory" ] || find "$directory" -depth -type d -exec rmdir {} + 2>/dev/null
  done
  umount -l "$dir/minke/state" "$dir/containerd/state" "$dir/minke/root" "$dir/containerd/root" "$dir/bench/floor"
  [ -n "${KEEP:-}" ] || rm -rf "$dir"
  return "$code"
}
