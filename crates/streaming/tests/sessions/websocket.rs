//! Over WebSocket.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use streaming::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::backend::{echo, start};
use crate::spdy_client::Client;

const SUCCESS: &[u8] = br#"{"status":"Success"}"#;

async fn connect(url: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let io = TcpStream::connect(host).await.unwrap();
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    if !protocol.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let (client, answer) = tokio_tungstenite::client_async(request, io).await.unwrap();
    let chosen = answer.headers().get("sec-websocket-protocol");
    assert_eq!(chosen.map_or("", |name| name.to_str().unwrap()), protocol);
    client
}

async fn send(client: &mut WebSocketStream<TcpStream>, channel: u8, data: &[u8]) {
    let message = [&[channel], data].concat();
    client.send(Message::Binary(message.into())).await.unwrap();
}

/// The next message, which must not be a close, as channel and data.
async fn next(client: &mut WebSocketStream<TcpStream>) -> (u8, Vec<u8>) {
    let message = client.next().await.unwrap().unwrap();
    assert!(message.is_binary(), "{message:?}");
    let (channel, data) = message.into_data().split_first().map(|(c, d)| (*c, d.to_vec())).unwrap();
    (channel, data)
}

async fn closes_normally(client: &mut WebSocketStream<TcpStream>) {
    let Message::Close(Some(close)) = client.next().await.unwrap().unwrap() else {
        panic!("no close");
    };
    assert_eq!(close.code, CloseCode::Normal);
}

#[tokio::test]
async fn v5_clients_close_their_input() {
    let running = start(Config::default()).await;
    let mut client = connect(&running.exec("cat", "io"), "v5.channel.k8s.io").await;
    assert_eq!(next(&mut client).await, (1, vec![]));
    send(&mut client, 0, b"in and out").await;
    assert_eq!(next(&mut client).await, (1, b"in and out".to_vec()));
    // Channels that are not the client's to write, or do not exist, change nothing.
    for channel in [1, 2, 3, 200] {
        send(&mut client, channel, &[0; 100_000]).await;
    }
    send(&mut client, 255, &[0]).await;
    assert_eq!(next(&mut client).await, (3, SUCCESS.to_vec()));
    closes_normally(&mut client).await;
    running.counts.reach(0).await;
}

#[tokio::test]
async fn the_exit_code_comes_last() {
    let running = start(Config::default()).await;
    for (protocol, reason) in [("v4.channel.k8s.io", "NonZeroExitCode"), ("", "exit code 3")] {
        let mut client = connect(&running.exec("both and 3", "oe"), protocol).await;
        assert_eq!(next(&mut client).await, (1, vec![]));
        let mut output = [next(&mut client).await, next(&mut client).await];
        output.sort();
        assert_eq!(output, [(1, b"out".to_vec()), (2, b"err".to_vec())]);
        let (channel, status) = next(&mut client).await;
        assert_eq!(channel, 3);
        assert!(String::from_utf8(status).unwrap().contains(reason));
        closes_normally(&mut client).await;
    }
}

#[tokio::test]
async fn base64_clients_speak_text() {
    let running = start(Config::default()).await;
    let url = running.exec("size", "iot");
    let mut client = connect(&url, "v4.base64.channel.k8s.io").await;
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Text("1".into()));
    let size = STANDARD.encode(r#"{"Width":80,"Height":24}"#);
    client.send(Message::Text(format!("4{size}").into())).await.unwrap();
    let shown = format!("1{}", STANDARD.encode("80x24"));
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Text(shown.into()));
    let status = format!("3{}", STANDARD.encode(SUCCESS));
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Text(status.into()));
    closes_normally(&mut client).await;
}

#[tokio::test]
async fn a_session_ends_with_its_client() {
    let running = start(Config::default()).await;
    let mut client = connect(&running.exec("hang", "io"), "v4.channel.k8s.io").await;
    running.counts.reach(1).await;
    client.close(None).await.unwrap();
    loop {
        match client.next().await {
            Some(Ok(Message::Binary(_))) => {}
            Some(Ok(Message::Close(_))) => break,
            other => panic!("the close is not answered: {other:?}"),
        }
    }
    running.counts.reach(0).await;

    let mut client = connect(&running.exec("hang", "io"), "v4.channel.k8s.io").await;
    running.counts.reach(1).await;
    send(&mut client, 0, &[0; 200_000]).await;
    drop(client);
    running.counts.reach(0).await;
}

#[tokio::test]
async fn ports_come_in_pairs_of_channels() {
    let running = start(Config::default()).await;
    let port = echo().await;
    let url = running.port_forward(&[port, 1]);
    let mut client = connect(&url, "v4.channel.k8s.io").await;
    for (channel, port) in [(0, port), (1, port), (2, 1), (3, 1)] {
        assert_eq!(next(&mut client).await, (channel, port.to_le_bytes().to_vec()));
    }
    let (channel, message) = next(&mut client).await;
    assert_eq!(channel, 3);
    assert!(String::from_utf8(message).unwrap().contains("refused"));
    send(&mut client, 0, b"echo").await;
    assert_eq!(next(&mut client).await, (0, b"echo".to_vec()));
}

#[tokio::test]
async fn spdy_travels_inside_websocket() {
    let running = start(Config::default()).await;
    let port = echo().await.to_string();
    let tunnel = connect(&running.port_forward(&[]), "SPDY/3.1+portforward.k8s.io").await;
    let (inner, outer) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let (mut sink, mut messages) = tunnel.split();
        let (mut read, mut write) = tokio::io::split(outer);
        let outward = async {
            let mut buffer = [0; 1000];
            loop {
                let count = read.read(&mut buffer).await.unwrap();
                let message = Message::Binary(buffer[..count].to_vec().into());
                sink.send(message).await.unwrap();
            }
        };
        let inward = async {
            while let Some(Ok(message)) = messages.next().await {
                write.write_all(&message.into_data()).await.unwrap();
            }
        };
        tokio::select! {
            () = outward => {}
            () = inward => {}
        }
    });
    let mut client = Client::new(inner);
    let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
    let error = client.open(&headers("error")).await;
    let data = client.open(&headers("data")).await;
    let text = "tunnelled ".repeat(1000);
    client.data(data, text.as_bytes(), true).await;
    assert_eq!(client.collect(&[data, error]).await, [text.as_str(), ""]);
}
