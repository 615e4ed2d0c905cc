package conform

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// well checks that pods still start and go, and that the daemon has not grown beyond all measure.
func well(t *testing.T, runtime client) {
	t.Helper()
	pods(t, runtime)
	if size := resident(t); size > 512<<20 {
		t.Errorf("the daemon has grown to %d MiB", size>>20)
	}
}

// pods checks that a pod starts and goes in ordinary time.
func pods(t *testing.T, runtime client) {
	t.Helper()
	began := time.Now()
	config := podConfig(t)
	ran, err := runtime.RunPodSandbox(soon(t), &v1.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	runtime.start(t, ran.PodSandboxId, containerConfig(), config)
	_, err = runtime.RemovePodSandbox(soon(t), &v1.RemovePodSandboxRequest{PodSandboxId: ran.PodSandboxId})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a pod took %v", took)
	}
}

// resident is the daemon's memory in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/" + os.Getenv("CONFORM_PID") + "/status")
	if err != nil {
		t.Fatal(err)
	}
	var kib int64
	for _, line := range strings.Split(string(text), "\n") {
		fmt.Sscanf(line, "VmRSS: %d kB", &kib)
	}
	if kib == 0 {
		t.Fatal("the daemon's memory is not told")
	}
	return kib << 10
}

func raw(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", os.Getenv("CONFORM_SOCK"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Whatever is written to the socket, others are served.
func TestArbitraryBytesHurtNobody(t *testing.T) {
	runtime := minke(t)
	random := rand.NewChaCha8([32]byte{1})
	for i := range 300 {
		conn := raw(t)
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		noise := make([]byte, 1+random.Uint64()%20000)
		random.Read(noise)
		switch i % 4 {
		case 1:
			noise = append([]byte(http2.ClientPreface), noise...)
		case 2:
			// Frames of sound length and any type, flags and content.
			noise = append([]byte(http2.ClientPreface), 0, 0, 0, 4, 0, 0, 0, 0, 0)
			for range 50 {
				length := random.Uint64() % 200
				head := []byte{0, 0, byte(length), byte(random.Uint64() % 12), byte(random.Uint64())}
				body := make([]byte, 4+length)
				random.Read(body)
				noise = append(append(noise, head...), body...)
			}
		case 3:
			noise = []byte("GET / HTTP/1.1\r\nHost: minke\r\n\r\n")
		}
		// Being cut off is what it has earned.
		conn.Write(noise)
		conn.Close()
	}
	well(t, runtime)
}

// rpc begins a call by hand and gives what is needed to go on with it.
func rpc(t *testing.T, conn net.Conn, method string) *http2.Framer {
	t.Helper()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(65536, nil)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block strings.Builder
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":authority", "localhost"}, {":path", "/runtime.v1.RuntimeService/" + method},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	err := framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	return framer
}

// A message that is said to be huge is refused before anything of it is kept.
func TestAMessageThatClaimsToBeHugeIsRefused(t *testing.T) {
	runtime := minke(t)
	before := resident(t)
	for range 20 {
		framer := rpc(t, raw(t), "RunPodSandbox")
		claim := binary.BigEndian.AppendUint32([]byte{0}, 4<<30-1)
		if err := framer.WriteData(1, false, append(claim, make([]byte, 100)...)); err != nil {
			t.Fatal(err)
		}
		for answered := false; !answered; {
			frame, err := framer.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if headers, ok := frame.(*http2.MetaHeadersFrame); ok {
				for _, field := range headers.Fields {
					if field.Name == "grpc-status" {
						answered = true
						if field.Value == "0" {
							t.Error("it was taken")
						}
					}
				}
			}
		}
	}
	if grown := resident(t) - before; grown > 64<<20 {
		t.Errorf("the daemon grew by %d MiB", grown>>20)
	}
	well(t, runtime)
}

// A message that is too large is refused, one below the limit of 16 MiB is read.
func TestOversizedMessagesAreRefused(t *testing.T) {
	runtime := minke(t)
	with := func(size int) error {
		config := podConfig(t)
		config.Hostname = strings.Repeat("h", size)
		_, err := runtime.RunPodSandbox(soon(t), &v1.RunPodSandboxRequest{Config: config})
		return err
	}
	if err := with(15 << 20); status.Code(err) != codes.InvalidArgument {
		t.Errorf("15 MiB: %v", err)
	}
	switch err := with(17 << 20); status.Code(err) {
	case codes.ResourceExhausted, codes.OutOfRange:
	default:
		t.Errorf("17 MiB: %v", err)
	}
	well(t, runtime)
}

// Clients that begin and do not go on, or do not read, hold up nobody, and what waited for them goes
// with them.
func TestSlowClientsHoldUpNobody(t *testing.T) {
	runtime := minke(t)
	config := podConfig(t)
	config.Annotations = map[string]string{"long": strings.Repeat("x", 20000)}
	pod := runtime.run(t, config)
	for i := range 60 {
		container := containerConfig()
		container.LogPath = ""
		container.Metadata.Attempt = uint32(i)
		container.Annotations = config.Annotations
		if _, err := runtime.create(t, pod, container, config); err != nil {
			t.Fatal(err)
		}
	}
	before := resident(t)
	var slow []net.Conn
	for i := range 300 {
		conn := raw(t)
		slow = append(slow, conn)
		switch i % 5 {
		case 0: // says nothing
		case 1:
			conn.Write([]byte(http2.ClientPreface[:10]))
		case 2: // half of a message
			rpc(t, conn, "RunPodSandbox").WriteData(1, false, []byte{0, 0, 0, 1, 0, 1, 2, 3})
		case 3: // asks for more than a megabyte and reads none of it
			rpc(t, conn, "ListContainers").WriteData(1, true, []byte{0, 0, 0, 0, 0})
		case 4: // hears of all changes and reads none of them
			rpc(t, conn, "GetContainerEvents").WriteData(1, true, []byte{0, 0, 0, 0, 0})
		}
	}
	var slowest time.Duration
	for range 100 {
		began := time.Now()
		if _, err := runtime.Version(soon(t), &v1.VersionRequest{}); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
	}
	if slowest > 2*time.Second {
		t.Errorf("Version took %v", slowest)
	}
	for range 10 {
		pods(t, runtime)
	}
	for _, conn := range slow {
		conn.Close()
	}
	eventually(t, "the memory to be given back", func() bool { return resident(t) < before+160<<20 })
	well(t, runtime)
}

// A client that floods one connection is one client among others.
func TestAFloodIsShared(t *testing.T) {
	runtime := minke(t)
	conn, err := grpc.NewClient("unix://"+os.Getenv("CONFORM_SOCK"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	flooding := v1.NewRuntimeServiceClient(conn)
	var flood sync.WaitGroup
	for range 500 {
		flood.Go(func() {
			for ctx.Err() == nil {
				flooding.ListContainers(ctx, &v1.ListContainersRequest{})
			}
		})
	}
	well(t, runtime)
	cancel()
	flood.Wait()
}
