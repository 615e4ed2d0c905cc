use std::path::{Component, Path, PathBuf};

use model::{IdMapping, Mount as Volume, Propagation};
use oci_spec::runtime::Mount;

use crate::{Error, ImageRoot, Request, namespaces};

/// Options of mount(8) that `mount_options` may hold: those that only change a mount's flags.
const FLAGS: [&str; 16] = [
    "atime",
    "dev",
    "diratime",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "relatime",
    "strictatime",
    "suid",
    "symfollow",
];

/// The spec's mounts: the default ones that no volume takes the place of, then the volumes, those
/// nearest the root first, so that none hides another. Where a volume covers /dev, the defaults
/// below /dev go with it.
pub(crate) fn mounts(request: &Request<'_>) -> Result<Vec<Mount>, Error> {
    let mut volumes = volumes(request)?;
    let pod_files = pod_files(request);
    let taken: Vec<PathBuf> = volumes.iter().map(|volume| volume.destination().clone()).collect();
    volumes.extend(pod_files.into_iter().filter(|file| !taken.contains(file.destination())));
    volumes.sort_by_key(|volume| volume.destination().components().count());

    let destinations: Vec<&PathBuf> = volumes.iter().map(Mount::destination).collect();
    let own_dev = destinations.iter().any(|path| *path == Path::new("/dev"));
    let mut mounts = defaults(request);
    mounts.retain(|mount| {
        let path = mount.destination();
        let replaced = destinations.contains(&path) || own_dev && path.starts_with("/dev");
        !replaced
    });
    mounts.extend(volumes);
    Ok(mounts)
}

/// The strongest propagation that a volume asks for; without it the container's root would cut what
/// the volume is promised.
pub(crate) fn rootfs_propagation(volumes: &[Volume]) -> Option<String> {
    let strongest = volumes.iter().map(|volume| match volume.propagation {
        Propagation::Private => 0,
        Propagation::HostToContainer => 1,
        Propagation::Bidirectional => 2,
    });
    match strongest.max() {
        Some(2) => Some("rshared".to_owned()),
        Some(1) => Some("rslave".to_owned()),
        _ => None,
    }
}

fn mount(destination: &str, typ: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(destination))
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

fn defaults(request: &Request<'_>) -> Vec<Mount> {
    const SAFE: [&str; 3] = ["nosuid", "noexec", "nodev"];
    let security = &request.container.security;
    let write = if security.privileged { "rw" } else { "ro" };
    let modes = &request.pod.security.namespaces;
    // The owner of the network namespace decides who may mount a sysfs: a user namespace that does
    // not own it gets the host's, bound.
    let sys = if modes.user.is_some() && modes.network == model::NetworkMode::Node {
        mount("/sys", "bind", "/sys", &["rbind", "rro", "nosuid", "nodev", "noexec"])
    } else {
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", write])
    };
    let mut cgroup = mount(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", write],
    );
    if security.privileged || !request.node.cgroup_v2 {
        let host = request.node.cgroup_mount_options.iter().cloned();
        cgroup.options_mut().get_or_insert_default().extend(host);
    }
    vec![
        mount("/proc", "proc", "proc", &SAFE),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &SAFE),
        sys,
        cgroup,
    ]
}

/// /etc/hostname, /etc/hosts, /etc/resolv.conf and /dev/shm of the pod. The files are the
/// container's to change unless its root is read-only; in a user namespace they are its root's.
fn pod_files(request: &Request<'_>) -> Vec<Mount> {
    let security = &request.container.security;
    let access = if security.readonly_rootfs { "ro" } else { "rw" };
    let files = request.files;
    let mut mounts = Vec::new();
    for (path, source) in [
        ("/etc/hostname", &files.hostname),
        ("/etc/hosts", &files.hosts),
        ("/etc/resolv.conf", &files.resolv_conf),
    ] {
        let Some(source) = source else { continue };
        let mut file = mount(path, "bind", "", &["rbind", "rprivate", access]);
        file.set_source(Some(source.clone()));
        if let Some(user) = &security.namespaces.user {
            map_ids(&mut file, &user.uids, &user.gids);
        }
        mounts.push(file);
    }
    if let Some(source) = &files.shm {
        let mut shm = mount("/dev/shm", "bind", "", &["rbind", "rprivate", "rw"]);
        shm.set_source(Some(source.clone()));
        mounts.push(shm);
    }
    mounts
}

fn volumes(request: &Request<'_>) -> Result<Vec<Mount>, Error> {
    let mut images = request.image_volumes.iter();
    let volumes = request.container.mounts.iter().enumerate();
    volumes
        .map(|(index, volume)| {
            let at = At { index, request };
            let mut mount = match &volume.image {
                None => at.host_volume(volume)?,
                Some(_) => at.image_volume(volume, images.next())?,
            };
            mount.set_destination(at.destination(volume)?);
            let flags = mount.options_mut().get_or_insert_default();
            for option in &volume.options {
                if !FLAGS.contains(&option.as_str()) {
                    let reason = format!("{option:?} does more than change a mount's flags");
                    return Err(at.error("mount_options", reason));
                }
                flags.push(option.clone());
            }
            Ok(mount)
        })
        .collect()
}

/// One volume's place in the request, for errors.
struct At<'a> {
    index: usize,
    request: &'a Request<'a>,
}

impl At<'_> {
    fn field(&self, name: &str) -> String {
        format!("mounts[{}].{name}", self.index)
    }

    fn error(&self, name: &str, reason: impl Into<String>) -> Error {
        Error::invalid(self.field(name), reason)
    }

    fn destination(&self, volume: &Volume) -> Result<PathBuf, Error> {
        let path = &volume.container_path;
        let clean = clean(Path::new(path));
        if !path.starts_with('/') || path.contains('\0') || clean == Path::new("/") {
            let reason = format!("{path:?} is not an absolute path below the root");
            return Err(self.error("container_path", reason));
        }
        Ok(clean)
    }

    fn host_volume(&self, volume: &Volume) -> Result<Mount, Error> {
        let source = &volume.host_path;
        if !source.starts_with('/') || source.contains('\0') {
            return Err(self.error("host_path", format!("{source:?} is not an absolute path")));
        }
        if volume.uid_mappings.is_empty() != volume.gid_mappings.is_empty() {
            return Err(self.error("uid_mappings", "needs gid_mappings beside it, and they it"));
        }
        let user_namespace = self.request.pod.security.namespaces.user.is_some();
        let propagation = match volume.propagation {
            Propagation::Private => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional if user_namespace => {
                let reason = "bidirectional, which a pod with a user namespace cannot have";
                return Err(self.error("propagation", reason));
            }
            Propagation::Bidirectional => "rshared",
        };
        let access = self.access(volume)?;
        let mut mount = mount("/", "bind", source, &["rbind", propagation, access]);
        map_ids(&mut mount, &volume.uid_mappings, &volume.gid_mappings);
        Ok(mount)
    }

    fn access(&self, volume: &Volume) -> Result<&'static str, Error> {
        match (volume.readonly, volume.recursive_read_only) {
            (false, false) => Ok("rw"),
            (true, false) => Ok("ro"),
            (false, true) => Err(self.error("recursive_read_only", "needs readonly")),
            (true, true) if volume.propagation != Propagation::Private => {
                Err(self.error("recursive_read_only", "needs private propagation"))
            }
            (true, true) if !self.request.node.recursive_read_only => {
                Err(Error::RecursiveReadOnlyUnsupported {
                    field: self.field("recursive_read_only"),
                    path: volume.host_path.clone(),
                })
            }
            (true, true) => Ok("rro"),
        }
    }

    /// A single layer is bound; several are an overlay without an upper directory. The ids of the
    /// layers are mapped, never the overlay's: `uidMappings` on an overlay means its layers here.
    fn image_volume(&self, volume: &Volume, root: Option<&ImageRoot>) -> Result<Mount, Error> {
        if !volume.host_path.is_empty() {
            return Err(self.error("host_path", "cannot stand beside image"));
        }
        if !volume.readonly {
            return Err(self.error("readonly", "must be set for an image"));
        }
        if volume.propagation != Propagation::Private {
            return Err(self.error("propagation", "must be private for an image"));
        }
        let layers = root.map(|root| root.layers.as_slice()).unwrap_or_default();
        let mut mount = match layers {
            [] => return Err(self.error("image", "has no layers")),
            [single] => {
                let mut mount = mount("/", "bind", "", &["rbind", "rprivate", "ro"]);
                mount.set_source(Some(single.clone()));
                mount
            }
            layers => {
                let lower = format!("lowerdir={}", lowerdir(layers));
                mount("/", "overlay", "overlay", &["ro", &lower])
            }
        };
        let image = volume.image.as_ref();
        let sub_path = image.map(|image| image.sub_path.as_str()).unwrap_or_default();
        if !sub_path.is_empty() {
            let climbs = Path::new(sub_path).components().any(|part| part == Component::ParentDir);
            if sub_path.starts_with('/') || sub_path.contains('\0') || climbs {
                let reason = format!("{sub_path:?} is not a relative path that stays below");
                return Err(self.error("image_sub_path", reason));
            }
            // As mount(8) spells it: the executor looks it up inside the mounted image.
            let option = format!("X-mount.subdir={sub_path}");
            mount.options_mut().get_or_insert_default().push(option);
        }
        if let Some(user) = &self.request.pod.security.namespaces.user {
            map_ids(&mut mount, &user.uids, &user.gids);
        }
        Ok(mount)
    }
}

/// overlay's own syntax: topmost first, colons and backslashes escaped.
fn lowerdir(layers: &[PathBuf]) -> String {
    let escaped = layers.iter().rev().map(|layer| {
        let path = layer.to_string_lossy();
        path.replace('\\', r"\\").replace(':', r"\:")
    });
    escaped.collect::<Vec<_>>().join(":")
}

fn map_ids(mount: &mut Mount, uids: &[IdMapping], gids: &[IdMapping]) {
    if !uids.is_empty() {
        mount
            .set_uid_mappings(Some(namespaces::id_mappings(uids)))
            .set_gid_mappings(Some(namespaces::id_mappings(gids)));
    }
}

/// The path without `.`, `..`, doubled and trailing slashes, decided on the words alone: links are
/// resolved where the container's root is at hand.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => drop(clean.pop()),
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_their_words() {
        for (path, expected) in [("/a//b/./c/", "/a/b/c"), ("/../..", "/"), ("/a/../b", "/b")] {
            assert_eq!(clean(Path::new(path)), Path::new(expected));
        }
    }

    #[test]
    fn lowerdir_puts_the_top_first_and_escapes() {
        let layers = [PathBuf::from("/a:b"), PathBuf::from(r"/c\d")];
        assert_eq!(lowerdir(&layers), r"/c\\d:/a\:b");
    }

    #[test]
    fn the_strongest_propagation_reaches_the_root() {
        let volume = |propagation| Volume { propagation, ..Volume::default() };
        let slave = volume(Propagation::HostToContainer);
        assert_eq!(rootfs_propagation(&[]), None);
        assert_eq!(
            rootfs_propagation(&[volume(Propagation::Private), slave.clone()]).unwrap(),
            "rslave"
        );
        let both = [volume(Propagation::Bidirectional), slave];
        assert_eq!(rootfs_propagation(&both).unwrap(), "rshared");
    }
}
