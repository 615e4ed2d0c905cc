package conform

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Every call of both services is answered by an implementation, an empty request included.
func TestEveryCallIsImplemented(t *testing.T) {
	runtime := minke(t)
	services := v1.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	calls := 0
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			method := services.Get(i).Methods().Get(j)
			calls++
			t.Run(string(method.Name()), func(t *testing.T) { answered(t, runtime, method) })
		}
	}
	if calls < 42 {
		t.Errorf("only %d calls were found", calls)
	}
}

func answered(t *testing.T, runtime client, method protoreflect.MethodDescriptor) {
	path := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	request, answer := message(t, method.Input()), message(t, method.Output())
	var err error
	if method.IsStreamingServer() {
		var stream grpc.ClientStream
		stream, err = runtime.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
		if err == nil {
			err = errors.Join(stream.SendMsg(request), stream.CloseSend())
		}
		if err == nil {
			// Events go on for ever and may begin with nothing.
			go func() { time.Sleep(time.Second); cancel() }()
			err = stream.RecvMsg(answer)
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
	} else {
		err = runtime.conn.Invoke(ctx, path, request, answer)
	}
	switch status.Code(err) {
	case codes.Unimplemented, codes.Unknown, codes.Internal, codes.DeadlineExceeded:
		t.Errorf("%v", err)
	}
}

func message(t *testing.T, descriptor protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

// What needs criu says so.
func TestCheckpointsAreRefusedForWantOfCriu(t *testing.T) {
	runtime := minke(t)
	_, container := runtime.CheckpointContainer(soon(t), &v1.CheckpointContainerRequest{ContainerId: "x"})
	_, pod := runtime.CheckpointPod(soon(t), &v1.CheckpointPodRequest{PodSandboxId: "x"})
	_, restored := runtime.RestorePod(soon(t), &v1.RestorePodRequest{CheckpointPath: "/x"})
	for _, err := range []error{container, pod, restored} {
		if status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != "criu is not configured" {
			t.Errorf("got %v", err)
		}
	}
}

// Streams give what lists give, in as many messages as it takes.
func TestStreamsGiveWhatListsGive(t *testing.T) {
	runtime := minke(t)
	of := podConfig(t)
	pod := runtime.run(t, of)
	const many = 120
	for i := range many {
		config := containerConfig()
		config.Metadata.Attempt = uint32(i)
		config.LogPath = ""
		if _, err := runtime.create(t, pod, config, of); err != nil {
			t.Fatal(err)
		}
	}
	filter := &v1.ContainerFilter{PodSandboxId: pod}
	listed, err := runtime.ListContainers(soon(t), &v1.ListContainersRequest{Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := runtime.StreamContainers(soon(t), &v1.StreamContainersRequest{Filter: filter})
	messages, streamed := gather(t, stream, err, (*v1.StreamContainersResponse).GetContainers)
	if len(streamed) != many || messages < 2 {
		t.Errorf("%d containers came in %d messages", len(streamed), messages)
	}
	equal(t, streamed, listed.Containers, (*v1.Container).GetId)

	pods, err := runtime.ListPodSandbox(soon(t), &v1.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	podStream, err := runtime.StreamPodSandboxes(soon(t), &v1.StreamPodSandboxesRequest{})
	_, streamedPods := gather(t, podStream, err, (*v1.StreamPodSandboxesResponse).GetPodSandboxes)
	equal(t, streamedPods, pods.Items, (*v1.PodSandbox).GetId)

	images, err := runtime.images.ListImages(soon(t), &v1.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	imageStream, err := runtime.images.StreamImages(soon(t), &v1.StreamImagesRequest{})
	_, streamedImages := gather(t, imageStream, err, (*v1.StreamImagesResponse).GetImages)
	equal(t, streamedImages, images.Images, (*v1.Image).GetId)
}

// gather reads a stream to its end.
func gather[M, I any](
	t *testing.T, stream grpc.ServerStreamingClient[M], err error, items func(*M) []I,
) (int, []I) {
	t.Helper()
	var all []I
	for messages := 0; ; messages++ {
		var message *M
		if err == nil {
			message, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			return messages, all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, items(message)...)
	}
}

// equal compares what two calls list, each once and with the same content.
func equal[I proto.Message](t *testing.T, streamed, listed []I, id func(I) string) {
	t.Helper()
	left := map[string]I{}
	for _, item := range listed {
		left[id(item)] = item
	}
	for _, item := range streamed {
		if other, known := left[id(item)]; !known || !proto.Equal(item, other) {
			t.Errorf("%v was streamed, %v listed", item, other)
		}
		delete(left, id(item))
	}
	if len(left) != 0 {
		t.Errorf("not streamed: %v", left)
	}
}

// A status names features that hold.
func TestFeaturesThatAreToldHold(t *testing.T) {
	runtime := minke(t)
	answer, err := runtime.Status(soon(t), &v1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !answer.Features.MountOptions || !answer.Features.SupplementalGroupsPolicy {
		t.Errorf("features: %v", answer.Features)
	}
	handlers := map[string]*v1.RuntimeHandlerFeatures{}
	for _, handler := range answer.RuntimeHandlers {
		handlers[handler.Name] = handler.Features
	}
	features, known := handlers[""]
	if !known {
		t.Fatalf("no default handler: %v", answer.RuntimeHandlers)
	}
	config, container := podConfig(t), containerConfig()
	put(t, config, userns, "")
	put(t, container, userns, "")
	pod, err := runtime.RunPodSandbox(soon(t), &v1.RunPodSandboxRequest{Config: config})
	if works := err == nil; works != features.UserNamespaces {
		t.Errorf("user namespaces are told to work: %t, and work: %v", features.UserNamespaces, err)
	}
	if err == nil {
		runtime.start(t, pod.PodSandboxId, container, config)
		_, err := runtime.RemovePodSandbox(soon(t), &v1.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
		if err != nil {
			t.Error(err)
		}
	}
	if !features.RecursiveReadOnlyMounts {
		t.Error("recursive read-only mounts are told not to work")
	}
}

// A pod's status has its containers' statuses. It has no moment: a kubelet that finds one asks no
// further, and then lacks what these statuses do not say.
func TestPodStatusHasItsContainers(t *testing.T) {
	runtime := minke(t)
	config := podConfig(t)
	pod := runtime.run(t, config)
	id := runtime.start(t, pod, containerConfig(), config)
	answer, err := runtime.PodSandboxStatus(soon(t), &v1.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	if answer.Timestamp != 0 {
		t.Errorf("timestamp %d", answer.Timestamp)
	}
	container, err := runtime.ContainerStatus(soon(t), &v1.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, answer.ContainersStatuses, []*v1.ContainerStatus{container.Status}, (*v1.ContainerStatus).GetId)
}

// What a pod was told to get is kept, and told.
func TestPodResourcesAreKept(t *testing.T) {
	runtime := minke(t)
	pod := runtime.run(t, podConfig(t))
	_, err := runtime.UpdatePodSandboxResources(soon(t), &v1.UpdatePodSandboxResourcesRequest{
		PodSandboxId: pod,
		Overhead:     &v1.LinuxContainerResources{CpuShares: 3},
		Resources:    &v1.LinuxContainerResources{MemoryLimitInBytes: 1 << 30},
	})
	if err != nil {
		t.Fatal(err)
	}
	made := subject{client: runtime, pod: pod}
	podInfo("config/overhead/cpu_shares", "3")(t, made)
	podInfo("config/resources/memory_limit", "1073741824")(t, made)
	_, err = runtime.UpdatePodSandboxResources(soon(t), &v1.UpdatePodSandboxResourcesRequest{
		PodSandboxId: pod, Resources: &v1.LinuxContainerResources{CpuPeriod: 1}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a period of 1: %v", err)
	}
}

// The cluster's subnet is where pods get their addresses from.
func TestPodCidrIsTaken(t *testing.T) {
	runtime := minke(t)
	set := func(cidr string) error {
		_, err := runtime.UpdateRuntimeConfig(soon(t), &v1.UpdateRuntimeConfigRequest{
			RuntimeConfig: &v1.RuntimeConfig{NetworkConfig: &v1.NetworkConfig{PodCidr: cidr}}})
		return err
	}
	if err := set("10.300.0.0/24"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no subnet: %v", err)
	}
	if err := set("10.213.7.0/24"); err != nil {
		t.Fatal(err)
	}
	answer, err := runtime.PodSandboxStatus(soon(t),
		&v1.PodSandboxStatusRequest{PodSandboxId: runtime.run(t, podConfig(t))})
	if err != nil {
		t.Fatal(err)
	}
	if ip := answer.Status.Network.Ip; !strings.HasPrefix(ip, "10.213.7.") {
		t.Errorf("the pod has %s", ip)
	}
}
