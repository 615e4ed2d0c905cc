# Requests and limits as the kernel has them, their change in place, and what happens beyond them.
in_namespace resources

apply <<Y
apiVersion: v1
kind: Pod
metadata: { name: guaranteed }
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      resources: { limits: { cpu: 200m, memory: 64Mi }, requests: { cpu: 200m, memory: 64Mi } }
---
apiVersion: v1
kind: Pod
metadata: { name: burstable }
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      resources: { requests: { cpu: 100m, memory: 32Mi }, limits: { memory: 128Mi } }
---
apiVersion: v1
kind: Pod
metadata: { name: restarts }
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sleep, "1000000"]
      resources: { requests: { cpu: 100m, memory: 32Mi }, limits: { cpu: 200m, memory: 64Mi } }
      resizePolicy: [{ resourceName: cpu, restartPolicy: NotRequired }, { resourceName: memory, restartPolicy: RestartContainer }]
---
apiVersion: v1
kind: Pod
metadata: { name: best-effort }
spec:
  terminationGracePeriodSeconds: 0
  containers: [{ name: main, image: $BUSYBOX_IMAGE, command: [sleep, "1000000"] }]
---
apiVersion: v1
kind: Pod
metadata: { name: greedy }
spec:
  restartPolicy: Never
  containers:
    - { name: main, image: $BUSYBOX_IMAGE, command: [dd, if=/dev/zero, of=/dev/null, bs=100M], resources: { limits: { memory: 32Mi } } }
---
apiVersion: v1
kind: Pod
metadata: { name: greedy-child }
spec:
  restartPolicy: Never
  containers:
    - name: main
      image: $BUSYBOX_IMAGE
      command: [sh, -c, "sh -c 'dd if=/dev/zero of=/dev/null bs=100M'; echo child ended by \$?"]
      resources: { limits: { memory: 32Mi } }
Y
ready guaranteed burstable restarts best-effort
check "equal requests and limits are Guaranteed" is "$(status guaranteed .qosClass)" Guaranteed
check "a request is Burstable" is "$(status burstable .qosClass)" Burstable
check "nothing is BestEffort" is "$(status best-effort .qosClass)" BestEffort
ended() { is "$(status "$1" '.containerStatuses[0].state.terminated.reason')" "$2"; }
# kernel POD V1-FILE V2-FILE: a value of the container's cgroup, as the host has it.
kernel() {
  local id at
  id=$(status "$1" '.containerStatuses[0].containerID')
  for at in $(find /sys/fs/cgroup/*"$NODE_CGROUP" -type d -name "*${id#*://}*"); do
    cat "$at/$2" 2>/dev/null || cat "$at/$3" 2>/dev/null || continue
    return
  done
}
check "the memory limit is in force" is "$(kernel guaranteed memory.limit_in_bytes memory.max)" 67108864
check "the processor limit is in force" has "$(kernel guaranteed cpu.cfs_quota_us cpu.max)" 20000
check "the processor's share is" is "$(kernel burstable cpu.shares cpu.weight)" 102
check "the best effort is the first to be killed" is "$(kn exec best-effort -- cat /proc/1/oom_score_adj)" 1000
check "the guaranteed is not" under 1 "$(kn exec guaranteed -- cat /proc/1/oom_score_adj)"
check "beyond its memory a container is OOMKilled" wait_until 30 ended greedy OOMKilled
check "a child beyond it alone is" wait_until 30 phase greedy-child Succeeded
check "and its parent goes on" has "$(kn logs greedy-child)" "child ended by 137"

resize() { kn patch pod "$1" --subresource resize --patch "{\"spec\":{\"containers\":[{\"name\":\"main\",\"resources\":$2}]}}"; }
check "a resize is taken" resize guaranteed '{"requests":{"cpu":"300m","memory":"96Mi"},"limits":{"cpu":"300m","memory":"96Mi"}}'
resized() { is "$(status "$1" '.containerStatuses[0].resources.limits.memory')" "$2" && is "$(status "$1" '.containerStatuses[0].resources.limits.cpu')" "$3"; }
check "and told as done" wait_until 60 resized guaranteed 96Mi 300m
check "the new memory limit is in force" is "$(kernel guaranteed memory.limit_in_bytes memory.max)" 100663296
check "the new processor limit is in force" has "$(kernel guaranteed cpu.cfs_quota_us cpu.max)" 30000
check "one to less is taken" resize guaranteed '{"requests":{"cpu":"100m","memory":"48Mi"},"limits":{"cpu":"100m","memory":"48Mi"}}'
check "and told as done" wait_until 60 resized guaranteed 48Mi 100m
check "the smaller memory limit is in force" is "$(kernel guaranteed memory.limit_in_bytes memory.max)" 50331648
check "the smaller processor limit is in force" has "$(kernel guaranteed cpu.cfs_quota_us cpu.max)" 10000
check "without a restart" is "$(status guaranteed '.containerStatuses[0].restartCount')" 0
check "a resize of the processor where memory asks for a restart" resize restarts '{"requests":{"cpu":"150m"},"limits":{"cpu":"250m"}}'
check "is told as done" wait_until 60 resized restarts 64Mi 250m
check "without a restart" is "$(status restarts '.containerStatuses[0].restartCount')" 0
check "a resize of the memory" resize restarts '{"requests":{"memory":"48Mi"},"limits":{"memory":"80Mi"}}'
check "is told as done" wait_until 60 resized restarts 80Mi 250m
check "with a restart" is "$(status restarts '.containerStatuses[0].restartCount')" 1
check "its memory limit is in force" is "$(kernel restarts memory.limit_in_bytes memory.max)" 83886080
done_with_namespace
