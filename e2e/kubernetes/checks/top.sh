# kubectl top: what metrics-server reads from the kubelet, and that from the runtime.
in_namespace top

as_daemon metrics-server "$METRICS" --secure-port 4443 --cert-dir "$NODE_DIR/metrics" --metric-resolution 15s \
  --kubelet-preferred-address-types InternalIP --kubelet-insecure-tls --kubeconfig "$KUBECONFIG" \
  --authentication-kubeconfig "$KUBECONFIG" --authorization-kubeconfig "$KUBECONFIG"
k apply -f - >/dev/null <<Y
apiVersion: v1
kind: Service
metadata: { name: metrics-server, namespace: kube-system }
spec: { ports: [{ port: 443, targetPort: 4443 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: metrics-server, namespace: kube-system, labels: { kubernetes.io/service-name: metrics-server } }
addressType: IPv4
ports: [{ port: 4443 }]
endpoints: [{ addresses: ["$NODE_IP"] }]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: { name: v1beta1.metrics.k8s.io }
spec:
  service: { name: metrics-server, namespace: kube-system }
  group: metrics.k8s.io
  version: v1beta1
  insecureSkipTLSVerify: true
  groupPriorityMinimum: 100
  versionPriority: 100
Y
apply <<Y
apiVersion: v1
kind: Pod
metadata: { name: busy }
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{ name: memory, emptyDir: { medium: Memory } }]
  containers:
    - { name: spins, image: $BUSYBOX_IMAGE, command: [sh, -c, "while :; do :; done"], resources: { limits: { cpu: 300m } } }
    - name: holds
      image: $BUSYBOX_IMAGE
      command: [sh, -c, "dd if=/dev/zero of=/memory/file bs=1M count=64 && exec sleep 1000000"]
      volumeMounts: [{ name: memory, mountPath: /memory }]
Y
# used CONTAINER COLUMN UNIT: what kubectl says of a container in that unit.
used() { kn top pod busy --containers --no-headers | awk -v name="$1" -v column="$2" -v unit="$3" '$2 == name && sub(unit "$", "", $column) { print $column }'; }
# between LOW HIGH CONTAINER COLUMN UNIT
between() {
  local value
  value=$(used "$3" "$4" "$5")
  [ -n "$value" ] || { echo "kubectl tells nothing in $5"; return 1; }
  at_least "$1" "$value" && under "$2" "$value"
}
check "the pod is there" ready busy
check "kubectl top tells the CPU of a container, in thousandths" wait_until 90 between 200 400 spins 3 m
check "and that of one at rest" wait_until 30 between 0 50 holds 3 m
check "its memory, in MiB" wait_until 30 between 60 90 holds 4 Mi
node_used() { k top node --no-headers | grep -E '^node +[0-9]+m +[0-9]+% +[0-9]+Mi +[0-9]+%'; }
check "the node's" wait_until 30 node_used
k delete apiservice v1beta1.metrics.k8s.io >/dev/null
done_with_namespace
