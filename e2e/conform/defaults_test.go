package conform

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kind is a container that minke and containerd are both asked for.
type kind struct {
	name, pod, container string
}

const runtimeDefault = "seccomp { profile_type: RuntimeDefault }"

// kinds are the four that differ in what a runtime does by default, and two whose capabilities decide
// what the default filter of system calls allows.
var kinds = []kind{
	{"plain", "", "linux { security_context { " + runtimeDefault + " } }"},
	{"privileged", "linux { security_context { privileged: true } }", "linux { security_context { privileged: true } }"},
	{"user namespace", userns, "linux { security_context { " + runtimeDefault + " namespace_options { userns_options { " + ids + " } } } }"},
	{"host network", "linux { security_context { namespace_options { network: NODE } } }",
		"linux { security_context { " + runtimeDefault + " namespace_options { network: NODE } } }"},
	{"no capabilities", "", `linux { security_context { ` + runtimeDefault + ` capabilities { drop_capabilities: "ALL" } } }`},
	{"all capabilities", "", `linux { security_context { ` + runtimeDefault + ` capabilities { add_capabilities: "ALL" } } }`},
}

// request is what both runtimes get: as the kubelet asks for a container with limits.
func (k kind) request(t *testing.T) (*v1.PodSandboxConfig, *v1.ContainerConfig) {
	t.Helper()
	pod, container := podConfig(t), containerConfig()
	pod.Hostname = "web"
	pod.DnsConfig = &v1.DNSConfig{Servers: []string{"192.0.2.1"}}
	container.Envs = []*v1.KeyValue{{Key: "A", Value: []byte("b")}}
	container.Mounts = []*v1.Mount{{ContainerPath: "/data", HostPath: "/srv"}}
	security := container.Linux.SecurityContext
	security.NamespaceOptions = &v1.NamespaceOption{Pid: v1.NamespaceMode_CONTAINER}
	security.MaskedPaths = []string{"/proc/kcore", "/proc/keys", "/sys/firmware"}
	security.ReadonlyPaths = []string{"/proc/sys", "/proc/bus"}
	container.Linux.Resources = &v1.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900,
		HugepageLimits: []*v1.HugepageLimit{{PageSize: "2MB"}},
	}
	put(t, pod, k.pod, "")
	put(t, container, k.container, "")
	switch k.name {
	case "privileged":
		security.MaskedPaths, security.ReadonlyPaths = nil, nil
	case "host network":
		pod.Hostname = ""
	}
	return pod, container
}

// known is a difference that is meant: in which kinds, where, and why.
type known struct {
	kinds, path, reason string
}

// The specification that minke builds is containerd's, but for these.
var differences = []known{
	{".*", "/linux/cgroupsPath",
		"without a parent, which the kubelet always gives, each has a place of its own"},
	{".*", `/process/env/"HOME=/root"`,
		"runc adds the home directory of the user where none is set, minke's executor adds nothing"},
	{"plain|user namespace|host network|.* capabilities", `/linux/resources/devices/.*"allow":true.*`,
		"runc adds the rules for /dev/null and its like, minke's executor adds nothing"},
	{"host network", "/linux/namespaces/(network|uts).*",
		"containerd joins those of the pause process, which are the host's; minke stays in the host's"},
}

// made is a container of a kind in one runtime.
type made struct {
	spec any
	pid  int
}

func (k kind) in(t *testing.T, runtime client) made {
	t.Helper()
	pod, container := k.request(t)
	id := runtime.run(t, pod)
	of := runtime.start(t, id, container, pod)
	info := runtime.containerInfo(t, of)
	text, err := json.Marshal(info["runtimeSpec"])
	if err != nil {
		t.Fatal(err)
	}
	own := strings.NewReplacer(id, "POD", of, "CONTAINER", pod.Metadata.Uid, "UID",
		pod.Metadata.Name, "NAME", pod.LogDirectory, "LOGS")
	plain := own.Replace(string(text))
	for pattern, by := range map[string]string{
		`"/[^"]*/(hostname|hosts|resolv.conf|resolvconf|shm)"`: `"FILES/$1"`,
		`/proc/[0-9]+/ns/`: "/proc/N/ns/",
	} {
		plain = regexp.MustCompile(pattern).ReplaceAllString(plain, by)
	}
	var pid int
	if _, err := fmt.Sscan(fmt.Sprint(info["pid"]), &pid); err != nil {
		t.Fatal(err)
	}
	return made{decoded(t, []byte(plain)), pid}
}

func peer(t *testing.T) client {
	t.Helper()
	return dial(t, os.Getenv("CONFORM_PEER_SOCK"))
}

// What minke builds for a request is what containerd builds, but for the differences in the table;
// each of those is there.
func TestPeerSpecifications(t *testing.T) {
	ours, theirs := minke(t), peer(t)
	seen := make([]bool, len(differences))
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			mine, other := flat(kind.in(t, ours).spec), flat(kind.in(t, theirs).spec)
			for _, path := range union(mine, other) {
				if mine[path] == other[path] {
					continue
				}
				meant := false
				for i, known := range differences {
					if regexp.MustCompile("^("+known.kinds+")$").MatchString(kind.name) &&
						regexp.MustCompile("^("+known.path+")$").MatchString(path) {
						seen[i], meant = true, true
					}
				}
				if !meant {
					t.Errorf("%s\n\tminke      %s\n\tcontainerd %s", path, mine[path], other[path])
				}
			}
		})
	}
	for i, known := range differences {
		if !seen[i] {
			t.Errorf("no difference any more: %s in %s", known.path, known.kinds)
		}
	}
}

// keys are what members of lists are told apart by; the order of these lists says nothing.
var keys = []string{"destination", "path", "type"}

// flat is a value as its leaves by path. Members of lists are named by what tells them apart, or by
// themselves.
func flat(value any) map[string]string {
	leaves := map[string]string{}
	flatten(leaves, "", value)
	return leaves
}

func flatten(into map[string]string, path string, value any) {
	switch here := value.(type) {
	case map[string]any:
		for key, of := range here {
			flatten(into, path+"/"+key, of)
		}
	case []any:
		for i, member := range here {
			if strings.HasSuffix(path, "/seccomp/syscalls") {
				rules(into, path, member)
				continue
			}
			into[path+"/"+memberName(path, i, member)] = "there"
			if object, ok := member.(map[string]any); ok && identity(path, object) != "" {
				flatten(into, path+"/"+identity(path, object), object)
			}
		}
	case nil:
	case bool:
		// What is false may as well not be there.
		if here {
			into[path] = "true"
		}
	default:
		into[path] = rendered(value)
	}
}

// rules are those of one entry of a seccomp profile, for each of the calls that it names.
func rules(into map[string]string, path string, entry any) {
	rule, _ := entry.(map[string]any)
	names, _ := rule["names"].([]any)
	arguments, _ := rule["args"].([]any)
	for _, argument := range arguments {
		// The second value is of comparisons that need two, 0 where it is not given.
		if of, _ := argument.(map[string]any); of["valueTwo"] == nil {
			of["valueTwo"] = json.Number("0")
		}
	}
	verdict := fmt.Sprintf("%v %v if %s", rule["action"], rule["errnoRet"], rendered(arguments))
	for _, name := range names {
		into[fmt.Sprintf("%s/%v/%s", path, name, verdict)] = "there"
	}
}

func memberName(path string, i int, member any) string {
	if object, ok := member.(map[string]any); ok {
		if name := identity(path, object); name != "" {
			return name
		}
		return rendered(member)
	}
	// Words of a command are in order, all others are sets.
	if strings.HasSuffix(path, "/args") {
		return fmt.Sprintf("%d:%s", i, rendered(member))
	}
	return rendered(member)
}

func identity(path string, object map[string]any) string {
	// The rules of a device cgroup have types and paths that do not tell them apart.
	if strings.HasSuffix(path, "/resources/devices") {
		return ""
	}
	if strings.HasSuffix(path, "/namespaces") {
		return fmt.Sprint(object["type"])
	}
	for _, key := range keys {
		if name, ok := object[key].(string); ok {
			return name
		}
	}
	return ""
}

func union(one, other map[string]string) []string {
	paths := sortedKeys(one)
	for path := range other {
		if _, known := one[path]; !known {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}
