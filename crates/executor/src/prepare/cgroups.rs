//! What a container sees at /sys/fs/cgroup.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount as SpecMount;
use rustix::io::Errno;

use super::options::MountOptions;
use super::source::{clone_plain, set_flags, unescape};
use super::table::Table;
use super::{Error, mounts};
use crate::plan::{Attributes, Create, Filesystem, Link, Mount, Source};

const ROOT: &str = "/sys/fs/cgroup";

/// How the host's cgroup file systems are mounted; read once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupView {
    /// /sys/fs/cgroup itself is the one hierarchy (v2).
    unified: bool,
    /// The mount points of several hierarchies, by name below /sys/fs/cgroup.
    trees: Vec<String>,
    /// Other names for them: `cpu` for `cpu,cpuacct`.
    links: Vec<(String, String)>,
}

impl CgroupView {
    /// Looks at this process' mounts.
    ///
    /// # Errors
    /// Where mountinfo or /sys/fs/cgroup cannot be read.
    pub fn detect() -> Result<Self, Error> {
        const MOUNTS: &str = "/proc/thread-self/mountinfo";
        let file = File::open(MOUNTS).map_err(fail(MOUNTS))?;
        let mut view = Self::default();
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(fail(MOUNTS))?;
            view.note(&String::from_utf8_lossy(&line));
        }
        if !view.unified {
            for entry in std::fs::read_dir(ROOT).map_err(fail(ROOT))? {
                let entry = entry.map_err(fail(ROOT))?;
                let target = std::fs::read_link(entry.path()).ok();
                let name = entry.file_name().into_string().ok();
                let target = target.and_then(|target| target.to_str().map(str::to_owned));
                view.links.extend(name.zip(target));
            }
        }
        Ok(view)
    }

    fn note(&mut self, line: &str) {
        let Some((before, after)) = line.split_once(" - ") else { return };
        let kind = after.split(' ').next().unwrap_or_default();
        let point = PathBuf::from(unescape(before.split(' ').nth(4).unwrap_or_default()));
        if point == Path::new(ROOT) {
            self.unified = kind == "cgroup2";
        }
        if !(kind == "cgroup" || kind == "cgroup2") {
            return;
        }
        let name = point.strip_prefix(ROOT).ok().and_then(Path::to_str);
        if let Some(name) = name.filter(|name| !name.is_empty() && !name.contains('/')) {
            self.trees.push(name.to_owned());
        }
    }

    /// One mount of cgroup2 on v2. On v1 a tmpfs with the container's own directory of each
    /// hierarchy bound below: without a cgroup namespace nothing else would keep it from the rest.
    pub(super) fn mounts(
        &self,
        spec: &SpecMount,
        options: &MountOptions,
        cgroup: Option<&Path>,
        table: &mut Table,
    ) -> Result<(Vec<Mount>, Vec<Link>), Error> {
        let target = mounts::target(spec)?;
        let attributes = mounts::attributes(options.top);
        let new = |kind: &str, parameters| Mount {
            target: target.clone(),
            source: Source::New(Filesystem {
                kind: kind.to_owned(),
                source: Some("cgroup".to_owned()),
                parameters,
            }),
            create: Create::Directory,
            attributes,
            recursive_attributes: Attributes::default(),
            propagation: Vec::new(),
        };
        if self.unified {
            let parameters = options.data.iter().map(|option| mounts::parameter(option)).collect();
            return Ok((vec![new("cgroup2", parameters)], Vec::new()));
        }
        let mode = ("mode".to_owned(), Some("755".to_owned()));
        let mut list = vec![new("tmpfs", vec![mode])];
        let within = cgroup.and_then(|path| path.strip_prefix("/").ok()).unwrap_or(Path::new(""));
        for tree in &self.trees {
            let directory = Path::new(ROOT).join(tree).join(within);
            let clone = match clone_plain(&directory) {
                // Not every hierarchy limits every container.
                Err(Error::Path { source: Errno::NOENT, .. }) => continue,
                clone => clone?,
            };
            set_flags(&clone, options.top, false)
                .map_err(Error::path("change the flags of", &directory))?;
            list.push(Mount {
                target: format!("{target}/{tree}"),
                source: Source::Tree(table.add(clone)),
                create: Create::Directory,
                attributes: Attributes::default(),
                recursive_attributes: Attributes::default(),
                propagation: Vec::new(),
            });
        }
        let link = |(name, to): &(String, String)| Link {
            path: format!("{target}/{name}"),
            target: to.clone(),
        };
        Ok((list, self.links.iter().map(link).collect()))
    }
}

fn fail(path: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Path {
        action: "read",
        path: PathBuf::from(path),
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_are_told_apart() {
        let mut v2 = CgroupView::default();
        v2.note("30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate");
        assert_eq!(v2, CgroupView { unified: true, ..CgroupView::default() });

        let mut v1 = CgroupView::default();
        for line in [
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755",
            r"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:3 - cgroup cgroup rw,cpu,cpuacct",
            "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
            "42 23 0:38 / /mnt/cgroup rw,relatime - cgroup2 cgroup2 rw",
            "43 23 0:39 / /mnt rw,relatime - ext4 /dev/vda rw",
            "nonsense",
        ] {
            v1.note(line);
        }
        assert!(!v1.unified);
        assert_eq!(v1.trees, ["cpu,cpuacct", "unified"]);
    }
}
