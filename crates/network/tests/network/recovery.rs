//! What a daemon that died leaves to the next one.

use std::net::{SocketAddr, TcpListener};

use model::Protocol;
use network::Network;

use crate::nft;
use crate::world::{Pod, call, ip, isolated, links, pod_id, port, serve};

const BOTH: &str = "10.70.0.0/24,fd00:70::/64";

#[test]
fn what_no_live_pod_owns_is_released() {
    isolated(|world| async move {
        let network = world.open(BOTH).await;
        let (links_before, rules_before) = (links(), nft::print("minke0"));
        let ports =
            |n: u16| vec![port(Protocol::Tcp, 8000 + n, 80), port(Protocol::Udp, 8000 + n, 80)];
        for n in 1..=5 {
            // Dropped without release: the daemon was killed, and the pods with it.
            Pod::with_ports(&network, n, ports(n.into())).await.unwrap();
        }
        drop(network);
        let network = Network::open(world.config(BOTH)).await.unwrap();
        // Nobody has said yet that they are dead.
        let early = Pod::with_ports(&network, 6, ports(6)).await.unwrap();
        assert_eq!(early.ip().to_string(), "10.70.0.7");
        let live = vec![(early.id.clone(), early.attachment.clone())];
        let mut released = network.adopt(live).await.unwrap();
        released.sort();
        assert_eq!(released, (1..=5).map(pod_id).collect::<Vec<_>>());
        assert_eq!(links().len(), links_before.len() + 1);
        early.stop(&network).await;
        assert_eq!((links(), nft::print("minke0")), (links_before, rules_before));
        assert!(world.files("netns").is_empty() && world.files("state/pods").is_empty());
    });
}

#[test]
fn live_pods_keep_everything() {
    isolated(|world| async move {
        let network = world.open(BOTH).await;
        let ports = vec![port(Protocol::Tcp, 8080, 80)];
        let pod = Pod::with_ports(&network, 1, ports.clone()).await.unwrap();
        pod.serve(80);
        let live = vec![(pod.id.clone(), pod.attachment.clone())];
        let server: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        for lost in [false, true] {
            if lost {
                // The directory of records was cleaned, but not the caller's.
                std::fs::remove_dir_all(world.path("state/pods")).unwrap();
            }
            let network = Network::open(world.config(BOTH)).await.unwrap();
            assert!(network.adopt(live.clone()).await.unwrap().is_empty());
            assert!(call(server).is_ok());
            let error = Pod::with_ports(&network, 2, ports.clone()).await.err().unwrap();
            assert!(error.to_string().contains("8080/tcp"), "{error}");
            let other = Pod::start(&network, 3).await;
            assert_ne!(other.ip(), pod.ip());
            other.stop(&network).await;
            assert_eq!(network.interface_stats(&pod.id).await.unwrap().len(), 1);
        }
        drop(network);
        let network = Network::open(world.config(BOTH)).await.unwrap();
        network.adopt(live).await.unwrap();
        pod.stop(&network).await;
        assert_eq!(links(), ["minke0"]);
        assert!(call(server).is_err());
    });
}

#[test]
fn a_death_in_the_midst_of_acquire_leaves_nothing() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/24").await;
        let pods = [Pod::start(&network, 1).await, Pod::start(&network, 2).await];
        drop(network);
        // As if killed after the record was written, as if after the veth was made, and both times as
        // if the record was lost, too.
        ip(&format!("link del {}", pods[0].attachment.host_link));
        ip(&format!("link set {} nomaster", pods[1].attachment.host_link));
        ip("link add minke0-0badbad0 master minke0 type veth peer name other");
        ip("link add minke0-0badbad1 type veth peer name another");
        ip("link add stranger master minke0 type veth peer name strange");
        drop(pods);
        let network = Network::open(world.config("10.70.0.0/24")).await.unwrap();
        let mut dead = network.adopt(Vec::new()).await.unwrap();
        dead.sort();
        assert_eq!(dead, [pod_id(1), pod_id(2)]);
        assert_eq!(links(), ["minke0"]);
        // What is not ours stays.
        ip("link show stranger");
        assert!(world.files("netns").is_empty() && world.files("state/pods").is_empty());
    });
}

#[test]
fn an_unreadable_record_is_named_and_its_pod_can_be_adopted_or_dropped() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/24").await;
        let (kept, dropped) = (Pod::start(&network, 1).await, Pod::start(&network, 2).await);
        drop(network);
        for pod in [&kept, &dropped] {
            std::fs::write(world.path(&format!("state/pods/{}.json", pod.id)), "{").unwrap();
        }
        let network = Network::open(world.config("10.70.0.0/24")).await.unwrap();
        let notes = network.status().notes.join("\n");
        assert!(notes.contains(kept.id.as_str()) && notes.contains("unreadable"), "{notes}");
        network.adopt(vec![(kept.id.clone(), kept.attachment.clone())]).await.unwrap();
        assert_eq!(links(), ["minke0", &kept.attachment.host_link]);
        let next = Pod::start(&network, 3).await;
        assert_ne!(next.ip(), kept.ip());
        kept.stop(&network).await;
        next.stop(&network).await;
        assert!(world.files("netns").is_empty());
    });
}

#[test]
fn a_bridge_that_was_deleted_is_made_again_and_pods_return_to_it() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/24").await;
        let pod = Pod::start(&network, 1).await;
        pod.serve(80);
        drop(network);
        ip("link del minke0");
        let network = Network::open(world.config("10.70.0.0/24")).await.unwrap();
        network.adopt(vec![(pod.id.clone(), pod.attachment.clone())]).await.unwrap();
        let server = SocketAddr::new(pod.ip(), 80);
        assert!(call(server).is_ok());
        assert!(ip(&format!("-d link show {}", pod.attachment.host_link)).contains("hairpin on"));
        let other = Pod::start(&network, 2).await;
        assert!(other.call(server).is_ok());
    });
}

#[test]
fn destroy_leaves_the_host_as_it_was() {
    isolated(|world| async move {
        let before = ip("-o addr") + &ip("route show table all");
        let network = world.open(BOTH).await;
        let ports = vec![port(Protocol::Tcp, 8080, 80)];
        let pod = Pod::with_ports(&network, 1, ports).await.unwrap();
        serve(TcpListener::bind("10.70.0.1:9000").unwrap());
        assert!(pod.call("10.70.0.1:9000".parse().unwrap()).is_ok());
        drop(pod);
        network.destroy().await.unwrap();
        assert_eq!(ip("-o addr") + &ip("route show table all"), before);
        assert!(!nft::mentions(nft::INET, b"minke0"));
        assert!(!world.path("state").exists() && world.files("netns").is_empty());
    });
}
