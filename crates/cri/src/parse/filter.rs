use cri_proto::runtime::v1;
use model::PodState;
use pods::{ContainerFilter, ContainerPhase, PodFilter};

use super::{Invalid, known};

/// Which pods; no filter is all of them.
pub(crate) fn pod_filter(filter: Option<v1::PodSandboxFilter>) -> Result<PodFilter, Invalid> {
    let v1::PodSandboxFilter { id, state, label_selector } = filter.unwrap_or_default();
    let state = match state {
        None => None,
        Some(v1::PodSandboxStateValue { state }) => Some(match known("filter.state", state)? {
            v1::PodSandboxState::SandboxReady => PodState::Ready,
            v1::PodSandboxState::SandboxNotready => PodState::NotReady,
        }),
    };
    Ok(PodFilter { id: given(id), state, labels: label_selector })
}

/// Which pods, for their stats: those that run.
pub(crate) fn pod_stats_filter(filter: Option<v1::PodSandboxStatsFilter>) -> PodFilter {
    let v1::PodSandboxStatsFilter { id, label_selector } = filter.unwrap_or_default();
    PodFilter { id: given(id), state: Some(PodState::Ready), labels: label_selector }
}

/// Which containers; no filter is all of them. None: the filter asks for the state UNKNOWN, in
/// which no container of this runtime ever is.
pub(crate) fn container_filter(
    filter: Option<v1::ContainerFilter>,
) -> Result<Option<ContainerFilter>, Invalid> {
    let v1::ContainerFilter { id, state, pod_sandbox_id, label_selector } =
        filter.unwrap_or_default();
    let phase = match state {
        None => None,
        Some(v1::ContainerStateValue { state }) => Some(match known("filter.state", state)? {
            v1::ContainerState::ContainerCreated => ContainerPhase::Created,
            v1::ContainerState::ContainerRunning => ContainerPhase::Running,
            v1::ContainerState::ContainerExited => ContainerPhase::Exited,
            v1::ContainerState::ContainerUnknown => return Ok(None),
        }),
    };
    let (id, pod) = (given(id), given(pod_sandbox_id));
    Ok(Some(ContainerFilter { id, pod, phase, labels: label_selector }))
}

/// Which containers, for their stats: those that run.
pub(crate) fn container_stats_filter(filter: Option<v1::ContainerStatsFilter>) -> ContainerFilter {
    let v1::ContainerStatsFilter { id, pod_sandbox_id, label_selector } =
        filter.unwrap_or_default();
    ContainerFilter {
        id: given(id),
        pod: given(pod_sandbox_id),
        phase: Some(ContainerPhase::Running),
        labels: label_selector,
    }
}

/// Which image; none is all of them.
pub(crate) fn image_filter(filter: Option<v1::ImageFilter>) -> Option<String> {
    let v1::ImageFilter { image } = filter?;
    given(image?.image)
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_filter_matches_everything() {
        let pods = pod_filter(None).unwrap();
        assert!(pods.id.is_none() && pods.state.is_none() && pods.labels.is_empty());
        let containers = container_filter(Some(v1::ContainerFilter::default())).unwrap().unwrap();
        assert!(containers.id.is_none() && containers.pod.is_none() && containers.phase.is_none());
        assert_eq!(image_filter(None), None);
        assert_eq!(image_filter(Some(v1::ImageFilter { image: Some(Default::default()) })), None);
    }

    #[test]
    fn states_are_decoded() {
        let state = |state| {
            let state = Some(v1::ContainerStateValue { state });
            container_filter(Some(v1::ContainerFilter { state, ..Default::default() }))
        };
        assert_eq!(state(1).unwrap().unwrap().phase, Some(ContainerPhase::Running));
        assert!(state(3).unwrap().is_none());
        assert_eq!(state(4).unwrap_err().field, "filter.state");
        let state = Some(v1::PodSandboxStateValue { state: 1 });
        let filter = v1::PodSandboxFilter { id: "ab".into(), state, ..Default::default() };
        let filter = pod_filter(Some(filter)).unwrap();
        assert_eq!((filter.id.as_deref(), filter.state), (Some("ab"), Some(PodState::NotReady)));
    }
}
