# A pod that follows another's log on the node, as collectors do, while the kubelet rotates it.
in_namespace logs

# The runtime may write to the old file for a moment after the new one is there: collectors wait, too.
sed "s|BUSYBOX|$BUSYBOX_IMAGE|" <<'Y' | apply
apiVersion: v1
kind: Pod
metadata: { name: reader }
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{ name: log, hostPath: { path: /var/log } }]
  containers:
    - name: main
      image: BUSYBOX
      volumeMounts: [{ name: log, mountPath: /var/log, readOnly: true }]
      command:
        - sh
        - -c
        - |
          until log=$(readlink -f /var/log/containers/writer_logs_main-*.log) && [ -e "$log" ]; do sleep 0.1; done
          while :; do
            exec 3<"$log"
            inode=$(stat -L -c %i /proc/$$/fd/3)
            until now=$(stat -c %i "$log") && [ "$now" != "$inode" ]; do
              cat <&3 >>/seen
              sleep 0.1
            done 2>/dev/null
            sleep 1
            cat <&3 >>/seen
            echo >>/followed
          done
Y
ready reader
apply <<Y
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
ready writer
reader() { kn exec reader -- sh -c "$1"; }
followed() { at_least "$1" "$(reader 'wc -l </followed 2>/dev/null || echo 0')"; }
check "a pod follows a log over its rotation" wait_until 60 followed 1
restart_runtime
check "and over a restart of the runtime" wait_until 60 followed 3
seen() { is "$(reader 'wc -l </seen')" 20000; }
check "it has seen every line" wait_until 60 seen
in_order() { reader 'awk "\$5 != NR { print NR, \$0; bad = 1 } END { exit bad }" /seen'; }
check "each once and in order" in_order
done_with_namespace
