# Probes of each kind, restarts and their delay.
in_namespace probes

mkdir -p "$NODE_DIR/word" && touch "$NODE_DIR/word/ready"
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
      startupProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1, failureThreshold: 30 }
      readinessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1 }
      livenessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1 }
    - name: grpc
      image: $AGNHOST_IMAGE
      args: [grpc-health-checking, --port=5000, --http-port=8090]
      startupProbe: { grpc: { port: 5000 }, periodSeconds: 1, failureThreshold: 30 }
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
metadata: { name: grpc-fails }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: $AGNHOST_IMAGE
      args: [grpc-health-checking, --port=5000, --http-port=8090, --delay-unhealthy-sec=3]
      livenessProbe: { grpc: { port: 5000 }, periodSeconds: 1, failureThreshold: 1 }
---
apiVersion: v1
kind: Pod
metadata: { name: startup-http-fails }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: $AGNHOST_IMAGE
      args: [netexec, --http-port=8080]
      startupProbe: { httpGet: { path: /healthz, port: 8081 }, periodSeconds: 1, failureThreshold: 2 }
---
apiVersion: v1
kind: Pod
metadata: { name: startup-grpc-fails }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: $AGNHOST_IMAGE
      args: [netexec, --http-port=8080]
      startupProbe: { grpc: { port: 8080 }, periodSeconds: 1, failureThreshold: 2 }
---
apiVersion: v1
kind: Service
metadata: { name: leaves }
spec: { selector: { app: leaves }, ports: [{ port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: leaves, labels: { app: leaves } }
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{ name: word, hostPath: { path: $NODE_DIR/word } }]
  containers:
    - name: main
      image: $AGNHOST_IMAGE
      args: [netexec, --http-port=8080]
      volumeMounts: [{ name: word, mountPath: /word }]
    - name: word
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      readinessProbe: { exec: { command: [test, -e, /word/ready] }, periodSeconds: 1, failureThreshold: 1 }
      volumeMounts: [{ name: word, mountPath: /word }]
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
check "a failing grpc probe restarts" wait_until 60 restarted grpc-fails
check "a failing startup probe restarts" wait_until 60 restarted startup-fails
check "one by http does" wait_until 60 restarted startup-http-fails
check "one by grpc does" wait_until 60 restarted startup-grpc-fails
leaves=$(kn get service leaves -o jsonpath='{.spec.clusterIP}')
answers() { fetch "http://$leaves/hostname"; }
endpoint() { is "$(kn get endpointslices -l kubernetes.io/service-name=leaves -o jsonpath='{.items[*].endpoints[*].conditions.ready}')" "$1"; }
check "a ready pod is behind its Service" wait_until 30 answers
rm "$NODE_DIR/word/ready"
check "a readiness probe that fails takes it out" wait_until 30 endpoint false
silent() { ! answers; }
check "nobody answers for it" wait_until 10 silent
touch "$NODE_DIR/word/ready"
check "it comes back" wait_until 30 answers
check "without a restart" is "$(status leaves '.containerStatuses[*].restartCount')" "0 0"
waits() { is "$(status "$1" '.containerStatuses[0].state.waiting.reason')" "$2"; }
check "a container that ends is delayed" wait_until 60 waits crash CrashLoopBackOff
check "its exit code is kept" is "$(status crash '.containerStatuses[0].lastState.terminated.exitCode')" 3
check "its log of before is kept" is "$(kn logs crash --previous)" "I end"
check "and followed to its end" is "$(timeout 20 "$KUBECTL" -n probes logs -f --previous crash)" "I end"
delay() { has "$(status crash '.containerStatuses[0].state.waiting.message')" "back-off $1 restarting failed container=main"; }
check "the delay grows" wait_until 60 delay 20s
check "and grows" wait_until 60 delay 40s
check "OnFailure restarts until it succeeds" wait_until 60 phase on-failure Succeeded
check "by one restart" is "$(status on-failure '.containerStatuses[0].restartCount')" 1
check "a probe that takes too long fails" event slow-probe "timed out"
check "and leaves the pod not ready" is "$(status slow-probe '.containerStatuses[0].ready')" false
check "what succeeds is not restarted" is "$(status good '.containerStatuses[*].restartCount')" "0 0 0 0"
done_with_namespace
