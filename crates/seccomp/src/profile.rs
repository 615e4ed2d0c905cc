//! Profile files, in OCI's form or in Docker's, which adds conditions on capabilities, architecture
//! and kernel.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

/// Larger than any profile: every call by name with a hundred conditions each.
const SIZE_MAX: u64 = 4 << 20;

/// Why a file is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It cannot be read.
    #[error("cannot read the seccomp profile {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is no file of a profile's size.
    #[error("the seccomp profile {path} is no regular file of at most 4 MiB")]
    Unfit {
        /// The file.
        path: PathBuf,
    },
    /// It does not parse.
    #[error("the seccomp profile {path} is invalid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// It contradicts itself.
    #[error("the seccomp profile {path} is invalid: {reason}")]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// Between what.
        reason: &'static str,
    },
}

/// The first two numbers of a kernel release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion {
    /// 6 of 6.18.2.
    pub major: u32,
    /// 18 of 6.18.2.
    pub minor: u32,
}

impl KernelVersion {
    /// Takes a release as uname(2) gives it, or the two numbers alone; none where it does not start
    /// with two numbers.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let (major, rest) = release.split_once('.')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some(Self { major: major.parse().ok()?, minor: rest[..end].parse().ok()? })
    }

    /// The kernel that this runs on.
    #[must_use]
    pub fn running() -> Self {
        let release = rustix::system::uname();
        let version = release.release().to_str().ok().and_then(Self::parse);
        // Not to be met; an old kernel is allowed least.
        version.unwrap_or(Self { major: 0, minor: 0 })
    }
}

/// A profile as its file says.
#[derive(Debug, Clone)]
pub struct Profile(Document);

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    syscalls: Option<Vec<Syscall>>,
}

/// Docker: an architecture and those whose programs it runs too.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscall {
    /// Docker's early form of `names`.
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

/// Docker: what a rule depends on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    /// As Go names them: `amd64`.
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Profile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ProfileError`], naming the path.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let failed = |source| ProfileError::Read { path: path.to_owned(), source };
        // Opening a FIFO would wait for a writer.
        let found = std::fs::metadata(path).map_err(failed)?;
        if !found.is_file() || found.len() > SIZE_MAX {
            return Err(ProfileError::Unfit { path: path.to_owned() });
        }
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(SIZE_MAX).read_to_end(&mut text))
            .map_err(failed)?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, ProfileError> {
        let document: Document = serde_json::from_slice(text)
            .map_err(|source| ProfileError::Parse { path: path.to_owned(), source })?;
        match document.contradiction() {
            Some(reason) => Err(ProfileError::Contradiction { path: path.to_owned(), reason }),
            None => Ok(Self(document)),
        }
    }

    /// What the profile says for a process with this bounding set on this kernel and processor.
    #[must_use]
    pub fn resolve(&self, bounding: &Capabilities, kernel: KernelVersion) -> LinuxSeccomp {
        let Self(document) = self;
        let applies = |syscall: &&Syscall| {
            syscall.includes.as_ref().is_none_or(|filter| filter.includes(bounding, kernel))
                && !syscall.excludes.as_ref().is_some_and(|it| it.excludes(bounding, kernel))
        };
        let syscalls = document.syscalls.iter().flatten().filter(applies).map(Syscall::plain);
        let mut profile = LinuxSeccomp::default();
        profile
            .set_default_action(document.default_action)
            .set_default_errno_ret(document.default_errno_ret)
            .set_architectures(document.architectures())
            .set_flags(document.flags.clone())
            .set_syscalls(Some(syscalls.collect()));
        profile
    }
}

impl Document {
    fn contradiction(&self) -> Option<&'static str> {
        let some = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
        if some(&self.architectures) && self.arch_map.as_ref().is_some_and(|map| !map.is_empty()) {
            return Some("it has both architectures and archMap");
        }
        for syscall in self.syscalls.iter().flatten() {
            let names = syscall.names.as_ref().is_some_and(|names| !names.is_empty());
            match (&syscall.name, names) {
                (Some(_), true) => return Some("a rule has both name and names"),
                (None, false) => return Some("a rule names no call"),
                _ => {}
            }
            let filters = [&syscall.includes, &syscall.excludes];
            let kernels = filters.into_iter().flatten().filter_map(|it| it.min_kernel.as_ref());
            for kernel in kernels {
                if KernelVersion::parse(kernel).is_none() {
                    return Some("a minKernel is no version");
                }
            }
        }
        None
    }

    fn architectures(&self) -> Option<Vec<Arch>> {
        let Some(map) = &self.arch_map else { return self.architectures.clone() };
        let native = map.iter().find(|entry| native_arches().contains(&entry.architecture));
        native.map(|entry| {
            let mut arches = vec![entry.architecture];
            arches.extend(entry.sub_architectures.iter().flatten());
            arches
        })
    }
}

impl Syscall {
    fn plain(&self) -> LinuxSyscall {
        let names = self.names.clone().unwrap_or_default();
        let mut syscall = LinuxSyscall::default();
        syscall
            .set_names(self.name.iter().cloned().chain(names).collect())
            .set_action(self.action)
            .set_errno_ret(self.errno_ret)
            .set_args(self.args.clone());
        syscall
    }
}

impl Filter {
    fn includes(&self, bounding: &Capabilities, kernel: KernelVersion) -> bool {
        let arches = self.arches.as_deref().unwrap_or_default();
        self.caps.iter().flatten().all(|name| holds(bounding, name))
            && (arches.is_empty() || arches.iter().any(|arch| is_native(arch)))
            && self.min_kernel().is_none_or(|least| kernel >= least)
    }

    fn excludes(&self, bounding: &Capabilities, kernel: KernelVersion) -> bool {
        self.caps.iter().flatten().any(|name| holds(bounding, name))
            || self.arches.iter().flatten().any(|arch| is_native(arch))
            || self.min_kernel().is_some_and(|least| kernel >= least)
    }

    fn min_kernel(&self) -> Option<KernelVersion> {
        self.min_kernel.as_deref().and_then(KernelVersion::parse)
    }
}

/// A capability that this build does not know is in no set.
fn holds(bounding: &Capabilities, name: &str) -> bool {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    name.parse::<Capability>().is_ok_and(|capability| bounding.contains(&capability))
}

fn native_arches() -> &'static [Arch] {
    match std::env::consts::ARCH {
        "x86_64" => &[Arch::ScmpArchX86_64, Arch::ScmpArchNative],
        "aarch64" => &[Arch::ScmpArchAarch64, Arch::ScmpArchNative],
        _ => &[Arch::ScmpArchNative],
    }
}

fn is_native(go_arch: &str) -> bool {
    match std::env::consts::ARCH {
        "x86_64" => go_arch == "amd64",
        "aarch64" => go_arch == "arm64",
        other => go_arch == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: KernelVersion = KernelVersion { major: 6, minor: 1 };

    fn parse(text: &str) -> Result<Profile, ProfileError> {
        Profile::parse(Path::new("/profiles/mine.json"), text.as_bytes())
    }

    fn names(profile: &LinuxSeccomp) -> Vec<&str> {
        let rules = profile.syscalls().iter().flatten();
        rules.flat_map(|rule| rule.names()).map(String::as_str).collect()
    }

    #[test]
    fn a_release_starts_with_two_numbers() {
        let version = |major, minor| Some(KernelVersion { major, minor });
        assert_eq!(KernelVersion::parse("6.18.44-fc"), version(6, 18));
        assert_eq!(KernelVersion::parse("4.8"), version(4, 8));
        assert_eq!(KernelVersion::parse("5.10-1-amd64"), version(5, 10));
        for wrong in ["", "6", "6.", "six.one", ".1"] {
            assert_eq!(KernelVersion::parse(wrong), None, "{wrong:?}");
        }
        assert!(KernelVersion::running() > KernelVersion { major: 5, minor: 0 });
    }

    #[test]
    fn rules_depend_on_capabilities_and_kernel() {
        let profile = parse(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"syscalls":[
            {"names":["read","write"],"action":"SCMP_ACT_ALLOW","args":null,"comment":"x","includes":{},"excludes":{}},
            {"name":"mount","action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["clone"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"],"arches":["s390x"]}},
            {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
            {"names":["swapcontext"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["ppc64le"]}},
            {"names":["future"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.0"}}]}"#,
        )
        .unwrap();
        let none = Capabilities::new();
        let admin = Capabilities::from([Capability::SysAdmin]);
        assert_eq!(names(&profile.resolve(&none, KERNEL)), ["read", "write", "clone", "ptrace"]);
        assert_eq!(names(&profile.resolve(&admin, KERNEL)), ["read", "write", "mount", "ptrace"]);
        let old = KernelVersion { major: 4, minor: 7 };
        assert_eq!(names(&profile.resolve(&none, old)), ["read", "write", "clone"]);
        assert_eq!(profile.resolve(&none, old).default_errno_ret(), Some(1));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_map_gives_the_architectures_of_this_machine() {
        let profile = parse(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[
            {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]},
            {"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]}]}"#,
        )
        .unwrap();
        let resolved = profile.resolve(&Capabilities::new(), KERNEL);
        let expected = vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
        assert_eq!(resolved.architectures(), &Some(expected));
    }

    #[test]
    fn an_error_names_the_file() {
        for text in [
            "",
            "{",
            r#"{"defaultAction":"SCMP_ACT_PERHAPS"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","action":"SCMP_ACT_ALLOW","includes":{"minKernel":"x"}}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains("/profiles/mine.json"), "{error}");
        }
        for path in ["/proc/self/no-such-file", "/dev/zero", "/tmp"] {
            let error = Profile::read(Path::new(path)).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}
