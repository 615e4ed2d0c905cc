//! Changes of what runs: limits of containers and pods, and the log file.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use model::{ContainerState, PodSpec, Resources};
use rustix::fs::OFlags;

use crate::error::Error;
use crate::record;
use crate::runtime::Runtime;
use crate::stats::blocking;
use crate::stop::run_to_end;

impl Runtime {
    /// Changes a container's limits; zero and absent values stay as they are.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Ambiguous`]; [`Error::WrongState`] of one that has
    /// ended; a limit that the kernel refuses, in which case the old ones stay.
    pub async fn update_container(&self, id: &str, change: Resources) -> Result<(), Error> {
        let container = self.0.index.container(id)?;
        let shared = Arc::clone(&self.0);
        run_to_end(async move {
            let _operation = container.operation.lock().await;
            let state = container.state();
            let Some(live) = container.live() else {
                return Err(container.wrong_state(&state, "limits need a living container"));
            };
            if matches!(state, ContainerState::Exited { .. }) {
                return Err(container.wrong_state(&state, "limits need a living container"));
            }
            let linux = live.spec.linux().as_ref();
            let mut limits = linux.and_then(|linux| linux.resources().clone()).unwrap_or_default();
            let current = merged(&container.cell().resources, &change);
            spec::update(&mut limits, &current);
            let cgroup = live.cgroup.clone();
            blocking(move || {
                let path = cgroup.path().as_str().to_owned();
                let updated = cgroup.update(&limits);
                updated.map_err(|source| Error::Cgroup { path, action: "changed", source })
            })
            .await?;
            container.cell().resources = current;
            let pod = shared.index.pod(container.pod.as_str())?;
            shared.journal.save(&pod).await
        })
        .await
    }

    /// Keeps what the caller says of a pod's overhead and resources; its cgroup is the caller's.
    ///
    /// # Errors
    /// [`Error::PodNotFound`], [`Error::Ambiguous`].
    pub async fn update_pod(
        &self,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), Error> {
        let pod = self.0.index.pod(id)?;
        {
            let mut cell = pod.cell();
            let changed = PodSpec {
                overhead: overhead.or_else(|| cell.spec.overhead.clone()),
                resources: resources.or_else(|| cell.spec.resources.clone()),
                ..PodSpec::clone(&cell.spec)
            };
            cell.spec = Arc::new(changed);
        }
        self.0.journal.save(&pod).await
    }

    /// Opens a container's log file anew, after its rotation.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::Ambiguous`], [`Error::WrongState`]; a file that cannot
    /// be opened.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let container = self.0.index.container(id)?;
        container.running()?;
        let pod = self.0.index.pod(container.pod.as_str())?;
        let keeper = pod.keeper()?;
        let Some(path) = container.facts.log_path.clone() else { return Ok(()) };
        let file = blocking(move || open_log(&path)).await?;
        let reopened = keeper.reopen_log(&container.id, file.into()).await;
        reopened.map_err(|source| Error::Keeper {
            pod: pod.id.clone(),
            action: "open the log anew",
            source,
        })
    }
}

/// Opens a container's log file for appending; the directory above it is made where it is missing.
/// Whatever a container with a hand in the directory has put in its place is refused: a link would
/// have root write elsewhere, and opening a pipe waits for a reader.
pub(crate) fn open_log(path: &Path) -> Result<fs::File, Error> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(record::file(parent, "created"))?;
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = fs::File::options();
    let opened = options.create(true).append(true).mode(0o640).custom_flags(flags).open(path);
    let file = opened.map_err(record::file(path, "opened"))?;
    if !file.metadata().map_err(record::file(path, "opened"))?.is_file() {
        return Err(record::file(path, "opened")(io::Error::other("it is no regular file")));
    }
    Ok(file)
}

/// The limits in force after `change`: what it leaves out stays.
fn merged(before: &Resources, change: &Resources) -> Resources {
    let number = |new: i64, old: i64| if new == 0 { old } else { new };
    let text = |new: &str, old: &str| if new.is_empty() { old } else { new }.to_owned();
    let mut unified = before.unified.clone();
    unified.extend(change.unified.clone());
    let pages = if change.hugepage_limits.is_empty() { before } else { change };
    Resources {
        cpu_period: number(change.cpu_period, before.cpu_period),
        cpu_quota: number(change.cpu_quota, before.cpu_quota),
        cpu_shares: number(change.cpu_shares, before.cpu_shares),
        memory_limit: number(change.memory_limit, before.memory_limit),
        memory_swap_limit: number(change.memory_swap_limit, before.memory_swap_limit),
        oom_score_adj: before.oom_score_adj,
        cpuset_cpus: text(&change.cpuset_cpus, &before.cpuset_cpus),
        cpuset_mems: text(&change.cpuset_mems, &before.cpuset_mems),
        hugepage_limits: pages.hugepage_limits.clone(),
        unified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(open_log(&at("new/0.log")).is_ok());
        std::os::unix::fs::symlink(at("new/0.log"), at("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        // With a reader, too, which makes it one that can be opened.
        let reader = rustix::fs::open(
            at("pipe"),
            OFlags::RDONLY | OFlags::NONBLOCK,
            rustix::fs::Mode::empty(),
        );
        for name in ["link", "pipe", "new"] {
            assert!(open_log(&at(name)).is_err(), "{name}");
        }
        drop(reader);
        assert!(open_log(&at("pipe")).is_err());
    }

    #[test]
    fn what_a_change_leaves_out_stays() {
        let before = Resources {
            cpu_shares: 512,
            memory_limit: 1 << 20,
            cpuset_cpus: "0-1".into(),
            ..Resources::default()
        };
        let change = Resources { memory_limit: 2 << 20, ..Resources::default() };
        let after = merged(&before, &change);
        assert_eq!((after.cpu_shares, after.memory_limit), (512, 2 << 20));
        assert_eq!(after.cpuset_cpus, "0-1");
    }
}
