use cri_proto::runtime::v1;
use pods::{Event, EventKind};

use super::{container_status, pod_status};

/// A change, with what was so right after it.
pub(crate) fn event(event: Event) -> v1::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => v1::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    v1::ContainerEventResponse {
        container_id: event.id,
        container_event_type: kind.into(),
        created_at: event.at.0,
        pod_sandbox_status: Some(pod_status(&event.pod)),
        containers_statuses: event.containers.iter().map(container_status).collect(),
    }
}
