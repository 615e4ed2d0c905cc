use bytes::Bytes;
use http::header::CONTENT_RANGE;
use http::{Method, StatusCode};
use model::Digest;
use reqwest::Response;

use crate::error::{Error, Failure};
use crate::repository::Repository;
use crate::request::{Ask, silence};

/// A transfer may break this often in a row without giving a byte before its host is given up.
const MOST_BARREN: u32 = 3;
/// And this often at all.
const MOST_BREAKS: u32 = 50;

/// A blob in pieces. A transfer that breaks, stalls or ends early goes on where it stopped, on the
/// same host by a range request, and on the next host if that one fails.
///
/// Dropping it ends the transfer.
#[derive(Debug)]
pub struct Blob {
    repository: Repository,
    digest: Digest,
    size: u64,
    /// The next byte to hand out.
    at: u64,
    transfer: Option<Transfer>,
    /// Hosts that were given up, by their place in the configuration.
    failed: Vec<(usize, Failure)>,
    barren: u32,
    breaks: u32,
}

#[derive(Debug)]
struct Transfer {
    channel: usize,
    response: Response,
    /// Bytes that come before the ones we want, from a server that ignores ranges.
    skip: u64,
}

impl Blob {
    pub(crate) fn new(repository: Repository, digest: Digest, size: u64, from: u64) -> Self {
        let failed = Vec::new();
        Self { repository, digest, size, at: from, transfer: None, failed, barren: 0, breaks: 0 }
    }

    /// The next piece, never empty; none when all `size` bytes were handed out.
    ///
    /// # Errors
    /// When no host gives the rest. What was handed out stays good: a new [`Blob`] may start there.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.at >= self.size {
                return Ok(None);
            }
            let Some(transfer) = &mut self.transfer else {
                self.transfer = Some(self.open().await?);
                continue;
            };
            let stall = self.repository.inner.shared.config.stall_timeout;
            let failure = match silence(stall, transfer.response.chunk()).await {
                Ok(Some(mut chunk)) => {
                    let skip = transfer.skip.min(chunk.len() as u64);
                    transfer.skip -= skip;
                    let _ = chunk.split_to(skip as usize);
                    if chunk.is_empty() {
                        continue;
                    }
                    if chunk.len() as u64 > self.size - self.at {
                        Failure::TooLong { limit: self.size }
                    } else {
                        self.at += chunk.len() as u64;
                        self.barren = 0;
                        return Ok(Some(chunk));
                    }
                }
                Ok(None) => Failure::Truncated { got: self.at, expected: self.size },
                Err(failure) => failure,
            };
            self.broke(failure);
        }
    }

    /// The host that gives the content now: `https://mirror.example`.
    pub fn origin(&self) -> Option<String> {
        let channel = self.repository.inner.channel(self.transfer.as_ref()?.channel)?;
        Some(channel.endpoint.origin())
    }

    /// Ends the transfer; its host is asked again unless it broke too often.
    fn broke(&mut self, failure: Failure) {
        let Some(transfer) = self.transfer.take() else { return };
        self.barren += 1;
        self.breaks += 1;
        tracing::debug!(digest = %self.digest, at = self.at, %failure, "transfer is taken up again");
        let hopeless = matches!(failure, Failure::TooLong { .. });
        if hopeless || self.barren >= MOST_BARREN || self.breaks >= MOST_BREAKS {
            let inner = &self.repository.inner;
            if let Some(channel) = inner.channel(transfer.channel) {
                inner.failed(channel, &failure);
            }
            self.failed.push((transfer.channel, failure));
            self.barren = 0;
            self.breaks = 0;
        }
    }

    /// Asks the first host that has not failed yet for the bytes from `at` on.
    async fn open(&mut self) -> Result<Transfer, Error> {
        let inner = std::sync::Arc::clone(&self.repository.inner);
        let ask = Ask {
            method: Method::GET,
            path: format!("blobs/{}", self.digest),
            accept: None,
            from: self.at,
        };
        for (index, channel) in inner.order(|endpoint| endpoint.pull) {
            if self.failed.iter().any(|(failed, _)| *failed == index) {
                continue;
            }
            let answer = channel.send(&inner.shared, &ask).await;
            match answer.and_then(|response| self.transfer(index, response)) {
                Ok(transfer) => {
                    inner.answered(channel);
                    return Ok(transfer);
                }
                Err(failure) => {
                    inner.failed(channel, &failure);
                    self.failed.push((index, failure));
                }
            }
        }
        let mut attempts = inner.attempts(format!("blob {}@{}", inner.name, self.digest));
        for (index, failure) in std::mem::take(&mut self.failed) {
            if let Some(channel) = inner.channel(index) {
                attempts.add(index, channel, failure);
            }
        }
        Err(attempts.into_error())
    }

    fn transfer(&self, channel: usize, response: Response) -> Result<Transfer, Failure> {
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE);
                range.and_then(|range| range_start(range.to_str().ok()?)).unwrap_or(self.at)
            }
            _ => 0,
        };
        match self.at.checked_sub(start) {
            Some(skip) => Ok(Transfer { channel, response, skip }),
            None => Err(Failure::Status {
                status: response.status().as_u16(),
                message: "the range starts behind the one that was asked for".to_owned(),
            }),
        }
    }
}

/// The first number of `bytes 5-9/10`.
fn range_start(range: &str) -> Option<u64> {
    range.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::range_start;

    #[test]
    fn the_start_of_a_content_range_is_read() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("bytes 0-0/*"), Some(0));
        for odd in ["", "bytes", "bytes */10", "items 1-2/3", "bytes -5"] {
            assert_eq!(range_start(odd), None, "{odd}");
        }
    }
}
