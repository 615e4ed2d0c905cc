# Init containers one after the other, sidecars around them, hooks, and how pods end.
in_namespace order

mkdir -p "$NODE_DIR/told"
step='sh, -c'
apply <<Y
apiVersion: v1
kind: Pod
metadata: { name: steps }
spec:
  restartPolicy: Never
  volumes: [{ name: told, hostPath: { path: $NODE_DIR/told } }]
  initContainers:
    - { name: one, image: $BUSYBOX_IMAGE, command: [$step, "sleep 1; echo one >>/told/steps"], volumeMounts: [{ name: told, mountPath: /told }] }
    - name: side
      image: $BUSYBOX_IMAGE
      restartPolicy: Always
      command: [$step, "echo side >>/told/steps; trap 'echo side ends >>/told/steps; exit' TERM; touch /up; while :; do sleep 0.1; done"]
      startupProbe: { exec: { command: [test, -e, /up] }, periodSeconds: 1 }
      volumeMounts: [{ name: told, mountPath: /told }]
    - { name: two, image: $BUSYBOX_IMAGE, command: [$step, "echo two >>/told/steps"], volumeMounts: [{ name: told, mountPath: /told }] }
  containers:
    - { name: main, image: $BUSYBOX_IMAGE, command: [$step, "sleep 1; echo main >>/told/steps"], volumeMounts: [{ name: told, mountPath: /told }] }
---
apiVersion: v1
kind: Pod
metadata: { name: init-fails }
spec:
  restartPolicy: Never
  initContainers: [{ name: one, image: $BUSYBOX_IMAGE, command: [$step, "echo reason of init; exit 4"] }]
  containers: [{ name: main, image: $BUSYBOX_IMAGE, command: [sleep, "1000000"] }]
---
apiVersion: v1
kind: Pod
metadata: { name: hooks }
spec:
  terminationGracePeriodSeconds: 20
  volumes: [{ name: told, hostPath: { path: $NODE_DIR/told } }]
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [$step, "trap 'echo signal >>/told/hooks; exit 0' TERM; while :; do sleep 0.1; done"]
      volumeMounts: [{ name: told, mountPath: /told }]
      lifecycle:
        postStart: { exec: { command: [$step, "echo after start >>/told/hooks"] } }
        preStop: { exec: { command: [$step, "echo before stop >>/told/hooks; sleep 1"] } }
---
apiVersion: v1
kind: Pod
metadata: { name: hook-fails }
spec:
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      lifecycle: { postStart: { exec: { command: [$step, "echo the hook says no; exit 1"] } } }
---
apiVersion: v1
kind: Pod
metadata: { name: http-hooks }
spec:
  terminationGracePeriodSeconds: 20
  volumes: [{ name: told, hostPath: { path: $NODE_DIR/told } }]
  initContainers:
    - name: hears
      image: $BUSYBOX_IMAGE
      restartPolicy: Always
      command: [$step, "while :; do nc -l -p 8080 -e sh -c 'read -r verb path rest; echo \$path >>/told/http; printf \"HTTP/1.0 200 OK\\r\\n\\r\\n\"'; done"]
      volumeMounts: [{ name: told, mountPath: /told }]
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [$step, "trap 'echo signal >>/told/http; exit 0' TERM; while :; do sleep 0.1; done"]
      volumeMounts: [{ name: told, mountPath: /told }]
      lifecycle:
        postStart: { httpGet: { path: /started, port: 8080 } }
        preStop: { httpGet: { path: /stopping, port: 8080 } }
---
apiVersion: v1
kind: Pod
metadata: { name: no-program }
spec: { containers: [{ name: main, image: $BUSYBOX_IMAGE, command: [/no/such/program] }] }
---
apiVersion: v1
kind: Pod
metadata: { name: deaf }
spec:
  terminationGracePeriodSeconds: 3
  containers: [{ name: main, image: $BUSYBOX_IMAGE, command: [$step, "trap '' TERM; while :; do sleep 0.1; done"] }]
---
apiVersion: v1
kind: Pod
metadata: { name: other-signal }
spec:
  os: { name: linux }
  terminationGracePeriodSeconds: 20
  volumes: [{ name: told, hostPath: { path: $NODE_DIR/told } }]
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [$step, "trap 'echo usr1 >>/told/usr1; exit 0' USR1; trap '' TERM; while :; do sleep 0.1; done"]
      lifecycle: { stopSignal: SIGUSR1 }
      volumeMounts: [{ name: told, mountPath: /told }]
---
apiVersion: v1
kind: Pod
metadata: { name: message }
spec:
  restartPolicy: Never
  containers:
    - { name: file, image: $BUSYBOX_IMAGE, command: [$step, "echo -n last words >/dev/termination-log; exit 5"] }
    - { name: log, image: $BUSYBOX_IMAGE, terminationMessagePolicy: FallbackToLogsOnError, command: [$step, "echo words of the log; exit 6"] }
Y
check "init containers, a sidecar and the main one run" wait_until 60 phase steps Succeeded
check "in order, the sidecar ends last" is "$(cat "$NODE_DIR/told/steps")" "one
side
two
main
side ends"
check "a failing init container fails its pod" wait_until 30 phase init-fails Failed
check "its log tells why" is "$(kn logs init-fails -c one)" "reason of init"
ready hooks http-hooks other-signal deaf
kn delete pod hooks >/dev/null
check "hooks and signal come in order" is "$(cat "$NODE_DIR/told/hooks")" "after start
before stop
signal"
kn delete pod http-hooks >/dev/null
check "hooks by http, too" is "$(cat "$NODE_DIR/told/http")" "/started
/stopping
signal"
described() { has "$(kn describe pod "$1" | sed -n '/^Events:/,$p')" "$2"; }
check "a program that is not there is in its pod's description" wait_until 30 described no-program /no/such/program
check "a failing hook is told" wait_until 30 event hook-fails FailedPostStartHook
kn delete pod other-signal >/dev/null
check "a stop signal of the pod's own" is "$(cat "$NODE_DIR/told/usr1")" usr1
start=$SECONDS
kn delete pod deaf >/dev/null
check "who is deaf is killed after the grace period" under 12 "$((SECONDS - start))"
check "but not before" at_least 3 "$((SECONDS - start))"
check "a pod of failing containers fails" wait_until 30 phase message Failed
check "a termination message from its file" is "$(status message '.containerStatuses[?(@.name=="file")].state.terminated.message')" "last words"
check "a termination message from the log" has "$(status message '.containerStatuses[?(@.name=="log")].state.terminated.message')" "words of the log"
done_with_namespace
