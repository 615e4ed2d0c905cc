//! Counts what a demo has in the kernel and on disk, by its token, so that nothing can be forgotten.
//!
//! The token is in the path of the demo's directory, in the environment of its daemon and keepers,
//! and in the path of its cgroups. Links carry the name of the bridge, which the daemon chose and
//! wrote down before it made it: they are looked up while that record is there.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// What is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    processes: usize,
    namespaces: usize,
    links: usize,
    mounts: usize,
    cgroups: usize,
    files: usize,
}

impl Census {
    /// Counts everything of the demo `token` with its files below `dir`; of links, those of `links`
    /// that are still there.
    pub(crate) fn take(token: &str, dir: &Path, links: &[Link]) -> Self {
        let processes = processes(token);
        let ours = fs::read_link("/proc/self/ns/net").ok();
        let namespaces: BTreeSet<PathBuf> = processes
            .iter()
            .filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok())
            .filter(|namespace| Some(namespace) != ours.as_ref())
            .collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let cgroups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let mut trees: Vec<PathBuf> = cgroups.map(|entry| entry.path()).collect();
        trees.push("/sys/fs/cgroup".into());
        Self {
            processes: processes.len(),
            namespaces: namespaces.len(),
            links: links.iter().filter(|link| index_of(&link.name) == Some(link.index)).count(),
            mounts: mounts.lines().filter(|line| names(line.as_bytes(), token)).count(),
            cgroups: trees.iter().map(|tree| below(&tree.join(token))).sum(),
            files: below(dir),
        }
    }

    /// Whether nothing but files is there.
    pub(crate) fn is_files(&self) -> bool {
        *self == Self { files: self.files, ..Self::default() }
    }

    /// Whether nothing is there.
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A link of the host. Its name can become another's at once, its index cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    name: String,
    index: u32,
}

impl Link {
    /// The bridge that the daemon below `root` has written down, and the pods' links on it; none
    /// where it has come to none yet, or where the name went to somebody else.
    pub(crate) fn of_daemon(root: &Path) -> Vec<Self> {
        let record = fs::read(root.join("network/node.json")).unwrap_or_default();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
        let bridge = record["bridge"].as_str().unwrap_or_default();
        let mac = record["mac"].as_array().into_iter().flatten().filter_map(|byte| byte.as_u64());
        let mac = mac.map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
        let address = fs::read_to_string(Path::new(LINKS).join(bridge).join("address"));
        if bridge.is_empty() || address.is_ok_and(|address| address.trim() != mac) {
            return Vec::new();
        }
        let ports = format!("{bridge}-");
        let links = fs::read_dir(LINKS).into_iter().flatten().flatten();
        let names = links.filter_map(|link| link.file_name().into_string().ok());
        let ours = names.filter(|name| name == bridge || name.starts_with(&ports));
        ours.filter_map(|name| Some(Self { index: index_of(&name)?, name })).collect()
    }
}

const LINKS: &str = "/sys/class/net";

/// The index of the link of a name.
fn index_of(name: &str) -> Option<u32> {
    let index = fs::read_to_string(Path::new(LINKS).join(name).join("ifindex")).ok()?;
    index.trim().parse().ok()
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.namespaces, "network namespaces"),
            (self.links, "links"),
            (self.mounts, "mounts"),
            (self.cgroups, "cgroups"),
            (self.processes, "processes"),
            (self.files, "files"),
        ];
        let words: Vec<String> = parts.iter().map(|(n, what)| format!("{n} {what}")).collect();
        f.write_str(&words.join(", "))
    }
}

/// Processes of the demo: their environment or their cgroup names it. The demo itself does not count.
fn processes(token: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let file_names = |path: String| names(&fs::read(path).unwrap_or_default(), token);
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            file_names(format!("/proc/{pid}/environ")) || file_names(format!("/proc/{pid}/cgroup"))
        })
        .collect()
}

/// Whether `text` has the token as a whole: `minke-demo-12` is in no word of `minke-demo-123`.
fn names(text: &[u8], token: &str) -> bool {
    let goes_on = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'-');
    text.windows(token.len()).enumerate().any(|(at, window)| {
        let before = at.checked_sub(1).and_then(|before| text.get(before));
        let after = text.get(at + token.len());
        window == token.as_bytes() && !goes_on(before) && !goes_on(after)
    })
}

/// Files and directories at and below `path`.
fn below(path: &Path) -> usize {
    match fs::symlink_metadata(path) {
        Err(_) => 0,
        Ok(metadata) if metadata.is_dir() => {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            1 + entries.map(|entry| below(&entry.path())).sum::<usize>()
        }
        Ok(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_demos_longer_token_is_not_ours() {
        let token = "minke-demo-123";
        for ours in ["MINKE_DEMO=minke-demo-123\0", "/tmp/minke-demo-123/state", "minke-demo-123"] {
            assert!(names(ours.as_bytes(), token), "{ours}");
        }
        for other in ["/tmp/minke-demo-1234/state", "my-minke-demo-123", "minke-demo-12", ""] {
            assert!(!names(other.as_bytes(), token), "{other}");
        }
        assert!(names(b"minke-demo-1234:minke-demo-123", token));
    }

    #[test]
    fn what_is_there_is_counted_and_nothing_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"").unwrap();
        let token = "minke-census-of-nothing";
        let link = |name: &str, index| Link { name: name.to_owned(), index };
        let links = [link("lo", 1), link("lo", 99), link("minke-none", 1)];
        let census = Census::take(token, dir.path(), &links);
        assert_eq!((census.files, census.links, census.processes), (2, 1, 0));
        assert!(!census.is_nothing() && !census.is_files());
        let files = Census::take(token, dir.path(), &[]);
        assert!(!files.is_nothing() && files.is_files());
        let gone = dir.path().join("gone");
        assert!(Census::take(token, &gone, &[]).is_nothing());
    }

    #[test]
    fn links_are_those_of_the_bridge_that_was_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let found = |record: &str| {
            fs::create_dir_all(dir.path().join("network")).unwrap();
            fs::write(dir.path().join("network/node.json"), record).unwrap();
            Link::of_daemon(dir.path())
        };
        assert_eq!(Link::of_daemon(dir.path()), []);
        // The loopback link plays the bridge: it has an address, of nothing but zeros.
        let loopback = Link { name: "lo".to_owned(), index: 1 };
        assert_eq!(found(r#"{"bridge":"lo","mac":[0,0,0,0,0,0],"chosen":[]}"#), [loopback]);
        assert_eq!(found(r#"{"bridge":"lo","mac":[2,0,0,0,0,0]}"#), []);
        assert_eq!(found(r#"{"bridge":"","mac":[0,0,0,0,0,0]}"#), []);
        assert_eq!(found("{"), []);
    }
}
