//! What verbose Status tells beyond CRI: JSON for people and for tools that enter pods.

use std::fs;
use std::io::ErrorKind;

use model::ContainerId;
use serde_json::{Value, json};

use crate::error::Error;
use crate::record;
use crate::runtime::{Runtime, Shared};
use crate::stats::blocking;

impl Shared {
    /// Where a container's writes go.
    pub(crate) fn writable_layer(&self, id: &ContainerId) -> std::path::PathBuf {
        self.container_dir(id).join("upper")
    }

    /// Where a container's writable layer and its overlay's work directory lie.
    pub(crate) fn container_dir(&self, id: &ContainerId) -> std::path::PathBuf {
        self.config.root.join("containers").join(id.as_str())
    }
}

impl Runtime {
    /// A pod's keeper, network, cgroup and request.
    ///
    /// # Errors
    /// [`Error::PodNotFound`], [`Error::Ambiguous`].
    pub fn pod_info(&self, id: &str) -> Result<Value, Error> {
        let pod = self.0.index.pod(id)?;
        let view = pod.view();
        let cgroup = self.0.pod_cgroup(&pod.id, &view.spec)?;
        let cell = pod.cell();
        Ok(json!({
            "pid": view.pid.unwrap_or_default(),
            "netns": view.netns,
            "network": cell.network,
            "cgroup": cgroup.as_str(),
            "directory": self.0.journal.pod_dir(&pod.id),
            "config": *view.spec,
        }))
    }

    /// A container's process, specification as it was given to the executor, writable layer and
    /// request. The specification is kept until the container is removed or the machine restarts.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Ambiguous`].
    pub async fn container_info(&self, id: &str) -> Result<Value, Error> {
        let container = self.0.index.container(id)?;
        let view = self.0.container_view(&container);
        let kept = self.0.spec_path(&container.pod, &container.id);
        let spec = blocking(move || match fs::read(&kept) {
            Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Value::Null),
            Err(error) => Err(record::file(&kept, "read")(error)),
        });
        let spec = spec.await?;
        Ok(json!({
            "sandboxID": view.pod.as_str(),
            "pid": view.pid.unwrap_or_default(),
            "cgroup": view.cgroup,
            "writableLayer": self.0.writable_layer(&container.id),
            "runtimeSpec": spec,
            "config": *view.spec,
        }))
    }
}
