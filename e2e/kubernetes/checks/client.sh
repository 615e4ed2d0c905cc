# What people do with kubectl: exec, attach, cp, logs, port-forward, debug, statistics.
in_namespace client

apply <<Y
apiVersion: v1
kind: Pod
metadata: { name: main }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: shell
      image: $BUSYBOX_IMAGE
      command: [sh, -c, "i=0; while :; do i=\$((i+1)); echo tick \$i; sleep 0.2; done"]
    - name: reader
      image: $BUSYBOX_IMAGE
      stdin: true
      command: [cat]
    - name: terminal
      image: $BUSYBOX_IMAGE
      stdin: true
      tty: true
      command: [sh]
    - name: web
      image: $AGNHOST_IMAGE
      args: [netexec, --http-port=8080]
Y
ready main
check "exec" is "$(kn exec main -c shell -- echo hello)" hello
check "exec with input" is "$(echo word | kn exec -i main -c shell -- cat)" word
check "exec gives the exit code" exits 7 kn exec main -c shell -- sh -c 'exit 7'
check "exec keeps the streams apart" is "$(kn exec main -c shell -- sh -c 'echo out; echo err >&2' 2>/dev/null)" out
check "exec of what is not there names it" has "$(kn exec main -c shell -- /no/such 2>&1)" /no/such
check "exec with a terminal" has "$(script -qec "'$KUBECTL' -n client exec -it main -c shell -- tty" /dev/null </dev/null)" /dev/pts/
check "exec carries much output" is "$(kn exec main -c shell -- dd if=/dev/zero bs=1M count=30 2>/dev/null | wc -c)" 31457280
check "exec carries much input" is "$(head -c 20000000 /dev/zero | kn exec -i main -c shell -- wc -c)" 20000000
attached() { (sleep 1; echo "by attach"; sleep 1) | timeout 10 "$KUBECTL" -n client attach -i main -c reader; }
check "attach" has "$(attached 2>&1)" "by attach"
typed() { (sleep 1; echo 'echo typed-$((40+2))'; sleep 1) | timeout 10 script -qec "'$KUBECTL' -n client attach -it main -c terminal" /dev/null; }
check "attach with a terminal" has "$(typed 2>&1)" typed-42
head -c 3000000 /dev/urandom >"$NODE_DIR/there"
check "cp into a container" kn cp "$NODE_DIR/there" main:/tmp/there -c shell
check "cp out of a container" kn cp main:/tmp/there "$NODE_DIR/back" -c shell
check "the copy is the same" cmp "$NODE_DIR/there" "$NODE_DIR/back"
check "logs" has "$(kn logs main -c shell)" "tick 1"
check "logs by tail" is "$(kn logs main -c shell --tail 3 | wc -l)" 3
since=$(kn logs main -c shell --since 1s | wc -l)
check "logs since" eval 'at_least 1 "$since" && under 13 "$since"'
followed() { timeout 3 "$KUBECTL" -n client logs -f --tail 1 main -c shell | wc -l; }
check "logs that follow" at_least 8 "$(followed)"
port=$(free_port)
"$KUBECTL" -n client port-forward main "$port:8080" >"$NODE_DIR/forward" 2>&1 &
forward=$!
forwarded() { fetch "http://127.0.0.1:$port/hostname" || { cat "$NODE_DIR/forward"; return 1; }; }
check "port-forward" wait_until 20 forwarded
many() { # twenty requests at once, each answered
  local job jobs=()
  for _ in $(seq 20); do fetch "http://127.0.0.1:$port/hostname" >/dev/null & jobs+=($!); done
  for job in "${jobs[@]}"; do wait "$job" || return 1; done
}
check "port-forward of many connections" many
kill "$forward"; wait "$forward" 2>/dev/null
kn debug main --image "$BUSYBOX_IMAGE" --target web --container beside --profile general -- sh -c "ps; sleep 1000000" >/dev/null 2>&1
beside() { kn logs main -c beside; }
shows() { has "$(beside)" netexec; }
check "debug starts a container that sees the processes of its target" wait_until 30 shows
check "and no other container's" fails grep -q tick <(beside)
kn debug node/node --image "$BUSYBOX_IMAGE" --profile sysadmin -- sh -c "chroot /host true && ps; sleep 1" >/dev/null 2>&1
on_node() { has "$(kn logs "$(kn get pods -o name | grep node-debugger)")" "kubelet.yaml"; }
check "debug of the node" wait_until 30 on_node
# Statistics: two of their kinds need what minke's pages recommend. Without it the kubelet asks cAdvisor,
# which knows the containers of containerd and CRI-O at their usual sockets alone.
summary() { # FILTER: true, if the pod's part of the node's summary is so
  is "$(k get --raw /api/v1/nodes/node/proxy/stats/summary | jq -r ".pods[] | select(.podRef.name == \"main\") | $1")" true
}
check "usage of a container's memory" wait_until 30 summary '.containers[] | select(.name == "web") | .memory.workingSetBytes > 0'
check "usage of processor time" wait_until 30 summary '.cpu.usageCoreNanoSeconds > 0'
check "usage of a container's disk" wait_until 30 summary '.containers[] | select(.name == "web") | .rootfs.usedBytes >= 0'
check "usage by metrics/resource" has "$(k get --raw /api/v1/nodes/node/proxy/metrics/resource)" \
  'container_memory_working_set_bytes{container="web",namespace="client",pod="main"}'
k get --raw /api/v1/nodes/node/proxy/metrics/cadvisor >"$NODE_DIR/cadvisor"
if [ -z "${PLAIN_KUBELET:-}" ]; then
  connected() { k get --raw /api/v1/nodes/node/proxy/metrics | grep -E '^kubelet_evented_pleg_connection_success_count [1-9]'; }
  check "the kubelet listens to the runtime's events" connected
  check "usage of a pod's network" wait_until 30 summary '.network.rxBytes >= 0'
  for series in container_cpu_usage_seconds_total container_memory_working_set_bytes container_fs_usage_bytes \
    container_network_receive_bytes_total container_processes container_start_time_seconds; do
    check "series $series" grep -q "^$series{.*pod=\"main\"" "$NODE_DIR/cadvisor"
  done
fi
done_with_namespace
