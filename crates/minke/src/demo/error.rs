use std::io;

/// Why the demo could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot {what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("the daemon could not {what}: {}", .status.message())]
    Rpc { what: String, status: Box<tonic::Status> },
    #[error("{what}, but {instead}")]
    Unexpected { what: &'static str, instead: String },
    #[error("the demo needs root: namespaces, cgroups and mounts are made for real; try sudo")]
    NotRoot,
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn rpc(what: impl Into<String>) -> impl FnOnce(tonic::Status) -> Self {
        let what = what.into();
        move |status| Self::Rpc { what, status: Box::new(status) }
    }

    /// An error unless `holds`.
    pub(crate) fn unless(
        holds: bool,
        what: &'static str,
        instead: impl Into<String>,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::Unexpected { what, instead: instead.into() }) }
    }
}
