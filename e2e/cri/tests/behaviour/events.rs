//! Events: one order for all who listen, with statuses that are true at that moment.

use std::time::Duration;

use e2e_cri::client::{Cri, Pod};
use e2e_cri::group::Group;
use e2e_cri::shared;
use k8s_cri::v1::ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
    ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
};
use k8s_cri::v1::*;
use tonic::Streaming;

pub fn group() -> Group {
    let tests = shared![events_tell_a_life_in_order, who_comes_late_is_told_the_present];
    Group::new("events", tests)
}

type Events = Streaming<ContainerEventResponse>;

async fn subscribe(cri: &Cri) -> Events {
    cri.runtime().get_container_events(GetEventsRequest {}).await.unwrap().into_inner()
}

/// The next event about this pod; others have theirs on the same stream.
async fn next(events: &mut Events, pod: &str) -> ContainerEventResponse {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(20), events.message()).await;
        let event = next.expect("an event comes").unwrap().expect("the stream goes on");
        if event.pod_sandbox_status.as_ref().unwrap().id == pod {
            return event;
        }
    }
}

/// The state in which an event shows a container.
fn state(event: &ContainerEventResponse, id: &str) -> Option<ContainerState> {
    event.containers_statuses.iter().find(|c| c.id == id).map(ContainerStatus::state)
}

async fn life(events: &mut Events, pod: &Pod, container: &str, code: i32) -> Vec<i64> {
    let mut times = Vec::new();
    for (id, kind, shown) in [
        (pod.id.as_str(), Created, None),
        (&pod.id, Started, None),
        (container, Created, Some(ContainerState::ContainerCreated)),
        (container, Started, Some(ContainerState::ContainerRunning)),
        (container, Stopped, Some(ContainerState::ContainerExited)),
        (container, Deleted, None),
        (&pod.id, Stopped, None),
        (&pod.id, Deleted, None),
    ] {
        let event = next(events, &pod.id).await;
        assert_eq!((event.container_id.as_str(), event.container_event_type()), (id, kind));
        assert_eq!(state(&event, container), shown, "{kind:?}");
        let ready =
            event.pod_sandbox_status.as_ref().unwrap().state() == PodSandboxState::SandboxReady;
        let runs = !(id == pod.id && kind != Started);
        assert_eq!(ready, runs, "{id} {kind:?}");
        if kind == Stopped && id == container {
            assert_eq!(event.containers_statuses[0].exit_code, code);
        }
        times.push(event.created_at);
    }
    times
}

async fn events_tell_a_life_in_order(cri: Cri) {
    let (mut one, mut other) = (subscribe(&cri).await, subscribe(&cri).await);
    let pod = cri.pod("life").await;
    let container = pod.sh("c", "exit 4").await;
    container.ended().await;
    container.remove().await;
    pod.remove().await;
    let times = life(&mut one, &pod, &container.id, 4).await;
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(life(&mut other, &pod, &container.id, 4).await, times, "there is one order");
}

async fn who_comes_late_is_told_the_present(cri: Cri) {
    let pod = cri.pod("late").await;
    let runs = pod.sh("runs", "sleep 1000").await;
    let ended = pod.sh("ended", "exit 0").await;
    ended.ended().await;
    let mut events = subscribe(&cri).await;
    let mut told = Vec::new();
    for _ in 0..6 {
        let event = next(&mut events, &pod.id).await;
        assert_eq!(state(&event, &runs.id), Some(ContainerState::ContainerRunning));
        assert_eq!(state(&event, &ended.id), Some(ContainerState::ContainerExited));
        told.push((event.container_id.clone(), event.container_event_type()));
    }
    for (id, kind) in
        [(&pod.id, Created), (&pod.id, Started), (&runs.id, Started), (&ended.id, Stopped)]
    {
        assert!(told.contains(&(id.clone(), kind)), "{told:?}");
    }
    // And then what changes.
    runs.stop(0).await;
    let event = next(&mut events, &pod.id).await;
    assert_eq!((&event.container_id, event.container_event_type()), (&runs.id, Stopped));
}
