# A kubelet of a run's own, unmodified, on a clean node, and the runtime that it drives.
# Sourced; needs clean.sh, common.sh, daemon.sh, peers.sh.

PEER=${PEER:-minke} POD_RANGE=10.244.0.0/16

# build_runtime: what start_runtime starts.
build_runtime() {
  CRICTL=$(crictl_path) || return 1
  export CRICTL
  if [ "$PEER" = containerd ]; then
    { containerd_path && runc_path && cni_dir; } >/dev/null && have_nft
  else
    build_minke
  fi
}

# start_runtime [HANDLER...]: minke, or the peer that --peer names, with these runtime handlers beside its own;
# sets RUNTIME_SOCK and RUNTIME_HANDLER.
start_runtime() {
  RUNTIME_HANDLERS="$*"
  if [ "$PEER" = containerd ]; then
    start_containerd "$NODE_DIR/containerd" "$@" || return 1
    # Its plugins take their range from their file, minke takes the node's from the kubelet.
    sed -i "s|\"subnet\": \"[^\"]*\"|\"subnet\": \"${POD_RANGE%.*.*}.0.0/24\"|" "$NODE_DIR/containerd/net.d/"*
    RUNTIME_SOCK=$CONTAINERD_SOCK RUNTIME_HANDLER=runc RUNTIME_PID=$CONTAINERD_PID
    printf 'runtime-endpoint: unix://%s\nimage-endpoint: unix://%s\n' "$RUNTIME_SOCK" "$RUNTIME_SOCK" >"$NODE_DIR/crictl.yaml"
    export CRI_CONFIG_FILE="$NODE_DIR/crictl.yaml"
    # Its socket is there before it answers, and that of the one before stays there.
    wait_until 30 crictl_at version >/dev/null
  else
    start_minke "$NODE_DIR/minke" "runtime.handlers = [ $(printf '"%s", ' minke "$@")]
[network]
netns_dir = \"$NODE_DIR/netns\"
wait_for_pod_cidr = true" || return 1
    RUNTIME_SOCK=$MINKE_SOCK RUNTIME_HANDLER=minke RUNTIME_PID=$MINKE_PID
  fi
}

# image_disk: a disk of 6 GB for what the runtime keeps, mounted where it looks for that; sets IMAGE_DISK.
image_disk() {
  IMAGE_DISK="$NODE_DIR/$PEER/root"
  mkdir -p "$IMAGE_DISK"
  truncate -s 6G "$NODE_DIR/images.disk" && mkfs.ext4 -q "$NODE_DIR/images.disk" && mount -o loop "$NODE_DIR/images.disk" "$IMAGE_DISK"
}

# restart_runtime: as after a crash.
restart_runtime() {
  kill -KILL "$RUNTIME_PID"
  wait "$RUNTIME_PID" 2>/dev/null
  # shellcheck disable=SC2086
  start_runtime $RUNTIME_HANDLERS
}

# write_kubelet_config [EXTRA_YAML]: the endpoint, and no eviction because the machine's disk, which is
# not the run's, is fuller than a node's should be. Below a root of the run's own there are no limits for
# all pods together; cgroup v1 is refused unless a kubelet is told otherwise, and knows no swap of a pod.
write_kubelet_config() {
  local cgroups=""
  [ -z "$NODE_CGROUP" ] || cgroups="cgroupRoot: $NODE_CGROUP
enforceNodeAllocatable: []"
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    cgroups+="
memorySwap: { swapBehavior: LimitedSwap }"
  else
    cgroups+="
failCgroupV1: false"
  fi
  mkdir -p "$NODE_DIR/manifests" "$NODE_DIR/kubelet"
  echo "nameserver ${NODE_IP%.*}.1" >"$NODE_DIR/resolv.conf"
  cat >"$NODE_DIR/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$RUNTIME_SOCK
cgroupDriver: cgroupfs
$cgroups
failSwapOn: false
evictionHard: { memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 1Gi }
imageGCHighThresholdPercent: 100
address: $NODE_IP
volumePluginDir: $NODE_DIR/volume-plugins
resolvConf: $NODE_DIR/resolv.conf
fileCheckFrequency: 1s
syncFrequency: 5s
${1:-}
Y
}

# swap_on: a file of NODE_SWAP megabytes as swap of the machine, which is the run's alone.
swap_on() {
  dd if=/dev/zero of="$NODE_DIR/swap" bs=1M count="$NODE_SWAP" status=none && chmod 600 "$NODE_DIR/swap" &&
    mkswap "$NODE_DIR/swap" >/dev/null && swapon "$NODE_DIR/swap"
}

# swap_share BYTES: what a request for so much memory is worth of the swap, in whole pages.
swap_share() {
  awk -v bytes="$1" '{ of[$1] = $2 } END { print int(bytes / of["MemTotal:"] * of["SwapTotal:"] / 4096) * 4096 }' /proc/meminfo
}

# cgroup_of POD CONTAINER: its directory on cgroup v2.
cgroup_of() {
  find /sys/fs/cgroup -type d -name "$("$CRICTL" ps -q --name "^$2\$" --label "io.kubernetes.pod.name=$1")"
}

# start_kubelet [FLAG...]: sets KUBELET_PID. Started again it takes up where the one before ended.
start_kubelet() {
  # cAdvisor, inside it, wants the clock speed, and User-mode Linux has none to tell.
  if grep -q 'User Mode Linux' /proc/cpuinfo && ! grep -q 'cpu MHz' /proc/cpuinfo; then
    { echo 'cpu MHz : 1000.000'; cat /proc/cpuinfo; } >"$NODE_DIR/cpuinfo"
    mount --bind "$NODE_DIR/cpuinfo" /proc/cpuinfo
  fi
  "$KUBELET" --config "$NODE_DIR/kubelet.yaml" --root-dir "$NODE_DIR/kubelet" \
    --cert-dir "$NODE_DIR/kubelet/pki" --hostname-override node --node-ip "$NODE_IP" "$@" \
    >>"$NODE_DIR/kubelet.log" 2>&1 &
  KUBELET_PID=$!
}
# kubelet_answers: waits for it; says what it said last if it does not.
kubelet_answers() {
  wait_until 60 curl -fs -o /dev/null http://127.0.0.1:10248/healthz || { tail -n 20 "$NODE_DIR/kubelet.log"; return 1; }
}

stop_kubelet() {
  kill -TERM "$KUBELET_PID" && wait "$KUBELET_PID" 2>/dev/null
  true
}
