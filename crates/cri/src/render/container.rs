use cri_proto::runtime::v1;
use model::{ContainerMetadata, ContainerState, ImageSpec, Mount, Propagation, Signal};
use pods::{ContainerView, UserView};

use super::{id_mappings, resources};

pub(super) fn metadata(metadata: &ContainerMetadata) -> v1::ContainerMetadata {
    v1::ContainerMetadata { name: metadata.name.clone(), attempt: metadata.attempt }
}

/// A container in a list.
pub(crate) fn container(view: ContainerView) -> v1::Container {
    v1::Container {
        id: view.id.to_string(),
        pod_sandbox_id: view.pod.to_string(),
        metadata: Some(metadata(&view.spec.metadata)),
        image: Some(image(&view.spec.image)),
        image_ref: view.image_ref,
        state: state(&view.state).into(),
        created_at: view.created_at.0,
        labels: view.spec.labels.clone(),
        annotations: view.spec.annotations.clone(),
        image_id: view.image_id,
    }
}

/// A container by itself.
pub(crate) fn container_status(view: &ContainerView) -> v1::ContainerStatus {
    let (started_at, exit) = match &view.state {
        ContainerState::Created => (0, None),
        ContainerState::Running { started_at } => (started_at.0, None),
        ContainerState::Exited { started_at, exit } => (started_at.0, Some(exit)),
    };
    v1::ContainerStatus {
        id: view.id.to_string(),
        metadata: Some(metadata(&view.spec.metadata)),
        state: state(&view.state).into(),
        created_at: view.created_at.0,
        started_at,
        finished_at: exit.map_or(0, |exit| exit.finished_at.0),
        exit_code: exit.map_or(0, |exit| exit.code),
        image: Some(image(&view.spec.image)),
        image_ref: view.image_ref.clone(),
        reason: exit.map(|exit| exit.reason.clone()).unwrap_or_default(),
        message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
        labels: view.spec.labels.clone(),
        annotations: view.spec.annotations.clone(),
        mounts: view.spec.mounts.iter().map(|volume| mount(volume, view)).collect(),
        log_path: view.log_path.clone(),
        resources: Some(v1::ContainerResources {
            linux: Some(resources(&view.resources)),
            windows: None,
        }),
        image_id: view.image_id.clone(),
        user: Some(v1::ContainerUser { linux: Some(user(&view.user)) }),
        stop_signal: signal(view.stop_signal).into(),
    }
}

fn state(state: &ContainerState) -> v1::ContainerState {
    match state {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited { .. } => v1::ContainerState::ContainerExited,
    }
}

/// The image as the pod's author wrote it, where the caller said so: the kubelet itself names images
/// by id.
fn image(spec: &ImageSpec) -> v1::ImageSpec {
    let written = match spec.user_specified_image.as_str() {
        "" => &spec.image,
        _ => &spec.user_specified_image,
    };
    v1::ImageSpec {
        image: written.clone(),
        annotations: spec.annotations.clone(),
        user_specified_image: spec.user_specified_image.clone(),
        runtime_handler: spec.runtime_handler.clone(),
        image_ref: String::new(),
    }
}

fn mount(volume: &Mount, view: &ContainerView) -> v1::Mount {
    let propagation = match volume.propagation {
        Propagation::Private => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    let digest = view.image_volumes.get(&volume.container_path).cloned();
    let image = volume.image.as_ref().map(|image| v1::ImageSpec {
        image: image.image.clone(),
        image_ref: digest.unwrap_or_default(),
        ..v1::ImageSpec::default()
    });
    v1::Mount {
        container_path: volume.container_path.clone(),
        host_path: volume.host_path.clone(),
        readonly: volume.readonly,
        selinux_relabel: volume.selinux_relabel,
        propagation: propagation.into(),
        uid_mappings: id_mappings(&volume.uid_mappings),
        gid_mappings: id_mappings(&volume.gid_mappings),
        recursive_read_only: volume.recursive_read_only,
        image,
        image_sub_path: volume.image.as_ref().map(|i| i.sub_path.clone()).unwrap_or_default(),
        mount_options: volume.options.clone(),
    }
}

fn user(user: &UserView) -> v1::LinuxContainerUser {
    v1::LinuxContainerUser {
        uid: user.uid.into(),
        gid: user.gid.into(),
        supplemental_groups: user.groups.iter().map(|group| i64::from(*group)).collect(),
    }
}

/// The interface's own number of a signal, found by its name. Real-time signals are counted from
/// the first up to 49 and from the last above, as the interface has them.
fn signal(signal: Signal) -> v1::Signal {
    let name = match signal.number() {
        number @ 50..64 => format!("SIGNAL_SIGRTMAXMINUS{}", 64 - number),
        _ => format!("SIGNAL_{}", signal.to_string().replace('+', "PLUS")),
    };
    v1::Signal::from_str_name(&name).unwrap_or(v1::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use model::{ContainerId, ContainerSpec, Exit, ImageVolume, PodId, Timestamp};

    fn view(state: ContainerState) -> ContainerView {
        let mut spec = ContainerSpec::default();
        spec.image.image = "sha256:1".into();
        spec.image.user_specified_image = "busybox".into();
        spec.mounts = vec![Mount {
            container_path: "/models".into(),
            image: Some(ImageVolume { image: "m".into(), sub_path: "a".into() }),
            ..Mount::default()
        }];
        ContainerView {
            id: ContainerId::from_random([2; 32]),
            pod: PodId::from_random([1; 32]),
            pod_spec: Default::default(),
            spec: spec.into(),
            state,
            created_at: Timestamp(1),
            image_id: "sha256:1".into(),
            image_ref: "busybox@sha256:2".into(),
            resources: Default::default(),
            user: UserView { uid: 1, gid: 2, groups: vec![3] },
            stop_signal: Signal::TERM,
            log_path: "/l".into(),
            pid: None,
            image_volumes: BTreeMap::from([("/models".to_owned(), "m@sha256:3".to_owned())]),
            cgroup: String::new(),
        }
    }

    #[test]
    fn times_are_only_those_of_the_state() {
        let created = container_status(&view(ContainerState::Created));
        assert_eq!((created.created_at, created.started_at, created.finished_at), (1, 0, 0));
        let running = view(ContainerState::Running { started_at: Timestamp(2) });
        let running = container_status(&running);
        assert_eq!((running.state, running.started_at, running.finished_at), (1, 2, 0));
        let exit = Exit {
            finished_at: Timestamp(3),
            code: 137,
            reason: "OOMKilled".into(),
            message: String::new(),
        };
        let exited = view(ContainerState::Exited { started_at: Timestamp(2), exit });
        let exited = container_status(&exited);
        assert_eq!((exited.state, exited.exit_code, exited.finished_at), (2, 137, 3));
        assert_eq!(exited.reason, "OOMKilled");
    }

    #[test]
    fn lists_and_statuses_name_images_alike() {
        let status = container_status(&view(ContainerState::Created));
        let listed = container(view(ContainerState::Created));
        assert_eq!(status.image, listed.image);
        assert_eq!((&status.image_ref, &status.image_id), (&listed.image_ref, &listed.image_id));
        assert_eq!(status.image.unwrap().image, "busybox");
        let volume = &status.mounts[0];
        assert_eq!(volume.image.as_ref().unwrap().image_ref, "m@sha256:3");
        assert_eq!(volume.image_sub_path, "a");
    }

    #[test]
    fn every_signal_that_the_interface_has_is_rendered() {
        for number in (1..=31).chain(34..=64) {
            let rendered = signal(Signal::try_from(number).unwrap());
            assert_ne!(rendered, v1::Signal::RuntimeDefault, "{number}");
        }
        assert_eq!(signal(Signal::TERM), v1::Signal::Sigterm);
        assert_eq!(signal(Signal::try_from(37).unwrap()), v1::Signal::Sigrtminplus3);
        assert_eq!(signal(Signal::try_from(63).unwrap()), v1::Signal::Sigrtmaxminus1);
    }
}
