use cri_proto::runtime::v1;

use super::{Answers, batches};
use crate::error::Error;
use crate::layer::{about_container, about_pod};
use crate::{Edge, parse, render};

impl Edge {
    /// The pod's configuration comes along once more; what it was made with holds.
    pub(super) async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Error> {
        let v1::CreateContainerRequest { pod_sandbox_id, config, sandbox_config: _ } = request;
        about_pod(&pod_sandbox_id);
        let spec = parse::container_spec(config)?;
        self.parts.node.admit_container(&spec)?;
        let id = self.parts.pods.create_container(&pod_sandbox_id, spec).await?;
        about_container(id.as_str());
        Ok(v1::CreateContainerResponse { container_id: id.into() })
    }

    pub(super) async fn start_container(
        &self,
        request: v1::StartContainerRequest,
    ) -> Result<v1::StartContainerResponse, Error> {
        about_container(&request.container_id);
        self.parts.pods.start_container(&request.container_id).await?;
        Ok(v1::StartContainerResponse {})
    }

    pub(super) async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
    ) -> Result<v1::StopContainerResponse, Error> {
        about_container(&request.container_id);
        let timeout = parse::stop_timeout(request.timeout)?;
        self.parts.pods.stop_container(&request.container_id, timeout).await?;
        Ok(v1::StopContainerResponse {})
    }

    pub(super) async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Error> {
        about_container(&request.container_id);
        self.parts.pods.remove_container(&request.container_id).await?;
        Ok(v1::RemoveContainerResponse {})
    }

    pub(super) async fn list_containers(
        &self,
        request: v1::ListContainersRequest,
    ) -> Result<v1::ListContainersResponse, Error> {
        let containers = self.listed(request.filter)?;
        let containers = containers.into_iter().map(render::container).collect();
        Ok(v1::ListContainersResponse { containers })
    }

    pub(super) async fn stream_containers(
        &self,
        request: v1::StreamContainersRequest,
    ) -> Result<Answers<v1::StreamContainersResponse>, Error> {
        let containers = self.listed(request.filter)?;
        Ok(batches(containers, render::container, |containers| v1::StreamContainersResponse {
            containers,
        }))
    }

    fn listed(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Result<Vec<pods::ContainerView>, Error> {
        let filter = parse::container_filter(filter)?;
        Ok(filter.map(|filter| self.parts.pods.containers(&filter)).unwrap_or_default())
    }

    pub(super) async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Error> {
        let v1::ContainerStatusRequest { container_id, verbose } = request;
        about_container(&container_id);
        let view = self.parts.pods.container(&container_id)?;
        let info = match verbose {
            true => render::info(&self.parts.pods.container_info(view.id.as_str()).await?),
            false => Default::default(),
        };
        Ok(v1::ContainerStatusResponse { status: Some(render::container_status(&view)), info })
    }

    /// Windows limits and annotations have no effect here.
    pub(super) async fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, Error> {
        let v1::UpdateContainerResourcesRequest { container_id, linux, windows: _, annotations: _ } =
            request;
        about_container(&container_id);
        let limits = parse::resources("linux", linux.unwrap_or_default())?;
        self.parts.node.admit_limits("linux", &limits)?;
        self.parts.pods.update_container(&container_id, limits).await?;
        Ok(v1::UpdateContainerResourcesResponse {})
    }

    pub(super) async fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Error> {
        about_container(&request.container_id);
        self.parts.pods.reopen_log(&request.container_id).await?;
        Ok(v1::ReopenContainerLogResponse {})
    }

    pub(super) async fn checkpoint_container(
        &self,
        _: v1::CheckpointContainerRequest,
    ) -> Result<v1::CheckpointContainerResponse, Error> {
        Err(Error::Criu)
    }
}
