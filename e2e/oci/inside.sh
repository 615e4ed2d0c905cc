# What a container sees: the same bundles under both runtimes. Sourced by parts/oci.

config plain "$probe"
check "a plain container" same plain
caps="$caps"',"CAP_NET_RAW"' user='"uid":1000,"gid":1000,"additionalGids":[7,42],"umask":63' \
  process=',"noNewPrivileges":true,"oomScoreAdj":500,"rlimits":[{"type":"RLIMIT_NOFILE","soft":100,"hard":200},{"type":"RLIMIT_CORE","soft":0,"hard":0}]' \
  config user "$probe"
check "a user with groups, umask, limits and no new privileges" same user
capabilities='"capabilities":{"bounding":["CAP_KILL","CAP_CHOWN"],"effective":["CAP_KILL"],"permitted":["CAP_KILL","CAP_CHOWN"],"inheritable":["CAP_KILL"],"ambient":["CAP_KILL"]},' \
  user='"uid":1000,"gid":1000' config ambient "$probe"
check "ambient capabilities" same ambient
process=',"ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":0}' config io "$probe"
check "an I/O priority" same io
process=',"scheduler":{"policy":"SCHED_BATCH","nice":7}' config scheduler "$probe"
check "a scheduling policy" same scheduler
linux=',"maskedPaths":["/proc/acpi","/proc/timer_list","/sys/firmware"],"readonlyPaths":["/proc/sys","/tmp","/no/such"]' readonly=true \
  config hidden "$probe"
check "masked and read-only paths, a read-only root" same hidden
linux=',"sysctl":{"net.ipv4.ip_forward":"1","kernel.msgmax":"4096"}' top=',"domainname":"example.org"' config sysctl "$probe"
check "kernel parameters and names" same sysctl
resources=',"memory":{"limit":67108864},"pids":{"limit":40},"cpu":{"shares":512}' config limits "$probe"
check "cgroup limits" same limits
linux=',"devices":[{"path":"/dev/loop-control","type":"c","major":10,"minor":237,"fileMode":384,"uid":3,"gid":4},{"path":"/dev/pipe","type":"p","fileMode":432}]' \
  devices=',{"allow":true,"type":"c","major":10,"minor":237,"access":"r"}' config devices "$probe"
check "devices" same devices
mounts=",{\"destination\":\"/data\",\"source\":\"$dir/volume\",\"type\":\"none\",\"options\":[\"rbind\",\"ro\",\"nosuid\"]},{\"destination\":\"/made/below/file\",\"source\":\"$dir/volume/file\",\"options\":[\"bind\",\"rprivate\",\"noexec\"]},{\"destination\":\"/mnt\",\"type\":\"tmpfs\",\"source\":\"t\",\"options\":[\"size=1m\",\"noexec\",\"mode=1777\"]}" \
  config mounts "$probe"
check "bind mounts and a tmpfs" same mounts
hostname='' namespaces='{"type":"mount"},{"type":"ipc"}' config host '["sh","-c","grep -v ^0:: /proc/self/cgroup | sed s/.*://; readlink /proc/self/ns/net; readlink /proc/self/ns/uts; readlink /proc/self/ns/pid"]'
check "the host's namespaces" same host
filter() { # ACTION RULES: a system call filter
  printf ',"seccomp":{"defaultAction":"%s","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_AARCH64"],"syscalls":[%s]}' "$1" "$2"
}
linux=$(filter SCMP_ACT_ALLOW '{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95},{"names":["chmod","fchmodat"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":511,"op":"SCMP_CMP_EQ"},{"index":2,"value":511,"op":"SCMP_CMP_EQ"}]},{"names":["sethostname"],"action":"SCMP_ACT_KILL_PROCESS"}') \
  config seccomp '["sh","-c","exec 2>&1; grep -E \"Seccomp|NoNew\" /proc/self/status; mkdir /tmp/x; echo $?; sh -c \"hostname x\"; echo $?"]'
check "a system call filter" same seccomp
process=',"noNewPrivileges":true' linux=$(filter SCMP_ACT_ERRNO '{"names":["read","write","execve","exit_group","exit","brk","mmap","mprotect","munmap","openat","close","arch_prctl","set_tid_address","set_robust_list","rseq","prlimit64","readlink","getrandom","fstat","newfstatat","newfstat","pread64","access","getuid","getgid","prctl","futex"],"action":"SCMP_ACT_ALLOW"}') \
  config strict '["echo","hello"]'
check "a filter that allows next to nothing" is "$(minke run -b "$dir/strict" strict)" hello
mkdir -p "$dir/owned" && cp -a "$root" "$dir/owned/rootfs" && chown -R 200000:200000 "$dir/owned/rootfs"
rootfs="$dir/owned/rootfs" namespaces="$namespaces"',{"type":"user"}' \
  linux=',"uidMappings":[{"containerID":0,"hostID":200000,"size":65536}],"gidMappings":[{"containerID":0,"hostID":200000,"size":65536}]' \
  config owned '["sh","-c","exec 2>&1; id; cat /proc/self/uid_map; ls -ln /dev/ptmx /dev/pts -d | cut -c1-40; hostname other; hostname; ping -c 1 127.0.0.1 >/dev/null; echo $?; touch /root/mine; ls -ln /root | cut -c1-40; cat /proc/self/status | grep Cap"]'
check "a user namespace" same owned

# What the caller is must not reach the container. SIGHUP is left out: whether runc, which handles it from
# some moment on, passes on that it was ignored is a matter of luck.
env=',"CALLER=odd"' config caller "$probe"
check "a caller that ignores and blocks signals, with a mask and a nice value" same caller \
  bash -c 'trap "" PIPE TERM USR1; umask 0; exec nice -n 3 ionice -c 3 "$@"' caller
check "a caller that is bound to one processor" same caller taskset -c 1

# Where they differ, and why.
differs() { # FACT OURS THEIRS: both say what is written here
  is "$(minke run -b "$dir/$1" "$1" 2>&1)" "$2" && is "$(runc run -b "$dir/$1" "$1" 2>&1)" "$3"
}
linux=',"maskedPaths":["/sys/firmware"]' config cover '["sh","-c","stat -f -c %b /sys/firmware"]'
check "a masked directory is one of a shared tmpfs, not a file system of its own" \
  bash -c '[ "$1" != "$2" ]' - "$(minke run -b "$dir/cover" cover)" "$(runc run -b "$dir/cover" cover)"
config core '["readlink","/dev/core"]'
[ -e /proc/kcore ] || check "/dev/core is there on every kernel" differs core /proc/kcore ""
config priority '["sh","-c","ionice; cut -d\" \" -f19 /proc/self/stat"]'
lazy() { nice -n 3 ionice -c 3 "$1" --root "$dir/$2" run -b "$dir/priority" priority | tr '\n' ' '; }
check "I/O priority and nice value stay with the caller, where runc passes them on" is "$(lazy "$MINKE_OCI" minke)$(lazy "$RUNC" runc)" "none: prio 0 0 idle 3 "
capabilities='' config bare '["sh","-c","grep CapEff /proc/self/status"]'
check "no capabilities are none, where runc leaves all" is "$(minke run -b "$dir/bare" bare | tr -d '\t')" "CapEff:0000000000000000"
namespaces='{"type":"mount"}' config hosts '["true"]'
check "a host name without a namespace for it is refused" has "$(fails minke run -b "$dir/hosts" hosts)" "hostname: would be the host's"
