use std::collections::BTreeMap;

use cri_proto::runtime::v1;
use model::Timestamp;

use crate::Edge;
use crate::error::Error;

impl Edge {
    pub(super) async fn version(
        &self,
        _: v1::VersionRequest,
    ) -> Result<v1::VersionResponse, Error> {
        Ok(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "minke".into(),
            runtime_version: self.parts.node.version.clone(),
            runtime_api_version: "v1".into(),
        })
    }

    pub(super) async fn status(
        &self,
        request: v1::StatusRequest,
    ) -> Result<v1::StatusResponse, Error> {
        let network = self.parts.pods.network_status();
        let text = network.reason.iter().chain(&network.notes).cloned().collect::<Vec<_>>();
        let condition = |kind: &str, status, reason: &str, message| v1::RuntimeCondition {
            r#type: kind.into(),
            status,
            reason: if status { String::new() } else { reason.into() },
            message,
        };
        let conditions = vec![
            condition("RuntimeReady", true, "", String::new()),
            condition("NetworkReady", network.ready, "NetworkPluginNotReady", text.join("; ")),
        ];
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions }),
            info: if request.verbose { self.info() } else { BTreeMap::new() },
            runtime_handlers: self.handlers(),
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: self.parts.node.user_namespaces.is_ok(),
                mount_options: true,
            }),
        })
    }

    /// The nameless handler and the named ones: they are one.
    fn handlers(&self) -> Vec<v1::RuntimeHandler> {
        let node = &self.parts.node;
        let features = v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: node.user_namespaces.is_ok(),
        };
        let names = std::iter::once(String::new()).chain(node.handlers.iter().cloned());
        names.map(|name| v1::RuntimeHandler { name, features: Some(features) }).collect()
    }

    fn info(&self) -> BTreeMap<String, String> {
        let now = serde_json::Value::from(Timestamp::now().0);
        let settings = self.parts.node.settings.to_string();
        BTreeMap::from([("config".into(), settings), ("timestamp".into(), now.to_string())])
    }

    pub(super) async fn runtime_config(
        &self,
        _: v1::RuntimeConfigRequest,
    ) -> Result<v1::RuntimeConfigResponse, Error> {
        let cgroup_driver = v1::CgroupDriver::Cgroupfs.into();
        Ok(v1::RuntimeConfigResponse {
            linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver }),
        })
    }

    pub(super) async fn update_runtime_config(
        &self,
        request: v1::UpdateRuntimeConfigRequest,
    ) -> Result<v1::UpdateRuntimeConfigResponse, Error> {
        let network = request.runtime_config.and_then(|config| config.network_config);
        if let Some(v1::NetworkConfig { pod_cidr }) = network
            && !pod_cidr.is_empty()
        {
            self.parts.pods.set_pod_cidr(&pod_cidr).await?;
        }
        Ok(v1::UpdateRuntimeConfigResponse {})
    }
}
