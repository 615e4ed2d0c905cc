# Beyond its share of the disk a pod is evicted.
in_namespace pressure

apply <<Y
apiVersion: v1
kind: Pod
metadata: { name: layer }
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sh, -c, "dd if=/dev/zero of=/file bs=1M count=30; sleep 1000000"]
      resources: { limits: { ephemeral-storage: 10Mi } }
---
apiVersion: v1
kind: Pod
metadata: { name: volume }
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{ name: disk, emptyDir: { sizeLimit: 10Mi } }]
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sh, -c, "dd if=/dev/zero of=/disk/file bs=1M count=30; sleep 1000000"]
      volumeMounts: [{ name: disk, mountPath: /disk }]
Y
evicted() { is "$(status "$1" .reason)" Evicted; }
check "a pod that writes past its limit is evicted" wait_until 150 evicted layer
check "one that fills its volume is" wait_until 150 evicted volume
check "the reason is told" has "$(status layer .message)" "ephemeral"
done_with_namespace
