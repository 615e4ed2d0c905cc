package conform

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// servers is the environment variable that makes this program serve, when a container runs it.
const servers = "CONFORM_SERVERS"

const (
	echoes   = 8001 // says what it hears, on IPv4
	onlySix  = 8002 // the same, on IPv6 alone
	resets   = 8003 // cuts off who connects
	nobodyIs = 8004
)

// serve listens on the ports above and never returns.
func serve() {
	listen := func(network, address string, port int, handle func(net.Conn)) {
		listener, err := net.Listen(network, net.JoinHostPort(address, fmt.Sprint(port)))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					continue
				}
				go handle(conn)
			}
		}()
	}
	echo := func(conn net.Conn) { io.Copy(conn, conn); conn.Close() }
	listen("tcp4", "127.0.0.1", echoes, echo)
	listen("tcp6", "::1", onlySix, echo)
	listen("tcp4", "127.0.0.1", resets, func(conn net.Conn) {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	})
	fmt.Println("ready")
	select {}
}

// One session forwards to several ports: what befalls one connection is not the others'. Both families
// of localhost are tried.
func TestForwardingSurvivesAReset(t *testing.T) {
	client := minke(t)
	config := podConfig(t)
	pod := client.run(t, config)
	container := itself(t, servers, "1")
	container.Command = []string{"/conform"}
	id := client.start(t, pod, container, config)
	logs("main.log", "stdout F ready")(t, subject{client: client, container: id, podConfig: config})

	ports := []int32{echoes, resets, onlySix, nobodyIs}
	answer, err := client.PortForward(soon(t), &v1.PortForwardRequest{PodSandboxId: pod, Port: ports})
	if err != nil {
		t.Fatal(err)
	}
	session := webSocket(t, answer.Url)
	session.SetDeadline(time.Now().Add(30 * time.Second))
	// Each port has a channel for data and one for errors; both begin with its number.
	heard := map[byte]string{}
	until := func(what string, holds func() bool) {
		t.Helper()
		for !holds() {
			message := make([]byte, 70000)
			length, err := session.Read(message)
			if err != nil {
				t.Fatalf("%s: %v, after %q", what, err, heard)
			}
			heard[message[0]] += string(message[1:length])
		}
	}
	number := func(port int32) string { return string([]byte{byte(port), byte(port >> 8)}) }
	until("the beginning", func() bool { return len(heard) >= 2*len(ports) })
	for i, port := range ports {
		for _, channel := range []byte{byte(2 * i), byte(2*i + 1)} {
			if heard[channel][:2] != number(port) {
				t.Errorf("channel %d begins with %q", channel, heard[channel])
			}
		}
	}
	session.send(t, 2, []byte("to who resets"))
	until("an error about nobody", func() bool { return len(heard[7]) > 2 })
	for round := range 3 {
		words := fmt.Sprintf("words %d ", round)
		session.send(t, 0, []byte(words))
		session.send(t, 4, []byte(words))
		until("an echo", func() bool {
			return len(heard[0]) >= 2+(round+1)*len(words) && len(heard[4]) >= 2+(round+1)*len(words)
		})
	}
	const said = "words 0 words 1 words 2 "
	if heard[0][2:] != said || heard[4][2:] != said {
		t.Errorf("%q", heard)
	}
	session.close(t)
}
