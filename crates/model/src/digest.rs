use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a string is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a digest of the form sha256:<64 lower-case hexadecimal digits>")]
pub struct DigestError {
    /// The rejected text, cut to its first 100 characters.
    pub text: String,
}

/// A content digest (OCI image-spec, `descriptor.md`). Only `sha256` is taken: it is the one
/// algorithm that registries are required to support.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest whose 32 bytes a SHA-256 computation gave.
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// `sha256:<hex>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal digits behind the colon.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
        match text.strip_prefix("sha256:") {
            Some(digits) if digits.len() == 64 && digits.as_bytes().iter().all(hex) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(DigestError { text: text.chars().take(100).collect() }),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sha256_with_64_hex_digits_is_a_digest() {
        let digest = Digest::from_sha256([7; 32]);
        assert_eq!(digest.as_str().parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.hex().len(), 64);
        for bad in ["sha256:", "sha256:07", "md5:0707", &format!("sha512:{}", "0".repeat(64))] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
