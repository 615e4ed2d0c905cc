//! Host ports: who answers where.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use model::{PortMapping, Protocol};
use network::Error;

use crate::nft;
use crate::world::{Pod, call, inside, isolated, port, serve, uplink};

const BOTH: &str = "10.70.0.0/24,fd00:70::/64";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn tcp(host_port: u16, container_port: u16) -> PortMapping {
    port(Protocol::Tcp, host_port, container_port)
}

fn on(host_ip: &str, mapping: PortMapping) -> PortMapping {
    PortMapping { host_ip: Some(host_ip.parse().unwrap()), ..mapping }
}

#[test]
fn a_host_port_answers_from_everywhere() {
    isolated(|world| async move {
        let outside = uplink(1500);
        let network = world.open(BOTH).await;
        let pod = Pod::with_ports(&network, 1, vec![tcp(8080, 80)]).await.unwrap();
        let other = Pod::start(&network, 2).await;
        pod.serve(80);
        for host in ["127.0.0.1:8080", "10.70.0.1:8080", "198.51.100.1:8080", "[fd00:70::1]:8080"] {
            // From the host, the pod itself and its neighbour; on loopback only the host.
            call(at(host)).unwrap_or_else(|e| panic!("host to {host}: {e}"));
            if host != "127.0.0.1:8080" {
                pod.call(at(host)).unwrap_or_else(|e| panic!("pod to {host}: {e}"));
                other.call(at(host)).unwrap_or_else(|e| panic!("neighbour to {host}: {e}"));
            }
        }
        // Callers from outside keep their address.
        let seen = inside(&outside, || call(at("198.51.100.1:8080"))).unwrap();
        assert_eq!(seen.to_string(), "198.51.100.2");
        let seen = inside(&outside, || call(at("[fd00:51::1]:8080"))).unwrap();
        assert_eq!(seen.to_string(), "fd00:51::2");
        // The port alone is mapped, and only while the pod is there.
        assert!(call(at("127.0.0.1:8081")).is_err());
        pod.stop(&network).await;
        assert!(call(at("127.0.0.1:8080")).is_err());
    });
}

#[test]
fn a_host_address_is_honoured() {
    isolated(|world| async move {
        let outside = uplink(1500);
        let network = world.open("10.70.0.0/24").await;
        let loopback = on("127.0.0.1", tcp(8080, 80));
        let public = on("198.51.100.1", tcp(8080, 81));
        let pod = Pod::with_ports(&network, 1, vec![loopback, public]).await.unwrap();
        pod.serve(80);
        let listener = pod.inside(|| TcpListener::bind("0.0.0.0:81")).unwrap();
        assert!(call(at("127.0.0.1:8080")).is_ok());
        assert!(call(at("10.70.0.1:8080")).is_err());
        serve(listener);
        assert!(inside(&outside, || call(at("198.51.100.1:8080"))).is_ok());
        let odd = on("fd00::1", tcp(9090, 80));
        let error = Pod::with_ports(&network, 2, vec![odd]).await.err().unwrap();
        assert!(matches!(error, Error::HostAddress { .. }), "{error}");
    });
}

#[test]
fn pods_do_not_reach_the_hosts_loopback() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/24").await;
        let pod = Pod::with_ports(&network, 1, vec![tcp(8080, 80)]).await.unwrap();
        serve(TcpListener::bind("127.0.0.1:6000").unwrap());
        assert!(call(at("127.0.0.1:6000")).is_ok());
        // A pod with CAP_NET_ADMIN sends what it likes.
        pod.inside(|| {
            crate::world::ip("link set lo down");
            crate::world::ip("route add 127.0.0.1 via 10.70.0.1 dev eth0 table 7");
            crate::world::ip("rule add to 127.0.0.1 lookup 7 pref 1");
            let _ = std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1");
        });
        // The rule would come after the local table.
        pod.inside(|| crate::world::ip("rule del pref 0"));
        let error = pod.call(at("127.0.0.1:6000")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    });
}

#[test]
fn a_taken_port_names_the_pod_that_has_it() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/24").await;
        let first = Pod::with_ports(&network, 1, vec![tcp(8080, 80)]).await.unwrap();
        let error = Pod::with_ports(&network, 2, vec![tcp(8080, 81)]).await.err().unwrap();
        let text = error.to_string();
        assert!(text.contains("8080/tcp") && text.contains("default/pod1"), "{text}");
        let udp = port(Protocol::Udp, 8080, 80);
        Pod::with_ports(&network, 3, vec![udp]).await.unwrap();
        first.stop(&network).await;
        Pod::with_ports(&network, 4, vec![tcp(8080, 81)]).await.unwrap();
    });
}

#[test]
fn a_udp_client_that_keeps_sending_meets_the_next_pod() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/24").await;
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        client.connect("127.0.0.1:5353").unwrap();
        let mut answer = [0; 8];
        // Nobody is there; the flow that this makes must not stay.
        let _ = client.send(b"hello");
        let _ = client.recv(&mut answer);
        for n in 1..=2u8 {
            let mapping = port(Protocol::Udp, 5353, 53);
            let pod = Pod::with_ports(&network, n, vec![mapping]).await.unwrap();
            let server = pod.inside(|| UdpSocket::bind("0.0.0.0:53")).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            client.send(b"hello").unwrap();
            let mut question = [0; 8];
            let (_, from) = server.recv_from(&mut question).unwrap();
            server.send_to(&[n], from).unwrap();
            assert_eq!(client.recv(&mut answer).unwrap(), 1);
            assert_eq!(answer[0], n);
            drop(server);
            pod.stop(&network).await;
            let _ = client.send(b"hello");
            let _ = client.recv(&mut answer);
        }
    });
}

#[test]
fn rules_are_made_once_and_elements_come_and_go() {
    isolated(|world| async move {
        let network = world.open(BOTH).await;
        let before = nft::print("minke0");
        assert!(before[1].1 >= 12, "rules: {before:?}");
        let sctp = port(Protocol::Sctp, 36412, 36412);
        let local = on("127.0.0.1", tcp(81, 80));
        let ports = vec![tcp(80, 80), port(Protocol::Udp, 53, 53), sctp, local];
        let pod = Pod::with_ports(&network, 1, ports).await.unwrap();
        let during = nft::print("minke0");
        assert_eq!(during[1], before[1]);
        assert!(during[3..].iter().filter(|set| set.2 > 0).count() >= 5, "{during:?}");
        // SCTP's number and the port, as nftables has them: each fills 32 bits.
        let [high, low] = 36412_u16.to_be_bytes();
        let element = [132, 0, 0, 0, high, low, 0, 0];
        let sets = ["any4", "pods4", "any6", "pods6"];
        assert_eq!(sets.map(|set| nft::holds("minke0", set, &element)), [true; 4]);
        if !std::fs::read_to_string("/proc/net/protocols").is_ok_and(|all| all.contains("SCTP")) {
            println!("this kernel has no SCTP: its host port is seen in the sets only");
        }
        let plain = Pod::start(&network, 2).await;
        assert_eq!(nft::print("minke0"), during);
        plain.stop(&network).await;
        pod.stop(&network).await;
        assert_eq!(sets.map(|set| nft::holds("minke0", set, &element)), [false; 4]);
        assert_eq!(nft::print("minke0"), before);
    });
}

#[test]
fn a_flushed_ruleset_is_written_again() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/24").await;
        let pod = Pod::with_ports(&network, 1, vec![tcp(8080, 80)]).await.unwrap();
        pod.serve(80);
        let before = nft::print("minke0");
        nft::delete_table(nft::INET, "minke0");
        let other = Pod::with_ports(&network, 2, vec![tcp(8081, 80)]).await.unwrap();
        assert!(call(at("127.0.0.1:8080")).is_ok());
        nft::delete_table(nft::INET, "minke0");
        other.stop(&network).await;
        assert_eq!(nft::print("minke0"), before);
        assert!(call(at("127.0.0.1:8080")).is_ok());
    });
}

#[test]
fn a_flush_and_a_later_firewall_are_noticed() {
    isolated(|world| async move {
        let outside = uplink(1500);
        let network = world.open("10.70.0.0/24").await;
        let pod = Pod::with_ports(&network, 1, vec![tcp(8080, 80)]).await.unwrap();
        serve(inside(&outside, || TcpListener::bind("0.0.0.0:80")).unwrap());
        let before = nft::print("minke0");
        nft::delete_table(nft::INET, "minke0");
        nft::drop_forwarded(nft::IPV4, "filter", "FORWARD");
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(nft::print("minke0"), before);
        assert!(pod.call(at("198.51.100.2:80")).is_ok());
        assert!(network.status().notes.iter().any(|note| note.contains("chain FORWARD")));
    });
}

#[test]
fn a_firewall_that_drops_is_opened_or_named() {
    isolated(|world| async move {
        nft::drop_forwarded(nft::IPV4, "filter", "FORWARD");
        nft::drop_forwarded(nft::INET, "custom", "through");
        let outside = uplink(1500);
        let network = world.open("10.70.0.0/24").await;
        let notes = network.status().notes.join("\n");
        assert!(notes.contains("iptables") && notes.contains("chain FORWARD"), "{notes}");
        assert!(notes.contains("custom") && notes.contains("through"), "{notes}");
        let pod = Pod::start(&network, 1).await;
        serve(inside(&outside, || TcpListener::bind("0.0.0.0:80")).unwrap());
        assert!(pod.call(at("198.51.100.2:80")).is_err(), "the other firewall is not ours to open");
        nft::delete_table(nft::INET, "custom");
        assert!(pod.call(at("198.51.100.2:80")).is_ok());
        assert!(nft::mentions(nft::IPV4, b"pods of minke0"));
        pod.stop(&network).await;
        network.destroy().await.unwrap();
        // Long enough for whoever hears of it to write it again.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!nft::mentions(nft::IPV4, b"minke0") && !nft::mentions(nft::INET, b"minke0"));
    });
}
