use cri_proto::runtime::v1;
use pods::{ContainerFilter, PodFilter};

use super::{Answers, batches};
use crate::error::Error;
use crate::layer::about_pod;
use crate::{Edge, parse, render};

impl Edge {
    pub(super) async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
    ) -> Result<v1::RunPodSandboxResponse, Error> {
        let v1::RunPodSandboxRequest { config, runtime_handler } = request;
        let spec = parse::pod_spec(config, runtime_handler)?;
        self.parts.node.admit_pod(&spec)?;
        let id = self.parts.pods.run_pod(spec).await?;
        about_pod(id.as_str());
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id.into() })
    }

    pub(super) async fn stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
    ) -> Result<v1::StopPodSandboxResponse, Error> {
        about_pod(&request.pod_sandbox_id);
        self.parts.pods.stop_pod(&request.pod_sandbox_id).await?;
        Ok(v1::StopPodSandboxResponse {})
    }

    pub(super) async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Error> {
        about_pod(&request.pod_sandbox_id);
        self.parts.pods.remove_pod(&request.pod_sandbox_id).await?;
        Ok(v1::RemovePodSandboxResponse {})
    }

    pub(super) async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Error> {
        let v1::PodSandboxStatusRequest { pod_sandbox_id, verbose } = request;
        about_pod(&pod_sandbox_id);
        let pods = &self.parts.pods;
        let view = pods.pod(&pod_sandbox_id)?;
        let of_pod = ContainerFilter { pod: Some(view.id.to_string()), ..Default::default() };
        let containers = pods.containers(&of_pod);
        let info = match verbose {
            true => render::info(&pods.pod_info(view.id.as_str())?),
            false => Default::default(),
        };
        Ok(v1::PodSandboxStatusResponse {
            status: Some(render::pod_status(&view)),
            info,
            containers_statuses: containers.iter().map(render::container_status).collect(),
            // A kubelet of 1.37 with EventedPLEG that finds a moment here takes the statuses above for
            // all it knows, and then runs init containers anew at each look: it has filled in nothing
            // that says which of them are of this sandbox. Without it, it asks for each container.
            timestamp: 0,
        })
    }

    pub(super) async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
    ) -> Result<v1::ListPodSandboxResponse, Error> {
        let pods = self.parts.pods.pods(&parse::pod_filter(request.filter)?);
        Ok(v1::ListPodSandboxResponse { items: pods.into_iter().map(render::pod).collect() })
    }

    pub(super) async fn stream_pod_sandboxes(
        &self,
        request: v1::StreamPodSandboxesRequest,
    ) -> Result<Answers<v1::StreamPodSandboxesResponse>, Error> {
        let filter: PodFilter = parse::pod_filter(request.filter)?;
        let pods = self.parts.pods.pods(&filter);
        Ok(batches(pods, render::pod, |pod_sandboxes| v1::StreamPodSandboxesResponse {
            pod_sandboxes,
        }))
    }

    /// The cgroup itself was changed by the caller; what it was told is kept.
    pub(super) async fn update_pod_sandbox_resources(
        &self,
        request: v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<v1::UpdatePodSandboxResourcesResponse, Error> {
        let v1::UpdatePodSandboxResourcesRequest { pod_sandbox_id, overhead, resources } = request;
        about_pod(&pod_sandbox_id);
        let overhead = overhead.map(|limits| parse::resources("overhead", limits)).transpose()?;
        let resources =
            resources.map(|limits| parse::resources("resources", limits)).transpose()?;
        self.parts.pods.update_pod(&pod_sandbox_id, overhead, resources).await?;
        Ok(v1::UpdatePodSandboxResourcesResponse {})
    }

    pub(super) async fn checkpoint_pod(
        &self,
        _: v1::CheckpointPodRequest,
    ) -> Result<v1::CheckpointPodResponse, Error> {
        Err(Error::Criu)
    }

    pub(super) async fn restore_pod(
        &self,
        _: v1::RestorePodRequest,
    ) -> Result<v1::RestorePodResponse, Error> {
        Err(Error::Criu)
    }
}
