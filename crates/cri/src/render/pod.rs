use cri_proto::runtime::v1;
use model::{IpcMode, NamespaceModes, NetworkMode, PidMode, PodMetadata, PodState, UserNamespace};
use pods::PodView;

use super::id_mappings;

pub(super) fn metadata(metadata: &PodMetadata) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        attempt: metadata.attempt,
    }
}

fn state(state: PodState) -> v1::PodSandboxState {
    match state {
        PodState::Ready => v1::PodSandboxState::SandboxReady,
        PodState::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

/// A pod in a list.
pub(crate) fn pod(view: PodView) -> v1::PodSandbox {
    v1::PodSandbox {
        id: view.id.to_string(),
        metadata: Some(metadata(&view.spec.metadata)),
        state: state(view.state).into(),
        created_at: view.created_at.0,
        labels: view.spec.labels.clone(),
        annotations: view.spec.annotations.clone(),
        runtime_handler: view.spec.runtime_handler.clone(),
    }
}

/// A pod by itself.
pub(crate) fn pod_status(view: &PodView) -> v1::PodSandboxStatus {
    let mut ips = view.ips.iter().map(ToString::to_string);
    let network = v1::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
    };
    let options = namespaces(&view.spec.security.namespaces);
    v1::PodSandboxStatus {
        id: view.id.to_string(),
        metadata: Some(metadata(&view.spec.metadata)),
        state: state(view.state).into(),
        created_at: view.created_at.0,
        network: Some(network),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(options) }),
        }),
        labels: view.spec.labels.clone(),
        annotations: view.spec.annotations.clone(),
        runtime_handler: view.spec.runtime_handler.clone(),
    }
}

fn namespaces(modes: &NamespaceModes) -> v1::NamespaceOption {
    let network = match modes.network {
        NetworkMode::Pod => v1::NamespaceMode::Pod,
        NetworkMode::Node => v1::NamespaceMode::Node,
    };
    let ipc = match modes.ipc {
        IpcMode::Pod => v1::NamespaceMode::Pod,
        IpcMode::Node => v1::NamespaceMode::Node,
    };
    let (pid, target) = match &modes.pid {
        PidMode::Pod => (v1::NamespaceMode::Pod, None),
        PidMode::Container => (v1::NamespaceMode::Container, None),
        PidMode::Node => (v1::NamespaceMode::Node, None),
        PidMode::Target(id) => (v1::NamespaceMode::Target, Some(id.clone())),
    };
    let user = |user: &UserNamespace| v1::UserNamespace {
        mode: v1::NamespaceMode::Pod.into(),
        uids: id_mappings(&user.uids),
        gids: id_mappings(&user.gids),
    };
    v1::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        target_id: target.unwrap_or_default(),
        userns_options: modes.user.as_ref().map(user),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{IdMapping, PodId, PodSpec, Timestamp};

    #[test]
    fn a_pod_shows_its_first_address_apart_and_its_namespaces() {
        let mut spec = PodSpec::default();
        spec.metadata.name = "web".into();
        let range = IdMapping { container_id: 0, host_id: 65536, length: 65536 };
        spec.security.namespaces.user =
            Some(UserNamespace { uids: vec![range], gids: vec![range] });
        spec.security.namespaces.pid = PidMode::Target("abc".into());
        let view = PodView {
            id: PodId::from_random([1; 32]),
            spec: spec.into(),
            state: PodState::Ready,
            created_at: Timestamp(7),
            ips: vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            pid: None,
            netns: None,
        };
        let status = pod_status(&view);
        let network = status.network.unwrap();
        assert_eq!(
            (network.ip.as_str(), network.additional_ips[0].ip.as_str()),
            ("10.1.0.2", "fd00::2")
        );
        let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!((options.pid, options.target_id.as_str()), (3, "abc"));
        assert_eq!(options.userns_options.unwrap().uids[0].host_id, 65536);
        assert_eq!((status.created_at, status.state), (7, 0));
        assert_eq!(pod(view).metadata.unwrap().name, "web");
    }
}
