//! Over SPDY.

use std::time::Duration;

use streaming::Config;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::backend::{echo, start};
use crate::spdy_client::{Client, Frame};

const V4: &str = "v4.channel.k8s.io";
const PORT_FORWARD: &str = "portforward.k8s.io";
const SUCCESS: &str = r#"{"status":"Success"}"#;

async fn stream(client: &mut Client<TcpStream>, kind: &str) -> u32 {
    client.open(&[("streamtype", kind)]).await
}

#[tokio::test]
async fn input_ends_without_ending_output() {
    let running = start(Config::default()).await;
    for (url, expected) in
        [(running.exec("cat", "io"), "both ways"), (running.attach("io"), "BOTH WAYS")]
    {
        let mut client = Client::connect(&url, V4).await;
        let error = stream(&mut client, "error").await;
        let stdin = stream(&mut client, "stdin").await;
        let stdout = stream(&mut client, "stdout").await;
        client.data(stdin, b"both ", false).await;
        client.data(stdin, b"ways", true).await;
        assert_eq!(client.collect(&[stdout, error]).await, [expected, SUCCESS]);
    }
    running.counts.reach(0).await;
}

#[tokio::test]
async fn the_exit_code_comes_as_the_version_has_it() {
    let running = start(Config::default()).await;
    let json = r#"{"status":"Failure","message":"command terminated with exit code 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
    let text = "command terminated with exit code 3";
    for (protocol, expected) in [
        (V4, json),
        ("v3.channel.k8s.io", text),
        ("v2.channel.k8s.io", text),
        ("channel.k8s.io", text),
    ] {
        let mut client = Client::connect(&running.exec("both and 3", "oe"), protocol).await;
        let error = stream(&mut client, "error").await;
        let stdout = stream(&mut client, "stdout").await;
        let stderr = stream(&mut client, "stderr").await;
        let streams = [stdout, stderr, error];
        assert_eq!(client.collect(&streams).await, ["out", "err", expected]);
    }
}

#[tokio::test]
async fn a_failure_is_told_on_the_error_stream() {
    let running = start(Config::default()).await;
    let mut client = Client::connect(&running.exec("nonsense", "o"), V4).await;
    let error = stream(&mut client, "error").await;
    let stdout = stream(&mut client, "stdout").await;
    let [out, status] = &client.collect(&[stdout, error]).await[..] else { panic!() };
    assert_eq!(out, "");
    assert!(status.contains("no such command") && status.contains("InternalError"), "{status}");
}

#[tokio::test]
async fn a_terminal_has_a_resize_stream_from_v3_on() {
    let running = start(Config::default()).await;
    let mut client = Client::connect(&running.exec("size", "ot"), V4).await;
    let error = stream(&mut client, "error").await;
    let stdout = stream(&mut client, "stdout").await;
    let resize = stream(&mut client, "resize").await;
    client.data(resize, b"{\"Width\":0,\"Height\":0}\n", false).await;
    client.data(resize, b"{\"Width\":120,\"Height\":40}\n", false).await;
    assert_eq!(client.collect(&[stdout, error]).await, ["120x40", SUCCESS]);

    let mut client = Client::connect(&running.exec("size", "ot"), "v2.channel.k8s.io").await;
    let error = stream(&mut client, "error").await;
    let stdout = stream(&mut client, "stdout").await;
    let [_, message] = &client.collect(&[stdout, error]).await[..] else { panic!() };
    assert!(message.contains("no size"), "{message}");
}

#[tokio::test]
async fn streams_that_do_not_come_are_not_waited_for() {
    let stream_creation_timeout = Duration::from_millis(100);
    let running = start(Config { stream_creation_timeout, ..Config::default() }).await;
    let mut client = Client::connect(&running.exec("cat", "io"), V4).await;
    let error = stream(&mut client, "error").await;
    let status = client.collect(&[error]).await;
    assert!(status[0].contains("not all streams were created"), "{status:?}");
    assert_eq!(running.counts.running(), 0);
}

#[tokio::test]
async fn strange_streams_are_refused() {
    let running = start(Config::default()).await;
    let mut client = Client::connect(&running.exec("hang", "o"), V4).await;
    let strange = client.ask(&[("streamtype", "strange")]).await;
    assert_eq!(client.frame().await, Some(Frame::Reset(strange)));
    let nameless = client.ask(&[]).await;
    assert_eq!(client.frame().await, Some(Frame::Reset(nameless)));
    // The session is unharmed.
    stream(&mut client, "error").await;
    stream(&mut client, "stdout").await;
    running.counts.reach(1).await;
}

#[tokio::test]
async fn pings_are_answered_and_other_frames_ignored() {
    let running = start(Config::default()).await;
    let mut client = Client::connect(&running.exec("hang", "o"), V4).await;
    // SETTINGS with no entries, WINDOW_UPDATE, GOAWAY, and a type that does not exist.
    client.raw(&[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0]).await;
    client.raw(&[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 1, 0]).await;
    client.raw(&[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]).await;
    client.raw(&[0x80, 3, 0, 99, 0, 0, 0, 0]).await;
    client.raw(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]).await;
    assert_eq!(client.frame().await, Some(Frame::Ping(7)));
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_is_left() {
    let running = start(Config::default()).await;
    for nonsense in
        [&[0; 8][..], &[0x80, 2, 0, 1, 0, 0, 0, 0], &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]]
    {
        let mut client = Client::connect(&running.exec("hang", "o"), V4).await;
        stream(&mut client, "error").await;
        stream(&mut client, "stdout").await;
        running.counts.reach(1).await;
        client.raw(nonsense).await;
        assert!(client.is_closed().await);
        running.counts.reach(0).await;
    }
}

#[tokio::test]
async fn a_session_ends_with_its_client_its_idle_time_and_the_server() {
    let idle_timeout = Duration::from_millis(300);
    let running = start(Config { idle_timeout, ..Config::default() }).await;
    let open = async || {
        let mut client = Client::connect(&running.exec("hang", "io"), V4).await;
        for kind in ["error", "stdin", "stdout"] {
            stream(&mut client, kind).await;
        }
        running.counts.reach(1).await;
        client
    };
    drop(open().await);
    running.counts.reach(0).await;

    // Nobody reads this input, and the connection's reader is stuck with it.
    let mut client = open().await;
    client.data(3, &[0; 200_000], false).await;
    drop(client);
    running.counts.reach(0).await;

    let mut client = open().await;
    assert!(client.is_closed().await);
    assert_eq!(running.counts.running(), 0);

    let mut client = open().await;
    let counts = std::sync::Arc::clone(&running.counts);
    running.stop().await;
    assert_eq!(counts.running(), 0);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn output_that_nobody_reads_is_held_back() {
    let running = start(Config::default()).await;
    let mut client = Client::connect(&running.exec("flood", "o"), V4).await;
    stream(&mut client, "error").await;
    stream(&mut client, "stdout").await;
    let mut before = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let written = running.counts.written();
        if written == before && written > 0 {
            // The rest is in the kernel's buffers for the two ends of the connection.
            assert!(written < 32 << 20, "{written}");
            return;
        }
        before = written;
    }
    panic!("{before} bytes were taken from the session, and still more");
}

async fn pair(client: &mut Client<TcpStream>, request: &str, port: u16) -> (u32, u32) {
    let port = port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request)];
    let error = client.open(&headers("error")).await;
    (client.open(&headers("data")).await, error)
}

#[tokio::test]
async fn forwarded_connections_are_apart() {
    let running = start(Config::default()).await;
    let mut client = Client::connect(&running.port_forward(&[]), PORT_FORWARD).await;
    let port = echo().await;
    let (first, _) = pair(&mut client, "0", port).await;
    let (second, second_error) = pair(&mut client, "1", port).await;
    client.data(first, b"first", false).await;
    assert_eq!(client.frame().await, Some(Frame::Data(first, b"first".to_vec(), false)));
    client.reset(first).await;
    // The pod side of the reset one is closed, which says nothing about the other.
    client.data(second, b"second", true).await;
    loop {
        match client.frame().await {
            Some(Frame::Data(stream, data, _)) if stream == second => {
                assert_eq!(data, b"second");
                break;
            }
            Some(Frame::Data(_, data, true)) => assert_eq!(data, b""),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(client.collect(&[second, second_error]).await, ["", ""]);
    // Old clients send no request ids; the two streams are told by their numbers.
    let port = port.to_string();
    let error = client.open(&[("streamtype", "error"), ("port", &port)]).await;
    let data = client.open(&[("streamtype", "data"), ("port", &port)]).await;
    client.data(data, b"third", true).await;
    assert_eq!(client.collect(&[data, error]).await, ["third", ""]);
}

#[tokio::test]
async fn the_error_stream_tells_of_refusals_and_not_of_resets() {
    let running = start(Config::default()).await;
    let mut client = Client::connect(&running.port_forward(&[]), PORT_FORWARD).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();

    let (data, error) = pair(&mut client, "reset", port).await;
    client.data(data, b"unread", false).await;
    // Closing with unread data resets the connection.
    let (connection, _) = listener.accept().await.unwrap();
    connection.peek(&mut [0; 1]).await.unwrap();
    drop(connection);
    assert_eq!(client.collect(&[data, error]).await, ["", ""]);

    drop(listener);
    let (data, error) = pair(&mut client, "refused", port).await;
    let [_, message] = &client.collect(&[data, error]).await[..] else { panic!() };
    assert!(message.contains(&format!("port {port}")), "{message}");
    assert!(message.contains("refused"), "{message}");
}

#[tokio::test]
async fn half_a_pair_is_not_waited_for() {
    let stream_creation_timeout = Duration::from_millis(100);
    let running = start(Config { stream_creation_timeout, ..Config::default() }).await;
    let mut client = Client::connect(&running.port_forward(&[]), PORT_FORWARD).await;
    for headers in [
        &[("streamtype", "data")][..],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "stdin"), ("port", "1")],
    ] {
        let refused = client.ask(headers).await;
        assert_eq!(client.frame().await, Some(Frame::Reset(refused)));
    }
    let error = client.open(&[("streamtype", "error"), ("port", "1"), ("requestid", "0")]).await;
    let message = client.collect(&[error]).await;
    assert!(message[0].contains("not both streams"), "{message:?}");
}

#[tokio::test]
async fn the_pod_sees_the_clients_reset() {
    let running = start(Config::default()).await;
    let mut client = Client::connect(&running.port_forward(&[]), PORT_FORWARD).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (data, _) = pair(&mut client, "0", listener.local_addr().unwrap().port()).await;
    let (mut connection, _) = listener.accept().await.unwrap();
    client.reset(data).await;
    // Reads the end, and a write finds nobody: both directions are closed.
    assert_eq!(connection.read(&mut [0; 1]).await.unwrap(), 0);
}
