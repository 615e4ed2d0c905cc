use std::path::PathBuf;

use model::{ContainerId, PodId};

/// A failed operation, by whose fault it is: the edge maps each variant to one gRPC status.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's request cannot be honoured as it stands.
    #[error("{field}: {reason}")]
    Invalid {
        /// The CRI field, dotted.
        field: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// No pod has this id.
    #[error("no pod sandbox has the id {id:?}")]
    PodNotFound {
        /// As the caller wrote it.
        id: String,
    },
    /// No container has this id.
    #[error("no container has the id {id:?}")]
    ContainerNotFound {
        /// As the caller wrote it.
        id: String,
    },
    /// A shortened id fits more than one.
    #[error("the id {id:?} is ambiguous: it is the beginning of several")]
    Ambiguous {
        /// As the caller wrote it.
        id: String,
    },
    /// The name is taken by something with another configuration.
    #[error("{what} {name:?} exists already with a different configuration: {id}")]
    NameTaken {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// The name in full.
        name: String,
        /// Who has it.
        id: String,
    },
    /// The operation is not possible in the present state.
    #[error("{what} {id} is {state}: {reason}")]
    WrongState {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// Which.
        id: String,
        /// Its state in a word.
        state: &'static str,
        /// What would have to be so.
        reason: &'static str,
    },
    /// An image that a container needs is not there.
    #[error("image {image:?} is not present: pull it first")]
    ImageNotFound {
        /// As the caller wrote it.
        image: String,
    },
    /// An image volume cannot be mounted. kubelet looks for the first word.
    #[error("ImageVolumeMountFailed: {reason}")]
    ImageVolume {
        /// Why not.
        reason: String,
    },
    /// Recursive read-only mounts cannot be had. kubelet looks for the first word.
    #[error("RROUnsupported: {reason}")]
    RecursiveReadOnly {
        /// Why not.
        reason: String,
    },
    /// No spec can be built from the request.
    #[error("the container's specification cannot be built")]
    Spec(#[source] spec::Error),
    /// A source, layer or limit could not be opened.
    #[error("container {container} cannot be prepared")]
    Prepare {
        /// Which container.
        container: ContainerId,
        /// What could not be opened.
        #[source]
        source: executor::prepare::Error,
    },
    /// The machine lacks what pods need.
    #[error("this node cannot run pods")]
    Node(#[source] executor::prepare::Error),
    /// A seccomp profile's file cannot be used.
    #[error("linux.security_context.seccomp.localhost_ref cannot be used")]
    SeccompProfile(#[source] seccomp::ProfileError),
    /// A pod CIDR that is none, or that cannot be taken.
    #[error("the pod CIDR {cidr:?} cannot be used")]
    PodCidr {
        /// As it was given.
        cidr: String,
        /// Why not.
        #[source]
        source: network::Error,
    },
    /// The system call filter could not be compiled or read.
    #[error("the seccomp profile of container {container} cannot be used")]
    Seccomp {
        /// Which container.
        container: ContainerId,
        /// What is wrong with the profile.
        #[source]
        source: seccomp::Error,
    },
    /// The keeper refused or is gone.
    #[error("the keeper of pod sandbox {pod} could not {action}")]
    Keeper {
        /// Whose keeper.
        pod: PodId,
        /// What it was asked for.
        action: &'static str,
        /// Its answer.
        #[source]
        source: keeper::Error,
    },
    /// The pod's network could not be made or removed.
    #[error("the network of pod sandbox {pod} could not be {action}")]
    Network {
        /// Whose network.
        pod: PodId,
        /// `set up` or `torn down`.
        action: &'static str,
        /// Why not.
        #[source]
        source: network::Error,
    },
    /// A cgroup could not be made, limited or read.
    #[error("the cgroup {path:?} could not be {action}")]
    Cgroup {
        /// Path in the hierarchy.
        path: String,
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: cgroup::Error,
    },
    /// The image store failed.
    #[error("the image store failed")]
    Images(#[source] images::Error),
    /// A file of minke's own could not be written or read.
    #[error("{path:?} could not be {action}")]
    File {
        /// Which.
        path: PathBuf,
        /// `read`, `written` …
        action: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The time that the caller gave is over.
    #[error("{what} took longer than {seconds} s")]
    DeadlineExceeded {
        /// What was under way.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// An operation failed that several callers waited for; each gets the same error.
    #[error(transparent)]
    Joined(std::sync::Arc<Error>),
    /// A defect of minke's own.
    #[error("internal error: {0}")]
    Internal(&'static str),
}
