//! The one table from errors to gRPC codes.
//!
//! The code says by whose fault it is; the text is the whole chain of causes. Four words that the
//! kubelet looks for in texts stand at their beginning: `RegistryUnavailable`,
//! `ImageVolumeMountFailed` and `RROUnsupported` are given here or where the error is made,
//! `SignatureValidationFailed` is for signatures, which are not checked.

use rustix::io::Errno;
use tonic::{Code, Status};

use crate::error::Error;

/// The text travels in an HTTP/2 header, whose size clients limit.
const TEXT_BYTES: usize = 8 * 1024;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = code(&error);
        let mut text = telemetry::chain(&error);
        if is_registry_away(&error) {
            text.insert_str(0, "RegistryUnavailable: ");
        }
        if text.len() > TEXT_BYTES {
            let end = (0..=TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or(0));
            text.push('…');
        }
        Self::new(code, text)
    }
}

fn code(error: &Error) -> Code {
    match error {
        Error::Invalid(_) | Error::Reference(_) => Code::InvalidArgument,
        Error::Pods(error) => pods_code(error),
        Error::Images(error) => images_code(error),
        Error::Pull { source, .. } => images_code(source),
        Error::Session(error) => session_code(error),
        Error::File { source, .. } => match source.kind() {
            std::io::ErrorKind::NotFound => Code::NotFound,
            std::io::ErrorKind::AlreadyExists => Code::AlreadyExists,
            _ => local_code(error),
        },
        Error::Criu => Code::FailedPrecondition,
    }
}

fn is_registry_away(error: &Error) -> bool {
    matches!(error, Error::Pull { source, .. } if source.kind() == images::Kind::Unavailable)
}

fn images_code(error: &images::Error) -> Code {
    match error.kind() {
        images::Kind::Unavailable => Code::Unavailable,
        images::Kind::Unauthorized => Code::PermissionDenied,
        images::Kind::NotFound => Code::NotFound,
        images::Kind::Ambiguous => Code::InvalidArgument,
        images::Kind::BadImage => Code::DataLoss,
        images::Kind::Config => Code::FailedPrecondition,
        images::Kind::Disk => local_code(error),
    }
}

fn pods_code(error: &pods::Error) -> Code {
    use pods::Error as E;
    match error {
        E::Invalid { .. }
        | E::Ambiguous { .. }
        | E::PodCidr { .. }
        | E::Seccomp { .. }
        | E::SeccompProfile(_)
        | E::Spec(_) => Code::InvalidArgument,
        E::PodNotFound { .. } | E::ContainerNotFound { .. } | E::ImageNotFound { .. } => {
            Code::NotFound
        }
        E::NameTaken { .. } => Code::AlreadyExists,
        E::WrongState { .. } | E::ImageVolume { .. } | E::RecursiveReadOnly { .. } => {
            Code::FailedPrecondition
        }
        E::DeadlineExceeded { .. } => Code::DeadlineExceeded,
        E::Joined(error) => pods_code(error),
        E::Network { source, .. } => network_code(source),
        E::Cgroup { source, .. } => match source {
            cgroup::Error::InvalidPath { .. }
            | cgroup::Error::InvalidValue { .. }
            | cgroup::Error::NoController { .. }
            | cgroup::Error::Unsupported { .. } => Code::InvalidArgument,
            cgroup::Error::BelowUsage { .. } => Code::FailedPrecondition,
            // A limit that the kernel will not have.
            source if matches!(source.errno(), Some(Errno::INVAL | Errno::RANGE)) => {
                Code::InvalidArgument
            }
            source => local_code(source),
        },
        E::Images(error) => images_code(error),
        E::Prepare { source, .. } => prepare_code(source),
        E::Keeper { .. } | E::File { .. } | E::Node(_) => local_code(error),
        E::Internal(_) => Code::Internal,
    }
}

fn prepare_code(error: &executor::prepare::Error) -> Code {
    use executor::prepare::Error as E;
    match error {
        E::Spec { .. } | E::Propagation { .. } => Code::InvalidArgument,
        E::IdMap { .. } => Code::FailedPrecondition,
        error => local_code(error),
    }
}

fn network_code(error: &network::Error) -> Code {
    use network::Error as E;
    match error {
        E::PortTaken { .. } => Code::AlreadyExists,
        E::HostAddress { .. } => Code::InvalidArgument,
        E::Exhausted { .. } => Code::ResourceExhausted,
        E::NotReady { .. } => Code::Unavailable,
        error => local_code(error),
    }
}

fn session_code(error: &streaming::RequestError) -> Code {
    use streaming::RequestError as E;
    match error {
        E::Full { .. } => Code::ResourceExhausted,
        E::Random(_) => Code::Internal,
        // Everything else is about what was asked for.
        _ => Code::InvalidArgument,
    }
}

/// Something on this node went wrong. A full disk is told apart: the node's user can do something
/// about it.
fn local_code(error: &(dyn std::error::Error + 'static)) -> Code {
    let mut chain = std::iter::successors(Some(error), |error| error.source());
    if chain.any(is_full) { Code::ResourceExhausted } else { Code::Internal }
}

fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let number = match error.downcast_ref::<std::io::Error>() {
        Some(error) => Errno::from_io_error(error),
        None => error.downcast_ref().copied(),
    };
    matches!(number, Some(Errno::NOSPC | Errno::DQUOT))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::parse::Invalid;
    use pods::Error as P;

    fn status(error: impl Into<Error>) -> (Code, String) {
        let status = Status::from(error.into());
        (status.code(), status.message().to_owned())
    }

    fn file(errno: Errno) -> P {
        P::File { path: "/run/x".into(), action: "written", source: errno.into() }
    }

    #[test]
    fn each_error_has_its_code_and_names_its_subject() {
        let id = || "abc".to_owned();
        let invalid = || P::Invalid { field: "hostname".into(), reason: "is long".into() };
        let wrong_state =
            || P::WrongState { what: "container", id: id(), state: "EXITED", reason: "gone" };
        let taken = || P::NameTaken { what: "pod sandbox", name: "web".into(), id: id() };
        let limit = |source| {
            let (path, value) = ("/sys/fs/cgroup/x/cpuset.cpus".into(), "4000".into());
            let source = cgroup::Error::Write { path, value, source };
            P::Cgroup { path: "/x".into(), action: "limited", source }
        };
        let cases = [
            (invalid(), Code::InvalidArgument, "hostname: is long"),
            (P::PodNotFound { id: id() }, Code::NotFound, "abc"),
            (P::ContainerNotFound { id: id() }, Code::NotFound, "abc"),
            (P::ImageNotFound { image: "busybox".into() }, Code::NotFound, "busybox"),
            (P::Ambiguous { id: id() }, Code::InvalidArgument, "abc"),
            (taken(), Code::AlreadyExists, "abc"),
            (wrong_state(), Code::FailedPrecondition, "EXITED"),
            (
                P::ImageVolume { reason: "no such path".into() },
                Code::FailedPrecondition,
                "ImageVolumeMountFailed",
            ),
            (
                P::RecursiveReadOnly { reason: "kernel".into() },
                Code::FailedPrecondition,
                "RROUnsupported",
            ),
            (
                P::DeadlineExceeded { what: "exec".into(), seconds: 2 },
                Code::DeadlineExceeded,
                "2 s",
            ),
            (file(Errno::PERM), Code::Internal, "/run/x"),
            (file(Errno::NOSPC), Code::ResourceExhausted, "/run/x"),
            (limit(Errno::RANGE), Code::InvalidArgument, "cpuset.cpus"),
            (limit(Errno::BUSY), Code::Internal, "cpuset.cpus"),
            (P::Joined(Arc::new(taken())), Code::AlreadyExists, "web"),
            (P::Internal("a defect"), Code::Internal, "defect"),
        ];
        for (error, code, word) in cases {
            let text = format!("{error:?}");
            let found = status(error);
            assert_eq!(found.0, code, "{text}");
            assert!(found.1.contains(word), "{text}: {}", found.1);
        }
        assert_eq!(
            status(Error::Criu),
            (Code::FailedPrecondition, "criu is not configured".into())
        );
        let (field, reason) = ("config".to_owned(), "is required".to_owned());
        assert_eq!(status(Invalid { field, reason }).1, "config: is required");
    }

    #[test]
    fn a_registry_that_is_away_is_told_in_the_kubelets_word() {
        let pull = |source: images::Error| {
            status(Error::Pull { image: "busybox".into(), source: Arc::new(source) })
        };
        let (code, text) = pull(images::Error::NotFound { name: "busybox".into() });
        assert_eq!(code, Code::NotFound);
        assert!(!text.contains("RegistryUnavailable"), "{text}");
        let full =
            images::Error::Disk { action: "write", path: "/x".into(), source: Errno::DQUOT.into() };
        assert_eq!(pull(full).0, Code::ResourceExhausted);
        let error = "no such/reference:".parse::<model::ImageRef>().unwrap_err();
        let (code, text) = status(error);
        assert_eq!(code, Code::InvalidArgument);
        assert!(text.starts_with("image.image: "), "{text}");
    }

    #[tokio::test]
    async fn nobody_listening_is_unavailable() {
        let directory = std::env::temp_dir();
        let config = registry::Config {
            certs_dirs: vec![directory.join("minke-none")],
            ..registry::Config::default()
        };
        let store = images::Config {
            root: directory.join(format!("minke-cri-{}", std::process::id())),
            ..images::Config::default()
        };
        let root = store.root.clone();
        let store = images::Store::open(store, registry::Registry::new(config)).unwrap();
        // Port 1 is reserved and never listened on.
        let image = "127.0.0.1:1/a:b".to_owned();
        let pulled = store.pull(&image.parse().unwrap(), None).wait().await;
        let (code, text) = status(Error::Pull { image, source: pulled.unwrap_err() });
        drop(store);
        std::fs::remove_dir_all(root).unwrap();
        assert_eq!(code, Code::Unavailable);
        assert!(text.starts_with("RegistryUnavailable: "), "{text}");
    }

    #[test]
    fn a_text_of_any_length_fits_a_header() {
        let image = "é".repeat(20_000);
        let (_, text) = status(P::ImageNotFound { image });
        assert!(text.len() <= TEXT_BYTES + '…'.len_utf8());
    }
}
