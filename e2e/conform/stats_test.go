package conform

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// threads is the environment variable that makes this program hold so many threads and wait, when a
// container runs it.
const threads = "CONFORM_THREADS"

func TestMain(m *testing.M) {
	if os.Getenv(servers) != "" {
		serve()
	}
	var number int
	if _, err := fmt.Sscan(os.Getenv(threads), &number); err == nil {
		for range number {
			go func() {
				runtime.LockOSThread()
				select {}
			}()
		}
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// metricsOf gives the values of a pod's container by name, the labels of its own behind a slash.
func metricsOf(t *testing.T, c client, pod string) map[string]uint64 {
	t.Helper()
	descriptors, err := c.ListMetricDescriptors(soon(t), &v1.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]int{}
	for _, descriptor := range descriptors.Descriptors {
		labels[descriptor.Name] = len(descriptor.LabelKeys)
	}
	listed, err := c.ListPodSandboxMetrics(soon(t), &v1.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]uint64{}
	for _, of := range listed.PodMetrics {
		if of.PodSandboxId != pod {
			continue
		}
		metrics := of.Metrics
		for _, container := range of.ContainerMetrics {
			metrics = append(metrics, container.Metrics...)
		}
		for _, metric := range metrics {
			if len(metric.LabelValues) != labels[metric.Name] {
				t.Errorf("%s has the labels %v, and is described with %d", metric.Name, metric.LabelValues, labels[metric.Name])
			}
			name := metric.Name
			if len(metric.LabelValues) > 5 {
				name += "/" + strings.Join(metric.LabelValues[5:], "/")
			}
			values[name] = metric.Value.Value
		}
	}
	return values
}

// itself is a container that has this program as /conform, with a variable that says what it is to be.
func itself(t *testing.T, role, value string) *v1.ContainerConfig {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	container := containerConfig()
	container.Mounts = []*v1.Mount{{ContainerPath: "/conform", HostPath: program, Readonly: true}}
	container.Envs = []*v1.KeyValue{{Key: role, Value: []byte(value)}}
	return container
}

// Processes and threads are counted as what they are.
func TestProcessesAndThreadsAreTrue(t *testing.T) {
	client := minke(t)
	config := podConfig(t)
	pod := client.run(t, config)
	container := itself(t, threads, "12")
	container.Command = []string{"sh", "-c", "sleep 1000 & sleep 1000 & /conform; true"}
	id := client.start(t, pod, container, config)
	host := func(pattern string) (processes, threads uint64) {
		// The shell, two sleeps and this program: read from the host's /proc by their cgroup.
		paths, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/cgroup")
		for _, path := range paths {
			text, _ := os.ReadFile(path)
			if !strings.Contains(string(text), pattern) {
				continue
			}
			threads++
			parts := strings.Split(path, "/")
			if parts[2] == parts[4] {
				processes++
			}
		}
		return processes, threads
	}
	eventually(t, "12 threads of the program", func() bool {
		_, threads := host(id)
		return threads >= 4+12
	})
	// Go starts threads as it sees fit, so what is compared is two views of one moment.
	var processes, threads uint64
	eventually(t, "both views to agree", func() bool {
		before, threadsBefore := host(id)
		values := metricsOf(t, client, pod)
		processes, threads = host(id)
		if before != processes || threadsBefore != threads {
			return false
		}
		return values["container_processes"] == processes && values["container_threads"] == threads
	})
	if processes != 4 || threads <= processes {
		t.Errorf("%d processes, %d threads", processes, threads)
	}
	stats, err := client.PodSandboxStats(soon(t), &v1.PodSandboxStatsRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	if count := stats.Stats.Linux.Process.ProcessCount.Value; count != 4 {
		t.Errorf("the pod has %d processes, not 4", count)
	}
}

// Metrics tell what the container holds, has written and lost.
func TestMetricsAreTrue(t *testing.T) {
	client := minke(t)
	config := podConfig(t)
	pod := client.run(t, config)
	container := containerConfig()
	container.Linux.Resources.MemoryLimitInBytes = 64 << 20
	container.Linux.Resources.CpuShares = 123
	container.Command = []string{"sh", "-c", "exec 7</etc/passwd; nc -l -p 99 & sleep 1000"}
	id := client.start(t, pod, container, config)
	client.sh(t, id, "dd if=/dev/zero of=/written bs=1M count=3 2>/dev/null")
	// Killed for want of memory, in an exec, so that the container lives on.
	client.sh(t, id, "tail /dev/zero; true")
	var values map[string]uint64
	eventually(t, "a socket", func() bool {
		values = metricsOf(t, client, pod)
		return values["container_sockets"] == 1
	})
	at := func(prefix string) (string, uint64) {
		for name, value := range values {
			if strings.HasPrefix(name, prefix) {
				return name, value
			}
		}
		return "nothing", 0
	}
	for _, want := range []struct {
		name        string
		least, most uint64
	}{
		{"container_oom_events_total", 1, 10},
		{"container_spec_cpu_shares", 123, 123},
		{"container_spec_memory_limit_bytes", 64 << 20, 64 << 20},
		{"container_fs_usage_bytes/", 3 << 20, 4 << 20},
		{"container_fs_limit_bytes/", 1 << 30, 1 << 60},
		{"container_fs_inodes_total/", 1, 1 << 60},
		{"container_fs_inodes_free/", 1, 1 << 60},
		// Each process has its standard streams, the shell and its children the file as well.
		{"container_file_descriptors", 8, 40},
		{"container_ulimits_soft/max_open_files", 1, 1 << 62},
		{"container_memory_usage_bytes", 1, 64 << 20},
		{"container_network_receive_bytes_total/eth0", 0, 1 << 40},
	} {
		if name, value := at(want.name); value < want.least || value > want.most || name == "nothing" {
			t.Errorf("%s: %s is %d", want.name, name, value)
		}
	}
}

// What the kernel gives for the host's cgroups is there, and what it does not is left out.
func TestStatsAreWhole(t *testing.T) {
	client := minke(t)
	config := podConfig(t)
	pod := client.run(t, config)
	container := containerConfig()
	container.Linux.Resources.MemoryLimitInBytes = 64 << 20
	id := client.start(t, pod, container, config)
	client.sh(t, id, "mkdir /d; for i in 1 2 3; do echo x > /d/$i; done; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
	of := func() *v1.ContainerStats {
		answer, err := client.ContainerStats(soon(t), &v1.ContainerStatsRequest{ContainerId: id})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Stats
	}
	asked := time.Now()
	stats := of()
	if stats.Cpu.UsageCoreNanoSeconds.Value == 0 || stats.Memory.WorkingSetBytes.Value == 0 {
		t.Errorf("%v", stats)
	}
	if available := stats.Memory.AvailableBytes.GetValue(); available == 0 || available >= 64<<20 {
		t.Errorf("%d bytes are available of 64 MiB", available)
	}
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	if unified := err == nil; unified != (stats.Cpu.Psi != nil) || unified != (stats.Io != nil) {
		t.Errorf("pressure: %v, %v", stats.Cpu.Psi, stats.Io)
	}
	if swaps, _ := os.ReadFile("/proc/swaps"); strings.Count(string(swaps), "\n") > 1 && stats.Swap == nil {
		t.Error("there is swap, and nothing is told of it")
	}
	// The directory and three files; the layer also holds what mounts needed.
	layer := stats.WritableLayer
	if layer == nil || layer.InodesUsed.Value < 4 || layer.Timestamp < asked.UnixNano() {
		t.Fatalf("writable layer: %v", layer)
	}
	client.sh(t, id, "for i in 4 5 6 7; do echo x > /d/$i; done")
	if again := of().WritableLayer; again == nil || again.Timestamp != layer.Timestamp {
		t.Errorf("a moment later: %v after %v", again, layer)
	}
	eventually(t, "a walk that has seen the new files", func() bool {
		again := of().WritableLayer
		if age := time.Now().UnixNano() - again.GetTimestamp(); age > int64(11*time.Second) {
			t.Fatalf("an answer of %d ns ago", age)
		}
		return again.GetInodesUsed().GetValue() == layer.InodesUsed.Value+4
	})
	if cores := of().Cpu.UsageNanoCores; cores == nil {
		t.Error("after a second reading there is no rate")
	}
}

// Stats of many are those of each.
func TestStatsAreStreamed(t *testing.T) {
	client := minke(t)
	config := podConfig(t)
	config.Labels = map[string]string{"of": t.Name()}
	pod := client.run(t, config)
	container := containerConfig()
	container.Labels = map[string]string{"of": t.Name()}
	id := client.start(t, pod, container, config)

	containers := &v1.ContainerStatsFilter{LabelSelector: container.Labels}
	listed, err := client.ListContainerStats(soon(t), &v1.ListContainerStatsRequest{Filter: containers})
	if err != nil || len(listed.Stats) != 1 || listed.Stats[0].Attributes.Id != id {
		t.Errorf("%v, %v", listed, err)
	}
	stream, err := client.StreamContainerStats(soon(t), &v1.StreamContainerStatsRequest{Filter: containers})
	_, streamed := gather(t, stream, err, (*v1.StreamContainerStatsResponse).GetContainerStats)
	if len(streamed) != 1 || streamed[0].Attributes.Id != id {
		t.Errorf("%v", streamed)
	}
	pods := &v1.PodSandboxStatsFilter{LabelSelector: config.Labels}
	listedPods, err := client.ListPodSandboxStats(soon(t), &v1.ListPodSandboxStatsRequest{Filter: pods})
	if err != nil || len(listedPods.Stats) != 1 || len(listedPods.Stats[0].Linux.Containers) != 1 {
		t.Errorf("%v, %v", listedPods, err)
	}
	podStream, err := client.StreamPodSandboxStats(soon(t), &v1.StreamPodSandboxStatsRequest{Filter: pods})
	_, streamedPods := gather(t, podStream, err, (*v1.StreamPodSandboxStatsResponse).GetPodSandboxStats)
	if len(streamedPods) != 1 || streamedPods[0].Attributes.Id != pod {
		t.Errorf("%v", streamedPods)
	}
	metrics, err := client.StreamPodSandboxMetrics(soon(t), &v1.StreamPodSandboxMetricsRequest{})
	_, streamedMetrics := gather(t, metrics, err, (*v1.StreamPodSandboxMetricsResponse).GetPodSandboxMetrics)
	found := false
	for _, of := range streamedMetrics {
		found = found || of.PodSandboxId == pod
	}
	if !found {
		t.Error("the pod's metrics were not streamed")
	}
}
