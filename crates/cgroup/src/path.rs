use std::fmt;
use std::path::Path;

use crate::Error;

/// The place of a cgroup below the root of its hierarchies, `/kubepods/pod1/c1`: absolute, without
/// empty, `.` or `..` components, and never the root itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Takes a path with or without leading slash; doubled and trailing slashes are dropped.
    ///
    /// # Errors
    /// [`Error::InvalidPath`] for the root, `.` and `..`, components over 255 bytes and control
    /// characters.
    pub fn new(path: &str) -> Result<Self, Error> {
        let mut clean = String::with_capacity(path.len() + 1);
        for component in path.split('/').filter(|component| !component.is_empty()) {
            check(component)
                .map_err(|reason| Error::InvalidPath { path: path.to_owned(), reason })?;
            clean.push('/');
            clean.push_str(component);
        }
        if clean.is_empty() {
            return Err(Error::InvalidPath {
                path: path.to_owned(),
                reason: "the root cannot be used",
            });
        }
        Ok(Self(clean))
    }

    /// The path of a child.
    ///
    /// # Errors
    /// [`Error::InvalidPath`] where `name` is not one valid component.
    pub fn join(&self, name: &str) -> Result<Self, Error> {
        let invalid = |reason| Error::InvalidPath { path: name.to_owned(), reason };
        if name.is_empty() || name.contains('/') {
            return Err(invalid("one component is wanted"));
        }
        check(name).map_err(invalid)?;
        Ok(Self(format!("{}/{name}", self.0)))
    }

    /// The path, with its leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path as it is joined to a mount point.
    pub(crate) fn relative(&self) -> &Path {
        Path::new(&self.0[1..])
    }
}

fn check(component: &str) -> Result<(), &'static str> {
    match component {
        "." | ".." => Err("`.` and `..` are not allowed"),
        _ if component.len() > 255 => Err("a component has more than 255 bytes"),
        _ if component.chars().any(char::is_control) => Err("it holds a control character"),
        _ => Ok(()),
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_are_normalised() {
        assert_eq!(CgroupPath::new("kubepods//pod1/").unwrap().as_str(), "/kubepods/pod1");
        assert_eq!(CgroupPath::new("/a").unwrap().join("b").unwrap().as_str(), "/a/b");
    }

    #[test]
    fn a_path_that_leaves_the_tree_is_refused() {
        for path in ["", "/", "..", "/a/../b", "a/./b", "a\nb", "a\0b", &"x".repeat(256)] {
            assert!(CgroupPath::new(path).is_err(), "{path:?}");
        }
        let path = CgroupPath::new("/a").unwrap();
        for name in ["", "..", "b/c", "b\n"] {
            assert!(path.join(name).is_err(), "{name:?}");
        }
    }
}
