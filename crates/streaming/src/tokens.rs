//! The tokens in session URLs: each stands for one request, works once, and only for a minute.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use crate::session::RequestError;

/// How long a client may take from the gRPC answer to its connection.
pub(crate) const LIFETIME: Duration = Duration::from_secs(60);

/// How many requests may wait for their client.
const OUTSTANDING: usize = 1000;

/// 128 bits: whoever reaches the port must not be able to guess one within its lifetime.
const TOKEN_BYTES: usize = 16;

/// Requests whose clients have not connected yet.
#[derive(Debug)]
pub(crate) struct Tokens<T> {
    waiting: HashMap<String, (Instant, T)>,
}

impl<T> Tokens<T> {
    pub(crate) fn new() -> Self {
        Self { waiting: HashMap::new() }
    }

    /// Keeps `request` and returns the token that stands for it.
    pub(crate) fn insert(&mut self, request: T, now: Instant) -> Result<String, RequestError> {
        self.waiting.retain(|_, (expires, _)| *expires > now);
        if self.waiting.len() >= OUTSTANDING {
            return Err(RequestError::Full { retry_after: LIFETIME });
        }
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(RequestError::Random)?;
        let token = URL_SAFE_NO_PAD.encode(bytes);
        self.waiting.insert(token.clone(), (now + LIFETIME, request));
        Ok(token)
    }

    /// Gives the request back, once.
    pub(crate) fn take(&mut self, token: &str, now: Instant) -> Option<T> {
        let (expires, request) = self.waiting.remove(token)?;
        (expires > now).then_some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_works_once() {
        let mut tokens = Tokens::new();
        let now = Instant::now();
        let token = tokens.insert('a', now).unwrap();
        assert!(token.len() >= 8);
        assert_eq!(tokens.take(&token, now), Some('a'));
        assert_eq!(tokens.take(&token, now), None);
        assert_eq!(tokens.take("", now), None);
    }

    #[test]
    fn a_token_expires_after_a_minute() {
        let mut tokens = Tokens::new();
        let now = Instant::now();
        let (early, late) = (tokens.insert(1, now).unwrap(), tokens.insert(2, now).unwrap());
        assert_eq!(tokens.take(&early, now + Duration::from_secs(59)), Some(1));
        assert_eq!(tokens.take(&late, now + Duration::from_secs(60)), None);
    }

    #[test]
    fn a_thousand_wait_and_no_more() {
        let mut tokens = Tokens::new();
        let now = Instant::now();
        let first = tokens.insert(0, now).unwrap();
        for n in 1..1000 {
            tokens.insert(n, now).unwrap();
        }
        let full = tokens.insert(1000, now).unwrap_err();
        assert!(matches!(full, RequestError::Full { retry_after } if retry_after == LIFETIME));
        tokens.take(&first, now).unwrap();
        tokens.insert(1000, now).unwrap();
        tokens.insert(1001, now).unwrap_err();
        tokens.insert(1002, now + LIFETIME).unwrap();
    }
}
