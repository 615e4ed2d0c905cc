//! Which subnets pods get addresses from.

use network::{Config, Error, Network};

use crate::world::{Pod, World, ip, isolated, links};

fn beside(world: &World, name: &str) -> Config {
    Config {
        state_dir: world.path(&format!("{name}/state")),
        netns_dir: world.path(&format!("{name}/netns")),
        ..world.config("")
    }
}

#[test]
fn a_default_overlaps_no_route_and_is_kept() {
    isolated(|world| async move {
        // The first choice is taken by a route, the whole rest of its block by a wider one.
        ip("link add lan type bridge");
        ip("link set lan up");
        ip("addr add 10.160.0.1/20 dev lan");
        ip("route add 10.160.16.0/24 dev lan table 99");
        ip("route add 0.0.0.0/1 dev lan");
        let network = world.open("").await;
        let first = Pod::start(&network, 1).await;
        assert_eq!(first.ip().to_string(), "10.160.32.2");
        drop(network);
        // It is no longer the first choice, but it is ours.
        ip("link del lan");
        let network = Network::open(world.config("")).await.unwrap();
        network.adopt(vec![(first.id.clone(), first.attachment.clone())]).await.unwrap();
        assert_eq!(Pod::start(&network, 2).await.ip().to_string(), "10.160.32.3");
    });
}

#[test]
fn a_second_daemon_takes_another_bridge_and_subnet() {
    isolated(|world| async move {
        let (one, two) = tokio::join!(
            Network::open(beside(&world, "one")),
            Network::open(beside(&world, "two"))
        );
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(links(), ["minke0", "minke1"]);
        let (a, b) = (Pod::start(&one, 1).await, Pod::start(&two, 1).await);
        let subnet = |pod: &Pod| pod.attachment.addresses[0].subnet;
        assert_ne!(subnet(&a), subnet(&b));
        assert_ne!(a.attachment.host_link, b.attachment.host_link);
        drop(a);
        one.destroy().await.unwrap();
        // Whichever bridge was whose: one is left, with its pod.
        let bridge = b.attachment.host_link.split('-').next().unwrap();
        assert_eq!(links(), [bridge, &b.attachment.host_link]);
        b.serve(80);
        assert!(crate::world::call((b.ip(), 80).into()).is_ok());
    });
}

#[test]
fn a_pod_cidr_is_kept_and_a_change_is_for_new_pods() {
    isolated(|world| async move {
        let config = Config { wait_for_pod_cidr: true, ..world.config("") };
        let network = Network::open(config.clone()).await.unwrap();
        let status = network.status();
        assert!(!status.ready && status.reason.unwrap().contains("pod CIDR"));
        let error = Pod::with_ports(&network, 1, Vec::new()).await.err().unwrap();
        assert!(matches!(error, Error::NotReady { .. }), "{error}");
        network.set_pod_cidr("").await.unwrap();
        assert!(!network.status().ready);
        assert!(network.set_pod_cidr("10.71.0.0").await.is_err());
        network.set_pod_cidr("10.71.0.0/24,fd00:71::/64").await.unwrap();
        assert!(network.status().ready);
        let old = Pod::start(&network, 1).await;
        old.serve(80);
        assert_eq!(old.ip().to_string(), "10.71.0.2");
        network.set_pod_cidr("10.72.0.0/24").await.unwrap();
        let new = Pod::start(&network, 2).await;
        assert_eq!(new.ip().to_string(), "10.72.0.2");
        assert!(new.call((old.ip(), 80).into()).is_ok());
        drop(network);
        let network = Network::open(config).await.unwrap();
        assert!(network.status().ready);
        let live = [&old, &new].map(|pod| (pod.id.clone(), pod.attachment.clone()));
        network.adopt(live.to_vec()).await.unwrap();
        assert!(new.call((old.ip(), 80).into()).is_ok());
        assert_eq!(Pod::start(&network, 3).await.ip().to_string(), "10.72.0.3");
        old.stop(&network).await;
    });
}

#[test]
fn the_configuration_goes_before_a_pod_cidr() {
    isolated(|world| async move {
        let network = world.open("10.73.0.0/24").await;
        network.set_pod_cidr("10.74.0.0/24").await.unwrap();
        assert_eq!(Pod::start(&network, 1).await.ip().to_string(), "10.73.0.2");
        drop(network);
        let network = world.open("").await;
        assert_eq!(Pod::start(&network, 2).await.ip().to_string(), "10.74.0.2");
    });
}

#[test]
fn an_ipv6_only_pod_works() {
    isolated(|world| async move {
        let network = world.open("fd00:70::/64").await;
        let (one, two) = (Pod::start(&network, 1).await, Pod::start(&network, 2).await);
        one.serve(80);
        assert_eq!(two.call((one.ip(), 80).into()).unwrap(), two.ip());
    });
}

#[test]
fn a_bad_prefix_is_named() {
    isolated(|world| async move {
        for prefix in ["", "minkeminke", "m/", "m."] {
            let config = Config { bridge_prefix: prefix.to_owned(), ..world.config("") };
            let error = Network::open(config).await.unwrap_err();
            assert!(error.to_string().contains(&format!("{prefix:?}")), "{error}");
        }
    });
}
