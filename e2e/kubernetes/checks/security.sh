# Who the processes are and what they may.
in_namespace security

mkdir -p "$NODE_DIR/kubelet/seccomp"
echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}' >"$NODE_DIR/kubelet/seccomp/no-mkdir.json"
container() { # POD CONTAINER-SECURITY [POD-SECURITY]
  cat <<Y
---
apiVersion: v1
kind: Pod
metadata: { name: $1 }
spec:
  terminationGracePeriodSeconds: 0
  securityContext: ${3:-{\}}
  containers: [{ name: main, image: "${4:-$BUSYBOX_IMAGE}", command: [sleep, "1000000"], securityContext: $2 }]
Y
}
{
  container user '{ runAsUser: 1234, runAsGroup: 2345 }' '{ supplementalGroups: [3456], fsGroup: 4567 }'
  container not-root '{ runAsNonRoot: true }'
  container read-only '{ readOnlyRootFilesystem: true }'
  container plain '{}'
  container no-caps '{ capabilities: { drop: [ALL] } }'
  container caps '{ capabilities: { add: [NET_ADMIN, SYS_TIME], drop: [CHOWN] } }'
  container privileged '{ privileged: true }'
  container no-gain '{ allowPrivilegeEscalation: false, runAsUser: 1000 }' '{}' registry.k8s.io/e2e-test-images/nonewprivs:1.3
  container gain '{ allowPrivilegeEscalation: true, runAsUser: 1000 }' '{}' registry.k8s.io/e2e-test-images/nonewprivs:1.3
  container default-profile '{ seccompProfile: { type: RuntimeDefault } }'
  container own-profile '{ seccompProfile: { type: Localhost, localhostProfile: no-mkdir.json } }'
  container no-profile '{ seccompProfile: { type: Localhost, localhostProfile: absent.json } }'
  container sysctl '{}' '{ sysctls: [{ name: net.ipv4.ip_unprivileged_port_start, value: "80" }, { name: kernel.shm_rmid_forced, value: "1" }] }'
  container bad-sysctl '{}' '{ sysctls: [{ name: kernel.msgmax, value: "1" }] }'
  container strict-groups '{ runAsUser: 1000 }' '{ supplementalGroupsPolicy: Strict, supplementalGroups: [60000] }' gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest
  container merged-groups '{ runAsUser: 1000 }' '{ supplementalGroups: [60000] }' gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest
} | apply
ready user read-only plain no-caps caps privileged no-gain gain default-profile own-profile sysctl strict-groups merged-groups
in_pod() { kn exec "$1" -- sh -c "$2"; }
field() { in_pod "$1" "grep $2: /proc/1/status" | awk '{ print $2 }'; }
check "runAsUser and runAsGroup" is "$(in_pod user 'id -u; id -g')" "1234
2345"
check "supplementalGroups and fsGroup" is "$(in_pod user 'id -G')" "2345 3456 4567"
check "supplementalGroupsPolicy: Strict leaves out the image's" is "$(in_pod strict-groups 'id -G')" "1000 60000"
check "otherwise they are there" is "$(in_pod merged-groups 'id -G')" "1000 50000 60000"
check "the status names them" is "$(status user '.containerStatuses[0].user.linux.uid')" 1234
check "runAsNonRoot refuses root" wait_until 30 event not-root "runAsNonRoot"
check "readOnlyRootFilesystem" fails in_pod read-only 'touch /file'
check "otherwise it is written" in_pod plain 'touch /file'
check "no capability" is "$(field no-caps CapEff)" 0000000000000000
check "the usual capabilities" is "$(field plain CapEff)" 00000000a80425fb
check "some more, some less" is "$(field caps CapEff)" 00000000aa0435fa
check "privileged has all there are" is "$(field privileged CapEff)" "$(awk '/CapBnd/ { print $2 }' /proc/self/status)"
check "privileged sees devices" in_pod privileged 'test -e /dev/kmsg'
check "others do not" fails in_pod plain 'test -e /dev/kmsg'
check "privileged may mount" in_pod privileged 'mkdir /m && mount -t tmpfs none /m'
check "others may not" fails in_pod plain 'mkdir /m && mount -t tmpfs none /m'
check "hidden files of /proc are" is "$(in_pod plain 'cat /proc/timer_list')" ""
check "files of /proc/sys are read-only" fails in_pod plain 'echo 1 >/proc/sys/vm/drop_caches'
check "allowPrivilegeEscalation: false holds setuid programs" has "$(in_pod no-gain /nnp)" "Effective uid: 1000"
check "true does not" has "$(in_pod gain /nnp)" "Effective uid: 0"
check "RuntimeDefault filters" is "$(field default-profile Seccomp)" 2
check "no profile does not" is "$(field plain Seccomp)" 0
check "a profile of the node's own filters" has "$(in_pod own-profile 'mkdir /new' 2>&1)" "not supported"
check "one that is not there is named" wait_until 30 event no-profile absent.json
check "safe sysctls are set" is "$(in_pod sysctl 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced')" "80
1"
check "others are forbidden" has "$(status bad-sysctl '.reason')" SysctlForbidden
done_with_namespace
