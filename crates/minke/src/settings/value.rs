//! How a value of each type is written in TOML, and read from it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use network::Subnet;
use telemetry::{Format, Level};
use toml::Value;
use toml::de::DeValue;

use super::SeccompDefault;

/// A type that a key can have.
pub(super) trait Field: Sized {
    /// Reads a value, or says what is expected instead.
    fn read(value: &DeValue<'_>) -> Result<Self, String>;

    /// The value as it is written; none where the key is left out to mean it.
    fn show(&self) -> Option<Value>;
}

fn text<'a>(value: &'a DeValue<'_>, expected: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{expected} is expected, in quotes"))
}

impl Field for String {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        text(value, "a text").map(str::to_owned)
    }

    fn show(&self) -> Option<Value> {
        Some(Value::String(self.clone()))
    }
}

impl Field for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "true or false is expected".to_owned())
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Field for $type {
            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                value
                    .as_integer()
                    .and_then(|digits| Self::from_str_radix(digits.as_str(), digits.radix()).ok())
                    .ok_or_else(|| format!("a whole number up to {} is expected", Self::MAX))
            }

            fn show(&self) -> Option<Value> {
                Some(Value::Integer((*self).into()))
            }
        }
    )*};
}

numbers! { u16 u32 }

impl Field for PathBuf {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let path = Path::new(text(value, "an absolute path")?);
        if path.is_absolute() {
            Ok(path.to_owned())
        } else {
            Err(format!("{path:?} is not an absolute path"))
        }
    }

    fn show(&self) -> Option<Value> {
        Some(Value::String(self.to_string_lossy().into_owned()))
    }
}

macro_rules! words {
    ($($type:ty: $expected:literal)*) => {$(
        impl Field for $type {
            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                text(value, $expected)?.parse().map_err(|error| format!("{error}"))
            }

            fn show(&self) -> Option<Value> {
                Some(Value::String(self.to_string()))
            }
        }
    )*};
}

words! {
    Level: "a level"
    Format: "a format"
    Subnet: "a subnet such as 10.1.0.0/20"
    IpAddr: "an IP address"
}

impl Field for SeccompDefault {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match text(value, "Unconfined or RuntimeDefault")? {
            "Unconfined" => Ok(Self::Unconfined),
            "RuntimeDefault" => Ok(Self::RuntimeDefault),
            word => Err(format!("{word:?} is neither Unconfined nor RuntimeDefault")),
        }
    }

    fn show(&self) -> Option<Value> {
        Some(Value::String(format!("{self:?}")))
    }
}

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Field for Duration {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = text(value, "a duration such as \"30s\"")?;
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = UNITS.iter().find(|(name, _)| *name == &text[digits.len()..]);
        unit.and_then(|(_, millis)| digits.parse::<u64>().ok()?.checked_mul(*millis))
            .map(Self::from_millis)
            .ok_or_else(|| format!("{text:?} is not a duration such as 4h, 10m, 30s or 500ms"))
    }

    fn show(&self) -> Option<Value> {
        let millis = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        let fits = |(_, unit): &&(&str, u64)| millis >= *unit && millis.is_multiple_of(*unit);
        let (name, unit) = UNITS.iter().find(fits).unwrap_or(&("s", 1000));
        Some(Value::String(format!("{}{name}", millis / unit)))
    }
}

impl<T: Field> Field for Vec<T> {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let items = value.as_array().ok_or_else(|| "a list is expected, in brackets".to_owned())?;
        items.iter().map(|item| T::read(item.get_ref())).collect()
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Array(self.iter().filter_map(Field::show).collect()))
    }
}

impl<T: Field> Field for Option<T> {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        T::read(value).map(Some)
    }

    fn show(&self) -> Option<Value> {
        self.as_ref().and_then(Field::show)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Field>(text: &str) -> Result<T, String> {
        T::read(DeValue::parse(text).unwrap().get_ref())
    }

    #[test]
    fn values_are_shown_as_they_are_read() {
        fn both<T: Field>(text: &str) {
            let value: T = read(text).unwrap();
            assert_eq!(value.show().unwrap().to_string(), text);
        }
        both::<Duration>("\"4h\"");
        both::<Duration>("\"90m\"");
        both::<Duration>("\"1500ms\"");
        both::<Duration>("\"0s\"");
        both::<u16>("65535");
        both::<bool>("true");
        both::<Vec<Subnet>>("[\"10.1.0.0/20\", \"fd00::/112\"]");
        both::<Option<u32>>("1500");
        both::<Level>("\"debug\"");
        both::<SeccompDefault>("\"RuntimeDefault\"");
    }

    #[test]
    fn what_is_expected_is_said() {
        fn refused<T: Field>(text: &str) -> String {
            read::<T>(text).err().unwrap()
        }
        assert!(refused::<u16>("65536").contains("up to 65535"));
        assert!(refused::<u16>("-1").contains("up to 65535"));
        assert!(refused::<bool>("1").contains("true or false"));
        assert!(refused::<Duration>("30").contains("in quotes"));
        for bad in ["\"30\"", "\"s\"", "\"-1s\"", "\"1d\"", "\"18446744073709551615h\""] {
            assert!(refused::<Duration>(bad).contains("not a duration"), "{bad}");
        }
        assert!(refused::<PathBuf>("\"run\"").contains("absolute"));
        assert!(refused::<Vec<String>>("\"a\"").contains("list"));
        assert!(refused::<Level>("\"loud\"").contains("warn"));
        assert!(refused::<SeccompDefault>("\"default\"").contains("RuntimeDefault"));
    }
}
