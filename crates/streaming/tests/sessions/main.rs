//! Sessions from end to end: a real server on loopback, and clients that know only the protocols.

#[cfg(test)]
mod backend;
#[cfg(test)]
mod spdy;
#[cfg(test)]
mod spdy_client;
#[cfg(test)]
mod websocket;

use backend::{set, start};
use spdy_client::request;
use streaming::{Config, ExecRequest, PortForwardRequest, RequestError};

#[tokio::test]
async fn requests_are_checked_before_a_url_is_given() {
    let running = start(Config::default()).await;
    let exec = |container: &str, streams| {
        let request =
            ExecRequest { container: container.into(), command: vec![], streams: set(streams) };
        running.server.exec_url(request)
    };
    assert!(matches!(exec("", "o"), Err(RequestError::MissingId("container_id"))));
    assert!(matches!(exec("a", ""), Err(RequestError::NoStreams)));
    assert!(matches!(exec("a", "t"), Err(RequestError::NoStreams)));
    assert!(matches!(exec("a", "oet"), Err(RequestError::TtyWithStderr)));
    let forward = |pod: &str, ports| {
        running.server.port_forward_url(PortForwardRequest { pod: pod.into(), ports })
    };
    assert!(matches!(forward("", vec![]), Err(RequestError::MissingId("pod_sandbox_id"))));
    assert!(matches!(forward("a", vec![1; 128]), Err(RequestError::TooManyPorts(127))));
    assert!(exec("a", "io").unwrap().starts_with("http://127.0.0.1:"));
    for _ in 1..1000 {
        exec("a", "o").unwrap();
    }
    assert!(matches!(exec("a", "o"), Err(RequestError::Full { .. })));
}

#[tokio::test]
async fn a_url_is_good_for_one_request_of_its_kind() {
    let running = start(Config::default()).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                   X-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
    let url = running.exec("hang", "o");
    let (_first, answer) = request(&url, upgrade).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let (_, answer) = request(&url, upgrade).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");

    let other = running.exec("hang", "o").replace("/exec/", "/attach/");
    let (_, answer) = request(&other, upgrade).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");

    let (_, answer) = request(&running.exec("hang", "o"), "").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let unknown = upgrade.replace("v4.", "v9.");
    let (_, answer) = request(&running.exec("hang", "o"), &unknown).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"), "{answer}");
}
