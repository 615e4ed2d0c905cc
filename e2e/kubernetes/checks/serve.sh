# A Deployment behind a Service: names, ports, rolling update, scale.
in_namespace serve

apply <<Y
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 3
  selector: { matchLabels: { app: web } }
  strategy: { rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: server
          image: $AGNHOST_IMAGE
          args: [netexec, --http-port=8080]
          env: [{ name: RELEASE, value: one }]
          ports: [{ containerPort: 8080 }]
          readinessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1 }
          lifecycle: { preStop: { sleep: { seconds: 2 } } }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  selector: { app: web }
  type: NodePort
  ports: [{ port: 80, targetPort: 8080 }]
---
apiVersion: v1
kind: Pod
metadata: { name: client }
spec:
  terminationGracePeriodSeconds: 0
  containers: [{ name: main, image: $BUSYBOX_IMAGE, command: [sleep, "1000000"] }]
Y
check "a Deployment becomes available" kn rollout status deployment/web --timeout 90s
ready client
cluster_ip=$(kn get service web -o jsonpath='{.spec.clusterIP}')
node_port=$(kn get service web -o jsonpath='{.spec.ports[0].nodePort}')
check "a Service answers from the node" wait_until 20 fetch "http://$cluster_ip/hostname"
check "a Service answers from a pod" wait_until 10 kn exec client -- timeout 5 wget -qO- "http://$cluster_ip/hostname"
check "a Service answers at the node's port" wait_until 10 fetch "http://$NODE_IP:$node_port/hostname"
check "a Service is found by its name" wait_until 60 kn exec client -- timeout 5 wget -qO- http://web.serve.svc.cluster.local/hostname
check "and by its short name" wait_until 10 kn exec client -- timeout 5 wget -qO- http://web/hostname
check "a name that there is not is refused" fails kn exec client -- nslookup no-such-name.serve.svc.cluster.local
spread() { [ "$(for _ in $(seq 30); do fetch "http://$cluster_ip/hostname"; echo; done | sort -u | grep -c web)" -eq 3 ]; }
check "requests reach all pods" wait_until 10 spread
hairpin() { kn exec "$(kn get pod -l app=web -o name | head -n 1)" -- sh -c "for i in 1 2 3 4 5 6 7 8 9 10; do timeout 5 wget -qO- http://$cluster_ip/hostname || exit 1; done"; }
check "a pod reaches itself through its Service" hairpin
check "the pod reaches the API server" wait_until 10 kn exec client -- sh -c "timeout 3 nc kubernetes.default 443 </dev/null"

(while [ ! -e "$NODE_DIR/updated" ]; do fetch "http://$cluster_ip/hostname" >/dev/null && echo answered || echo failed; sleep 0.1; done) >"$NODE_DIR/requests" &
kn set env deployment/web RELEASE=two >/dev/null
check "a rolling update goes through" kn rollout status deployment/web --timeout 120s
touch "$NODE_DIR/updated"; wait $!
check "no request failed meanwhile" is "$(sort -u "$NODE_DIR/requests")" answered
check "the new pods have the new environment" has "$(kn exec deployment/web -- sh -c 'echo $RELEASE')" two
kn rollout undo deployment/web >/dev/null
check "and it can be undone" kn rollout status deployment/web --timeout 120s
kn scale deployment/web --replicas 1 >/dev/null
alone() { [ "$(kn get pods -l app=web -o name | wc -l)" -eq 1 ]; }
check "scaled down, the others go" wait_until 60 alone
done_with_namespace
