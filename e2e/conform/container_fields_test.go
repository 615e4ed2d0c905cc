package conform

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// containerFields says of every field of ContainerConfig what becomes of it.
func containerFields(t *testing.T) []row {
	rows := []row{
		{field: "metadata.name", set: `metadata { name: "other" }`, seen: told("metadata/name", `"other"`)},
		{field: "metadata.name", set: `metadata { name: "nul\0" }`, refused: "metadata.name"},
		{field: "metadata.attempt", set: `metadata { attempt: 3 }`, seen: told("metadata/attempt", "3")},
		{field: "image.image", set: `image { image: "` + busybox + `" }`, seen: told("image/image", `"`+busybox+`"`)},
		{field: "image.annotations", set: `image { annotations { key: "a" value: "b" } }`,
			seen: told("image/annotations", `{"a":"b"}`)},
		{field: "image.user_specified_image", set: `image { user_specified_image: "written" }`,
			seen: told("image/user_specified_image", `"written"`)},
		{field: "image.runtime_handler", set: `image { runtime_handler: "minke" }`,
			seen: told("image/runtime_handler", `"minke"`)},
		{field: "image.image_ref", set: `image { image_ref: "sha256:1" }`,
			noEffect: "the runtime fills it in itself"},
		{field: "command", set: `command: "sleep" command: "7000"`, seen: spec("process/args", `["sleep","7000"]`)},
		{field: "command", set: `command: "a" command: "\0"`, refused: "command[1]"},
		{field: "args", set: `args: "7"`, seen: spec("process/args", `["sleep","100000","7"]`)},
		{field: "args", set: `args: "\0"`, refused: "args[0]"},
		{field: "working_dir", set: `working_dir: "/made/for/it"`,
			seen: all(spec("process/cwd", `"/made/for/it"`), prints("pwd", "/made/for/it"))},
		{field: "working_dir", set: `working_dir: "relative"`, refused: "working_dir"},
		{field: "envs.key", set: `envs { key: "A_KEY" value: "v" }`, seen: prints("env | grep A_KEY", "A_KEY=v")},
		{field: "envs.key", set: `envs { key: "A=B" value: "v" }`, refused: "envs[0].key"},
		{field: "envs.value", set: `envs { key: "PATH" value: "/bin:/x=y" }`, seen: prints("echo $PATH", "/bin:/x=y")},
		{field: "envs.value", set: `envs { key: "A" value: "\xff" }`, refused: "envs[0].value"},
		{field: "labels", set: `labels { key: "a" value: "b" }`, seen: told("labels/a", `"b"`)},
		{field: "annotations", set: `annotations { key: "vendor.example/x" value: "y" }`,
			seen: told("annotations", `{"vendor.example/x":"y"}`)},
		{field: "annotations", set: `annotations { key: "vendor.example/x" value: "y" }`,
			noEffect: "nobody here knows this annotation"},
		{field: "annotations", set: `annotations { key: "cdi.k8s.io/gpu" value: "vendor.com/gpu=0" }`,
			refused: "annotations[cdi.k8s.io/gpu]"},
		{field: "log_path", set: `log_path: "deeper/file.log" command: "echo" command: "said"`,
			seen: logs("deeper/file.log", "stdout F said")},
		{field: "log_path", set: `log_path: "../file.log"`, refused: "log_path"},
		{field: "stdin", set: `stdin: true command: "sh" command: "-c" command: "cat; exit 3"`,
			seen: told("state", `"CONTAINER_RUNNING"`)},
		{field: "stdin_once", set: `stdin_once: true`, noEffect: "there is no stdin"},
		{field: "stdin_once", set: `stdin: true stdin_once: true command: "sh" command: "-c" command: "cat; exit 3"`,
			seen: all(attachesAndLeaves, exits(3))},
		{field: "tty", set: `tty: true`, seen: all(spec("process/terminal", "true"),
			onHost("mountinfo", " /dev/pts "))},
		{field: "CDI_devices.name", set: `CDI_devices { name: "vendor.com/gpu=0" }`, refused: "CDI_devices[0].name"},
		{field: "stop_signal", set: `stop_signal: SIGNAL_SIGUSR1`, seen: told("stop_signal", `"SIGNAL_SIGUSR1"`)},
		{field: "stop_signal", set: `stop_signal: SIGNAL_SIGUSR1 command: "sh" command: "-c" command: "trap 'exit 6' USR1; while :; do sleep 0.1; done"`,
			seen: all(stops, exits(6))},
		{field: "stop_signal", set: `stop_signal: 99`, refused: "stop_signal"},
	}
	rows = append(rows, mountRows(t)...)
	rows = append(rows, deviceRows()...)
	rows = append(rows, limitRows()...)
	rows = append(rows, containerSecurity(t)...)
	return append(rows, windowsRows()...)
}

func mountRows(t *testing.T) []row {
	dir := readable(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("kept\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	volume := func(text string) string {
		return fmt.Sprintf("mounts { container_path: \"/data\" host_path: %q %s }", dir, text)
	}
	image := func(text, beside string) string {
		return fmt.Sprintf(`mounts { container_path: "/data" readonly: true image { image: %q %s } %s }`, busybox, text, beside)
	}
	of := func(option string) evidence { return lists("mounts/destination=/data/options", option, true) }
	options := func(want string) evidence {
		return prints("grep -c ' /data [^ ]* [^ ]*"+want+"' /proc/mounts", "1")
	}
	mapped := `uidMappings { host_id: 231072 length: 65536 } gidMappings { host_id: 331072 length: 65536 }`
	known := "only the image's name matters: the pull is over"
	field := func(name string) string { return "mounts." + name }
	rows := []row{
		{field: field("container_path"), set: volume(""), seen: prints("cat /data/file", "kept")},
		{field: field("container_path"), set: `mounts { container_path: "data" host_path: "/" }`,
			refused: "mounts[0].container_path"},
		{field: field("host_path"), set: volume(""), seen: prints("cat /data/file", "kept")},
		{field: field("host_path"), set: `mounts { container_path: "/data" host_path: "tmp" }`,
			refused: "mounts[0].host_path"},
		{field: field("readonly"), set: volume("readonly: true"), seen: all(of(`"ro"`), options("ro"))},
		{field: field("selinux_relabel"), set: volume("selinux_relabel: true"), than: volume(""), noEffect: noSELinux},
		{field: field("propagation"), set: volume("propagation: PROPAGATION_BIDIRECTIONAL"),
			refused: "mounts[0].propagation"},
		{field: field("propagation"), set: volume("propagation: 7"), refused: "mounts[0].propagation"},
		{field: field("recursive_read_only"), set: volume("readonly: true recursive_read_only: true"),
			seen: of(`"rro"`)},
		{field: field("recursive_read_only"), set: volume("recursive_read_only: true"),
			refused: "mounts[0].recursive_read_only"},
		{field: field("image.image"), set: image("", ""), seen: prints("ls -d /data/bin", "/data/bin")},
		{field: field("image.annotations"), set: image(`annotations { key: "a" value: "b" }`, ""), than: image("", ""), noEffect: known},
		{field: field("image.user_specified_image"), set: image(`user_specified_image: "w"`, ""), than: image("", ""), noEffect: known},
		{field: field("image.runtime_handler"), set: image(`runtime_handler: "minke"`, ""), than: image("", ""), noEffect: known},
		{field: field("image.image_ref"), set: image(`image_ref: "sha256:1"`, ""), than: image("", ""), noEffect: known},
		{field: field("image_sub_path"), set: image("", `image_sub_path: "etc"`), seen: prints("ls -d /data/passwd", "/data/passwd")},
		{field: field("image_sub_path"), set: image("", `image_sub_path: "../etc"`), refused: "mounts[0].image_sub_path"},
		{field: field("image_sub_path"), set: volume(`image_sub_path: "etc"`), than: volume(""),
			noEffect: "the kubelet repeats a volume's subPath there, which it has resolved itself"},
		{field: field("mount_options"), set: volume(`mount_options: "noexec" mount_options: "nosuid"`),
			seen: all(of(`"noexec"`), options("nosuid"), options("noexec"))},
		{field: field("mount_options"), set: volume(`mount_options: "size=1"`), refused: "mounts[0].mount_options[0]"},
	}
	for _, side := range []struct{ list, format string }{{"uidMappings", "%u"}, {"gidMappings", "%g"}} {
		owned := prints("stat -c "+side.format+" /data/file", "0")
		rows = append(rows,
			row{field: field(side.list + ".host_id"), pod: userns, set: userns + volume(mapped), seen: owned},
			row{field: field(side.list + ".length"), pod: userns, set: userns + volume(mapped), seen: owned},
			row{field: field(side.list + ".container_id"), set: volume(side.list + " { container_id: 1 length: 1 }"),
				refused: "mounts[0]"},
		)
	}
	return rows
}

func deviceRows() []row {
	device := func(text string) string { return "devices { " + text + " }" }
	full := device(`host_path: "/dev/full" container_path: "/dev/other" permissions: "r"`)
	return []row{
		{field: "devices.container_path", set: full, seen: prints("test -c /dev/other && echo there", "there")},
		{field: "devices.host_path", set: full, seen: spec("linux/devices/path=/dev/other/minor", "7")},
		{field: "devices.host_path", set: device(`host_path: "full" permissions: "r"`), refused: "devices[0].host_path"},
		{field: "devices.permissions", set: full, seen: spec("linux/resources/devices/minor=7/access", `"r"`)},
		{field: "devices.permissions", set: device(`host_path: "/dev/full" permissions: "x"`),
			refused: "devices[0].permissions"},
	}
}

func limitRows() []row {
	set := func(text string) string { return "linux { resources { " + text + " } }" }
	at := "linux.resources."
	in := func(path, want string) evidence { return spec("linux/resources/"+path, want) }
	return []row{
		{field: at + "cpu_period", set: set("cpu_period: 50000 cpu_quota: 25000"), seen: in("cpu/period", "50000")},
		{field: at + "cpu_quota", set: set("cpu_quota: 25000"), seen: in("cpu/quota", "25000")},
		{field: at + "cpu_shares", set: set("cpu_shares: 512"),
			seen: all(in("cpu/shares", "512"), told("resources/linux/cpu_shares", `"512"`))},
		{field: at + "memory_limit_in_bytes", set: set("memory_limit_in_bytes: 67108864"),
			seen: all(in("memory/limit", "67108864"), told("resources/linux/memory_limit_in_bytes", `"67108864"`))},
		{field: at + "memory_swap_limit_in_bytes",
			set:  set("memory_limit_in_bytes: 67108864 memory_swap_limit_in_bytes: 134217728"),
			seen: in("memory/swap", "134217728")},
		{field: at + "oom_score_adj", set: set("oom_score_adj: 777"), seen: onHost("oom_score_adj", "777\n")},
		{field: at + "oom_score_adj", set: set("oom_score_adj: 1001"), refused: at + "oom_score_adj"},
		{field: at + "oom_score_adj", set: set("oom_score_adj: -998"), seen: notAbove("oom_score_adj", ownScore())},
		{field: at + "cpuset_cpus", set: set(`cpuset_cpus: "0"`), seen: in("cpu/cpus", `"0"`)},
		{field: at + "cpuset_cpus", set: set(`cpuset_cpus: "a"`), refused: at + "cpuset_cpus"},
		{field: at + "cpuset_mems", set: set(`cpuset_mems: "0"`), seen: in("cpu/mems", `"0"`)},
		{field: at + "hugepage_limits.page_size", set: set(`hugepage_limits { page_size: "2MB" }`),
			seen: told("resources/linux/hugepage_limits/0/page_size", `"2MB"`)},
		{field: at + "hugepage_limits.page_size", set: set(`hugepage_limits { page_size: "2MB" }`),
			noEffect: "the kubelet sends a limit of 0 for every size that nobody asked for"},
		hugepages(at+"hugepage_limits.limit", set(`hugepage_limits { page_size: "2MB" limit: 2097152 }`)),
		{field: at + "unified", set: set(`unified { key: "a/b.c" value: "1" }`), refused: at + "unified"},
		unified(at+"unified", set(`unified { key: "pids.max" value: "321" }`)),
	}
}

// hugepages: limits of huge pages need their controller.
func hugepages(field, set string) row {
	_, legacy := os.Stat("/sys/fs/cgroup/hugetlb")
	controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if legacy == nil || strings.Contains(string(controllers), "hugetlb") {
		return row{field: field, set: set, seen: spec("linux/resources/hugepageLimits/0/limit", "2097152")}
	}
	return row{field: field, set: set, refused: field[:len(field)-len(".limit")] + "[0].limit"}
}

// unified: names of cgroup v2 files need cgroup v2.
func unified(field, set string) row {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return row{field: field, set: set, seen: spec("linux/resources/unified", `{"pids.max":"321"}`)}
	}
	return row{field: field, set: set, refused: field}
}

func containerSecurity(t *testing.T) []row {
	profile := filepath.Join(readable(t, t.TempDir()), "profile.json")
	noChmod := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}`
	if err := os.WriteFile(profile, []byte(noChmod), 0o644); err != nil {
		t.Fatal(err)
	}
	security := func(text string) string { return "linux { security_context { " + text + " } }" }
	options := func(text string) string { return security("namespace_options { " + text + " }") }
	at := "linux.security_context."
	in := at + "namespace_options."
	bounding := "process/capabilities/bounding"
	chmodRefused := prints("chmod 700 /tmp 2>/dev/null || echo refused", "refused")
	rows := []row{
		{field: at + "capabilities.add_capabilities", set: security(`capabilities { add_capabilities: "NET_ADMIN" }`),
			seen: lists(bounding, `"CAP_NET_ADMIN"`, true)},
		{field: at + "capabilities.add_capabilities", set: security(`capabilities { add_capabilities: "NO_SUCH" }`),
			refused: at + "capabilities.add_capabilities"},
		{field: at + "capabilities.drop_capabilities", set: security(`capabilities { drop_capabilities: "CHOWN" }`),
			seen: lists(bounding, `"CAP_CHOWN"`, false)},
		{field: at + "capabilities.add_ambient_capabilities",
			set:  security(`run_as_user { value: 1000 } capabilities { add_ambient_capabilities: "NET_ADMIN" }`),
			seen: prints("grep CapAmb /proc/self/status | cut -f 2", "0000000000001000")},
		{field: at + "privileged", pod: security("privileged: true"), set: security("privileged: true"),
			seen: prints("grep ' /sys sysfs ' /proc/mounts | cut -d ' ' -f 4 | cut -d , -f 1", "rw")},
		{field: at + "privileged", set: security("privileged: true"), refused: at + "privileged"},
		{field: in + "network", pod: options("network: NODE"), set: options("network: NODE"), seen: hostNamespace("net")},
		{field: in + "network", set: options("network: NODE"), refused: in + "network"},
		{field: in + "pid", set: options("pid: NODE"), pod: options("pid: NODE"), seen: hostNamespace("pid")},
		{field: in + "pid", set: options("pid: 9"), refused: in + "pid"},
		{field: in + "ipc", set: options("ipc: NODE"), pod: options("ipc: NODE"), seen: hostNamespace("ipc")},
		{field: in + "ipc", set: options("ipc: NODE"), refused: in + "ipc"},
		{field: in + "target_id", set: options(`pid: TARGET target_id: "none"`), refused: in + "target_id"},
		{field: in + "userns_options.uids.length", set: userns, refused: in + "userns_options"},
		{field: in + "userns_options.mode", set: options("userns_options { mode: CONTAINER }"),
			refused: in + "userns_options.mode"},
		{field: in + "userns_options.mode", set: options("userns_options { mode: NODE }"),
			noEffect: "the host's users are the default"},
		{field: at + "run_as_user", set: security("run_as_user { value: 1234 }"), seen: prints("id -u", "1234")},
		{field: at + "run_as_user", set: security("run_as_user { value: 4294967295 }"), refused: at + "run_as_user"},
		{field: at + "run_as_group", set: security("run_as_user { value: 1 } run_as_group { value: 1234 }"),
			seen: prints("id -g", "1234")},
		{field: at + "run_as_group", set: security("run_as_group { value: 1 }"), refused: at + "run_as_group"},
		{field: at + "run_as_username", set: security(`run_as_username: "www-data"`), seen: prints("id -un", "www-data")},
		{field: at + "run_as_username", set: security(`run_as_username: "nobody-here"`), refused: "nobody-here"},
		{field: at + "readonly_rootfs", set: security("readonly_rootfs: true"),
			seen: all(spec("root/readonly", "true"), prints("touch /x 2>/dev/null || echo refused", "refused"))},
		{field: at + "supplemental_groups", set: security("supplemental_groups: 1234"),
			seen: prints("id -G | tr ' ' '\\n' | grep 1234", "1234")},
		{field: at + "supplemental_groups", set: security("supplemental_groups: -1"), refused: at + "supplemental_groups[0]"},
		{field: at + "supplemental_groups_policy",
			set:  security("run_as_user { value: 0 } supplemental_groups: 77 supplemental_groups_policy: Strict"),
			seen: prints("id -G", "0 77")},
		{field: at + "supplemental_groups_policy", set: security("supplemental_groups_policy: 5"),
			refused: at + "supplemental_groups_policy"},
		{field: at + "no_new_privs", set: security("no_new_privs: true"),
			seen: onHost("status", "NoNewPrivs:\t1\n")},
		{field: at + "masked_paths", set: security(`masked_paths: "/etc/passwd"`),
			seen: all(spec("linux/maskedPaths", `["/etc/passwd"]`), prints("wc -c < /etc/passwd", "0"))},
		{field: at + "masked_paths", set: security(`masked_paths: "etc"`), refused: at + "masked_paths[0]"},
		{field: at + "readonly_paths", set: security(`readonly_paths: "/tmp"`),
			seen: prints("touch /tmp/x 2>/dev/null || echo refused", "refused")},
		{field: at + "readonly_paths", set: security(`readonly_paths: "tmp"`), refused: at + "readonly_paths[0]"},
		{field: at + "seccomp.profile_type", set: security("seccomp { profile_type: Unconfined }"),
			seen: onHost("status", "Seccomp:\t0\n")},
		{field: at + "seccomp.profile_type", set: security("seccomp { profile_type: 9 }"),
			refused: at + "seccomp.profile_type"},
		{field: at + "seccomp.localhost_ref",
			set:  security(fmt.Sprintf("seccomp { profile_type: Localhost localhost_ref: %q }", profile)),
			seen: all(onHost("status", "Seccomp:\t2\n"), chmodRefused)},
		{field: at + "seccomp.localhost_ref", set: security(`seccomp { profile_type: Localhost localhost_ref: "p" }`),
			refused: at + "seccomp.localhost_ref"},
		{field: at + "seccomp_profile_path", set: security(fmt.Sprintf("seccomp_profile_path: %q", "localhost/"+profile)),
			seen: chmodRefused},
		{field: at + "seccomp_profile_path", set: security(`seccomp_profile_path: "wrong"`),
			refused: at + "seccomp_profile_path"},
		without(at+"apparmor.profile_type", security("apparmor { profile_type: Unconfined }"), "", false, "", noApparmor),
		{field: at + "apparmor.localhost_ref", set: security(`apparmor { profile_type: Localhost localhost_ref: "x" }`),
			refused: at + "apparmor"},
		without(at+"apparmor_profile", security(`apparmor_profile: "runtime/default"`), "", hasAppArmor(),
			at+"apparmor", noApparmor),
		{field: at + "apparmor_profile", set: security(`apparmor_profile: "localhost/x"`), refused: at + "apparmor"},
	}
	for _, side := range []string{"uids", "gids"} {
		for _, part := range []string{"host_id", "container_id", "length"} {
			field := in + "userns_options." + side + "." + part
			other := `linux { security_context { namespace_options { userns_options {
				uids { container_id: 0 host_id: 500000 length: 65536 } gids { container_id: 0 host_id: 500000 length: 65536 } } } } }`
			if part == "container_id" {
				other = strings.ReplaceAll(other, "container_id: 0", "container_id: 1")
			} else {
				rows = append(rows, row{field: field, pod: userns, set: userns,
					seen: prints("awk '{ print $3 }' /proc/self/uid_map", "65536")})
			}
			rows = append(rows, row{field: field, pod: userns, set: other, refused: in + "userns_options"})
		}
	}
	for _, part := range []string{"user", "role", "type", "level"} {
		text := security(fmt.Sprintf("selinux_options { %s: %q }", part, "s0"))
		rows = append(rows, without(at+"selinux_options."+part, text, "", hasSELinux(), at+"selinux_options", noSELinux))
	}
	return rows
}

func windowsRows() []row {
	var rows []row
	for field, text := range map[string]string{
		"resources.cpu_shares":              "resources { cpu_shares: 1 }",
		"resources.cpu_count":               "resources { cpu_count: 1 }",
		"resources.cpu_maximum":             "resources { cpu_maximum: 1 }",
		"resources.memory_limit_in_bytes":   "resources { memory_limit_in_bytes: 1 }",
		"resources.rootfs_size_in_bytes":    "resources { rootfs_size_in_bytes: 1 }",
		"resources.affinity_cpus.cpu_mask":  "resources { affinity_cpus { cpu_mask: 1 } }",
		"resources.affinity_cpus.cpu_group": "resources { affinity_cpus { cpu_group: 1 } }",
		"security_context.run_as_username":  `security_context { run_as_username: "u" }`,
		"security_context.credential_spec":  `security_context { credential_spec: "c" }`,
		"security_context.host_process":     "security_context { host_process: true }",
	} {
		rows = append(rows, row{field: "windows." + field, set: "windows { " + text + " }", noEffect: windows})
	}
	return rows
}

// stops: the container is asked to stop.
func stops(t *testing.T, s subject) {
	t.Helper()
	// The trap is set when the shell has got that far.
	eventually(t, "a trap", func() bool {
		var caught uint64
		_, mask, _ := strings.Cut(ofInit(t, s, "status"), "SigCgt:\t")
		fmt.Sscanf(mask, "%x", &caught)
		return caught&(1<<(syscall.SIGUSR1-1)) != 0
	})
	if _, err := s.StopContainer(soon(t), &v1.StopContainerRequest{ContainerId: s.container, Timeout: 20}); err != nil {
		t.Fatal(err)
	}
}

// reaches: who connects there is told this.
func reaches(host string, port int, want string) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		address := net.JoinHostPort(host, fmt.Sprint(port))
		var line string
		eventually(t, want+" from "+address, func() bool {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			if err != nil {
				return false
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Second))
			line, _ = bufio.NewReader(conn).ReadString('\n')
			return strings.TrimSpace(line) == want
		})
	}
}

// ofInit reads a file of the container's first process from the host's /proc.
func ofInit(t *testing.T, s subject, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%v/%s", s.containerInfo(t, s.container)["pid"], name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// onHost: a file of the container's first process has this in it.
func onHost(name, want string) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		if text := ofInit(t, s, name); !strings.Contains(text, want) {
			t.Errorf("%s has no %q: %s", name, want, text)
		}
	}
}

// ownScore is this process' oom_score_adj: what the daemon, too, was started with.
func ownScore() int {
	var score int
	if text, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
		fmt.Sscan(string(text), &score)
	}
	return score
}

// notAbove: the file of the container's first process holds a number that is not above this.
func notAbove(name string, most int) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		var found int
		if _, err := fmt.Sscan(ofInit(t, s, name), &found); err != nil || found > most {
			t.Errorf("%s is %d, above %d (%v)", name, found, most, err)
		}
	}
}

// attachesAndLeaves attaches to the container's standard input, writes, and closes it.
func attachesAndLeaves(t *testing.T, s subject) {
	t.Helper()
	answer, err := s.Attach(soon(t), &v1.AttachRequest{ContainerId: s.container, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	session := webSocket(t, answer.Url)
	session.send(t, 0, []byte("words\n"))
	session.close(t)
}
