//! Who reaches whom.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::world::{Pod, call, inside, ip, isolated, serve, uplink};

const BOTH: &str = "10.70.0.0/24,fd00:70::/64";

fn at(ip: impl ToString, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_string().parse().unwrap(), port)
}

#[test]
fn pods_and_host_reach_each_other_at_once() {
    isolated(|world| async move {
        let network = world.open(BOTH).await;
        assert!(network.status().ready);
        serve(TcpListener::bind("[::]:7000").unwrap());
        let one = Pod::start(&network, 1).await;
        one.serve(80);
        // Duplicate address detection alone would take a second, for each pod however idle the machine.
        let mut quickest = Duration::MAX;
        for number in 2..8 {
            let started = Instant::now();
            let two = Pod::start(&network, number).await;
            let [own4, own6] = two.attachment.addresses[..] else { panic!("not dual stack") };
            for address in &one.attachment.addresses {
                let own = if address.ip.is_ipv6() { own6 } else { own4 };
                assert_eq!(two.call(at(address.ip, 80)).unwrap(), own.ip);
                assert_eq!(two.call(at(own.gateway, 7000)).unwrap(), own.ip);
                assert_eq!(call(at(address.ip, 80)).unwrap(), own.gateway);
            }
            quickest = quickest.min(started.elapsed());
        }
        assert!(quickest < Duration::from_millis(500), "{quickest:?}");
    });
}

#[test]
fn loopback_is_up_and_the_interface_is_as_described() {
    isolated(|world| async move {
        let _outside = uplink(1400);
        let network = world.open(BOTH).await;
        let pod = Pod::start(&network, 1).await;
        pod.serve(80);
        assert_eq!(pod.call(at("127.0.0.1", 80)).unwrap().to_string(), "127.0.0.1");
        assert_eq!(pod.call(at("::1", 80)).unwrap().to_string(), "::1");
        let shown = pod.inside(|| ip("-o link show eth0"));
        assert!(shown.contains(&pod.attachment.mac), "{shown}");
        assert!(shown.contains("mtu 1400") && pod.attachment.mtu == 1400, "{shown}");
        assert_eq!(ip("-o link show master minke0").lines().count(), 1);
        assert!(ip(&format!("-d link show {}", pod.attachment.host_link)).contains("hairpin on"));
    });
}

#[test]
fn traffic_that_leaves_the_node_bears_its_address() {
    isolated(|world| async move {
        let outside = uplink(1500);
        let network = world.open(BOTH).await;
        let notes = network.status().notes;
        assert!(notes.iter().any(|note| note.contains("IPv4 forwarding was off")), "{notes:?}");
        let pod = Pod::start(&network, 1).await;
        serve(inside(&outside, || TcpListener::bind("[::]:80")).unwrap());
        assert_eq!(pod.call(at("198.51.100.2", 80)).unwrap().to_string(), "198.51.100.1");
        assert_eq!(pod.call(at("fd00:51::2", 80)).unwrap().to_string(), "fd00:51::1");
    });
}

#[test]
fn router_advertisements_of_pods_are_not_believed() {
    isolated(|world| async move {
        let network = world.open(BOTH).await;
        let pod = Pod::start(&network, 1).await;
        let setting = |interface| {
            let path = format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra");
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        };
        assert_eq!(setting("minke0"), "0");
        assert_eq!(pod.inside(|| setting("eth0")), "0");
    });
}

#[test]
fn pods_without_ipv6_are_not_heard_by_others_when_they_start() {
    isolated(|world| async move {
        let with_addresses = || {
            let shown = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
            let names = shown.lines().filter_map(|line| line.split_whitespace().last());
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        let network = world.open("10.70.0.0/24").await;
        let one = Pod::start(&network, 1).await;
        let heard = || async {
            let stats = network.interface_stats(&one.id).await.unwrap();
            stats[0].rx_packets
        };
        let before = heard().await;
        const OTHERS: u8 = 12;
        for number in 2..2 + OTHERS {
            let pod = Pod::start(&network, number).await;
            assert_eq!(pod.inside(with_addresses), ["lo"]);
            assert!(!with_addresses().contains(&pod.attachment.host_link));
        }
        // The bridge tells of its own address a few times, whoever starts.
        let told = heard().await - before;
        assert!(told < u64::from(OTHERS), "{told}");
        drop(network);
        let network = world.open(BOTH).await;
        let both = Pod::start(&network, 99).await;
        // The pod's own and the link-local one, for which nobody waits.
        let started = Instant::now();
        while both.inside(with_addresses).iter().filter(|name| *name == "eth0").count() < 2 {
            assert!(started.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

#[test]
fn counters_are_the_pods() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/24").await;
        let (one, two) = (Pod::start(&network, 1).await, Pod::start(&network, 2).await);
        one.serve(80);
        for _ in 0..20 {
            call(at(one.ip(), 80)).unwrap();
        }
        let read = || -> Vec<u64> {
            let shown = one.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
            let shown = shown.unwrap();
            let line = shown.lines().find(|line| line.contains("eth0")).unwrap();
            let columns = line.split_whitespace().skip(1).map(|number| number.parse().unwrap());
            columns.collect()
        };
        let before = read();
        let stats = network.interface_stats(&one.id).await.unwrap();
        let after = read();
        assert_eq!(stats[0].name, "eth0");
        assert!(stats[0].rx_packets >= 60 && stats[0].tx_packets >= 60, "{stats:?}");
        assert!((before[0]..=after[0]).contains(&stats[0].rx_bytes), "{stats:?}, {before:?}");
        assert!((before[8]..=after[8]).contains(&stats[0].tx_bytes), "{stats:?}, {before:?}");
        let all = network.all_interface_stats().await.unwrap();
        assert_eq!(all.len(), 2);
        assert!(all[&one.id][0].rx_bytes > all[&two.id][0].rx_bytes);
    });
}

#[test]
fn a_dead_pods_last_words_arrive() {
    isolated(|world| async move {
        const BYTES: usize = 2 << 20;
        let network = world.open("10.70.0.0/24").await;
        let pod = Pod::start(&network, 1).await;
        let listener = pod.inside(|| TcpListener::bind("0.0.0.0:80")).unwrap();
        let mut client = TcpStream::connect(at(pod.ip(), 80)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&server, 2 * BYTES).unwrap();
        server.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(len) = server.write(&[7; 64 << 10]) {
            sent += len;
        }
        assert!(sent > 256 << 10, "{sent}");
        // The process is killed with most of it unsent.
        drop((listener, server));
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let mut all = Vec::new();
            client.read_to_end(&mut all).map(|_| all.len())
        });
        let started = Instant::now();
        pod.stop(&network).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(reader.join().unwrap().unwrap(), sent);
    });
}

#[test]
fn a_namespace_of_a_user_namespace_gets_a_network() {
    isolated(|world| async move {
        let network = world.open(BOTH).await;
        let mut child = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "cat"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mine = std::fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", child.id());
        let limit = Instant::now() + Duration::from_secs(5);
        while std::fs::read_link(&theirs).unwrap() == mine {
            assert!(Instant::now() < limit);
            std::thread::yield_now();
        }
        let netns = std::fs::File::open(theirs).unwrap();
        let pod = Pod::in_netns(&network, 1, netns.into()).await;
        pod.serve(80);
        assert!(call(at(pod.ip(), 80)).is_ok());
        drop(child.stdin.take());
        child.wait().unwrap();
        pod.stop(&network).await;
    });
}
