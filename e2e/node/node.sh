# A node with systemd and cgroup v2: User-mode Linux on an image of Debian packages.
# Sourced; needs common.sh. The kernel comes from MINKE_NODE_KERNEL.

# node_image: builds the root file system once per version of its script and prints its path.
node_image() {
  local image
  image="$MINKE_CACHE/node-$(sha256sum "$E2E/node/build" | cut -c1-16).img"
  if [ ! -s "$image" ]; then
    "$E2E/node/build" "$image" >"$MINKE_CACHE/node-build.log" 2>&1 || {
      tail -n 30 "$MINKE_CACHE/node-build.log" >&2
      return 1
    }
  fi
  printf '%s\n' "$image"
}

# boot_node KERNEL FOLDER [SECONDS]: boots, runs FOLDER/run.sh in the node, waits for the power-off;
# leaves FOLDER/output and FOLDER/code. The disk's changes stay in FOLDER.disk, for a second boot.
boot_node() {
  local kernel="$1" folder="$2" image seccomp=seccomp=on
  image=$(node_image) || return 1
  mkdir -p "$folder.disk"
  rm -f "$folder/code" "$folder/output"
  # The oldest kernel has no fast way to trap system calls.
  case "$("$kernel" --version 2>/dev/null)" in 6.1.*) seccomp=quiet ;; esac
  # Threads of one process never run in parallel in it, and it is five times slower unpinned.
  TMPDIR=/dev/shm timeout "${3:-600}" taskset -c 1 "$kernel" $seccomp mem=3G uml_dir="$folder.disk" \
    ubd0="$folder.disk/cow,$image" root=/dev/ubda rw rootfstype=ext4 con0=fd:0,fd:1 con=null ssl=null \
    quiet systemd.unified_cgroup_hierarchy=1 apparmor=0 panic=-1 hostshare="$folder" \
    </dev/null >"$folder.disk/console" 2>&1
  [ -e "$folder/code" ] || {
    echo "the node ended without a result:" >&2
    tail -n 20 "$folder.disk/console" "$folder/output" >&2
    return 1
  }
}
