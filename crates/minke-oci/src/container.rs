//! A container between two commands: its record, and what the kernel says of it.

use std::fmt;
use std::fs;

use cgroup::{Cgroup, CgroupPath, Hierarchy};
use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::features::VERSIONS;
use crate::gate;
use crate::record::{Identity, Place, Record, Store};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Its maker is at work.
    Creating,
    /// Its first process waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// It runs, and stands still.
    Paused,
    /// Its first process has ended, or never began.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    /// What was written down of it.
    pub(crate) record: Record,
    /// Its cgroup.
    pub(crate) cgroup: Cgroup,
}

impl Container {
    pub(crate) fn of(record: Record) -> Result<Self, Failure> {
        let cgroup = open(&record.id, &record.cgroup)?;
        Ok(Self { record, cgroup })
    }

    /// A container that exists.
    pub(crate) fn load(store: &Store, id: &str) -> Result<Self, Failure> {
        Self::of(store.load(id)?)
    }

    /// One that nobody else changes meanwhile.
    pub(crate) fn lock(store: &Store, id: &str) -> Result<(Self, Place), Failure> {
        let place = store.lock(id)?;
        Ok((Self::load(store, id)?, place))
    }

    /// Asked of the kernel.
    pub(crate) fn status(&self, store: &Store) -> Result<Status, Failure> {
        if self.record.living()?.is_none() {
            let making = self.record.init.is_none() && store.is_busy(&self.record.id);
            return Ok(if making { Status::Creating } else { Status::Stopped });
        }
        if gate::is_waited_at(&store.root().join(&self.record.id)) {
            return Ok(Status::Created);
        }
        match self.cgroup.is_frozen().map_err(Failure::cgroup(&self.record.id, "read"))? {
            true => Ok(Status::Paused),
            false => Ok(Status::Running),
        }
    }

    /// The status, unless it is another than one of those wanted.
    pub(crate) fn expect(
        &self,
        status: Status,
        wanted: &[Status],
        cure: &'static str,
    ) -> Result<(), Failure> {
        match wanted.contains(&status) {
            true => Ok(()),
            false => Err(Failure::State { id: self.record.id.clone(), status, wanted: cure }),
        }
    }

    /// Its first process.
    pub(crate) fn init(&self) -> Result<Identity, Failure> {
        self.record.living()?.ok_or_else(|| Failure::State {
            id: self.record.id.clone(),
            status: Status::Stopped,
            wanted: "its first process has ended",
        })
    }

    /// The state of runtime-spec, which hooks get.
    pub(crate) fn state(&self, status: Status, pid: i32) -> Value {
        let record = &self.record;
        let mut state = json!({
            "ociVersion": VERSIONS[1],
            "id": record.id,
            "status": status,
            "bundle": record.bundle,
        });
        if pid > 0 {
            state["pid"] = json!(pid);
        }
        if let Some(annotations) = record.spec.annotations().as_ref().filter(|it| !it.is_empty()) {
            state["annotations"] = json!(annotations);
        }
        state
    }

    /// The state as `state` and `list` print it.
    pub(crate) fn summary(&self, store: &Store) -> Result<Value, Failure> {
        let status = self.status(store)?;
        let living = if status == Status::Stopped { None } else { self.record.init };
        let pid = living.map_or(0, |init| init.pid);
        let mut state = self.state(status, pid);
        state["pid"] = json!(pid);
        state["rootfs"] = json!(self.record.rootfs);
        state["created"] = json!(self.record.created);
        state["owner"] = json!(owner(store, &self.record.id));
        Ok(state)
    }
}

fn open(id: &str, path: &str) -> Result<Cgroup, Failure> {
    let path = CgroupPath::new(path).map_err(Failure::cgroup(id, "named"))?;
    let hierarchy = Hierarchy::detect().map_err(Failure::cgroup(id, "found"))?;
    Ok(hierarchy.open(&path))
}

/// Who made it, by name.
fn owner(store: &Store, id: &str) -> String {
    use std::os::unix::fs::MetadataExt;
    let uid = fs::metadata(store.root().join(id)).map_or(0, |metadata| metadata.uid());
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}
