//! From the wire to the model: every field is honoured, refused by name, or named as without effect.
//!
//! Each message is taken apart without `..`: a field that a later version of the interface adds stops
//! the build here until somebody has decided what it means. Without effect on this system are
//!
//! - every Windows message,
//! - annotations that no part of minke reads: they are kept and returned,
//! - `stdin_once` without `stdin`, and a host address on a port that is not mapped.
//!
//! What depends on the node is decided further in, with the same error: AppArmor and SELinux, huge
//! pages, the runtime's handlers, the image's users.

mod call;
mod container;
mod filter;
mod image;
mod mount;
mod pod;
mod resources;
mod security;

pub(crate) use call::{command, exec_timeout, ports, stop_timeout};
pub(crate) use container::container_spec;
pub(crate) use filter::{
    container_filter, container_stats_filter, image_filter, pod_filter, pod_stats_filter,
};
pub(crate) use image::{auth, image_name, image_spec};
pub(crate) use pod::pod_spec;
pub(crate) use resources::resources;

/// A request that cannot be honoured as it stands.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub(crate) struct Invalid {
    /// The field as the interface names it: `linux.security_context.namespace_options.pid`.
    pub(crate) field: String,
    /// What is wrong, and what would be right.
    pub(crate) reason: String,
}

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Invalid {
    Invalid { field: field.into(), reason: reason.into() }
}

fn required<T>(field: &str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| invalid(field, "is required"))
}

/// A name or word: not empty, no NUL.
fn named(field: &str, text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(invalid(field, "is required"));
    }
    no_nul(field, text)
}

/// The kernel ends a string at its first NUL; the rest would be ignored.
fn no_nul(field: &str, text: &str) -> Result<(), Invalid> {
    if text.contains('\0') {
        return Err(invalid(field, "has a NUL character"));
    }
    Ok(())
}

pub(crate) fn absolute(field: &str, path: &str) -> Result<(), Invalid> {
    named(field, path)?;
    if path.starts_with('/') {
        Ok(())
    } else {
        Err(invalid(field, format!("{path:?} is not an absolute path")))
    }
}

/// Paths that are joined to a directory of the host must not climb out of it.
fn no_parent(field: &str, path: &str) -> Result<(), Invalid> {
    if path.split('/').any(|part| part == "..") {
        return Err(invalid(field, format!("{path:?} contains \"..\"")));
    }
    Ok(())
}

/// A user or group id. The kernel keeps 4294967295 for "no id".
fn id(field: &str, value: i64) -> Result<u32, Invalid> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(invalid(field, format!("{value} is not an id from 0 to 4294967294"))),
    }
}

fn optional_id(
    field: &str,
    value: Option<cri_proto::runtime::v1::Int64Value>,
) -> Result<Option<u32>, Invalid> {
    value.map(|value| id(field, value.value)).transpose()
}

/// Decodes an enumeration; a number that the interface does not know is refused.
fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, Invalid> {
    E::try_from(number).map_err(|_| invalid(field, format!("{number} is not a known value")))
}
