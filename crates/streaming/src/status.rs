//! How a session ended, as the error stream tells it: from protocol v4 on a Kubernetes `Status`
//! object in JSON, before that a bare message, and nothing when all went well.

use std::error::Error;

use serde::Serialize;

/// The end of an exec or attach session.
#[derive(Debug)]
pub(crate) enum Outcome {
    Success,
    /// The command ran and its exit code was not 0.
    ExitCode(i32),
    /// The command was not run, or the session broke.
    Failure(String),
}

impl Outcome {
    /// A failure with its whole chain of causes.
    pub(crate) fn failure(doing: &str, error: &dyn Error) -> Self {
        Self::Failure(format!("{doing}: {}", chain(error)))
    }

    /// The JSON form, protocols v4 and v5.
    pub(crate) fn json(&self) -> Vec<u8> {
        let message = self.text();
        let status = match self {
            Self::Success => Status { status: "Success", ..Status::default() },
            Self::ExitCode(code) => Status {
                status: "Failure",
                message,
                reason: "NonZeroExitCode",
                details: Some(Details {
                    causes: [Cause { reason: "ExitCode", message: code.to_string() }],
                }),
                code: None,
            },
            Self::Failure(_) => Status {
                status: "Failure",
                message,
                reason: "InternalError",
                details: None,
                code: Some(500),
            },
        };
        // A struct of strings and numbers always has a JSON form.
        serde_json::to_vec(&status).unwrap_or_default()
    }

    /// The form of protocols v1 to v3; empty for success.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::ExitCode(code) => format!("command terminated with exit code {code}"),
            Self::Failure(message) => message.clone(),
        }
    }
}

/// Field names as in `k8s.io/apimachinery` `metav1.Status`.
#[derive(Default, Serialize)]
struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
}

/// An error and all its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_a_status_with_a_cause() {
        let json: serde_json::Value = serde_json::from_slice(&Outcome::ExitCode(3).json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "status": "Failure",
                "message": "command terminated with exit code 3",
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": "3" }] },
            })
        );
    }

    #[test]
    fn success_is_silent_in_text() {
        assert_eq!(Outcome::Success.json(), br#"{"status":"Success"}"#);
        assert_eq!(Outcome::Success.text(), "");
    }

    #[test]
    fn a_failure_names_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open the door")]
        struct Door(#[source] std::io::Error);
        let outcome = Outcome::failure("exec", &Door(std::io::Error::other("no key")));
        assert_eq!(outcome.text(), "exec: cannot open the door: no key");
        let json: serde_json::Value = serde_json::from_slice(&outcome.json()).unwrap();
        assert_eq!(json["reason"], "InternalError");
        assert_eq!(json["code"], 500);
    }
}
