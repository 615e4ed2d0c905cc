# What pods share with the host, with one another's containers, and what they do not.
in_namespace namespaces

mkdir -p "$NODE_DIR/ids" && touch "$NODE_DIR/ids/root" && touch "$NODE_DIR/ids/user" && chown 1234 "$NODE_DIR/ids/user"
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
kind: Secret
metadata: { name: word }
stringData: { word: secret }
---
apiVersion: v1
kind: Pod
metadata: { name: own-users }
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  volumes:
    - { name: settings, configMap: { name: settings } }
    - { name: word, secret: { secretName: word, defaultMode: 0400 } }
    - name: several
      projected:
        sources:
          - secret: { name: word }
          - downwardAPI: { items: [{ path: name, fieldRef: { fieldPath: metadata.name } }] }
          - serviceAccountToken: { path: token }
    - { name: disk, emptyDir: {} }
    - { name: memory, emptyDir: { medium: Memory } }
    - { name: host, hostPath: { path: $NODE_DIR/ids } }
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      volumeMounts:
        - { name: settings, mountPath: /settings }
        - { name: word, mountPath: /word }
        - { name: several, mountPath: /several }
        - { name: disk, mountPath: /disk }
        - { name: memory, mountPath: /memory }
        - { name: host, mountPath: /host }
Y
check "pods of each kind are ready" ready host port shared apart own-users
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
check "a secret that only root may read" is "$(kn exec own-users -- sh -c 'stat -L -c %u:%a /word/word; cat /word/word')" "0:400
secret"
check "a projected one" is "$(kn exec own-users -- sh -c 'cat /several/word /several/name; test -s /several/token')" secretown-users
check "owns what it writes" is "$(kn exec own-users -- sh -c 'touch /disk/new /memory/new && stat -c %u /disk/new /memory/new')" "0
0"
check "files of the host belong to whom they do there" is "$(kn exec own-users -- stat -c %u /host/root /host/user)" "0
1234"
kn exec own-users -- touch /host/new
check "and what it writes there to root" is "$(stat -c %u "$NODE_DIR/ids/new")" 0
done_with_namespace
