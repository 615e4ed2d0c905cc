# Probes of each kind, restarts and their delay.
in_namespace probes

apply <<Y
apiVersion: v1
kind: Pod
metadata: { name: good }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: http
      image: $AGNHOST_IMAGE
      args: [netexec, --http-port=8080]
      readinessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1 }
      livenessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1 }
    - name: grpc
      image: $AGNHOST_IMAGE
      args: [grpc-health-checking, --port=5000, --http-port=8090]
      readinessProbe: { grpc: { port: 5000 }, periodSeconds: 1 }
      livenessProbe: { grpc: { port: 5000 }, periodSeconds: 1 }
    - name: tcp
      image: $AGNHOST_IMAGE
      args: [netexec, --http-port=8082, --udp-port=8083]
      startupProbe: { tcpSocket: { port: 8082 }, periodSeconds: 1 }
      livenessProbe: { tcpSocket: { port: 8082 }, periodSeconds: 1 }
    - name: exec
      image: $BUSYBOX_IMAGE
      command: [sh, -c, "sleep 2; touch /up; sleep 1000000"]
      startupProbe: { exec: { command: [test, -e, /up] }, periodSeconds: 1, failureThreshold: 30 }
      readinessProbe: { exec: { command: [test, -e, /up] }, periodSeconds: 1 }
---
apiVersion: v1
kind: Pod
metadata: { name: http-fails }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: $AGNHOST_IMAGE
      args: [liveness]
      livenessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1, failureThreshold: 1 }
---
apiVersion: v1
kind: Pod
metadata: { name: tcp-fails }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sh, -c, "timeout 5 nc -ll -p 9000 -e true; sleep 1000000"]
      livenessProbe: { tcpSocket: { port: 9000 }, periodSeconds: 1, failureThreshold: 2, initialDelaySeconds: 1 }
---
apiVersion: v1
kind: Pod
metadata: { name: slow-probe }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      readinessProbe: { exec: { command: [sleep, "30"] }, periodSeconds: 2, timeoutSeconds: 1 }
---
apiVersion: v1
kind: Pod
metadata: { name: startup-fails }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      startupProbe: { exec: { command: ["false"] }, periodSeconds: 1, failureThreshold: 2 }
---
apiVersion: v1
kind: Pod
metadata: { name: crash }
spec:
  containers: [{ name: main, image: $BUSYBOX_IMAGE, command: [sh, -c, "echo I end; exit 3"] }]
---
apiVersion: v1
kind: Pod
metadata: { name: on-failure }
spec:
  restartPolicy: OnFailure
  volumes: [{ name: kept, emptyDir: {} }]
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sh, -c, "[ -e /kept/once ] && exit 0; touch /kept/once; exit 1"]
      volumeMounts: [{ name: kept, mountPath: /kept }]
Y
check "http, grpc, tcp and exec probes succeed" ready good
restarted() { [ "$(status "$1" '.containerStatuses[0].restartCount')" -ge 1 ]; }
check "a failing http probe restarts" wait_until 60 restarted http-fails
check "a failing tcp probe restarts" wait_until 60 restarted tcp-fails
check "a failing startup probe restarts" wait_until 60 restarted startup-fails
waits() { is "$(status "$1" '.containerStatuses[0].state.waiting.reason')" "$2"; }
check "a container that ends is delayed" wait_until 60 waits crash CrashLoopBackOff
check "its exit code is kept" is "$(status crash '.containerStatuses[0].lastState.terminated.exitCode')" 3
check "its log of before is kept" is "$(kn logs crash --previous)" "I end"
check "OnFailure restarts until it succeeds" wait_until 60 phase on-failure Succeeded
check "by one restart" is "$(status on-failure '.containerStatuses[0].restartCount')" 1
check "a probe that takes too long fails" event slow-probe "timed out"
check "and leaves the pod not ready" is "$(status slow-probe '.containerStatuses[0].ready')" false
check "what succeeds is not restarted" is "$(status good '.containerStatuses[*].restartCount')" "0 0 0 0"
done_with_namespace
