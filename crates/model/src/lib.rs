//! The nouns: ids, references, digests, pod and container specs and states as validated types; no I/O.
//!
//! Every other crate speaks these types. The gRPC edge (`cri`) builds them from the wire and renders
//! them back; records store them as JSON, so each field that was added later carries a default and an
//! unknown field is skipped.

mod container;
mod digest;
mod id;
mod mount;
mod pod;
mod reference;
mod resources;
mod security;
mod state;

pub use container::{ContainerMetadata, ContainerSpec, Device, ImageSpec};
pub use digest::{Digest, DigestError};
pub use id::{ContainerId, IdError, PodId};
pub use mount::{ImageVolume, Mount, Propagation};
pub use pod::{DnsConfig, PodMetadata, PodSpec, PortMapping, Protocol};
pub use reference::{ImageRef, ReferenceError};
pub use resources::{HugepageLimit, Resources};
pub use security::{
    Capabilities, Groups, IdMapping, IpcMode, NamespaceModes, NetworkMode, PidMode, Profile,
    SeLinux, SecurityContext, SupplementalGroupsPolicy, User, UserNamespace,
};
pub use state::{ContainerState, Exit, PodState, Signal, SignalError, Timestamp};
