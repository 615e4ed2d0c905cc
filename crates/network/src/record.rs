//! What outlives the daemon: one file for the node, one for each pod that has a network.
//!
//! A file is written whole beside its place and renamed into it, without waiting for the disk: what
//! it describes does not outlive the machine either, and after a crash of the machine there is
//! nothing in the kernel for a lost record to miss.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::PodId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::attachment::Attachment;
use crate::error::{Error, Result};
use crate::subnet::Subnet;

/// What one daemon calls its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// The bridge's name.
    #[serde(default)]
    pub(crate) bridge: String,
    /// Its MAC address: a bridge of that name with another one is somebody else's.
    #[serde(default)]
    pub(crate) mac: [u8; 6],
    /// The default subnets that were chosen.
    #[serde(default)]
    pub(crate) chosen: Vec<Subnet>,
    /// The last pod CIDRs that were given.
    #[serde(default)]
    pub(crate) pod_cidr: Vec<Subnet>,
}

/// What one pod has, or is about to have: the record is older than anything in the kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pod {
    /// Grows with each record: the highest tells which addresses were taken last.
    #[serde(default)]
    pub(crate) serial: u64,
    /// The pod's namespace and name.
    #[serde(default)]
    pub(crate) label: String,
    /// Its network; the host end's index is not known yet.
    pub(crate) attachment: Attachment,
}

/// The pods' records as they were found.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) pods: Vec<(PodId, Pod)>,
    /// Pods whose records cannot be read, and what was done about it.
    pub(crate) lost: Vec<(PodId, String)>,
}

/// The directory that holds the records.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    /// Makes the directories that are missing.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let records = Self { dir: dir.to_owned() };
        fs::create_dir_all(records.pods()).map_err(failed("create", &records.pods()))?;
        Ok(records)
    }

    /// The node's record; a fresh one if there is none, and why if it cannot be read.
    pub(crate) fn node(&self) -> Result<(Node, Option<String>)> {
        let path = self.dir.join("node.json");
        match read(&path) {
            Ok(node) => Ok((node.unwrap_or_default(), None)),
            Err(error) => {
                let note = set_aside(&path, &error)?;
                Ok((Node::default(), Some(note)))
            }
        }
    }

    pub(crate) fn write_node(&self, node: &Node) -> Result<()> {
        write(&self.dir.join("node.json"), node)
    }

    /// The pods' records.
    pub(crate) fn load_pods(&self) -> Result<Loaded> {
        let Loaded { mut pods, mut lost } = Loaded::default();
        let dir = self.pods();
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
            let path = entry.map_err(failed("list", &dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let id = name.strip_suffix(".json").and_then(|id| id.parse::<PodId>().ok());
            match id {
                Some(id) => match read::<Pod>(&path) {
                    Ok(Some(pod)) => pods.push((id, pod)),
                    Ok(None) => {}
                    Err(error) => lost.push((id, set_aside(&path, &error)?)),
                },
                // A file that was never renamed into its place.
                None if name.ends_with(".new") => {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                }
                None => {}
            }
        }
        Ok(Loaded { pods, lost })
    }

    pub(crate) fn write_pod(&self, id: &PodId, pod: &Pod) -> Result<()> {
        write(&self.pod(id), pod)
    }

    /// Removes a pod's record; there may be none.
    pub(crate) fn remove_pod(&self, id: &PodId) -> Result<()> {
        let path = self.pod(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes all records and the directory.
    pub(crate) fn destroy(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &self.dir)(error))
            }
            _ => Ok(()),
        }
    }

    fn pods(&self) -> PathBuf {
        self.dir.join("pods")
    }

    fn pod(&self, id: &PodId) -> PathBuf {
        self.pods().join(format!("{id}.json"))
    }
}

/// Reads a record; none if there is no such file.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let new = path.with_extension("new");
    let written = serde_json::to_vec(record)
        .map_err(io::Error::from)
        .and_then(|bytes| fs::write(&new, bytes))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| {
        // What is left of it is removed at the next start at the latest.
        let _ = fs::remove_file(&new);
        failed("write", path)(error)
    })
}

/// Renames a record that cannot be read, so that a person can look at it.
fn set_aside(path: &Path, error: &io::Error) -> Result<String> {
    let aside = path.with_extension("unreadable");
    fs::rename(path, &aside).map_err(failed("rename", path))?;
    Ok(format!("record {} is unreadable, now {}: {error}", path.display(), aside.display()))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        let attachment = Attachment {
            interface: "eth0".to_owned(),
            mac: String::new(),
            mtu: 1500,
            addresses: Vec::new(),
            host_link: "minke0-00000000".to_owned(),
            host_index: 0,
            netns: PathBuf::new(),
            ports: Vec::new(),
        };
        Pod { serial: 7, label: "default/web".to_owned(), attachment }
    }

    #[test]
    fn records_are_read_back_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let id = PodId::from_random([1; 32]);
        records.write_pod(&id, &pod()).unwrap();
        fs::write(dir.path().join("pods/half.new"), "{").unwrap();
        let Loaded { pods, lost } = records.load_pods().unwrap();
        assert_eq!((pods.len(), lost.len(), pods[0].1.serial), (1, 0, 7));
        assert!(!dir.path().join("pods/half.new").exists());
        records.remove_pod(&id).unwrap();
        records.remove_pod(&id).unwrap();
        assert!(records.load_pods().unwrap().pods.is_empty());
    }

    #[test]
    fn an_unreadable_record_is_set_aside_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let (good, bad) = (PodId::from_random([1; 32]), PodId::from_random([2; 32]));
        records.write_pod(&good, &pod()).unwrap();
        fs::write(dir.path().join(format!("pods/{bad}.json")), "{\"serial\":").unwrap();
        fs::write(dir.path().join("node.json"), "nonsense").unwrap();
        let Loaded { pods, lost } = records.load_pods().unwrap();
        assert_eq!((pods.len(), lost.len()), (1, 1));
        assert_eq!(lost[0].0, bad);
        assert!(records.node().unwrap().1.unwrap().contains("node.json"));
        assert_eq!(records.node().unwrap(), (Node::default(), None));
    }

    #[test]
    fn fields_that_a_newer_version_added_are_skipped() {
        let node: Node = serde_json::from_str(r#"{"bridge":"minke3","colour":"grey"}"#).unwrap();
        assert_eq!(node.bridge, "minke3");
    }
}
