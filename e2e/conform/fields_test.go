package conform

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// row says of one field of a request what minke does with it, with a value that shows it: it has
// one of `seen`, `refused` and `noEffect`.
type row struct {
	// field by its path; what is in a list has the path of the list.
	field string
	// set is the value in text form, put over that of a plain request; what it says of a list
	// replaces the list.
	set string
	// pod is put over the plain pod, in the table of containers; container over the plain container,
	// in the table of pods.
	pod, container string
	// seen: the field is honoured, and this is where it shows.
	seen evidence
	// refused: InvalidArgument that names this field.
	refused string
	// noEffect: it is taken, and the container comes out as one with `than` instead, or as a plain one,
	// for this reason.
	noEffect, than string
}

// evidence looks for the effect of a field.
type evidence func(t *testing.T, s subject)

// subject is what a request has made.
type subject struct {
	client
	pod, container string
	podConfig      *v1.PodSandboxConfig
	config         *v1.ContainerConfig
}

// Every field of PodSandboxConfig and ContainerConfig is in a table, and what the table says holds.
func TestPodFields(t *testing.T) {
	everyFieldIsThere(t, (&v1.PodSandboxConfig{}).ProtoReflect().Descriptor(), podFields(t))
	check(t, podFields(t), func(t *testing.T, row row) (*v1.PodSandboxConfig, *v1.ContainerConfig) {
		pod, container := podConfig(t), containerConfig()
		put(t, pod, row.set, row.field)
		put(t, container, row.container, "")
		return pod, container
	})
}

func TestContainerFields(t *testing.T) {
	everyFieldIsThere(t, (&v1.ContainerConfig{}).ProtoReflect().Descriptor(), containerFields(t))
	check(t, containerFields(t), func(t *testing.T, row row) (*v1.PodSandboxConfig, *v1.ContainerConfig) {
		pod, container := podConfig(t), containerConfig()
		put(t, pod, row.pod, "")
		put(t, container, row.set, row.field)
		return pod, container
	})
}

func check(
	t *testing.T, rows []row, requests func(*testing.T, row) (*v1.PodSandboxConfig, *v1.ContainerConfig),
) {
	runtime := minke(t)
	for _, row := range rows {
		t.Run(row.field, func(t *testing.T) {
			pod, container := requests(t, row)
			switch {
			case row.refused != "":
				refused(t, runtime, pod, container, row.refused)
			case row.noEffect != "":
				than := row
				than.set, than.field = row.than, ""
				plainPod, plainContainer := requests(t, than)
				plain := specOf(t, runtime, plainPod, plainContainer)
				if diff := difference(plain, specOf(t, runtime, pod, container)); diff != "" {
					t.Errorf("it is to have no effect, because %s, and changes\n%s", row.noEffect, diff)
				}
			default:
				made := subject{client: runtime, podConfig: pod, config: container}
				made.pod = runtime.run(t, pod)
				made.container = runtime.start(t, made.pod, container, pod)
				row.seen(t, made)
			}
		})
	}
}

// refused sends both requests and expects that one is turned away for a field, and leaves nothing.
func refused(
	t *testing.T, runtime client, pod *v1.PodSandboxConfig, container *v1.ContainerConfig, field string,
) {
	t.Helper()
	ctx := context.Background()
	ran, err := runtime.RunPodSandbox(ctx, &v1.RunPodSandboxRequest{Config: pod})
	if err == nil {
		remove := &v1.RemovePodSandboxRequest{PodSandboxId: ran.PodSandboxId}
		defer runtime.RemovePodSandbox(ctx, remove)
		_, err = runtime.create(t, ran.PodSandboxId, container, pod)
	}
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), field) {
		t.Errorf("got %v, not InvalidArgument naming %s", err, field)
	}
}

// specOf runs a container and gives its runtime specification without what no two have in common.
func specOf(t *testing.T, runtime client, pod *v1.PodSandboxConfig, container *v1.ContainerConfig) any {
	t.Helper()
	id := runtime.run(t, pod)
	made := runtime.start(t, id, container, pod)
	spec := runtime.containerInfo(t, made)["runtimeSpec"]
	ordered(spec)
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	own := strings.NewReplacer(id, "POD", made, "CONTAINER", pod.Metadata.Uid, "UID",
		pod.Metadata.Name, "NAME", pod.LogDirectory, "LOGS")
	plain := regexp.MustCompile(`/proc/[0-9]+/ns/`).ReplaceAllString(own.Replace(string(text)), "/proc/N/ns/")
	return decoded(t, []byte(plain))
}

// ordered puts the sets of capabilities in order: they have none.
func ordered(spec any) {
	sets, _ := at(spec, "process/capabilities").(map[string]any)
	for _, set := range sets {
		names, _ := set.([]any)
		slices.SortFunc(names, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
}

// everyFieldIsThere fails for each field, however deep, that has no row, and for each row of no field.
func everyFieldIsThere(t *testing.T, message protoreflect.MessageDescriptor, rows []row) {
	t.Helper()
	known := map[string]bool{}
	for _, leaf := range leaves(message, "") {
		known[leaf] = true
	}
	if len(known) < 60 {
		t.Fatalf("only %d fields were found", len(known))
	}
	told := map[string]bool{}
	for _, row := range rows {
		told[row.field] = true
		if !known[row.field] {
			t.Errorf("there is no field %s", row.field)
		}
		classes := 0
		for _, class := range []bool{row.seen != nil, row.refused != "", row.noEffect != ""} {
			if class {
				classes++
			}
		}
		if classes != 1 {
			t.Errorf("%s is in %d classes", row.field, classes)
		}
	}
	for leaf := range known {
		if !told[leaf] {
			t.Errorf("%s is neither honoured, nor refused, nor named as without effect", leaf)
		}
	}
}

// leaves lists the paths of all fields that hold a value. Optional numbers, which are messages, do.
func leaves(message protoreflect.MessageDescriptor, prefix string) []string {
	var all []string
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		path := prefix + string(field.Name())
		inner := field.Message()
		if inner == nil || field.IsMap() || strings.HasSuffix(string(inner.Name()), "Value") && inner.Name() != "KeyValue" {
			all = append(all, path)
			continue
		}
		all = append(all, leaves(inner, path+".")...)
	}
	return all
}

// put lays a message in text form over another, and makes sure that it says something of `field`.
func put(t *testing.T, onto proto.Message, text, field string) {
	t.Helper()
	over := onto.ProtoReflect().New()
	if err := prototext.Unmarshal([]byte(text), over.Interface()); err != nil {
		t.Fatal(err)
	}
	if field != "" && !says(over, strings.Split(field, ".")) {
		t.Fatalf("%q says nothing of %s", text, field)
	}
	lay(onto.ProtoReflect(), over)
}

func says(message protoreflect.Message, path []string) bool {
	field := message.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	switch {
	case field == nil || !message.Has(field):
		return false
	case len(path) == 1:
		return true
	case field.IsList():
		list := message.Get(field).List()
		for i := range list.Len() {
			if says(list.Get(i).Message(), path[1:]) {
				return true
			}
		}
		return false
	}
	return says(message.Get(field).Message(), path[1:])
}

func lay(onto, over protoreflect.Message) {
	over.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Message() != nil && !field.IsList() && !field.IsMap() && onto.Has(field) {
			lay(onto.Mutable(field).Message(), value.Message())
		} else {
			onto.Set(field, value)
		}
		return true
	})
}

// at finds a value in JSON: `mounts/destination=/data/options` is by key, and in a list by a member's
// key and value, or by number.
func at(value any, path string) any {
	for path != "" {
		switch here := value.(type) {
		case map[string]any:
			// Keys have slashes in them, too: the longest that is there is meant.
			key, found := path, false
			for {
				if value, found = here[key]; found {
					break
				}
				slash := strings.LastIndex(key, "/")
				if slash < 0 {
					return nil
				}
				key = key[:slash]
			}
			path = strings.TrimPrefix(strings.TrimPrefix(path, key), "/")
		case []any:
			value = nil
			for i, member := range here {
				object, _ := member.(map[string]any)
				for key, of := range object {
					prefix := fmt.Sprintf("%s=%v", key, of)
					if value == nil && (path == prefix || strings.HasPrefix(path, prefix+"/")) {
						value, path = member, strings.TrimPrefix(strings.TrimPrefix(path, prefix), "/")
					}
				}
				if prefix := fmt.Sprint(i); value == nil && strings.Split(path, "/")[0] == prefix {
					value, path = member, strings.TrimPrefix(strings.TrimPrefix(path, prefix), "/")
				}
				if value != nil {
					break
				}
			}
			if value == nil {
				return nil
			}
		default:
			return nil
		}
	}
	return value
}

func rendered(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func shows(t *testing.T, where, path string, in any, want string) {
	t.Helper()
	found := rendered(at(in, path))
	if found != want {
		t.Errorf("%s %s is %s, not %s", where, path, found, want)
	}
}

// spec: the runtime specification has this JSON at a path.
func spec(path, want string) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		shows(t, "specification:", path, s.containerInfo(t, s.container)["runtimeSpec"], want)
	}
}

// lists: the list at a path of the runtime specification has, or has not, this member.
func lists(path, member string, has bool) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		list, _ := at(s.containerInfo(t, s.container)["runtimeSpec"], path).([]any)
		found := false
		for _, of := range list {
			found = found || rendered(of) == member
		}
		if found != has {
			t.Errorf("specification: %s in %s is %t, not %t: %v", member, path, found, has, list)
		}
	}
}

// told: the container's status has this JSON at a path.
func told(path, want string) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		answer, err := s.ContainerStatus(soon(t), &v1.ContainerStatusRequest{ContainerId: s.container})
		if err != nil {
			t.Fatal(err)
		}
		shows(t, "status:", path, asJSON(t, answer.Status), want)
	}
}

// podTold: the pod's status has this JSON at a path.
func podTold(path, want string) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		answer, err := s.PodSandboxStatus(soon(t), &v1.PodSandboxStatusRequest{PodSandboxId: s.pod})
		if err != nil {
			t.Fatal(err)
		}
		shows(t, "status:", path, asJSON(t, answer.Status), want)
	}
}

// podInfo: the pod's verbose status has this JSON at a path.
func podInfo(path, want string) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		answer, err := s.PodSandboxStatus(soon(t), &v1.PodSandboxStatusRequest{PodSandboxId: s.pod, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		shows(t, "info:", path, decoded(t, []byte(answer.Info["info"])), want)
	}
}

// prints: a command in the container prints this.
func prints(command, want string) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		if found := s.sh(t, s.container, command); found != want {
			t.Errorf("%s: %q, not %q", command, found, want)
		}
	}
}

// logs: the file below the pod's log directory has this in it.
func logs(name, want string) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		var text []byte
		eventually(t, fmt.Sprintf("%q in the log", want), func() bool {
			text, _ = os.ReadFile(s.podConfig.LogDirectory + "/" + name)
			return strings.Contains(string(text), want)
		})
	}
}

// exits: the container ends with this code.
func exits(code int32) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		eventually(t, fmt.Sprintf("the end with %d", code), func() bool {
			answer, err := s.ContainerStatus(soon(t), &v1.ContainerStatusRequest{ContainerId: s.container})
			return err == nil && answer.Status.State == v1.ContainerState_CONTAINER_EXITED &&
				answer.Status.ExitCode == code
		})
	}
}

// all of these.
func all(of ...evidence) evidence {
	return func(t *testing.T, s subject) {
		t.Helper()
		for _, one := range of {
			one(t, s)
		}
	}
}

func asJSON(t *testing.T, message proto.Message) any {
	t.Helper()
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return decoded(t, text)
}

// difference names the first places where two values differ.
func difference(one, other any) string {
	var found []string
	compare(one, other, "", func(path, one, other string) {
		found = append(found, fmt.Sprintf("  %s: %s, %s", path, one, other))
	})
	return strings.Join(found, "\n")
}

func compare(one, other any, path string, differs func(path, one, other string)) {
	first, isMap := one.(map[string]any)
	second, isMapToo := other.(map[string]any)
	if !isMap || !isMapToo {
		if rendered(one) != rendered(other) {
			differs(path, rendered(one), rendered(other))
		}
		return
	}
	for key := range first {
		compare(first[key], second[key], path+"/"+key, differs)
	}
	for key := range second {
		if _, known := first[key]; !known {
			differs(path+"/"+key, "null", rendered(second[key]))
		}
	}
}
