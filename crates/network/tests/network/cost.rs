//! Prints what acquire and release cost. Nothing here fails because a machine is slow.

#![expect(clippy::print_stdout, reason = "figures are for people")]

use std::time::Instant;

use futures_util::future::join_all;
use model::Protocol;

use crate::world::{Pod, isolated, port};

fn show(what: &str, mut micros: Vec<u128>) {
    micros.sort_unstable();
    let at = |part: usize| micros[(micros.len() - 1) * part / 100] as f64 / 1000.0;
    println!("{what:<34} p50 {:6.2} ms   p95 {:6.2} ms", at(50), at(95));
}

#[test]
fn cost_of_acquire_and_release() {
    isolated(|world| async move {
        for (what, subnets, mapped) in [
            ("IPv4", "10.70.0.0/20", false),
            ("dual stack", "10.70.0.0/20,fd00:70::/64", false),
            ("IPv4, a TCP host port", "10.70.0.0/20", true),
        ] {
            let network = world.open(subnets).await;
            let (mut acquired, mut released) = (Vec::new(), Vec::new());
            for n in 0..100 {
                let id = crate::world::pod_id(n);
                let netns = crate::world::new_netns();
                let ports = mapped.then(|| port(Protocol::Tcp, 8080, 80)).into_iter().collect();
                let label = "default/pod".to_owned();
                let started = Instant::now();
                let request = network::Request { pod: id.clone(), label, netns, ports };
                let attachment = network.acquire(request).await.unwrap();
                acquired.push(started.elapsed().as_micros());
                let started = Instant::now();
                network.release(&id, &attachment).await.unwrap();
                released.push(started.elapsed().as_micros());
            }
            show(&format!("acquire, {what}"), acquired);
            show(&format!("release, {what}"), released);
            network.destroy().await.unwrap();
        }
        let network = world.open("10.70.0.0/20").await;
        let started = Instant::now();
        let pods = join_all((0..100).map(|n| Pod::start(&network, n))).await;
        println!("100 at once: acquired in {:.1} ms", started.elapsed().as_secs_f64() * 1000.0);
        let started = Instant::now();
        network.all_interface_stats().await.unwrap();
        println!("100 pods' counters: {:.2} ms", started.elapsed().as_secs_f64() * 1000.0);
        let started = Instant::now();
        join_all(pods.into_iter().map(|pod| pod.stop(&network))).await;
        println!("100 at once: released in {:.1} ms", started.elapsed().as_secs_f64() * 1000.0);
    });
}
