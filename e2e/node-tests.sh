# Kubernetes' own node tests (test/e2e_node) and what they run. Sourced; needs common.sh, clean.sh,
# kubelet.sh.

# node_test_tools: builds them and sets a variable for each program.
node_test_tools() {
  KUBELET=$(kubernetes_path kubelet) && AGNHOST=$(agnhost_path) &&
    GINKGO=$(go_tool kubernetes ginkgo github.com/onsi/ginkgo/v2/ginkgo) &&
    NNP=$(go_tool kubernetes nnp k8s.io/kubernetes/test/images/nonewprivs) &&
    DEVICE_PLUGIN=$(go_tool kubernetes sample-device-plugin k8s.io/kubernetes/test/images/sample-device-plugin) &&
    NODE_TESTS=$(kubernetes_path e2e_node.test test/e2e_node -c) || return 1
  export KUBELET AGNHOST GINKGO NNP DEVICE_PLUGIN NODE_TESTS
}

# build_node_test_images: pushes them once for what they are made of.
build_node_test_images() {
  local mark
  mark="$(image_store)/node-tests-$(cat "$E2E/kubernetes/test-images" "$E2E/kubernetes/go.mod" | sha256sum | cut -c1-16)"
  # It asks Go where the module is.
  [ -e "$mark" ] || { have_go && with_registry push_node_test_images && touch "$mark"; }
}
push_node_test_images() {
  local names
  names=$("$NODE_TESTS" --list-images | sed -n 's#^registry.k8s.io/##p') && [ -n "$names" ] || { echo "the node tests name no images" >&2; return 1; }
  "$E2E/kubernetes/test-images" "$REGISTRY" "$AGNHOST" "$NNP" "$DEVICE_PLUGIN" <<<"$names"
}

# node_tests_config: what the tests' kubelet begins with; they add what they need.
node_tests_config() {
  cat <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /
failCgroupV1: false
podCIDR: ${POD_RANGE%.*.*}.0.0/24
volumeStatsAggPeriod: 10s
fileCheckFrequency: 10s
serializeImagePulls: false
failSwapOn: false
evictionPressureTransitionPeriod: 30s
evictionHard: { memory.available: 250Mi, nodefs.available: 5%, nodefs.inodesFree: 5% }
volumePluginDir: $NODE_DIR/volume-plugins
resolvConf: $NODE_DIR/resolv.conf
Y
}

# run_node_tests LABELS PROCESSES: runs the tests that have these labels, so many beside each other. Gives
# a line for each: how it ended, a tab, and its name.
run_node_tests() {
  local program gates=""
  mkdir -p "$NODE_DIR"/{var-lib,tests,results}
  mount --bind "$NODE_DIR/var-lib" /var/lib || return 1
  # The tests look for the programs, not for the systemd that a clean node has not.
  for program in systemd-run systemctl journalctl; do
    ! program=$(command -v "$program") || mount --bind /dev/null "$program"
  done
  node_tests_config >"$NODE_DIR/kubelet.yaml"
  echo "nameserver ${NODE_IP%.*}.1" >"$NODE_DIR/resolv.conf"
  # cAdvisor, inside the kubelet, knows containerd by this address; where it does not know a runtime, that
  # tells what it measures itself.
  mount -t tmpfs run /run && mkdir /run/containerd || return 1
  if [ "$PEER" = containerd ]; then ln -sf "$RUNTIME_SOCK" /run/containerd/containerd.sock; else gates=PodAndContainerStatsFromCRI=true; fi
  # They run where their program is, write there, and look for the kubelet beside it.
  ln -s "$NODE_TESTS" "$KUBELET" "$NODE_DIR/tests/"
  # shellcheck disable=SC2086
  "$GINKGO" --procs "$2" --label-filter "$1" ${NODE_TESTS_FOCUS:+--focus "$NODE_TESTS_FOCUS"} \
    --no-color --silence-skips --poll-progress-after 0 --timeout 2h --output-dir "$NODE_DIR" --json-report report.json \
    "$NODE_DIR/tests/$(basename "$NODE_TESTS")" -- --node-name node --prepull-images=false --container-runtime-endpoint "unix://$RUNTIME_SOCK" \
    --kubelet-config-file "$NODE_DIR/kubelet.yaml" ${gates:+--feature-gates "$gates"} --kubelet-flags "--node-ip=$NODE_IP" \
    --report-dir "$NODE_DIR/results" >>"$NODE_DIR/node-tests.log" 2>&1
  jq -r '.[].SpecReports[] | select(.LeafNodeType == "It" and (.State != "skipped" or (.Failure.Message // "") != "")) |
    "\(.State)\t\(.ContainerHierarchyTexts + [.LeafNodeText] | join(" "))"' "$NODE_DIR/report.json" | sort -u
}
