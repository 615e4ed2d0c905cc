use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Why a string is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference: {reason}")]
pub struct ReferenceError {
    /// The rejected text, cut to its first 300 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A normalised image reference: registry host, repository, and a tag, a digest or both
/// (the grammar of distribution's `reference` package).
///
/// `busybox` means `docker.io/library/busybox:latest`; `index.docker.io` is `docker.io`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageRef {
    /// The registry's name as written in references: `docker.io`, `127.0.0.1:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository below the host: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, absent only in a reference by digest alone.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that pins the content, where the reference has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `host/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// `host/repository@digest`, the form in which repo digests are reported.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// `host/repository:tag`, the form in which repo tags are reported; none for a reference by
    /// digest alone.
    pub fn tagged(&self) -> Option<Self> {
        self.tag.is_some().then(|| Self { digest: None, ..self.clone() })
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let fail = |reason| ReferenceError { text: text.chars().take(300).collect(), reason };
        if text.is_empty() {
            return Err(fail("it is empty"));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = digest.parse();
                (rest, Some(digest.map_err(|_| fail("its digest is not sha256 with 64 digits"))?))
            }
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(fail("its tag has a character that tags cannot have, or is too long"));
        }
        let (host, path) = split_host(rest);
        if !is_host(host) {
            return Err(fail("its registry is not a host name with an optional port"));
        }
        if path.is_empty() || !path.split('/').all(is_component) {
            return Err(fail("a part of its repository is empty or has a forbidden character"));
        }
        if digest.is_none() && path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(fail("64 hexadecimal digits name an image id, not a repository"));
        }
        let host = if host == "index.docker.io" { "docker.io" } else { host };
        let repository = match path {
            path if host == "docker.io" && !path.contains('/') => format!("library/{path}"),
            path => path.to_owned(),
        };
        if host.len() + 1 + repository.len() > 255 {
            return Err(fail("its name is longer than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { host: host.to_owned(), repository, tag, digest })
    }
}

/// A first part is a host if it cannot be a repository of the default registry.
fn split_host(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => ("docker.io", name),
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= 128
        && bytes.next().is_some_and(word)
        && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_host(host: &str) -> bool {
    let (name, port) = if let Some(v6) = host.strip_prefix('[') {
        let Some((address, port)) = v6.split_once(']') else { return false };
        let port = port.strip_prefix(':').or(port.is_empty().then_some("0"));
        return address.parse::<std::net::Ipv6Addr>().is_ok()
            && port.is_some_and(|port| port.parse::<u16>().is_ok());
    } else {
        host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)))
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// A path component: runs of lower-case letters and digits, joined by `.`, `_`, `__` or dashes.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    if !ends.into_iter().all(|end| end.is_some_and(|b| alphanumeric(*b))) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|join| matches!(join, "" | "." | "_" | "__") || join.bytes().all(|b| b == b'-'))
}

impl TryFrom<String> for ImageRef {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(reference: ImageRef) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        text.parse::<ImageRef>().unwrap().to_string()
    }

    #[test]
    fn short_names_are_completed() {
        let hex = "a".repeat(64);
        assert_eq!(normal("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(normal("user/app:1.2"), "docker.io/user/app:1.2");
        assert_eq!(normal("index.docker.io/busybox"), "docker.io/library/busybox:latest");
        assert_eq!(normal("localhost/a"), "localhost/a:latest");
        assert_eq!(normal("127.0.0.1:5000/a/b_c"), "127.0.0.1:5000/a/b_c:latest");
        assert_eq!(normal("[::1]:5000/a"), "[::1]:5000/a:latest");
        assert_eq!(normal(&format!("reg.io/a@sha256:{hex}")), format!("reg.io/a@sha256:{hex}"));
        assert_eq!(normal(&format!("reg.io/a:t@sha256:{hex}")), format!("reg.io/a:t@sha256:{hex}"));
    }

    #[test]
    fn malformed_references_are_refused() {
        let hex = "a".repeat(64);
        let long = format!("reg.io/{}", "a/".repeat(130) + "a");
        for bad in [
            "",
            ":",
            "@",
            "a:",
            "/a",
            "a/",
            "a//b",
            "A",
            "reg.io/A",
            "a@sha256:12",
            "a b",
            "é",
            "-reg.io/a",
            "reg.io:99999/a",
            "a..b",
            "a___b",
            "_a",
            "[::1/a",
            "[::1]x/a",
            &hex,
            &long,
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
    }
}
