# Volumes of each kind a node makes itself, and what of a change becomes visible.
in_namespace volumes

mkdir -p "$NODE_DIR/host/sub" && echo "of the host" >"$NODE_DIR/host/file" && echo below >"$NODE_DIR/host/sub/file"
apply <<Y
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { colour: red, size: "7" }
---
apiVersion: v1
kind: Secret
metadata: { name: secret }
stringData: { password: hush }
---
apiVersion: v1
kind: Pod
metadata: { name: main, labels: { tier: front }, annotations: { note: "a word" } }
spec:
  terminationGracePeriodSeconds: 0
  securityContext: { fsGroup: 4321 }
  volumes:
    - { name: settings, configMap: { name: settings } }
    - { name: secret, secret: { secretName: secret, defaultMode: 0400 } }
    - { name: disk, emptyDir: {} }
    - { name: memory, emptyDir: { medium: Memory, sizeLimit: 8Mi } }
    - { name: host, hostPath: { path: $NODE_DIR/host, type: Directory } }
    - { name: host-file, hostPath: { path: $NODE_DIR/host/file, type: File } }
    - name: all
      projected:
        sources:
          - { configMap: { name: settings, items: [{ key: colour, path: a/colour }] } }
          - { secret: { name: secret } }
          - { serviceAccountToken: { path: token, expirationSeconds: 600 } }
          - downwardAPI: { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }] }
    - name: downward
      downwardAPI:
        items:
          - { path: note, fieldRef: { fieldPath: "metadata.annotations['note']" } }
          - { path: limit, resourceFieldRef: { containerName: main, resource: limits.memory, divisor: 1Mi } }
    - { name: image, image: { reference: $NGINX_IMAGE, pullPolicy: IfNotPresent } }
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      resources: { limits: { memory: 96Mi } }
      envFrom: [{ configMapRef: { name: settings } }]
      env:
        - { name: PASSWORD, valueFrom: { secretKeyRef: { name: secret, key: password } } }
        - { name: POD_IP, valueFrom: { fieldRef: { fieldPath: status.podIP } } }
        - { name: NODE, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
        - { name: LIMIT, valueFrom: { resourceFieldRef: { resource: limits.memory, divisor: 1Mi } } }
      volumeMounts:
        - { name: settings, mountPath: /settings }
        - { name: settings, mountPath: /one/colour, subPath: colour }
        - { name: secret, mountPath: /secret, readOnly: true }
        - { name: disk, mountPath: /disk }
        - { name: disk, mountPath: /part, subPathExpr: "on-\$(NODE)" }
        - { name: memory, mountPath: /memory }
        - { name: host, mountPath: /host }
        - { name: host, mountPath: /host-sub, subPath: sub, readOnly: true }
        - { name: host-file, mountPath: /host-file }
        - { name: all, mountPath: /all }
        - { name: downward, mountPath: /downward }
        - { name: image, mountPath: /image }
        - { name: image, mountPath: /pages, subPath: usr/share/nginx/html }
    - name: other
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      volumeMounts: [{ name: disk, mountPath: /disk, readOnly: true }, { name: disk, mountPath: /strict, readOnly: true, recursiveReadOnly: IfPossible }]
---
apiVersion: v1
kind: Pod
metadata: { name: absent }
spec:
  volumes: [{ name: absent, hostPath: { path: $NODE_DIR/absent, type: Directory } }]
  containers: [{ name: main, image: $BUSYBOX_IMAGE, volumeMounts: [{ name: absent, mountPath: /absent }] }]
Y
check "a pod with every kind of volume is ready" ready main
in_main() { kn exec main -c main -- sh -c "$1"; }
check "ConfigMap as files" is "$(in_main 'cat /settings/colour /settings/size')" red7
check "ConfigMap and Secret as environment" is "$(in_main 'echo $colour $size $PASSWORD')" "red 7 hush"
check "one file of a ConfigMap by subPath" is "$(in_main 'cat /one/colour')" red
check "Secret with its mode" is "$(in_main 'cat /secret/password; stat -L -c %a /secret/password')" "hush440"
check "Secret is read-only" fails in_main 'echo >/secret/new'
check "Secret is in memory" has "$(in_main 'grep " /secret " /proc/mounts')" tmpfs
check "a projected volume" is "$(in_main 'cat /all/a/colour /all/password /all/labels')" 'redhushtier="front"'
check "a token for the API server" in_main "[ \$(wc -c </all/token) -gt 200 ]"
check "the API server takes the token" has "$(in_main 'cat /var/run/secrets/kubernetes.io/serviceaccount/token' | xargs -I TOKEN curl -sk -H 'Authorization: Bearer TOKEN' "https://$NODE_IP:6443/api/v1/namespaces/volumes/pods")" 'system:serviceaccount:volumes:default'
check "the downward API as files" is "$(in_main 'cat /downward/note; echo; cat /downward/limit')" "a word
96"
check "the downward API as environment" is "$(in_main 'echo $POD_IP $NODE $LIMIT')" "$(status main .podIP) node 96"
in_main 'echo shared >/disk/file; echo part >/part/file'
check "emptyDir is shared by containers" is "$(kn exec main -c other -- cat /disk/file)" shared
check "a part of it by subPathExpr" is "$(kn exec main -c other -- cat /disk/on-node/file)" part
check "and read-only where asked" fails kn exec main -c other -- touch /disk/no
check "and recursively" fails kn exec main -c other -- touch /strict/no
check "emptyDir in memory" has "$(in_main 'grep " /memory " /proc/mounts')" tmpfs
check "of its size" has "$(in_main 'df -m /memory')" " 8 "
check "hostPath" is "$(in_main 'cat /host/file /host-file /host-sub/file')" "of the host
of the host
below"
in_main 'echo "of the pod" >/host/new'
check "hostPath is written" is "$(cat "$NODE_DIR/host/new")" "of the pod"
check "hostPath by subPath is read-only" fails in_main 'touch /host-sub/no'
check "fsGroup owns the volume" is "$(in_main 'stat -c %g /disk')" 4321
check "fsGroup is a group of the process" has "$(in_main 'id -G')" 4321
check "image volume" in_main 'test -x /image/usr/sbin/nginx'
check "image volume is read-only" fails in_main 'touch /image/no'
check "a part of an image by subPath" has "$(in_main 'cat /pages/index.html')" "Welcome to nginx"
check "/etc/hosts names the pod" has "$(in_main 'cat /etc/hosts')" "$(status main .podIP)"
kn patch configmap settings -p '{"data":{"colour":"blue"}}' >/dev/null
kn patch secret secret -p '{"stringData":{"password":"shout"}}' >/dev/null
changed() { is "$(in_main 'cat /settings/colour /secret/password')" blueshout; }
check "changes of ConfigMap and Secret appear" wait_until 90 changed
check "a host path that is not there is named" event absent "$NODE_DIR/absent"
done_with_namespace
