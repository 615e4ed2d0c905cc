package conform

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// busybox is what containers of these tests start from.
const busybox = "registry.k8s.io/e2e-test-images/busybox:1.29-2"

// client is a connection to a runtime.
type client struct {
	v1.RuntimeServiceClient
	images v1.ImageServiceClient
	conn   *grpc.ClientConn
}

// dial connects to the runtime behind a socket and makes sure that it has the image.
func dial(t *testing.T, socket string) client {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	runtime := client{v1.NewRuntimeServiceClient(conn), v1.NewImageServiceClient(conn), conn}
	runtime.pull(t, busybox)
	return runtime
}

func minke(t *testing.T) client {
	t.Helper()
	return dial(t, os.Getenv("CONFORM_SOCK"))
}

func (c client) pull(t *testing.T, image string) {
	t.Helper()
	_, err := c.images.PullImage(soon(t), &v1.PullImageRequest{Image: &v1.ImageSpec{Image: image}})
	if err != nil {
		t.Fatal(err)
	}
}

// soon is a context for one call.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

var serial atomic.Int64

// podConfig is a plain pod with a name of its own.
func podConfig(t *testing.T) *v1.PodSandboxConfig {
	name := fmt.Sprintf("pod-%d", serial.Add(1))
	return &v1.PodSandboxConfig{
		Metadata:     &v1.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "conform"},
		LogDirectory: t.TempDir(),
		Linux:        &v1.LinuxPodSandboxConfig{SecurityContext: &v1.LinuxSandboxSecurityContext{}},
	}
}

// containerConfig is a plain container that waits.
func containerConfig() *v1.ContainerConfig {
	return &v1.ContainerConfig{
		Metadata: &v1.ContainerMetadata{Name: "main"},
		Image:    &v1.ImageSpec{Image: busybox},
		Command:  []string{"sleep", "100000"},
		LogPath:  "main.log",
		Linux: &v1.LinuxContainerConfig{
			SecurityContext: &v1.LinuxContainerSecurityContext{},
			Resources:       &v1.LinuxContainerResources{},
		},
	}
}

// run makes a pod that is gone when the test ends.
func (c client) run(t *testing.T, config *v1.PodSandboxConfig) string {
	t.Helper()
	pod, err := c.RunPodSandbox(soon(t), &v1.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := c.RemovePodSandbox(soon(t), &v1.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
		if err != nil {
			t.Error(err)
		}
	})
	return pod.PodSandboxId
}

func (c client) create(
	t *testing.T, pod string, config *v1.ContainerConfig, of *v1.PodSandboxConfig,
) (string, error) {
	t.Helper()
	made, err := c.CreateContainer(soon(t),
		&v1.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: of})
	return made.GetContainerId(), err
}

// start makes a container and starts it.
func (c client) start(
	t *testing.T, pod string, config *v1.ContainerConfig, of *v1.PodSandboxConfig,
) string {
	t.Helper()
	id, err := c.create(t, pod, config, of)
	if err == nil {
		_, err = c.StartContainer(soon(t), &v1.StartContainerRequest{ContainerId: id})
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// sh runs a shell command in a container and gives what it prints.
func (c client) sh(t *testing.T, container, command string) string {
	t.Helper()
	done, err := c.ExecSync(soon(t), &v1.ExecSyncRequest{
		ContainerId: container, Cmd: []string{"sh", "-c", command}, Timeout: 20})
	if err != nil {
		t.Fatal(err)
	}
	if done.ExitCode != 0 {
		t.Fatalf("%s: exit code %d: %s", command, done.ExitCode, done.Stderr)
	}
	return strings.TrimSpace(string(done.Stdout))
}

// containerInfo is what a verbose status tells of a container.
func (c client) containerInfo(t *testing.T, id string) map[string]any {
	t.Helper()
	status, err := c.ContainerStatus(soon(t), &v1.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	return decoded(t, []byte(status.Info["info"]))
}

// decoded reads JSON with its numbers as they stand: a mask of capabilities fits no float.
func decoded(t *testing.T, text []byte) map[string]any {
	t.Helper()
	value := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return value
}

// eventually waits until what is asked holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("gave up waiting for %s", what)
}

// readable makes the directories above a file of a test enterable by every user.
func readable(t *testing.T, path string) string {
	t.Helper()
	for dir := path; strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return path
}
