//! The runtime service. Each call is a handler of the same name in the file of its subject.

mod container;
mod events;
mod exec;
mod node;
mod sandbox;
mod stats;

use std::pin::Pin;

use cri_proto::runtime::v1;
use cri_proto::runtime::v1::runtime_service_server::RuntimeService;
use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};

use crate::Edge;
use crate::error::Error;

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How many items of a list go into one message: a few hundred KiB at most, far from the limit.
const BATCH: usize = 100;

/// A list as a stream of batches, each made when the client takes it.
pub(crate) fn batches<V, T, M>(
    items: Vec<V>,
    render: impl Fn(V) -> T + Send + 'static,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Answers<M>
where
    V: Send + 'static,
    T: Send + 'static,
    M: Send + 'static,
{
    let mut items = items.into_iter();
    let next = move || {
        let batch: Vec<T> = items.by_ref().take(BATCH).map(&render).collect();
        (!batch.is_empty()).then(|| Ok(message(batch)))
    };
    Box::pin(stream::iter(std::iter::from_fn(next)))
}

macro_rules! runtime_service {
    (
        unary { $($name:ident($request:ident) -> $response:ident;)* }
        streaming { $($stream_name:ident($stream_request:ident) -> $stream:ident of $item:ident;)* }
    ) => {
        #[tonic::async_trait]
        impl RuntimeService for Edge {
            $(
                async fn $name(
                    &self,
                    request: Request<v1::$request>,
                ) -> Result<Response<v1::$response>, Status> {
                    let answer: Result<v1::$response, Error> =
                        Edge::$name(self, request.into_inner()).await;
                    answer.map(Response::new).map_err(Status::from)
                }
            )*
            $(
                type $stream = Answers<v1::$item>;

                async fn $stream_name(
                    &self,
                    request: Request<v1::$stream_request>,
                ) -> Result<Response<Answers<v1::$item>>, Status> {
                    let answer: Result<Answers<v1::$item>, Error> =
                        Edge::$stream_name(self, request.into_inner()).await;
                    answer.map(Response::new).map_err(Status::from)
                }
            )*
        }
    };
}

runtime_service! {
    unary {
        version(VersionRequest) -> VersionResponse;
        status(StatusRequest) -> StatusResponse;
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;

        run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
        stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
        remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
        pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
        list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest)
            -> UpdatePodSandboxResourcesResponse;

        create_container(CreateContainerRequest) -> CreateContainerResponse;
        start_container(StartContainerRequest) -> StartContainerResponse;
        stop_container(StopContainerRequest) -> StopContainerResponse;
        remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
        list_containers(ListContainersRequest) -> ListContainersResponse;
        container_status(ContainerStatusRequest) -> ContainerStatusResponse;
        update_container_resources(UpdateContainerResourcesRequest)
            -> UpdateContainerResourcesResponse;
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;

        exec_sync(ExecSyncRequest) -> ExecSyncResponse;
        exec(ExecRequest) -> ExecResponse;
        attach(AttachRequest) -> AttachResponse;
        port_forward(PortForwardRequest) -> PortForwardResponse;

        container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;

        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
        restore_pod(RestorePodRequest) -> RestorePodResponse;
    }
    streaming {
        stream_pod_sandboxes(StreamPodSandboxesRequest)
            -> StreamPodSandboxesStream of StreamPodSandboxesResponse;
        stream_containers(StreamContainersRequest)
            -> StreamContainersStream of StreamContainersResponse;
        stream_container_stats(StreamContainerStatsRequest)
            -> StreamContainerStatsStream of StreamContainerStatsResponse;
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest)
            -> StreamPodSandboxStatsStream of StreamPodSandboxStatsResponse;
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest)
            -> StreamPodSandboxMetricsStream of StreamPodSandboxMetricsResponse;
        get_container_events(GetEventsRequest) -> GetContainerEventsStream of ContainerEventResponse;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_list_is_streamed_whole_and_in_order() {
        let stream = batches((0..250).collect(), |item: u32| item, |batch| batch);
        let batches: Vec<_> = stream.map(Result::unwrap).collect().await;
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        assert!(batches.concat().into_iter().eq(0..250));
        let mut none = batches_of_nothing();
        assert!(none.next().await.is_none());
    }

    fn batches_of_nothing() -> Answers<Vec<u32>> {
        batches(Vec::new(), |item: u32| item, |batch| batch)
    }
}
