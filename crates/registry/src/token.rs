//! Bearer tokens, as Docker's registry documents them: GET with the user's password or without,
//! POST with an OAuth2 refresh token.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use reqwest::Url;
use serde::Deserialize;

use crate::auth::Credential;
use crate::error::Failure;
use crate::request::{read_limited, silence};

/// The documented lifetime of a token whose answer does not name one.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds, which may pass on the way.
const MARGIN: Duration = Duration::from_secs(5);
const LARGEST_ANSWER: u64 = 1 << 20;

/// Whom to ask for which token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    pub(crate) scope: String,
    pub(crate) credential: Credential,
}

/// Tokens until they expire.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<Request, Token>>,
}

#[derive(Clone)]
struct Token {
    text: String,
    expires: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Tokens {
    /// A token for `request` that is still good; `refused` is one that a registry has just turned
    /// down, whatever its lifetime says.
    pub(crate) async fn token(
        &self,
        client: &reqwest::Client,
        request: &Request,
        refused: Option<&str>,
        stall: Duration,
    ) -> Result<String, Failure> {
        if let Some(token) = self.known(request).filter(|token| Some(token.as_str()) != refused) {
            return Ok(token);
        }
        let token = fetch(client, request, stall).await?;
        let text = token.text.clone();
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, token| token.expires > now);
        known.insert(request.clone(), token);
        Ok(text)
    }

    fn known(&self, request: &Request) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let token = known.get(request).filter(|token| token.expires > Instant::now())?;
        Some(token.text.clone())
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

async fn fetch(
    client: &reqwest::Client,
    request: &Request,
    stall: Duration,
) -> Result<Token, Failure> {
    let bad = |reason: &str| Failure::Token(reason.to_owned());
    let mut url = Url::parse(&request.realm).map_err(|_| bad("its address cannot be read"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("its address is not http or https"));
    }
    let service = request.service.iter().map(|service| ("service", service.as_str()));
    let common = service.chain([("scope", request.scope.as_str())]);
    let sending = if let Credential::Identity(refresh) = &request.credential {
        let form =
            [("grant_type", "refresh_token"), ("client_id", "minke"), ("refresh_token", refresh)];
        // The query of an address has the same encoding as a form.
        let body = Url::parse_with_params("form:", common.chain(form))
            .map_err(|_| bad("the request cannot be encoded"))?;
        client
            .post(url)
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body.query().unwrap_or_default().to_owned())
    } else {
        url.query_pairs_mut().extend_pairs(common);
        match &request.credential {
            Credential::Basic { username, password } => {
                url.query_pairs_mut().append_pair("account", username);
                client.get(url).header(AUTHORIZATION, basic(username, password))
            }
            _ => client.get(url),
        }
    };
    let started = Instant::now();
    let response = silence(stall, sending.send()).await?;
    let status = response.status();
    let body = read_limited(response, LARGEST_ANSWER, stall).await?;
    if !status.is_success() {
        return Err(match status.as_u16() {
            400 | 401 | 403 => Failure::Token(format!("status {status}")),
            status => Failure::Status { status, message: "from the token service".to_owned() },
        });
    }
    let answer: Answer =
        serde_json::from_slice(&body).map_err(|_| bad("its answer cannot be read"))?;
    let text = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if text.is_empty() {
        return Err(bad("its answer holds none"));
    }
    let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs).min(DEFAULT_LIFE * 1440);
    Ok(Token { text, expires: started + life.saturating_sub(MARGIN) })
}

/// The value of `Authorization` for a name and a password (RFC 7617).
pub(crate) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}
