# A privileged DaemonSet that mounts on the host for other pods, and one that follows their logs.
in_namespace daemonset

mkdir -p "$NODE_DIR/shared"
mount --bind "$NODE_DIR/shared" "$NODE_DIR/shared" && mount --make-rshared "$NODE_DIR/shared"
apply <<Y
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: mounter }
spec:
  selector: { matchLabels: { app: mounter } }
  template:
    metadata: { labels: { app: mounter } }
    spec:
      hostNetwork: true
      hostPID: true
      terminationGracePeriodSeconds: 0
      volumes: [{ name: dev, hostPath: { path: /dev } }, { name: shared, hostPath: { path: $NODE_DIR/shared } }]
      containers:
        - name: main
          image: $BUSYBOX_IMAGE
          command: [sleep, "1000000"]
          securityContext: { privileged: true }
          volumeMounts:
            - { name: dev, mountPath: /host-dev }
            - { name: shared, mountPath: /shared, mountPropagation: Bidirectional }
---
apiVersion: v1
kind: Pod
metadata: { name: sees }
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{ name: shared, hostPath: { path: $NODE_DIR/shared } }]
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      volumeMounts: [{ name: shared, mountPath: /shared, mountPropagation: HostToContainer }]
---
apiVersion: v1
kind: Pod
metadata: { name: apart }
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{ name: shared, hostPath: { path: $NODE_DIR/shared } }]
  containers:
    - { name: main, image: $BUSYBOX_IMAGE, command: [sleep, "1000000"], volumeMounts: [{ name: shared, mountPath: /shared }] }
---
apiVersion: v1
kind: Pod
metadata: { name: writer }
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sh, -c, "i=0; while [ \$i -lt 20000 ]; do i=\$((i+1)); echo line \$i of a log that grows; [ \$((i % 200)) -ne 0 ] || sleep 0.2; done; sleep 1000000"]
Y
check "a privileged DaemonSet runs" kn rollout status daemonset/mounter --timeout=60s
ready sees apart writer
mounter() { kn exec daemonset/mounter -- sh -c "$1"; }
check "it sees the host's devices" mounter 'test -c /host-dev/kmsg'
check "and enters the host" has "$(mounter 'nsenter -t 1 -m -- cat /proc/1/cmdline 2>&1 | tr "\0" " "')" cluster
mounts_new() { mounter "mkdir -p /shared/$1 && mount -t tmpfs $1 /shared/$1 && echo $1 >/shared/$1/file"; }
check "it mounts" mounts_new first
check "its mount appears on the host" is "$(cat "$NODE_DIR/shared/first/file")" first
check "and in a running pod with HostToContainer" is "$(kn exec sees -- cat /shared/first/file)" first
check "and in none without" fails kn exec apart -- cat /shared/first/file
mounter 'umount /shared/first'
check "it goes from the host again" fails mountpoint -q "$NODE_DIR/shared/first"
check "and from the pod" fails kn exec sees -- cat /shared/first/file
restart_runtime
check "a mount after a restart of the runtime" wait_until 30 mounts_new second
check "appears on the host" is "$(cat "$NODE_DIR/shared/second/file")" second
check "and in the running pod" is "$(kn exec sees -- cat /shared/second/file)" second
mounter 'umount /shared/second'
check "and goes again" fails mountpoint -q "$NODE_DIR/shared/second"
# A Secret is a tmpfs that the kubelet unmounts: what holds it elsewhere makes it busy.
uid=$(kn get pod apart -o jsonpath='{.metadata.uid}')
kn delete pod apart >/dev/null
check "no deleted pod's volume stays busy" wait_until 30 [ ! -e "$NODE_DIR/kubelet/pods/$uid" ]
done_with_namespace
