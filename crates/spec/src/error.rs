/// What is wrong with a request. Every variant's text begins with the CRI field, by its name in the
/// proto file, as the person who wrote the pod knows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field holds something that cannot be, alone or beside another field.
    #[error("{field}: {reason}")]
    Invalid {
        /// The CRI field, dotted, indices in brackets.
        field: String,
        /// Why it cannot be.
        reason: String,
    },
    /// Neither the container nor the image says what to run.
    #[error("command: neither the container nor its image names a program to run")]
    NoCommand,
    /// A user or group name that the image's account files do not hold.
    #[error("{field}: the image's {file} has no {name:?}")]
    UnknownAccount {
        /// The CRI field, or `image user`.
        field: &'static str,
        /// The file that was searched.
        file: &'static str,
        /// The name that was looked for.
        name: String,
    },
    /// This kernel cannot make a mount and all below it read-only. The text begins with the word by
    /// which kubelet tells this failure from others.
    #[error("RROUnsupported: {field}: this kernel cannot make {path:?} read-only recursively")]
    RecursiveReadOnlyUnsupported {
        /// The CRI field.
        field: String,
        /// The volume's source.
        path: String,
    },
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// The CRI field that is at fault.
    pub fn field(&self) -> &str {
        match self {
            Self::Invalid { field, .. } | Self::RecursiveReadOnlyUnsupported { field, .. } => field,
            Self::NoCommand => "command",
            Self::UnknownAccount { field, .. } => field,
        }
    }
}
