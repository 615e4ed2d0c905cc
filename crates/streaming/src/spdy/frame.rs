//! SPDY frames: every frame is eight bytes of head and as many bytes of payload as the head says.
//!
//! ```text
//! control  |1| version 15 | type 16 |     data  |0| stream 31         |
//!          | flags 8 | length 24    |           | flags 8 | length 24 |
//! ```
//!
//! After the SPDY protocol draft 3.1, section 2.2 and 2.6. Numbers are big-endian.

use bytes::{BufMut, BytesMut};

use super::headers::{self, Decoder, Headers};

pub(crate) const HEAD_LEN: usize = 8;

/// A control frame may not be longer: ours hold a few short headers.
pub(crate) const MAX_CONTROL_LEN: usize = 16 * 1024;

/// A data frame is not read into memory whole, so the format's own limit will do.
pub(crate) const MAX_DATA_LEN: usize = (1 << 24) - 1;

const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const STREAM: u32 = CONTROL - 1;
const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// RST_STREAM status: the stream number breaks the rules.
pub(crate) const PROTOCOL_ERROR: u32 = 1;
/// RST_STREAM status: the stream was refused before anything was done for it.
pub(crate) const REFUSED_STREAM: u32 = 3;

/// What a peer may not send; the connection cannot go on after it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("SPDY version {0}, only 3 is spoken")]
    Version(u16),
    #[error("SPDY control frame of type {kind} with {len} bytes")]
    Length { kind: u16, len: usize },
    #[error("SPDY frame for stream 0")]
    StreamZero,
    #[error("SPDY header block does not decompress")]
    Compression,
    #[error("SPDY header block of more than {0} bytes")]
    TooManyHeaders(usize),
    #[error("SPDY header block is cut short or goes on after its end")]
    HeaderBlock,
}

/// The first eight bytes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    Control { kind: u16, fin: bool, len: usize },
    Data { stream: u32, fin: bool, len: usize },
}

/// A control frame that asks for something. Types that ask for nothing here (SETTINGS,
/// WINDOW_UPDATE, replies to what we never send) are `Other`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Control {
    Open {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    Reset {
        stream: u32,
    },
    /// More headers for a stream: only their end-of-stream flag has a meaning to us.
    Headers {
        stream: u32,
        fin: bool,
    },
    Ping {
        id: u32,
    },
    GoAway,
    Other,
}

impl Head {
    pub(crate) fn parse(bytes: [u8; HEAD_LEN]) -> Result<Self, FrameError> {
        let [a, b, c, d, flags, e, f, g] = bytes;
        let word = u32::from_be_bytes([a, b, c, d]);
        let len = usize::from(e) << 16 | usize::from(f) << 8 | usize::from(g);
        let fin = flags & FLAG_FIN != 0;
        if word & CONTROL == 0 {
            return match word {
                0 => Err(FrameError::StreamZero),
                stream => Ok(Self::Data { stream, fin, len }),
            };
        }
        let kind = u16::from_be_bytes([c, d]);
        match u16::from_be_bytes([a & 0x7f, b]) {
            VERSION if len > MAX_CONTROL_LEN => Err(FrameError::Length { kind, len }),
            VERSION => Ok(Self::Control { kind, fin, len }),
            other => Err(FrameError::Version(other)),
        }
    }
}

impl Control {
    /// Parses the payload of a control frame. Header blocks are decompressed even where nobody
    /// wants them, since the compression runs through all of them.
    pub(crate) fn parse(
        kind: u16,
        fin: bool,
        payload: &[u8],
        decoder: &mut Decoder,
    ) -> Result<Self, FrameError> {
        let short = || FrameError::Length { kind, len: payload.len() };
        let word = |at: usize| {
            payload.get(at..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_be_bytes(*bytes))
        };
        let stream = || match word(0).map(|word| word & STREAM) {
            None => Err(short()),
            Some(0) => Err(FrameError::StreamZero),
            Some(stream) => Ok(stream),
        };
        match kind {
            SYN_STREAM => {
                let stream = stream()?;
                let block = payload.get(10..).ok_or_else(short)?;
                Ok(Self::Open { stream, fin, headers: decoder.decode(block)? })
            }
            SYN_REPLY | HEADERS => {
                let stream = stream()?;
                decoder.decode(&payload[4..])?;
                Ok(if kind == HEADERS { Self::Headers { stream, fin } } else { Self::Other })
            }
            RST_STREAM => Ok(Self::Reset { stream: stream()? }),
            PING => Ok(Self::Ping { id: word(0).ok_or_else(short)? }),
            GOAWAY => Ok(Self::GoAway),
            _ => Ok(Self::Other),
        }
    }
}

/// The head of a data frame; `len` bytes must follow.
pub(crate) fn put_data(out: &mut BytesMut, stream: u32, fin: bool, len: usize) {
    debug_assert!(len <= MAX_DATA_LEN);
    out.put_u32(stream & STREAM);
    put_flags(out, fin, len);
}

/// Accepts a stream, with no headers of our own.
pub(crate) fn put_reply(out: &mut BytesMut, stream: u32, encoder: &mut headers::Encoder) {
    let mut block = BytesMut::new();
    encoder.put_empty(&mut block);
    put_control(out, SYN_REPLY, 4 + block.len());
    out.put_u32(stream);
    out.put_slice(&block);
}

/// Refuses or abandons a stream.
pub(crate) fn put_reset(out: &mut BytesMut, stream: u32, status: u32) {
    put_control(out, RST_STREAM, 8);
    out.put_u32(stream);
    out.put_u32(status);
}

/// Answers a ping, which is done with the same frame.
pub(crate) fn put_ping(out: &mut BytesMut, id: u32) {
    put_control(out, PING, 4);
    out.put_u32(id);
}

fn put_control(out: &mut BytesMut, kind: u16, len: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_flags(out, false, len);
}

fn put_flags(out: &mut BytesMut, fin: bool, len: usize) {
    out.put_u8(if fin { FLAG_FIN } else { 0 });
    out.put_uint(len as u64, 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(out: &BytesMut) -> Head {
        Head::parse(*out.first_chunk().unwrap()).unwrap()
    }

    fn control(out: &BytesMut) -> Control {
        let Head::Control { kind, fin, len } = head(out) else { panic!("a data frame") };
        assert_eq!(out.len(), HEAD_LEN + len);
        Control::parse(kind, fin, &out[HEAD_LEN..], &mut Decoder::new()).unwrap()
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut out = BytesMut::new();
        put_data(&mut out, 7, true, 0x01_02_03);
        assert_eq!(head(&out), Head::Data { stream: 7, fin: true, len: 0x01_02_03 });
        out.clear();
        put_ping(&mut out, 9);
        assert_eq!(control(&out), Control::Ping { id: 9 });
        out.clear();
        put_reset(&mut out, 5, REFUSED_STREAM);
        assert_eq!(control(&out), Control::Reset { stream: 5 });
        out.clear();
        put_reply(&mut out, 5, &mut headers::Encoder::new());
        assert_eq!(control(&out), Control::Other);
    }

    #[test]
    fn hostile_heads_are_refused() {
        assert_eq!(Head::parse([0; 8]), Err(FrameError::StreamZero));
        let other_version = Head::parse([0x80, 2, 0, 1, 0, 0, 0, 0]);
        assert_eq!(other_version, Err(FrameError::Version(2)));
        let long = Head::parse([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]);
        assert_eq!(long, Err(FrameError::Length { kind: 1, len: MAX_DATA_LEN }));
    }

    #[test]
    fn short_payloads_are_refused() {
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, PING, HEADERS] {
            let parsed = Control::parse(kind, false, &[0, 0, 1], &mut Decoder::new());
            assert_eq!(parsed, Err(FrameError::Length { kind, len: 3 }));
        }
        let zero = Control::parse(RST_STREAM, false, &[0; 8], &mut Decoder::new());
        assert_eq!(zero, Err(FrameError::StreamZero));
    }

    /// Any bytes at all, read as the connection reads them.
    #[test]
    fn any_bytes_parse_or_fail() {
        bolero::check!().for_each(|mut bytes: &[u8]| {
            let mut decoder = Decoder::new();
            while let Some((first, rest)) = bytes.split_first_chunk() {
                let Ok(head) = Head::parse(*first) else { return };
                let (Head::Control { len, .. } | Head::Data { len, .. }) = head;
                let Some((payload, rest)) = rest.split_at_checked(len) else { return };
                if let Head::Control { kind, fin, .. } = head {
                    let Ok(control) = Control::parse(kind, fin, payload, &mut decoder) else {
                        return;
                    };
                    if let Control::Open { stream, .. } = control {
                        assert!(stream != 0);
                    }
                }
                bytes = rest;
            }
        });
    }

    /// Random bytes seldom look like a frame: here only the payload is random.
    #[test]
    fn any_control_payload_parses_or_fails() {
        bolero::check!().with_type::<(u8, bool, Vec<u8>)>().for_each(|(kind, fin, payload)| {
            let _ = Control::parse(u16::from(*kind % 10), *fin, payload, &mut Decoder::new());
        });
    }
}
