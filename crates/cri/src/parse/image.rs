use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use cri_proto::runtime::v1;
use model::ImageSpec;
use registry::Auth;

use super::{Invalid, invalid, named, required};

/// The image that a container starts from.
pub(crate) fn image_spec(field: &str, spec: Option<v1::ImageSpec>) -> Result<ImageSpec, Invalid> {
    let v1::ImageSpec { image, annotations, user_specified_image, runtime_handler, image_ref: _ } =
        required(field, spec)?;
    named(&format!("{field}.image"), &image)?;
    Ok(ImageSpec { image, annotations, user_specified_image, runtime_handler })
}

/// What an image service request is about.
pub(crate) fn image_name(spec: Option<v1::ImageSpec>) -> Result<String, Invalid> {
    image_spec("image", spec).map(|spec| spec.image)
}

/// Credentials for a pull; absent where nothing is in them.
pub(crate) fn auth(config: Option<v1::AuthConfig>) -> Result<Option<Auth>, Invalid> {
    let Some(config) = config else { return Ok(None) };
    let v1::AuthConfig { username, password, auth, server_address, identity_token, registry_token } =
        config;
    if username.is_empty() && !auth.is_empty() && !is_pair(&auth) {
        // The value stays out of the message: it is a password.
        return Err(invalid("auth.auth", "is not base64 of user:password"));
    }
    let auth = Auth { username, password, auth, server_address, identity_token, registry_token };
    let empty = Auth { server_address: auth.server_address.clone(), ..Auth::default() };
    Ok((auth != empty).then_some(auth))
}

fn is_pair(auth: &str) -> bool {
    let auth = auth.trim();
    STANDARD
        .decode(auth)
        .or_else(|_| STANDARD_NO_PAD.decode(auth))
        .is_ok_and(|pair| pair.contains(&b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_checked_and_never_shown() {
        let with = |change: fn(&mut v1::AuthConfig)| {
            let mut config = v1::AuthConfig::default();
            change(&mut config);
            auth(Some(config))
        };
        assert!(auth(None).unwrap().is_none());
        assert!(with(|c| c.server_address = "r.io".into()).unwrap().is_none());
        assert_eq!(with(|c| c.username = "u".into()).unwrap().unwrap().username, "u");
        assert!(with(|c| c.auth = "dTpw".into()).unwrap().is_some());
        assert!(with(|c| c.identity_token = "t".into()).unwrap().is_some());
        let error = with(|c| c.auth = "hunter2".into()).unwrap_err();
        assert_eq!(error.field, "auth.auth");
        assert!(!error.reason.contains("hunter2"));
    }

    #[test]
    fn an_image_has_a_name() {
        assert_eq!(image_name(None).unwrap_err().field, "image");
        assert_eq!(image_name(Some(v1::ImageSpec::default())).unwrap_err().field, "image.image");
    }
}
