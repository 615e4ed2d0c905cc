# As many pods as a node may have, at once.
in_namespace density
mkdir -p "$NODE_DIR/starts"

# Namespaces of the groups before are on their way out, and their pods with them.
leaving() { is "$(k get namespaces -o jsonpath='{.items[?(@.status.phase=="Terminating")].metadata.name}')" ""; }
check "what was before has gone" wait_until 120 leaving
room=$((110 - $(k get pods -A --field-selector=status.phase!=Succeeded,status.phase!=Failed -o name | wc -l)))
apply <<Y
apiVersion: apps/v1
kind: Deployment
metadata: { name: many }
spec:
  replicas: 0
  selector: { matchLabels: { app: many } }
  template:
    metadata: { labels: { app: many } }
    spec:
      terminationGracePeriodSeconds: 1
      volumes: [{ name: starts, hostPath: { path: $NODE_DIR/starts } }]
      containers:
        - name: main
          image: $BUSYBOX_IMAGE
          command: [sh, -c, "echo started >>/starts/\$HOSTNAME; exec sleep 1000000"]
          volumeMounts: [{ name: starts, mountPath: /starts }]
Y
# A pod of the node's own among them, by its manifest.
cat >"$NODE_DIR/manifests/static.yaml" <<Y
apiVersion: v1
kind: Pod
metadata: { name: static, namespace: density }
spec: { terminationGracePeriodSeconds: 1, containers: [{ name: main, image: $BUSYBOX_IMAGE, command: [sleep, "1000000"] }] }
Y
static() { kn wait --for=condition=Ready --timeout=1s pod/static-node >/dev/null; }
check "a static pod becomes ready" wait_until 60 static
room=$((room - 1))
begun=$(date +%s%N)
kn scale deployment/many --replicas "$room" >/dev/null
check "110 pods on the node become ready" kn rollout status deployment/many --timeout=600s
printf '        %s pods ready after %s s\n' "$room" "$(awk -v ns=$(($(date +%s%N) - begun)) 'BEGIN { printf "%.1f", ns / 1e9 }')"
check "they are 110" is "$(k get pods -A --field-selector=status.phase=Running -o name | wc -l)" 110
check "each has an address of its own" is "$(kn get pods -o jsonpath='{range .items[*]}{.status.podIP}{"\n"}{end}' | sort -u | wc -l)" "$((room + 1))"
# What may not change: each container and how often it was started again.
containers() { kn get pods -o jsonpath='{range .items[*]}{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort; }
restarts() { containers | awk '{ print $2 }' | sort -u; }
check "none was restarted" is "$(restarts)" 0
run_on() { [ -n "$before" ] && is "$(comm -23 <(echo "$before") <(containers))" ""; }
before=$(containers)
restart_runtime
check "the runtime is killed, and knows them all again" is "$("$CRICTL" ps -q --state running --label io.kubernetes.pod.namespace=density | wc -l)" "$((room + 1))"
stop_kubelet
start_joined
check "the kubelet is started again" kubelet_answers
check "and drives one of them" wait_until 60 kn exec deployment/many -- true
check "all have run on" run_on
kn scale deployment/many --replicas $((room / 2)) >/dev/null
settled() { is "$(kn get pods -o name | wc -l)" "$1"; }
check "half of them go" wait_until 120 settled $((room / 2 + 1))
before=$(containers)
kn scale deployment/many --replicas "$room" >/dev/null
some() { at_least $((room / 2 + 5)) "$(kn get deployment many -o jsonpath='{.status.readyReplicas}')"; }
check "others come" wait_until 120 some
restart_runtime
check "the runtime is killed while they do: all become ready" kn rollout status deployment/many --timeout=600s
check "those that ran before run on" run_on
# One that was created, and not started, when the runtime ended, is made anew: by the kubelet's count that is
# a restart, too.
twice() { grep -c . "$NODE_DIR/starts"/* | grep -v ':1$'; }
check "none was started twice" fails twice
begun=$(date +%s%N)
rm "$NODE_DIR/manifests/static.yaml"
kn delete deployment many --cascade=foreground --timeout=300s >/dev/null
empty() { is "$(kn get pods -o name)" ""; }
check "and go again" wait_until 300 empty
printf '        gone after %s s\n' "$(awk -v ns=$(($(date +%s%N) - begun)) 'BEGIN { printf "%.1f", ns / 1e9 }')"
done_with_namespace
