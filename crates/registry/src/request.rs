//! One request to one endpoint: authorization, redirects, repetition.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};
use reqwest::{Response, Url};
use serde::Deserialize;

use crate::Shared;
use crate::auth::Credential;
use crate::challenge::{self, Challenge};
use crate::error::Failure;
use crate::hosts::Endpoint;
use crate::token;

const MOST_TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A registry that asks for more patience than this counts as failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 8;

/// What is asked of a repository.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// Below the repository: `manifests/latest`.
    pub(crate) path: String,
    pub(crate) accept: Option<&'static str>,
    /// Where to start within the body.
    pub(crate) from: u64,
}

/// One repository at one endpoint.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) endpoint: Endpoint,
    client: reqwest::Client,
    repository: String,
    credential: Credential,
    /// How the endpoint wants to be spoken to, once it has said so.
    challenge: Mutex<Option<Challenge>>,
}

impl Channel {
    pub(crate) fn new(
        endpoint: Endpoint,
        client: reqwest::Client,
        repository: &str,
        credential: Credential,
    ) -> Self {
        let repository = repository.to_owned();
        Self { endpoint, client, repository, credential, challenge: Mutex::default() }
    }

    /// Sends until there is an answer that another try would not better; it is a success.
    pub(crate) async fn send(&self, shared: &Shared, ask: &Ask) -> Result<Response, Failure> {
        let stall = shared.config.stall_timeout;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let failure = match self.authorized(shared, ask).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    if let Some(asked) = retry_after(&response) {
                        pause = pause.max(asked);
                    }
                    refusal(response, stall).await
                }
                Err(failure) => failure,
            };
            let worth_repeating = matches!(
                &failure,
                Failure::Status { status: 408 | 429 | 500 | 502..=504, .. }
                    | Failure::Broken(_)
                    | Failure::Stalled(_)
            );
            if attempt >= MOST_TRIES || !worth_repeating || pause > LONGEST_PAUSE {
                return Err(failure);
            }
            tracing::debug!(host = self.endpoint.origin(), %failure, ?pause, "request is repeated");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the loop ends by returning")
    }

    /// Sends with the authorization that is known to be wanted, and once more if that was wrong.
    async fn authorized(&self, shared: &Shared, ask: &Ask) -> Result<Response, Failure> {
        let used = self.authorization(shared, None).await?;
        let (response, redirected) = self.follow(shared, ask, used.as_deref()).await?;
        // A refusal by the host to which we were sent cannot be answered: our credentials are
        // not for it.
        if response.status() != StatusCode::UNAUTHORIZED || redirected {
            return Ok(response);
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges = headers.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse);
        let Some(challenge) = self.choose(challenges) else { return Ok(response) };
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge);
        let refused = used.as_deref().and_then(|used| used.strip_prefix("Bearer "));
        let fresh = self.authorization(shared, refused).await?;
        if fresh.is_none() || fresh == used {
            return Ok(response);
        }
        Ok(self.follow(shared, ask, fresh.as_deref()).await?.0)
    }

    /// The first challenge that our kind of credential can answer.
    fn choose(&self, challenges: impl Iterator<Item = Challenge>) -> Option<Challenge> {
        let answerable = |challenge: &Challenge| match challenge {
            Challenge::Basic => matches!(self.credential, Credential::Basic { .. }),
            Challenge::Bearer { .. } => true,
        };
        challenges.into_iter().find(answerable)
    }

    /// The value of `Authorization`, if one is called for.
    async fn authorization(
        &self,
        shared: &Shared,
        refused: Option<&str>,
    ) -> Result<Option<String>, Failure> {
        if let Credential::Bearer(token) = &self.credential {
            return Ok(Some(format!("Bearer {token}")));
        }
        let challenge = self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (challenge, &self.credential) {
            (None, _) => Ok(None),
            (Some(Challenge::Basic), Credential::Basic { username, password }) => {
                Ok(Some(token::basic(username, password)))
            }
            (Some(Challenge::Basic), _) => Ok(None),
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                self.may_send_to(&realm)?;
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                let credential = self.credential.clone();
                let request = token::Request { realm, service, scope, credential };
                let stall = shared.config.stall_timeout;
                let token = shared.tokens.token(&self.client, &request, refused, stall).await?;
                Ok(Some(format!("Bearer {token}")))
            }
        }
    }

    /// A registry behind TLS must not make us send a password in the clear.
    fn may_send_to(&self, realm: &str) -> Result<(), Failure> {
        let exposes = self.credential != Credential::Anonymous
            && self.endpoint.base.scheme() == "https"
            && !realm.starts_with("https://");
        if exposes {
            return Err(Failure::Token("it wants credentials without TLS".to_owned()));
        }
        Ok(())
    }

    /// Sends, and goes where redirects lead; says whether the answer is another host's.
    async fn follow(
        &self,
        shared: &Shared,
        ask: &Ask,
        authorization: Option<&str>,
    ) -> Result<(Response, bool), Failure> {
        let start = self.url(&ask.path)?;
        let mut url = start.clone();
        for _ in 0..=MOST_REDIRECTS {
            let ours = url.origin() == start.origin();
            let mut request = self.client.request(ask.method.clone(), url.clone());
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if ask.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.from));
            }
            if ours {
                request = request.headers(self.endpoint.headers.clone());
                if let Some(value) = authorization {
                    let mut value = HeaderValue::from_str(value).map_err(|_| {
                        Failure::Token("it has characters that no header can carry".to_owned())
                    })?;
                    value.set_sensitive(true);
                    request = request.header(AUTHORIZATION, value);
                }
            }
            // The client bounds the connection itself; what comes on top is the server's silence.
            let limit = shared.config.stall_timeout + shared.config.connect_timeout;
            let response = silence(limit, request.send()).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((response, !ours));
            }
            let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            url = location
                .and_then(|location| url.join(location).ok())
                .filter(|url| matches!(url.scheme(), "http" | "https"))
                .ok_or(Failure::Redirect("it has no usable location"))?;
        }
        Err(Failure::Redirect("one leads to another without end"))
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        let mut url = self.endpoint.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{}/{path}", self.repository));
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }
}

/// Waits for `sending`, but not for longer than `limit`.
pub(crate) async fn silence<T>(
    limit: Duration,
    sending: impl Future<Output = Result<T, reqwest::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, sending).await {
        Err(_) => Err(Failure::Stalled(limit)),
        Ok(Ok(value)) => Ok(value),
        // The address may carry a signature that is as good as a password.
        Ok(Err(error)) if error.is_connect() => Err(Failure::Connect(error.without_url())),
        Ok(Err(error)) => Err(Failure::Broken(error.without_url())),
    }
}

/// The whole body, unless it is longer than `limit`.
pub(crate) async fn read_limited(
    mut response: Response,
    limit: u64,
    stall: Duration,
) -> Result<Bytes, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = silence(stall, response.chunk()).await? {
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(Failure::TooLong { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalEntry>,
}

#[derive(Deserialize)]
struct RefusalEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// An answer that is not a success, with the registry's own words for it.
async fn refusal(response: Response, stall: Duration) -> Failure {
    let status = response.status().as_u16();
    let body = read_limited(response, 64 << 10, stall).await.unwrap_or_default();
    let message = serde_json::from_slice::<Refusal>(&body)
        .ok()
        .and_then(|refusal| refusal.errors.into_iter().next())
        .map(|entry| format!("{} {}", entry.code, entry.message))
        .map(|text| text.trim().chars().filter(|c| !c.is_control()).take(300).collect())
        .unwrap_or_default();
    match status {
        401 | 403 => Failure::Unauthorized { message },
        404 => Failure::NotFound { message },
        status => Failure::Status { status, message },
    }
}
