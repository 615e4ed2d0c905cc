# What pods share with the host, with one another's containers, and what they do not.
in_namespace namespaces

apply <<Y
apiVersion: v1
kind: Pod
metadata: { name: host }
spec:
  hostNetwork: true
  hostPID: true
  hostIPC: true
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: $AGNHOST_IMAGE
      args: [netexec, --http-port=12080, --udp-port=12083]
      readinessProbe: { httpGet: { path: /healthz, port: 12080 }, periodSeconds: 1 }
---
apiVersion: v1
kind: Pod
metadata: { name: port }
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: $AGNHOST_IMAGE
      args: [netexec, --http-port=8080]
      ports: [{ containerPort: 8080, hostPort: 12081 }, { containerPort: 8081, hostPort: 12082, protocol: UDP }]
---
apiVersion: v1
kind: Pod
metadata: { name: shared }
spec:
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 0
  containers:
    - { name: main, image: $BUSYBOX_IMAGE, command: [sleep, "1000001"] }
    - { name: other, image: $BUSYBOX_IMAGE, command: [sleep, "1000002"] }
---
apiVersion: v1
kind: Pod
metadata: { name: apart }
spec:
  hostname: a-name
  subdomain: below
  terminationGracePeriodSeconds: 0
  hostAliases: [{ ip: 192.0.2.99, hostnames: [alias] }]
  dnsPolicy: None
  dnsConfig: { nameservers: [192.0.2.53], searches: [example.test], options: [{ name: ndots, value: "2" }] }
  containers:
    - { name: main, image: $BUSYBOX_IMAGE, command: [sleep, "1000001"] }
    - { name: other, image: $BUSYBOX_IMAGE, command: [sleep, "1000002"] }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { colour: red }
---
apiVersion: v1
kind: Pod
metadata: { name: own-users }
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  volumes: [{ name: settings, configMap: { name: settings } }, { name: disk, emptyDir: {} }]
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      volumeMounts: [{ name: settings, mountPath: /settings }, { name: disk, mountPath: /disk }]
Y
check "pods of each kind are ready" ready host port shared apart own-users
kn describe pods > /tmp/kb/desc
check "hostNetwork has the node's address" is "$(status host .podIP)" "$NODE_IP"
check "hostNetwork serves there" fetch "http://$NODE_IP:12080/hostname"
check "hostPID sees the node's processes" has "$(kn exec host -- ps)" kube-apiserver
check "hostIPC is the node's" is "$(kn exec host -- readlink /proc/self/ns/ipc)" "$(readlink /proc/self/ns/ipc)"
check "hostPort" fetch "http://$NODE_IP:12081/hostname"
check "hostPort of UDP" has "$(timeout 3 bash -c "exec 3<>/dev/udp/$NODE_IP/12082; echo hostname >&3; head -n 1 -c 4 <&3")" port
check "shareProcessNamespace shares it" has "$(kn exec shared -c main -- ps)" "sleep 1000002"
check "otherwise each container has its own" fails grep -q 1000002 <(kn exec apart -c main -- ps)
check "its first process is 1" has "$(kn exec apart -c main -- ps)" " 1 root     sleep 1000001"
check "hostname" is "$(kn exec apart -c main -- hostname)" a-name
check "the full name" has "$(kn exec apart -c main -- cat /etc/hosts)" a-name.below.namespaces.svc.cluster.local
check "hostAliases" has "$(kn exec apart -c main -- cat /etc/hosts)" "alias"
check "dnsConfig" is "$(kn exec apart -c main -- cat /etc/resolv.conf)" "search example.test
nameserver 192.0.2.53
options ndots:2"
check "hostUsers: false is root inside" is "$(kn exec own-users -- id -u)" 0
check "and nobody outside" at_least 65536 "$(kn exec own-users -- awk '{ print $2; exit }' /proc/self/uid_map)"
check "reads its volumes" is "$(kn exec own-users -- cat /settings/colour)" red
check "owns what it writes" is "$(kn exec own-users -- sh -c 'touch /disk/new && stat -c %u /disk/new')" 0
done_with_namespace
