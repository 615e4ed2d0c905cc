//! Kernels that lack something: it is named, with what cures it, by whoever needs it first.

use std::sync::Arc;

use e2e_cri::alone;
use e2e_cri::client::Cri;
use e2e_cri::daemon::Daemon;
use e2e_cri::group::Group;
use e2e_cri::probe::PROBE;
use k8s_cri::v1::*;
use tonic::Code;

pub fn group() -> Group {
    let tests = alone![
        without_overlay_it_does_not_start,
        without_nftables_pods_run_and_status_says_what_they_miss,
        without_user_namespaces_pods_that_ask_for_one_are_refused,
    ];
    Group::new("features", tests)
}

/// A daemon on a kernel that seems to lack a feature.
fn lacking(feature: &str) -> Daemon {
    let probe = PROBE.display().to_string();
    Daemon::prepare(feature, "").within(&[&probe, "without", feature])
}

async fn without_overlay_it_does_not_start() {
    let said = lacking("overlay").fail();
    let words = "minke cannot run here: this kernel has no overlay file systems: load its module \
                 (modprobe overlay) or boot one that is built with CONFIG_OVERLAY_FS";
    assert!(said.contains(words), "{said}");
    assert_eq!(said.lines().count(), 1, "it is said once: {said}");
}

async fn condition(cri: &Cri, name: &str) -> RuntimeCondition {
    let status = cri.runtime().status(StatusRequest::default()).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    conditions.into_iter().find(|condition| condition.r#type == name).unwrap()
}

async fn without_nftables_pods_run_and_status_says_what_they_miss() {
    let daemon = Arc::new(lacking("nftables"));
    daemon.run();
    let cri = daemon.cri().await;
    let network = condition(&cri, "NetworkReady").await;
    assert!(network.status, "{network:?}");
    let words = ["no masquerade and no host ports", "modprobe nf_tables", "CONFIG_NF_TABLES"];
    assert!(words.iter().all(|word| network.message.contains(word)), "{network:?}");
    // A pod that needs it is told why it cannot be had, one that does not runs.
    let config = PodSandboxConfig {
        port_mappings: vec![PortMapping {
            container_port: 80,
            host_port: 28_080,
            ..Default::default()
        }],
        ..cri.pod_config("mapped")
    };
    let status = cri.try_pod(config).await.unwrap_err();
    assert!(status.message().contains("modprobe nf_tables"), "{status}");
    let pod = cri.pod("plain").await;
    assert!(!pod.ip().await.is_empty());
}

async fn without_user_namespaces_pods_that_ask_for_one_are_refused() {
    // What a kernel says whose owner has switched them off.
    let script = r#"echo 0 >"$1" && mount --bind "$1" /proc/sys/user/max_user_namespaces &&
        shift && exec "$@""#;
    let daemon = Daemon::prepare("no-users", "");
    let zero = daemon.dir.join("zero").display().to_string();
    let daemon = daemon.within(&[
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        "sh",
        &zero,
    ]);
    daemon.run();
    let cri = daemon.cri().await;
    let mut config = cri.pod_config("user");
    let mapping = || vec![IdMapping { host_id: 300_000, container_id: 0, length: 65_536 }];
    let user = UserNamespace { mode: NamespaceMode::Pod.into(), uids: mapping(), gids: mapping() };
    let options = NamespaceOption { userns_options: Some(user), ..Default::default() };
    config.linux.as_mut().unwrap().security_context = Some(LinuxSandboxSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    });
    let status = cri.try_pod(config).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    for words in ["userns_options", "this kernel has no user namespaces", "CONFIG_USER_NS"] {
        assert!(status.message().contains(words), "{status}");
    }
    let status = cri.runtime().status(StatusRequest::default()).await.unwrap().into_inner();
    let offered = |h: &RuntimeHandler| h.features.as_ref().is_some_and(|f| f.user_namespaces);
    assert!(!status.runtime_handlers.iter().any(offered), "{status:?}");
}
