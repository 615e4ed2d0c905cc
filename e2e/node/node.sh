# A node with systemd and cgroup v2: User-mode Linux on an image of Debian packages.
# Sourced; needs common.sh. The kernel comes from MINKE_NODE_KERNEL.

# node_kernel: prints the kernel to boot, or why there is none.
node_kernel() {
  local kernel="${MINKE_NODE_KERNEL:-}"
  [ -n "$kernel" ] || { echo "MINKE_NODE_KERNEL names no User-mode Linux kernel"; return 1; }
  [ -x "$kernel" ] || { echo "MINKE_NODE_KERNEL=$kernel is not a program"; return 1; }
  echo "$kernel"
}

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

# start_node KERNEL FOLDER [SECONDS]: boots; the node runs FOLDER/run.sh, leaves FOLDER/output and
# FOLDER/code and powers off, after SECONDS at the latest. Sets NODE_PID, the process of its kernel.
# The disk's changes stay in FOLDER.disk, for a second boot.
start_node() {
  local kernel="$1" folder="$2" image seccomp=seccomp=on preload=""
  image=$(node_image) || return 1
  mkdir -p "$folder.disk"
  rm -f "$folder/code" "$folder/output"
  # The oldest kernel has no fast way to trap system calls, and does not know newer processors.
  case "$("$kernel" --version 2>/dev/null)" in
    6.1.*)
      seccomp=quiet
      preload="$folder.disk/xstate.so"
      "${CC:-cc}" -shared -fPIC -O1 -Wall -o "$preload" "$E2E/node/xstate.c" -ldl || return 1
      ;;
  esac
  # Threads of one process never run in parallel in it, and it is five times slower unpinned.
  TMPDIR=/dev/shm LD_PRELOAD="$preload" taskset -c 1 "$kernel" $seccomp mem=3G uml_dir="$folder.disk" \
    ubd0="$folder.disk/cow,$image" root=/dev/ubda rw rootfstype=ext4 con0=fd:0,fd:1 con=null ssl=null \
    quiet systemd.unified_cgroup_hierarchy=1 apparmor=0 panic=-1 hostshare="$folder" \
    </dev/null >"$folder.disk/console" 2>&1 &
  NODE_PID=$!
  # It would be missed by nobody: the part can be killed, the node hang.
  (
    end=$((SECONDS + ${3:-600}))
    while [ "$SECONDS" -lt "$end" ] && kill -0 "$NODE_PID" 2>/dev/null && kill -0 $$ 2>/dev/null; do
      sleep 1
    done
    kill -KILL "$NODE_PID" 2>/dev/null
  ) >/dev/null 2>&1 &
}

# end_node FOLDER: waits until the node has powered itself off; fails where it left no result.
end_node() {
  wait "$NODE_PID" 2>/dev/null
  [ -e "$1/code" ] || {
    echo "the node ended without a result:" >&2
    tail -n 20 "$1.disk/console" "$1/output" >&2
    return 1
  }
}

# boot_node KERNEL FOLDER [SECONDS]: a node from its start to its end.
boot_node() {
  start_node "$@" && end_node "$2"
}

# section FOLDER NAME: what the node printed between "== NAME" and the next such line.
section() { awk -v name="== $2" '$0 == name { on = 1; next } /^== / { on = 0 } on' "$1/output"; }

# succeeded FOLDER NAME: whether that ends with "exit 0"; if not, its failed checks, or else its last lines.
succeeded() {
  section "$1" "$2" | grep -q '^exit 0$' && return
  section "$1" "$2" | grep -A 6 '^FAILED' || section "$1" "$2" | tail -n 30
  return 1
}
