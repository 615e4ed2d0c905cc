use cri_proto::runtime::v1;
use model::PodState;
use pods::{Depth, PodFilter, PodStats};

use super::{Answers, batches};
use crate::error::Error;
use crate::{Edge, parse, render};

impl Edge {
    pub(super) async fn container_stats(
        &self,
        request: v1::ContainerStatsRequest,
    ) -> Result<v1::ContainerStatsResponse, Error> {
        let stats = self.parts.pods.container_stats(&request.container_id).await?;
        Ok(v1::ContainerStatsResponse { stats: Some(render::container_stats(&stats)) })
    }

    pub(super) async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Error> {
        let filter = parse::container_stats_filter(request.filter);
        let stats = self.parts.pods.list_container_stats(&filter).await;
        let stats = stats.iter().map(render::container_stats).collect();
        Ok(v1::ListContainerStatsResponse { stats })
    }

    pub(super) async fn stream_container_stats(
        &self,
        request: v1::StreamContainerStatsRequest,
    ) -> Result<Answers<v1::StreamContainerStatsResponse>, Error> {
        let filter = parse::container_stats_filter(request.filter);
        let stats = self.parts.pods.list_container_stats(&filter).await;
        let render = |stats| render::container_stats(&stats);
        Ok(batches(stats, render, |container_stats| v1::StreamContainerStatsResponse {
            container_stats,
        }))
    }

    pub(super) async fn pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
    ) -> Result<v1::PodSandboxStatsResponse, Error> {
        let stats = self.parts.pods.pod_stats(&request.pod_sandbox_id).await?;
        Ok(v1::PodSandboxStatsResponse { stats: Some(render::pod_stats(&stats)) })
    }

    pub(super) async fn list_pod_sandbox_stats(
        &self,
        request: v1::ListPodSandboxStatsRequest,
    ) -> Result<v1::ListPodSandboxStatsResponse, Error> {
        let filter = parse::pod_stats_filter(request.filter);
        let stats = self.parts.pods.list_pod_stats(&filter, Depth::Counters).await;
        Ok(v1::ListPodSandboxStatsResponse { stats: stats.iter().map(render::pod_stats).collect() })
    }

    pub(super) async fn stream_pod_sandbox_stats(
        &self,
        request: v1::StreamPodSandboxStatsRequest,
    ) -> Result<Answers<v1::StreamPodSandboxStatsResponse>, Error> {
        let filter = parse::pod_stats_filter(request.filter);
        let stats = self.parts.pods.list_pod_stats(&filter, Depth::Counters).await;
        let render = |stats| render::pod_stats(&stats);
        Ok(batches(stats, render, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse {
            pod_sandbox_stats,
        }))
    }

    pub(super) async fn list_metric_descriptors(
        &self,
        _: v1::ListMetricDescriptorsRequest,
    ) -> Result<v1::ListMetricDescriptorsResponse, Error> {
        Ok(v1::ListMetricDescriptorsResponse { descriptors: render::descriptors() })
    }

    pub(super) async fn list_pod_sandbox_metrics(
        &self,
        _: v1::ListPodSandboxMetricsRequest,
    ) -> Result<v1::ListPodSandboxMetricsResponse, Error> {
        let stats = self.running_pods().await;
        let pod_metrics = stats.iter().map(render::pod_metrics).collect();
        Ok(v1::ListPodSandboxMetricsResponse { pod_metrics })
    }

    pub(super) async fn stream_pod_sandbox_metrics(
        &self,
        _: v1::StreamPodSandboxMetricsRequest,
    ) -> Result<Answers<v1::StreamPodSandboxMetricsResponse>, Error> {
        let stats = self.running_pods().await;
        let render = |stats| render::pod_metrics(&stats);
        Ok(batches(stats, render, |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }))
    }

    async fn running_pods(&self) -> Vec<PodStats> {
        let filter = PodFilter { state: Some(PodState::Ready), ..PodFilter::default() };
        self.parts.pods.list_pod_stats(&filter, Depth::Processes).await
    }
}
