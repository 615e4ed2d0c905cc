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

# start_runtime: minke, or the peer that --peer names; sets RUNTIME_SOCK and RUNTIME_HANDLER.
start_runtime() {
  if [ "$PEER" = containerd ]; then
    start_containerd "$NODE_DIR/containerd" || return 1
    # Its plugins take their range from their file, minke takes the node's from the kubelet.
    sed -i "s|\"subnet\": \"[^\"]*\"|\"subnet\": \"${POD_RANGE%.*.*}.0.0/24\"|" "$NODE_DIR/containerd/net.d/"*
    RUNTIME_SOCK=$CONTAINERD_SOCK RUNTIME_HANDLER=runc RUNTIME_PID=$CONTAINERD_PID
    printf 'runtime-endpoint: unix://%s\nimage-endpoint: unix://%s\n' "$RUNTIME_SOCK" "$RUNTIME_SOCK" >"$NODE_DIR/crictl.yaml"
    export CRI_CONFIG_FILE="$NODE_DIR/crictl.yaml"
    # Its socket is there before it answers, and that of the one before stays there.
    wait_until 30 crictl_at version >/dev/null
  else
    start_minke "$NODE_DIR/minke" "[network]
netns_dir = \"$NODE_DIR/netns\"
wait_for_pod_cidr = true" || return 1
    RUNTIME_SOCK=$MINKE_SOCK RUNTIME_HANDLER=minke RUNTIME_PID=$MINKE_PID
  fi
}

# restart_runtime: as after a crash.
restart_runtime() {
  kill -KILL "$RUNTIME_PID"
  wait "$RUNTIME_PID" 2>/dev/null
  start_runtime
}

# write_kubelet_config [EXTRA_YAML]: what a node of cgroup v1 needs beside the endpoint: cgroups below
# the run's root, no limits for all pods together, and no eviction because the machine's disk, which
# is not the run's, is fuller than a node's should be.
write_kubelet_config() {
  mkdir -p "$NODE_DIR/manifests" "$NODE_DIR/kubelet"
  echo "nameserver ${NODE_IP%.*}.1" >"$NODE_DIR/resolv.conf"
  cat >"$NODE_DIR/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$RUNTIME_SOCK
cgroupDriver: cgroupfs
cgroupRoot: $NODE_CGROUP
failCgroupV1: false
enforceNodeAllocatable: []
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

# start_kubelet [FLAG...]: sets KUBELET_PID. Started again it takes up where the one before ended.
start_kubelet() {
  "$KUBELET" --config "$NODE_DIR/kubelet.yaml" --root-dir "$NODE_DIR/kubelet" \
    --cert-dir "$NODE_DIR/kubelet/pki" --hostname-override node --node-ip "$NODE_IP" "$@" \
    >>"$NODE_DIR/kubelet.log" 2>&1 &
  KUBELET_PID=$!
}
kubelet_answers() { wait_until 60 curl -fs -o /dev/null http://127.0.0.1:10248/healthz; }

stop_kubelet() {
  kill -TERM "$KUBELET_PID" && wait "$KUBELET_PID" 2>/dev/null
  true
}
