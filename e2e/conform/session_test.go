package conform

import (
	"strings"
	"testing"

	"golang.org/x/net/websocket"
)

// session is a streaming session over WebSocket: the first byte of each message is its channel.
type session struct{ *websocket.Conn }

func webSocket(t *testing.T, url string) session {
	t.Helper()
	config, err := websocket.NewConfig(strings.Replace(url, "http", "ws", 1), "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol = []string{"v4.channel.k8s.io"}
	conn, err := websocket.DialConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	conn.PayloadType = websocket.BinaryFrame
	return session{conn}
}

func (s session) send(t *testing.T, channel byte, data []byte) {
	t.Helper()
	if _, err := s.Write(append([]byte{channel}, data...)); err != nil {
		t.Fatal(err)
	}
}

func (s session) close(t *testing.T) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
