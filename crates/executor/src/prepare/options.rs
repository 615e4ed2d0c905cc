//! The fstab-style options of an OCI mount, sorted by what acts on them.

use rustix::mount::{MountAttrFlags, MountPropagationFlags};

/// What a mount's options come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// `bind` (false) or `rbind` (true).
    pub(crate) bind: Option<bool>,
    /// Flags of the mount itself.
    pub(crate) top: Flags,
    /// Flags of the mount and all below it.
    pub(crate) recursive: Flags,
    /// Propagation, and whether it goes to all below.
    pub(crate) propagation: Option<(MountPropagationFlags, bool)>,
    /// `idmap` (false) or `ridmap` (true).
    pub(crate) id_map: Option<bool>,
    /// `X-mount.subdir`: the part of the file system that is wanted.
    pub(crate) subdir: Option<String>,
    /// What is left is the file system's own, in order.
    pub(crate) data: Vec<String>,
}

/// Flags to set and to clear; a later option overrides an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) set: MountAttrFlags,
    pub(crate) clear: MountAttrFlags,
}

impl Flags {
    const NONE: Self = Self { set: MountAttrFlags::empty(), clear: MountAttrFlags::empty() };

    pub(crate) fn is_empty(self) -> bool {
        self == Self::NONE
    }

    fn set(&mut self, flag: MountAttrFlags) {
        self.set |= flag;
        self.clear -= flag;
    }

    fn clear(&mut self, flag: MountAttrFlags) {
        self.clear |= flag;
        self.set -= flag;
    }

    /// The access-time modes are values of one field, not flags.
    fn atime(&mut self, mode: MountAttrFlags) {
        self.set -= MountAttrFlags::MOUNT_ATTR__ATIME;
        self.clear |= MountAttrFlags::MOUNT_ATTR__ATIME;
        self.set |= mode;
    }
}

impl MountOptions {
    /// Reads options as runc does; what is unknown belongs to the file system.
    pub(crate) fn parse(options: &[String]) -> Self {
        let mut parsed = Self {
            bind: None,
            top: Flags::NONE,
            recursive: Flags::NONE,
            propagation: None,
            id_map: None,
            subdir: None,
            data: Vec::new(),
        };
        for option in options {
            if !(parsed.whole(option) || parsed.flag(option)) {
                match option.strip_prefix("X-mount.subdir=") {
                    Some(path) => parsed.subdir = Some(path.to_owned()),
                    None => parsed.data.push(option.clone()),
                }
            }
        }
        parsed
    }

    /// Options that are no flags.
    fn whole(&mut self, option: &str) -> bool {
        let propagation = match option.strip_prefix('r').unwrap_or(option) {
            "private" => Some(MountPropagationFlags::PRIVATE),
            "slave" => Some(MountPropagationFlags::DOWNSTREAM),
            "shared" => Some(MountPropagationFlags::SHARED),
            "unbindable" => Some(MountPropagationFlags::UNBINDABLE),
            _ => None,
        };
        if let Some(propagation) = propagation {
            self.propagation = Some((propagation, option.starts_with('r')));
            return true;
        }
        match option {
            "bind" => self.bind = Some(false),
            "rbind" => self.bind = Some(true),
            "idmap" => self.id_map = Some(false),
            "ridmap" => self.id_map = Some(true),
            "" | "defaults" | "loud" | "silent" => {}
            _ => return false,
        }
        true
    }

    fn flag(&mut self, option: &str) -> bool {
        use MountAttrFlags as F;
        // `ro`, `rw` and `relatime` begin with the letter that marks the recursive form.
        let recursive = match option {
            "ro" | "rw" | "relatime" => None,
            other => other.strip_prefix('r'),
        };
        let (flags, name) = match recursive {
            Some(name) => (&mut self.recursive, name),
            None => (&mut self.top, option),
        };
        match name {
            "ro" => flags.set(F::MOUNT_ATTR_RDONLY),
            "rw" => flags.clear(F::MOUNT_ATTR_RDONLY),
            "nosuid" => flags.set(F::MOUNT_ATTR_NOSUID),
            "suid" => flags.clear(F::MOUNT_ATTR_NOSUID),
            "nodev" => flags.set(F::MOUNT_ATTR_NODEV),
            "dev" => flags.clear(F::MOUNT_ATTR_NODEV),
            "noexec" => flags.set(F::MOUNT_ATTR_NOEXEC),
            "exec" => flags.clear(F::MOUNT_ATTR_NOEXEC),
            "nodiratime" => flags.set(F::MOUNT_ATTR_NODIRATIME),
            "diratime" => flags.clear(F::MOUNT_ATTR_NODIRATIME),
            "nosymfollow" => flags.set(F::MOUNT_ATTR_NOSYMFOLLOW),
            "symfollow" => flags.clear(F::MOUNT_ATTR_NOSYMFOLLOW),
            "noatime" => flags.atime(F::MOUNT_ATTR_NOATIME),
            "strictatime" => flags.atime(F::MOUNT_ATTR_STRICTATIME),
            "relatime" | "atime" | "norelatime" | "nostrictatime" => {
                flags.atime(F::MOUNT_ATTR_RELATIME);
            }
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        MountOptions::parse(&options)
    }

    #[test]
    fn options_go_to_what_acts_on_them() {
        let parsed = parse(&["rbind", "rslave", "rro", "nosuid", "mode=755", "X-mount.subdir=a/b"]);
        assert_eq!(parsed.bind, Some(true));
        assert_eq!(parsed.propagation, Some((MountPropagationFlags::DOWNSTREAM, true)));
        assert_eq!(parsed.recursive.set, MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert_eq!(parsed.top.set, MountAttrFlags::MOUNT_ATTR_NOSUID);
        assert_eq!(parsed.data, ["mode=755"]);
        assert_eq!(parsed.subdir.as_deref(), Some("a/b"));
    }

    #[test]
    fn the_last_word_counts() {
        let parsed = parse(&["ro", "rw", "nodev", "noatime", "relatime", "relatime"]);
        assert_eq!(parsed.top.set, MountAttrFlags::MOUNT_ATTR_NODEV);
        let cleared = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR__ATIME;
        assert_eq!(parsed.top.clear, cleared);
        assert!(parsed.recursive.is_empty());
        assert_eq!(parse(&["rrelatime"]).recursive.clear, MountAttrFlags::MOUNT_ATTR__ATIME);
    }
}
