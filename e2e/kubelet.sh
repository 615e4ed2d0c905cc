# A kubelet of a run's own, unmodified, on a clean node. Sourced; needs clean.sh, common.sh, daemon.sh.

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
