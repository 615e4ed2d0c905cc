package conform

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

// Why something is taken and changes nothing.
const (
	windows    = "this is no Windows"
	noProcess  = "a pod has no process of its own"
	noApparmor = "this host has no AppArmor"
	noSELinux  = "this host has no SELinux"
)

// hasAppArmor tells whether the kernel confines with AppArmor, hasSELinux the same of SELinux.
func hasAppArmor() bool {
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && string(enabled) == "Y\n"
}

func hasSELinux() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	return err == nil
}

// without is a row of what has no effect on a host without a security module, and is refused on one
// with it, because nobody may believe to be confined who is not.
func without(field, set, pod string, has bool, names, reason string) row {
	if has {
		return row{field: field, set: set, pod: pod, refused: names}
	}
	return row{field: field, set: set, pod: pod, noEffect: reason}
}

// A user namespace as the pod and each of its containers are given it.
const (
	ids    = `uids { container_id: 0 host_id: 231072 length: 65536 } gids { container_id: 0 host_id: 331072 length: 65536 }`
	userns = `linux { security_context { namespace_options { userns_options { ` + ids + ` } } } }`
)

// resourceRows are those of the limits under `field`, which a pod keeps and tells.
func resourceRows(field, name string) []row {
	set := func(limits string) string { return fmt.Sprintf("linux { %s { %s } }", name, limits) }
	kept := func(limit, value, want string) row {
		path := "config/" + name + "/" + limit
		return row{field: field + "." + limitNames[limit], set: set(value), seen: podInfo(path, want)}
	}
	at := func(limit string) string { return field + "." + limit }
	return []row{
		kept("cpu_period", "cpu_period: 50000", "50000"),
		kept("cpu_quota", "cpu_quota: 25000", "25000"),
		kept("cpu_shares", "cpu_shares: 512", "512"),
		kept("memory_limit", "memory_limit_in_bytes: 67108864", "67108864"),
		kept("memory_swap_limit", "memory_swap_limit_in_bytes: 67108864", "67108864"),
		kept("oom_score_adj", "oom_score_adj: 500", "500"),
		kept("cpuset_cpus", `cpuset_cpus: "0"`, `"0"`),
		kept("cpuset_mems", `cpuset_mems: "0"`, `"0"`),
		kept("unified", `unified { key: "memory.high" value: "1000000" }`, `{"memory.high":"1000000"}`),
		{field: at("hugepage_limits.page_size"), set: set(`hugepage_limits { page_size: "2MB" }`),
			seen: podInfo("config/"+name+"/hugepage_limits/0/page_size", `"2MB"`)},
		{field: at("hugepage_limits.limit"), set: set(`hugepage_limits { page_size: "2MB" limit: 2097152 }`),
			seen: podInfo("config/"+name+"/hugepage_limits/0/limit", "2097152")},
		{field: at("cpu_period"), set: set("cpu_period: 1"), refused: at("cpu_period")},
		{field: at("hugepage_limits.page_size"), set: set(`hugepage_limits { page_size: "2mb" }`),
			refused: at("hugepage_limits[0].page_size")},
		{field: at("unified"), set: set(`unified { key: "cgroup.kill" value: "1" }`), refused: at("unified")},
	}
}

// limitNames are those of the interface, by those of a pod's record.
var limitNames = map[string]string{
	"cpu_period": "cpu_period", "cpu_quota": "cpu_quota", "cpu_shares": "cpu_shares",
	"memory_limit": "memory_limit_in_bytes", "memory_swap_limit": "memory_swap_limit_in_bytes",
	"oom_score_adj": "oom_score_adj", "cpuset_cpus": "cpuset_cpus", "cpuset_mems": "cpuset_mems",
	"unified": "unified",
}

// podFields says of every field of PodSandboxConfig what becomes of it.
func podFields(t *testing.T) []row {
	logDirectory := readable(t, t.TempDir())
	rows := []row{
		{field: "metadata.name", set: `metadata { name: "other" }`, seen: podTold("metadata/name", `"other"`)},
		{field: "metadata.uid", set: `metadata { uid: "u1" }`, seen: podTold("metadata/uid", `"u1"`)},
		{field: "metadata.namespace", set: `metadata { namespace: "n1" }`,
			seen: podTold("metadata/namespace", `"n1"`)},
		{field: "metadata.attempt", set: `metadata { attempt: 7 }`, seen: podTold("metadata/attempt", "7")},
		{field: "hostname", set: `hostname: "web"`,
			seen: all(prints("hostname", "web"), prints("cat /etc/hostname", "web"))},
		{field: "hostname", set: `hostname: "a b"`, refused: "hostname"},
		{field: "log_directory", set: fmt.Sprintf("log_directory: %q", logDirectory),
			container: `command: "echo" command: "said"`, seen: logs("main.log", "stdout F said")},
		{field: "log_directory", set: `log_directory: "relative"`, refused: "log_directory"},
		{field: "dns_config.servers", set: `dns_config { servers: "192.0.2.1" servers: "2001:db8::1" }`,
			seen: prints("grep nameserver /etc/resolv.conf", "nameserver 192.0.2.1\nnameserver 2001:db8::1")},
		{field: "dns_config.searches", set: `dns_config { searches: "a.example" searches: "b.example" }`,
			seen: prints("cat /etc/resolv.conf", "search a.example b.example")},
		{field: "dns_config.options", set: `dns_config { options: "ndots:5" }`,
			seen: prints("cat /etc/resolv.conf", "options ndots:5")},
		{field: "dns_config.servers", set: `dns_config { servers: "a\nb" }`, refused: "dns_config.servers[0]"},
		{field: "port_mappings.protocol", set: `port_mappings { protocol: UDP container_port: 80 host_port: 30881 }`,
			seen: podInfo("config/ports/0/protocol", `"udp"`)},
		{field: "port_mappings.container_port", set: `port_mappings { container_port: 81 }`,
			seen: podInfo("config/ports/0/container_port", "81")},
		{field: "port_mappings.host_port", set: `port_mappings { container_port: 8000 host_port: 30882 }`,
			container: `command: "sh" command: "-c" command: "echo hi | nc -l -p 8000"`,
			seen:      reaches("127.0.0.1", 30882, "hi")},
		{field: "port_mappings.host_ip", set: `port_mappings { container_port: 8000 host_port: 30883 host_ip: "127.0.0.1" }`,
			container: `command: "sh" command: "-c" command: "echo ho | nc -l -p 8000"`,
			seen:      reaches("127.0.0.1", 30883, "ho")},
		{field: "port_mappings.host_port", set: `port_mappings { container_port: 80 host_port: 65536 }`,
			refused: "port_mappings[0].host_port"},
		{field: "port_mappings.host_ip", set: `port_mappings { container_port: 80 host_port: 80 host_ip: "host" }`,
			refused: "port_mappings[0].host_ip"},
		{field: "labels", set: `labels { key: "a" value: "b" }`, seen: podTold("labels/a", `"b"`)},
		{field: "annotations", set: `annotations { key: "vendor.example/x" value: "y" }`,
			seen: podTold("annotations", `{"vendor.example/x":"y"}`)},
		{field: "annotations", set: `annotations { key: "vendor.example/x" value: "y" }`,
			noEffect: "nobody here knows this annotation"},

		{field: "linux.cgroup_parent", set: `linux { cgroup_parent: "/minke-conform/pod1" }`,
			seen: all(podInfo("cgroup", `"/minke-conform/pod1"`), under("/minke-conform/pod1/"))},
		{field: "linux.cgroup_parent", set: `linux { cgroup_parent: "/a/../b" }`, refused: "linux.cgroup_parent"},
		{field: "linux.sysctls", set: `linux { sysctls { key: "net.ipv4.ip_forward" value: "1" } }`,
			seen: prints("cat /proc/sys/net/ipv4/ip_forward", "1")},
		{field: "linux.sysctls", set: `linux { sysctls { key: "vm.swappiness" value: "1" } }`,
			refused: "linux.sysctls"},
		{field: "linux.sysctls", set: `linux { sysctls { key: "net.ipv4.ip_forward" value: "1" }
			security_context { namespace_options { network: NODE } } }`, refused: "linux.sysctls"},
	}
	rows = append(rows, resourceRows("linux.overhead", "overhead")...)
	rows = append(rows, resourceRows("linux.resources", "resources")...)
	return append(rows, podSecurity()...)
}

func podSecurity() []row {
	security := func(text string) string { return "linux { security_context { " + text + " } }" }
	options := func(text string) string { return security("namespace_options { " + text + " }") }
	at := "linux.security_context."
	in := at + "namespace_options."
	rows := []row{
		{field: in + "network", set: options("network: NODE"), container: options("network: NODE"),
			seen: hostNamespace("net")},
		{field: in + "network", set: options("network: CONTAINER"), refused: in + "network"},
		{field: in + "pid", set: options("pid: NODE"), container: options("pid: NODE"),
			seen: hostNamespace("pid")},
		{field: in + "ipc", set: options("ipc: NODE"), container: options("ipc: NODE"),
			seen: hostNamespace("ipc")},
		{field: in + "ipc", set: options("ipc: TARGET"), refused: in + "ipc"},
		{field: in + "target_id", set: options(`pid: TARGET target_id: "x"`), refused: in + "pid"},
		{field: in + "target_id", set: options(`target_id: "x"`), refused: in + "target_id"},
		{field: in + "userns_options.mode", set: options("userns_options { mode: NODE }"),
			noEffect: "the host's users are the default"},
		{field: in + "userns_options.mode", set: options("userns_options { mode: TARGET }"),
			refused: in + "userns_options.mode"},
	}
	for _, side := range []struct{ list, map_, host string }{{"uids", "uid_map", "231072"}, {"gids", "gid_map", "331072"}} {
		field := in + "userns_options." + side.list + "."
		maps := prints("awk '{ print $1, $2, $3 }' /proc/self/"+side.map_, "0 "+side.host+" 65536")
		wrong := func(field, ranges string) row {
			other := map[string]string{"uids": "gids", "gids": "uids"}[side.list]
			right := other + " { host_id: 1000 length: 10 }"
			return row{field: field, set: options("userns_options { " + side.list + " { " + ranges + " } " + right + " }"),
				refused: in + "userns_options." + side.list}
		}
		rows = append(rows,
			row{field: field + "host_id", set: userns, container: userns, seen: maps},
			row{field: field + "length", set: userns, container: userns, seen: maps},
			wrong(field+"container_id", "container_id: 1 host_id: 1000 length: 10"),
			wrong(field+"length", "host_id: 4294967295 length: 10"),
		)
	}
	for _, part := range []string{"user", "role", "type", "level"} {
		text := security(fmt.Sprintf("selinux_options { %s: %q }", part, "s0"))
		rows = append(rows, without(at+"selinux_options."+part, text, "", hasSELinux(), at+"selinux_options", noSELinux))
	}
	local := `profile_type: Localhost localhost_ref: "x"`
	rows = append(rows,
		without(at+"apparmor.profile_type", security("apparmor { profile_type: Unconfined }"), "", false, "", noApparmor),
		row{field: at + "apparmor.profile_type", set: security("apparmor { " + local + " }"), refused: at + "apparmor"},
		row{field: at + "apparmor.localhost_ref", set: security("apparmor { " + local + " }"), refused: at + "apparmor"},
	)
	return append(rows,
		row{field: at + "run_as_user", set: security("run_as_user { value: 1000 }"), noEffect: noProcess},
		row{field: at + "run_as_user", set: security("run_as_user { value: -1 }"), refused: at + "run_as_user"},
		row{field: at + "run_as_group", set: security("run_as_user { value: 1 } run_as_group { value: 1000 }"),
			noEffect: noProcess},
		row{field: at + "run_as_group", set: security("run_as_group { value: 1 }"), refused: at + "run_as_group"},
		row{field: at + "readonly_rootfs", set: security("readonly_rootfs: true"), noEffect: noProcess},
		row{field: at + "supplemental_groups", set: security("supplemental_groups: 7"), noEffect: noProcess},
		row{field: at + "supplemental_groups", set: security("supplemental_groups: -7"),
			refused: at + "supplemental_groups[0]"},
		row{field: at + "supplemental_groups_policy", set: security("supplemental_groups_policy: Strict"),
			noEffect: noProcess},
		row{field: at + "privileged", set: security("privileged: true"), container: security("privileged: true"),
			seen: prints("grep ' /sys sysfs ' /proc/mounts | cut -d ' ' -f 4 | cut -d , -f 1", "rw")},
		row{field: at + "seccomp.profile_type", set: security("seccomp { profile_type: Unconfined }"),
			noEffect: noProcess},
		row{field: at + "seccomp.localhost_ref", set: security(`seccomp { profile_type: Localhost localhost_ref: "relative" }`),
			refused: at + "seccomp.localhost_ref"},
		row{field: at + "seccomp_profile_path", set: security(`seccomp_profile_path: "unconfined"`),
			noEffect: noProcess},
		row{field: at + "seccomp_profile_path", set: security(`seccomp_profile_path: "wrong"`),
			refused: at + "seccomp_profile_path"},
		row{field: "windows.security_context.run_as_username",
			set: `windows { security_context { run_as_username: "u" } }`, noEffect: windows},
		row{field: "windows.security_context.credential_spec",
			set: `windows { security_context { credential_spec: "c" } }`, noEffect: windows},
		row{field: "windows.security_context.host_process",
			set: `windows { security_context { host_process: true } }`, noEffect: windows},
		row{field: "windows.security_context.namespace_options.network",
			set: `windows { security_context { namespace_options { network: NODE } } }`, noEffect: windows},
	)
}

// hostNamespace: the container is in the host's namespace of a kind.
func hostNamespace(kind string) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		pid := s.containerInfo(t, s.container)["pid"]
		if pid == nil {
			t.Fatal("the verbose status tells no process")
		}
		of := func(process string) string {
			link, err := os.Readlink("/proc/" + process + "/ns/" + kind)
			if err != nil {
				t.Fatal(err)
			}
			return link
		}
		if found, host := of(fmt.Sprint(pid)), of(strconv.Itoa(os.Getpid())); found != host {
			t.Errorf("it is in %s, the host in %s", found, host)
		}
	}
}

// under: the container's cgroup is below this path.
func under(path string) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		shows(t, "specification:", "linux/cgroupsPath", s.containerInfo(t, s.container)["runtimeSpec"],
			strconv.Quote(path+s.container))
	}
}
