//! Addresses: none twice, none lost, the oldest first.

use futures_util::future::join_all;
use network::{Error, Request};

use crate::world::{Pod, isolated, links, new_netns, pod_id};

#[test]
fn the_oldest_free_address_is_next() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/29").await;
        let mut pods = Vec::new();
        for n in 1..=5 {
            pods.push(Pod::start(&network, n).await);
        }
        let given: Vec<_> = pods.iter().map(|pod| pod.ip().to_string()).collect();
        assert_eq!(given, ["10.70.0.2", "10.70.0.3", "10.70.0.4", "10.70.0.5", "10.70.0.6"]);
        let full = Pod::with_ports(&network, 6, Vec::new()).await.err().unwrap();
        assert!(matches!(full, Error::Exhausted { .. }), "{full}");
        pods.remove(3).stop(&network).await;
        pods.remove(0).stop(&network).await;
        let next = [Pod::start(&network, 7).await.ip(), Pod::start(&network, 8).await.ip()];
        assert_eq!(next.map(|ip| ip.to_string()), ["10.70.0.5", "10.70.0.2"]);
    });
}

#[test]
fn many_at_once_share_nothing_and_leave_nothing() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/24,fd00:70::/64").await;
        let before = links();
        for round in 0..3 {
            let pods = join_all((0..30).map(|n| Pod::start(&network, round * 30 + n))).await;
            let mut ips: Vec<_> = pods.iter().flat_map(|pod| pod.attachment.ips()).collect();
            ips.sort();
            ips.dedup();
            assert_eq!(ips.len(), 60);
            assert_eq!(links().len(), before.len() + 30);
            join_all(pods.into_iter().map(|pod| pod.stop(&network))).await;
            assert_eq!(links(), before);
        }
        assert!(world.files("netns").is_empty() && world.files("state/pods").is_empty());
    });
}

#[test]
fn a_failure_half_way_leaves_nothing() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/29").await;
        let before = links();
        for n in 0..10 {
            // Not a network namespace: it can be bound, but not entered.
            let netns = std::fs::File::open("/proc/self/ns/uts").unwrap().into();
            let label = "default/odd".to_owned();
            let request = Request { pod: pod_id(n), label, netns, ports: Vec::new() };
            let error = network.acquire(request).await.unwrap_err();
            assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        }
        for n in 10..20 {
            // Its eth0 is there already.
            let netns = new_netns();
            crate::world::inside(&netns, || crate::world::ip("link add eth0 type bridge"));
            let label = "default/odd".to_owned();
            let request = Request { pod: pod_id(n), label, netns, ports: Vec::new() };
            let error = network.acquire(request).await.unwrap_err();
            assert!(matches!(error, Error::Kernel { .. }), "{error}");
        }
        assert_eq!(links(), before);
        assert!(world.files("netns").is_empty() && world.files("state/pods").is_empty());
        for n in 20..25 {
            Pod::start(&network, n).await;
        }
    });
}

#[test]
fn a_namespace_that_lives_on_loses_its_link_before_the_address_is_free() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/30").await;
        let pod = Pod::start(&network, 1).await;
        let held = pod.netns.try_clone().unwrap();
        pod.stop(&network).await;
        assert_eq!(links(), ["minke0"]);
        let next = Pod::start(&network, 2).await;
        assert_eq!(next.ip().to_string(), "10.70.0.2");
        let inside = crate::world::inside(&held, || crate::world::ip("-o link"));
        assert!(inside.contains(" lo:") && !inside.contains(" eth0"), "{inside}");
    });
}

#[test]
fn release_may_be_repeated_and_acquire_may_not() {
    isolated(|world| async move {
        let network = world.open("10.70.0.0/24").await;
        let pod = Pod::start(&network, 1).await;
        let again = Pod::with_ports(&network, 1, Vec::new()).await.err().unwrap();
        assert!(matches!(again, Error::Attached { .. }), "{again}");
        let (id, attachment) = (pod.id.clone(), pod.attachment.clone());
        drop(pod);
        let both = [network.release(&id, &attachment), network.release(&id, &attachment)];
        for released in join_all(both).await {
            released.unwrap();
        }
        network.release(&id, &attachment).await.unwrap();
        network.release_unknown(&id).await.unwrap();
        // Both went at once, and the address came back once.
        let (one, two) = (Pod::start(&network, 2).await, Pod::start(&network, 3).await);
        assert_ne!(one.ip(), two.ip());
        network.release(&id, &attachment).await.unwrap();
        let three = Pod::start(&network, 4).await;
        assert_ne!(three.ip(), one.ip());
        assert_ne!(three.ip(), two.ip());
    });
}
