# A clean node made of namespaces, for parts that run a kubelet: network, mounts and processes of the
# run's own. A kubelet owns its node (ports, /var/log/containers, rules in the packet filter); here it
# owns all that without touching the machine, runs go side by side, and the end of the first process
# takes processes, links, addresses and mounts with it. Only cgroups have no such end, so the run has
# one root of its own in each hierarchy and removes it.
# Sourced; needs common.sh.

# on_clean_node PART [ARGS]: outside, runs PART in a new node, removes what it leaves and exits with
# its code; inside, sets NODE_DIR and NODE_CGROUP and returns. What needs the machine's network must
# have been fetched and built before.
on_clean_node() {
  local code
  if [ -n "${NODE_DIR:-}" ]; then
    furnish_node
    return
  fi
  NODE_DIR=$(mktemp -d /tmp/minke-node-XXXXXX)
  chmod 755 "$NODE_DIR" # runtimes enter it as the users of pods
  NODE_CGROUP=/$(basename "$NODE_DIR")
  export NODE_DIR NODE_CGROUP
  node_cgroups make
  unshare --net --mount --pid --fork --kill-child --mount-proc "$@"
  code=$?
  node_cgroups remove || { echo "cgroups are left: $NODE_CGROUP" >&2; code=1; }
  if [ -n "${KEEP:-}" ]; then echo "kept: $NODE_DIR"; else rm -rf --one-file-system "$NODE_DIR"; fi
  exit "$code"
}

# node_cgroups make|remove: the run's root in every v1 hierarchy, or in the only one of v2.
node_cgroups() {
  local at file left=0
  for at in $(awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts); do
    if [ "$1" = remove ]; then
      [ -d "$at$NODE_CGROUP" ] || continue
      # The kernel frees a killed process some time after its end is reported.
      for _ in $(seq 50); do
        find "$at$NODE_CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null
        [ -d "$at$NODE_CGROUP" ] || continue 2
        sleep 0.1
      done
      left=1
    else
      mkdir "$at$NODE_CGROUP" || return 1
      # A new cpuset has neither processors nor memory, and takes no process so.
      for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$at/$file" ] || cat "$at/$file" >"$at$NODE_CGROUP/$file"
      done
    fi
  done
  return $left
}

# furnish_node: mounts that other mounts may propagate through, as on a host; a log directory of its
# own; an address and a default route that lead nowhere.
furnish_node() {
  mount --make-rprivate /
  mount --make-rshared /
  mkdir -p "$NODE_DIR/log"
  mount --bind "$NODE_DIR/log" /var/log
  ip link set lo up
  ip link add node0 type veth peer name wire0
  ip address add "$NODE_IP/24" dev node0
  ip link set node0 up
  ip link set wire0 up
  ip route add default via "${NODE_IP%.*}.1"
}
NODE_IP=192.0.2.10 # from the block for documentation

# own_cgroup_root: shows the run's root of cgroups as that of the machine, to a program that e2e/rooted runs.
own_cgroup_root() {
  local at type options
  while read -r at type options; do
    options=$(tr , '\n' <<<"$options" | grep -vxE 'rw|(nosuid|nodev|noexec)|(rel|no)atime|xattr|clone_children|release_agent=.*' | paste -sd,)
    umount -l "$at" && mount -t "$type" ${options:+-o "$options"} cgroup "$at" || return 1
  done < <(awk '$3 == "cgroup" || $3 == "cgroup2" { print $2, $3, $4 }' /proc/mounts)
  NODE_CGROUP=""
}
