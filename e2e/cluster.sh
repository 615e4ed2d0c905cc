# A cluster of one clean node: etcd, API server, scheduler and controllers as processes; with services
# kube-proxy too, and CoreDNS as the Deployment that kubeadm makes of it. Sourced; needs clean.sh, kubelet.sh, daemon.sh.

CLUSTER_DNS=10.96.0.10 SERVICE_RANGE=10.96.0.0/16

# control_plane_tools: builds what a cluster needs to run pods and sets a variable for each program.
control_plane_tools() {
  KUBELET=$(kubernetes_path kubelet) && KUBEADM=$(kubernetes_path kubeadm) && KUBECTL=$(kubernetes_path kubectl) &&
    APISERVER=$(kubernetes_path kube-apiserver) && CONTROLLERS=$(kubernetes_path kube-controller-manager) &&
    SCHEDULER=$(kubernetes_path kube-scheduler) && ETCD=$(etcd_path) || return 1
  export KUBELET KUBEADM KUBECTL APISERVER CONTROLLERS SCHEDULER ETCD
}

# cluster_tools: these, and what services and names need.
cluster_tools() {
  have jq jq && have mkfs.ext4 e2fsprogs && have_nft && control_plane_tools && PROXY=$(kubernetes_path kube-proxy) && AGNHOST=$(agnhost_path) &&
    COREDNS=$(coredns_path) && METRICS=$(metrics_server_path) || return 1
  export PROXY AGNHOST COREDNS METRICS
}

# kubernetes_images: what the cluster itself and its checks run, beside the images of all parts.
kubernetes_images() {
  printf '%s\n' "coredns/coredns:$COREDNS_TAG=$COREDNS" "e2e-test-images/agnhost:2=$AGNHOST"
}
COREDNS_TAG=$(sed -n 's/.*coredns\/coredns \(v[0-9.]*\).*/\1/p' "$E2E/coredns/go.mod")

# build_cluster_images: pushes them once for what they are made of.
build_cluster_images() {
  local mark
  mark="$(image_store)/kubernetes-$( (cat "$E2E/kubernetes/images"; kubernetes_images) | sha256sum | cut -c1-16)"
  [ -e "$mark" ] || { with_registry push_cluster_images && touch "$mark"; }
}
# shellcheck disable=SC2046
push_cluster_images() { "$E2E/kubernetes/images" "$REGISTRY" $(kubernetes_images); }

# start_private_registry: the same images for those who know the word; sets PRIVATE_REGISTRY.
start_private_registry() {
  local port
  port=$(free_port)
  PRIVATE_REGISTRY="127.0.0.1:$port"
  perl -e 'print "minke:", crypt("secret word", "\$2b\$05\$abcdefghijklmnopqrstuu"), "\n"' >"$NODE_DIR/htpasswd"
  sed "s/addr: \"[^\"]*\"/addr: \"$PRIVATE_REGISTRY\"/" "$NODE_DIR/registry/registry.yml" >"$NODE_DIR/private.yml"
  echo "auth: { htpasswd: { realm: private, path: $NODE_DIR/htpasswd } }" >>"$NODE_DIR/private.yml"
  OTEL_TRACES_EXPORTER=none as_daemon private "$MINKE_CACHE/docker-registry/usr/bin/docker-registry" serve "$NODE_DIR/private.yml"
  wait_until 10 curl -s -o /dev/null "http://$PRIVATE_REGISTRY/v2/"
}

# as_daemon NAME COMMAND...: runs a part of the cluster, with a log of its own.
as_daemon() {
  local name="$1"
  shift
  "$@" >>"$NODE_DIR/$name.log" 2>&1 &
}

k() { "$KUBECTL" "$@"; }
adm() { "$KUBEADM" init phase "$@" --config "$NODE_DIR/kubeadm.yaml" >>"$NODE_DIR/kubeadm.log" 2>&1; }

# start_control_plane: certificates as kubeadm makes them, then the processes. Started
# again it takes up what it had.
start_control_plane() {
  local pki="$NODE_DIR/pki" conf="$NODE_DIR/conf" version
  version=$("$KUBELET" --version | awk '{ print $2 }')
  cat >"$NODE_DIR/kubeadm.yaml" <<Y
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: { advertiseAddress: $NODE_IP, bindPort: 6443 }
nodeRegistration: { name: node, criSocket: "unix://$RUNTIME_SOCK" }
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: $version
certificatesDir: $pki
encryptionAlgorithm: ECDSA-P256
networking: { podSubnet: $POD_RANGE, serviceSubnet: $SERVICE_RANGE, dnsDomain: cluster.local }
dns: { imageRepository: registry.k8s.io/coredns, imageTag: $COREDNS_TAG }
etcd: { external: { endpoints: ["http://127.0.0.1:2379"] } }
Y
  export KUBECONFIG="$conf/super-admin.conf"
  adm certs all && adm kubeconfig all --kubeconfig-dir "$conf" || return 1
  as_daemon etcd "$ETCD" --data-dir "$NODE_DIR/etcd" --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
  as_daemon apiserver "$APISERVER" --advertise-address "$NODE_IP" --allow-privileged --authorization-mode Node,RBAC \
    --client-ca-file "$pki/ca.crt" --enable-admission-plugins NodeRestriction --etcd-servers http://127.0.0.1:2379 \
    --kubelet-client-certificate "$pki/apiserver-kubelet-client.crt" \
    --kubelet-client-key "$pki/apiserver-kubelet-client.key" --kubelet-preferred-address-types InternalIP \
    --proxy-client-cert-file "$pki/front-proxy-client.crt" --proxy-client-key-file "$pki/front-proxy-client.key" \
    --requestheader-client-ca-file "$pki/front-proxy-ca.crt" --requestheader-allowed-names front-proxy-client \
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
    --requestheader-extra-headers-prefix X-Remote-Extra- --secure-port 6443 \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key" \
    --service-cluster-ip-range "$SERVICE_RANGE" --tls-cert-file "$pki/apiserver.crt" \
    --tls-private-key-file "$pki/apiserver.key" --feature-gates ContainerStopSignals=true
  wait_until 90 answers_ok || return 1
  as_daemon controllers "$CONTROLLERS" --kubeconfig "$conf/controller-manager.conf" --leader-elect=false \
    --allocate-node-cidrs --cluster-cidr "$POD_RANGE" --service-cluster-ip-range "$SERVICE_RANGE" \
    --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key" --root-ca-file "$pki/ca.crt" \
    --service-account-private-key-file "$pki/sa.key" --use-service-account-credentials
  # As kubeadm does when it uploads its configuration.
  k get clusterrolebinding kubelet-client >/dev/null 2>&1 ||
    k create clusterrolebinding kubelet-client --clusterrole system:kubelet-api-admin --user kube-apiserver-kubelet-client >/dev/null
  as_daemon scheduler "$SCHEDULER" --kubeconfig "$conf/scheduler.conf" --leader-elect=false
}
answers_ok() { [ "$(k get --raw /readyz)" = ok ]; }

# join_node: the kubelet as the cluster's only node. PLAIN_KUBELET leaves out the features that minke's
# pages recommend: events instead of polling, statistics from CRI.
join_node() {
  local gates="PodAndContainerStatsFromCRI: true, EventedPLEG: true, "
  [ -z "${PLAIN_KUBELET:-}" ] || gates=""
  write_kubelet_config "
authentication: { x509: { clientCAFile: $NODE_DIR/pki/ca.crt } }
clusterDNS: [$CLUSTER_DNS]
clusterDomain: cluster.local
featureGates: { ${gates}ContainerStopSignals: true }
${1:-}"
  start_joined && kubelet_answers
}
start_joined() { start_kubelet --kubeconfig "$NODE_DIR/conf/kubelet.conf"; }

# start_services: kube-proxy on the node, and CoreDNS.
start_services() {
  adm addon coredns --kubeconfig "$KUBECONFIG" || return 1
  "$KUBEADM" kubeconfig user --client-name system:kube-proxy --config "$NODE_DIR/kubeadm.yaml" \
    >"$NODE_DIR/conf/proxy.conf" 2>>"$NODE_DIR/kubeadm.log"
  cat >"$NODE_DIR/proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $POD_RANGE
hostnameOverride: node
clientConnection: { kubeconfig: $NODE_DIR/conf/proxy.conf }
Y
  as_daemon proxy "$PROXY" --config "$NODE_DIR/proxy.yaml"
}

# --- words for checks through kubectl ----------------------------------------------------------------
AGNHOST_IMAGE=registry.k8s.io/e2e-test-images/agnhost:2
BUSYBOX_IMAGE=registry.k8s.io/e2e-test-images/busybox:1.36.1-1
NGINX_IMAGE=registry.k8s.io/e2e-test-images/nginx:1.14-2

# in_namespace NAME: a group of checks in a namespace of its own; kn is kubectl in it.
in_namespace() {
  NAMESPACE="$1"
  printf '\n--- %s\n' "$1"
  k create namespace "$1" >/dev/null
  # A pod without its service account is refused.
  wait_until 20 kn get serviceaccount default >/dev/null
}
kn() { k -n "$NAMESPACE" "$@"; }
apply() { kn apply -f - >/dev/null; }
# done_with_namespace: lets it go; its pods end while the next group runs.
done_with_namespace() { k delete namespace "$NAMESPACE" --wait=false >/dev/null; }

ready() { kn wait --for=condition=Ready --timeout=90s "${@/#/pod/}"; }
status() { kn get pod "$1" -o jsonpath="{.status$2}"; } # POD PATH
phase() { is "$(status "$1" .phase)" "$2"; }            # POD WANTED
events() { kn get events -o jsonpath='{range .items[*]}{.involvedObject.name}{" "}{.reason}{" "}{.message}{"\n"}{end}' | grep "^$1 "; }
event() { has "$(events "$1")" "$2"; } # POD PART
fetch() { curl -fs --max-time 3 "$1"; }
fails() { ! "$@"; }
exits() { # CODE COMMAND...
  local code="$1"
  shift
  "$@"
  is "$?" "$code"
}
at_least() { [ "$2" -ge "$1" ] || { echo "got $2, wanted at least $1"; return 1; }; } # NUMBER GOT
under() { [ "$2" -lt "$1" ] || { echo "got $2, wanted less than $1"; return 1; }; }
