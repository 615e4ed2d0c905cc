//! Messages to channel data and back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;

/// The number that a v5 client puts before that of the channel it closes.
const CLOSE: u8 = 255;

/// How messages stand for channel data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// `channel.k8s.io`, `v4.channel.k8s.io`, or no protocol named.
    Binary,
    /// `v5.channel.k8s.io`: as binary, and the client may close single channels.
    BinaryWithClose,
    /// `base64.channel.k8s.io`, `v4.base64.channel.k8s.io`: a digit and base64 text.
    Base64,
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Data(u8, Bytes),
    Close(u8),
    Nothing,
}

/// A message that follows no rule.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("WebSocket message with invalid base64")]
    Base64,
    #[error("WebSocket close signal must name one channel")]
    Close,
}

impl Codec {
    pub(crate) fn decode(self, mut message: Bytes) -> Result<Received, MessageError> {
        let Some(&first) = message.first() else { return Ok(Received::Nothing) };
        message.advance(1);
        match self {
            Self::BinaryWithClose if first == CLOSE => match message[..] {
                [channel] => Ok(Received::Close(channel)),
                _ => Err(MessageError::Close),
            },
            Self::Binary | Self::BinaryWithClose => Ok(Received::Data(first, message)),
            Self::Base64 => {
                let data = STANDARD.decode(&message).map_err(|_| MessageError::Base64)?;
                Ok(Received::Data(first.wrapping_sub(b'0'), data.into()))
            }
        }
    }

    pub(crate) fn encode(self, channel: u8, data: &[u8]) -> Message {
        match self {
            Self::Binary | Self::BinaryWithClose => {
                let mut message = BytesMut::with_capacity(1 + data.len());
                message.put_u8(channel);
                message.put_slice(data);
                Message::Binary(message.freeze())
            }
            Self::Base64 => {
                let mut text = String::with_capacity(1 + data.len().div_ceil(3) * 4);
                text.push(char::from(channel.wrapping_add(b'0')));
                STANDARD.encode_string(data, &mut text);
                Message::Text(text.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(message: Message) -> Bytes {
        assert_eq!(message.is_text(), !message.is_binary());
        message.into_data()
    }

    #[test]
    fn data_comes_back() {
        for codec in [Codec::Binary, Codec::BinaryWithClose, Codec::Base64] {
            for data in [&b""[..], b"x", b"\0\xff\x80 and so on"] {
                let message = bytes(codec.encode(3, data));
                let expected = Received::Data(3, Bytes::from_static(data));
                assert_eq!(codec.decode(message), Ok(expected));
            }
        }
    }

    #[test]
    fn only_v5_closes_channels() {
        let close = || Bytes::from_static(&[255, 0]);
        assert_eq!(Codec::BinaryWithClose.decode(close()), Ok(Received::Close(0)));
        let data = Received::Data(255, Bytes::from_static(&[0]));
        assert_eq!(Codec::Binary.decode(close()), Ok(data));
        for wrong in [&[255][..], &[255, 0, 0]] {
            let decoded = Codec::BinaryWithClose.decode(Bytes::from_static(wrong));
            assert_eq!(decoded, Err(MessageError::Close));
        }
    }

    #[test]
    fn odd_messages_are_no_data() {
        assert_eq!(Codec::Binary.decode(Bytes::new()), Ok(Received::Nothing));
        let not_base64 = Codec::Base64.decode(Bytes::from_static(b"0***"));
        assert_eq!(not_base64, Err(MessageError::Base64));
    }

    #[test]
    fn any_message_decodes_or_fails() {
        bolero::check!().for_each(|bytes: &[u8]| {
            for codec in [Codec::Binary, Codec::BinaryWithClose, Codec::Base64] {
                let _ = codec.decode(Bytes::copy_from_slice(bytes));
            }
        });
    }
}
