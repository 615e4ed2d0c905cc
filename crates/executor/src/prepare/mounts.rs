//! A spec's mounts: what comes from the host is opened here, what is made anew is described.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Mount as SpecMount};

use super::namespaces::ranges;
use super::options::{Flags, MountOptions};
use super::overlay::Overlay;
use super::process::absolute;
use super::source::clone_source;
use super::table::Table;
use super::{Error, Inputs};
use crate::plan::{Attributes, Create, Filesystem, IdRange, Link, Mount, Source, UserNamespace};

/// Reads mounts one by one, in the spec's order.
pub(super) struct Mounts<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) linux: &'a Linux,
    /// The container's user namespace, and its descriptor for id maps.
    pub(super) user: Option<(&'a UserNamespace, BorrowedFd<'a>)>,
    pub(super) table: &'a mut Table,
}

impl Mounts<'_> {
    pub(super) fn read(&mut self, specs: &[SpecMount]) -> Result<(Vec<Mount>, Vec<Link>), Error> {
        let mut mounts = Vec::with_capacity(specs.len());
        let mut links = Vec::new();
        for spec in specs {
            let options = MountOptions::parse(spec.options().as_deref().unwrap_or_default());
            if spec.typ().as_deref() == Some("cgroup") {
                let cgroup = self.linux.cgroups_path().as_deref();
                let view = self.inputs.cgroup_view;
                let (more, names) = view.mounts(spec, &options, cgroup, self.table)?;
                mounts.extend(more);
                links.extend(names);
            } else {
                mounts.push(self.mount(spec, &options)?);
            }
        }
        Ok((mounts, links))
    }

    fn mount(&mut self, spec: &SpecMount, options: &MountOptions) -> Result<Mount, Error> {
        let mut mount = Mount {
            target: target(spec)?,
            source: Source::PodShm,
            create: Create::Directory,
            attributes: Attributes::default(),
            recursive_attributes: Attributes::default(),
            propagation: Vec::new(),
        };
        let kind = spec.typ().as_deref();
        if options.bind.is_some() || kind == Some("bind") {
            if self.inputs.pod_shm.is_some() && self.inputs.pod_shm == spec.source().as_deref() {
                mount.attributes = attributes(options.top);
            } else {
                self.bind(spec, options, &mut mount)?;
            }
            return Ok(mount);
        }
        match kind {
            None => return Err(wrong(spec, "has neither a type nor an option bind")),
            Some("overlay") => self.image(spec, options, &mut mount)?,
            Some(kind) => {
                let filesystem = self.filesystem(spec, kind, options)?;
                mount.source = Source::New(filesystem);
                mount.attributes = attributes(options.top);
                mount.recursive_attributes = attributes(options.recursive);
            }
        }
        Ok(mount)
    }

    fn bind(
        &mut self,
        spec: &SpecMount,
        options: &MountOptions,
        mount: &mut Mount,
    ) -> Result<(), Error> {
        let Some(path) = spec.source() else { return Err(wrong(spec, "has no source")) };
        let id_map = self.id_map(spec)?;
        let source = clone_source(path, options, id_map)?;
        mount.create = if source.directory { Create::Directory } else { Create::File };
        mount.source = Source::Tree(self.table.add(source.tree));
        Ok(())
    }

    /// An image volume: a read-only overlay of its layers.
    fn image(
        &mut self,
        spec: &SpecMount,
        options: &MountOptions,
        mount: &mut Mount,
    ) -> Result<(), Error> {
        let [lower] = options.data.as_slice() else {
            return Err(wrong(spec, "is an overlay with options other than lowerdir"));
        };
        let Some(lower) = lower.strip_prefix("lowerdir=") else {
            return Err(wrong(spec, "is an overlay without lowerdir"));
        };
        let layers = lower_directories(lower);
        let overlay = Overlay {
            layers: &layers,
            writable: None,
            id_map: self.id_map(spec)?,
            subdir: options.subdir.as_deref(),
        };
        let tree = overlay.mount(self.inputs.overlay)?;
        let stat = rustix::fs::fstat(&tree).map_err(Error::path("look at", &mount.target))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
            mount.create = Create::File;
        }
        super::source::set_flags(&tree, options.top, false)
            .map_err(Error::path("change the flags of", &mount.target))?;
        mount.source = Source::Tree(self.table.add(tree));
        Ok(())
    }

    /// A mount whose ids are mapped is mapped by the container's user namespace: another one would
    /// have to be made for it, and nobody asks for that.
    fn id_map(&self, spec: &SpecMount) -> Result<Option<BorrowedFd<'_>>, Error> {
        let uids = ranges(spec.uid_mappings());
        let gids = ranges(spec.gid_mappings());
        match self.user {
            _ if uids.is_empty() && gids.is_empty() => Ok(None),
            Some((user, namespace)) if user.uids == uids && user.gids == gids => {
                Ok(Some(namespace))
            }
            Some(_) => Err(wrong(spec, "has mappings other than those of the user namespace")),
            None => Err(wrong(spec, "has mappings, and the container has no user namespace")),
        }
    }

    fn filesystem(
        &self,
        spec: &SpecMount,
        kind: &str,
        options: &MountOptions,
    ) -> Result<Filesystem, Error> {
        let mut parameters = Vec::with_capacity(options.data.len());
        for option in &options.data {
            if option == "tmpcopyup" {
                return Err(wrong(spec, "asks for tmpcopyup, which no kernel knows"));
            }
            let (key, value) = parameter(option);
            parameters.push((key.clone(), self.translated(spec, &key, value)?));
        }
        if kind == "tmpfs" && self.user.is_some() {
            // Made by a process of the host's user namespace, its root would be the host's.
            for key in ["uid", "gid"] {
                if !parameters.iter().any(|(known, _)| known == key) {
                    let value = self.translated(spec, key, Some("0".to_owned()))?;
                    parameters.push((key.to_owned(), value));
                }
            }
        }
        let source = spec.source().as_deref().and_then(Path::to_str).map(str::to_owned);
        Ok(Filesystem { kind: kind.to_owned(), source, parameters })
    }

    /// `uid=` and `gid=` in the host's numbers.
    fn translated(
        &self,
        spec: &SpecMount,
        key: &str,
        value: Option<String>,
    ) -> Result<Option<String>, Error> {
        let ranges = match (self.user, key) {
            (Some((user, _)), "uid") => &user.uids,
            (Some((user, _)), "gid") => &user.gids,
            _ => return Ok(value),
        };
        let inside = value.and_then(|value| value.parse().ok());
        match inside.and_then(|id| IdRange::outside_of(ranges, id)) {
            Some(outside) => Ok(Some(outside.to_string())),
            None => Err(wrong(spec, &format!("has a {key} that its user namespace does not map"))),
        }
    }
}

pub(super) fn target(spec: &SpecMount) -> Result<String, Error> {
    absolute("mounts.destination", spec.destination())
}

pub(super) fn attributes(flags: Flags) -> Attributes {
    Attributes { set: flags.set.bits().into(), clear: flags.clear.bits().into() }
}

/// One option of a file system as fsconfig(2) takes it.
pub(super) fn parameter(option: &str) -> (String, Option<String>) {
    match option.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (option.to_owned(), None),
    }
}

fn wrong(spec: &SpecMount, reason: &str) -> Error {
    Error::spec(format!("mounts[{}]", spec.destination().display()), reason)
}

/// Layers, lowest first, from overlay's own syntax: topmost first, colons and backslashes escaped.
fn lower_directories(text: &str) -> Vec<PathBuf> {
    let mut layers = vec![String::new()];
    let mut escaped = false;
    for letter in text.chars() {
        match (letter, escaped, layers.last_mut()) {
            ('\\', false, _) => escaped = true,
            (':', false, _) => layers.push(String::new()),
            (letter, _, Some(layer)) => {
                layer.push(letter);
                escaped = false;
            }
            (_, _, None) => {}
        }
    }
    layers.into_iter().rev().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_as_overlay_reads_them() {
        let layers = lower_directories(r"/top:/a\:b:/c\\d");
        assert_eq!(layers, [Path::new(r"/c\d"), Path::new("/a:b"), Path::new("/top")]);
    }
}
