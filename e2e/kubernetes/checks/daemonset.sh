# A privileged DaemonSet that mounts on the host for other pods.
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
      volumes:
        - { name: dev, hostPath: { path: /dev } }
        - { name: shared, hostPath: { path: $NODE_DIR/shared } }
        - { name: kubelet, hostPath: { path: $NODE_DIR/kubelet } }
      containers:
        - name: main
          image: $BUSYBOX_IMAGE
          command: [sleep, "1000000"]
          securityContext: { privileged: true }
          volumeMounts:
            - { name: dev, mountPath: /host-dev }
            - { name: shared, mountPath: /shared, mountPropagation: Bidirectional }
            - { name: kubelet, mountPath: /kubelet, mountPropagation: Bidirectional }
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
Y
check "a privileged DaemonSet runs" kn rollout status daemonset/mounter --timeout=60s
ready sees apart
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
# A Secret is a tmpfs that the kubelet unmounts: what holds it elsewhere makes it busy. A mounter that starts
# after it has it, too.
uid=$(kn get pod apart -o jsonpath='{.metadata.uid}')
kn delete pod -l app=mounter >/dev/null
check "the mounter starts again" kn rollout status daemonset/mounter --timeout=60s
held() { mounter "grep -c '/pods/$uid/volumes/kubernetes.io~projected' /proc/self/mountinfo"; }
check "it holds another pod's volume" at_least 1 "$(held)"
kn delete pod apart >/dev/null
check "no deleted pod's volume stays busy" wait_until 30 [ ! -e "$NODE_DIR/kubelet/pods/$uid" ]
check "nor is it held" is "$(held)" 0
done_with_namespace
