//! Header blocks: a count and length-prefixed names and values, all blocks of one direction of a
//! connection forming one zlib stream with a dictionary that both sides know.
//!
//! After the SPDY protocol draft 3.1, section 2.6.10.

use std::sync::LazyLock;

use bytes::{BufMut, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

use super::frame::FrameError;

/// A block may not grow longer than this when decompressed.
const MAX_BLOCK: usize = 16 * 1024;

/// Adler-32 of the dictionary, which names it in the zlib header.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// The dictionary begins with these words, each behind its length in four bytes.
const WORDS: &str = "options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,\
    accept-language,accept-ranges,age,allow,authorization,cache-control,connection,content-base,\
    content-encoding,content-language,content-length,content-location,content-md5,content-range,\
    content-type,date,etag,expect,expires,from,host,if-match,if-modified-since,if-none-match,\
    if-range,if-unmodified-since,last-modified,location,max-forwards,pragma,proxy-authenticate,\
    proxy-authorization,range,referer,retry-after,server,te,trailer,transfer-encoding,upgrade,\
    user-agent,vary,via,warning,www-authenticate,method,get,status,200 OK,version,HTTP/1.1,url,\
    public,set-cookie,keep-alive,origin";

/// And goes on as loose text.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414\
    415416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad \
    Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not \
    Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,\
    deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS.split(',') {
        dictionary.extend((word.len() as u32).to_be_bytes());
        dictionary.extend(word.as_bytes());
    }
    dictionary.extend(TEXT.as_bytes());
    dictionary
});

/// The headers of a stream, in the order in which they came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header; `name` in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn parse(mut block: &[u8]) -> Option<Self> {
        let count = word(&mut block)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = text(&mut block)?.to_ascii_lowercase();
            headers.push((name, text(&mut block)?));
        }
        block.is_empty().then_some(Self(headers))
    }
}

fn word(block: &mut &[u8]) -> Option<u32> {
    let (word, rest) = block.split_first_chunk()?;
    *block = rest;
    Some(u32::from_be_bytes(*word))
}

fn text(block: &mut &[u8]) -> Option<String> {
    let len = usize::try_from(word(block)?).ok()?;
    let (text, rest) = block.split_at_checked(len)?;
    *block = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// Reads the header blocks of a peer, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Decoder(Decompress);

impl Decoder {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// After an error the stream of blocks is lost, and with it the connection.
    pub(crate) fn decode(&mut self, mut block: &[u8]) -> Result<Headers, FrameError> {
        // One byte more than allowed tells "full" from "too long".
        let mut plain = Vec::with_capacity(MAX_BLOCK + 1);
        while !block.is_empty() {
            let (taken, given) = (self.0.total_in(), plain.len());
            let result = self.0.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - taken).unwrap_or(block.len());
            block = block.get(taken..).unwrap_or_default();
            match result {
                Err(error) if error.needs_dictionary() == Some(DICTIONARY_ID) => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| FrameError::Compression)?;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(FrameError::Compression),
                Ok(_) if plain.len() > MAX_BLOCK => {
                    return Err(FrameError::TooManyHeaders(MAX_BLOCK));
                }
                Ok(_) if taken == 0 && plain.len() == given => return Err(FrameError::Compression),
                Ok(_) => {}
            }
        }
        Headers::parse(&plain).ok_or(FrameError::HeaderBlock)
    }
}

/// Writes header blocks. The only one that a server of sessions sends has no headers, so it is
/// stored rather than compressed, which needs no state beyond whether it is the first.
#[derive(Debug)]
pub(crate) struct Encoder {
    started: bool,
}

/// How the stream of blocks begins: deflate, 32 KiB window, and the name of the dictionary.
const ZLIB_HEADER: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];

/// A stored deflate block with a count of 0, and an empty one, which makes decompressors give
/// out what they have.
const NO_HEADERS: [u8; 14] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { started: false }
    }

    /// Appends the next block, with no headers in it.
    pub(crate) fn put_empty(&mut self, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.started, true) {
            out.put_slice(&ZLIB_HEADER);
        }
        out.put_slice(&NO_HEADERS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    /// A client's side of the compression.
    struct Client(Compress);

    impl Client {
        fn new(dictionary: bool) -> Self {
            let mut compress = Compress::new(Compression::best(), true);
            if dictionary {
                assert_eq!(compress.set_dictionary(&DICTIONARY).unwrap(), DICTIONARY_ID);
            }
            Self(compress)
        }

        fn block(&mut self, plain: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(plain.len() + 1024);
            self.0.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
            out
        }
    }

    fn plain(headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        plain
    }

    #[test]
    fn blocks_share_one_stream_with_or_without_dictionary() {
        for dictionary in [true, false] {
            let (mut client, mut decoder) = (Client::new(dictionary), Decoder::new());
            for (name, value) in [("Streamtype", "stdin"), ("port", "80"), ("port", "80")] {
                let block = client.block(&plain(&[(name, value), ("host", "")]));
                let headers = decoder.decode(&block).unwrap();
                assert_eq!(headers.get(&name.to_ascii_lowercase()), Some(value));
                assert_eq!(headers.get("host"), Some(""));
                assert_eq!(headers.get("absent"), None);
            }
        }
    }

    #[test]
    fn stored_blocks_decompress() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for _ in 0..3 {
            let mut block = BytesMut::new();
            encoder.put_empty(&mut block);
            assert_eq!(decoder.decode(&block).unwrap(), Headers::default());
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = Client::new(true).block(&plain(&[("name", &"0".repeat(MAX_BLOCK))]));
        assert!(bomb.len() < 1024);
        let refused = Decoder::new().decode(&bomb);
        assert_eq!(refused, Err(FrameError::TooManyHeaders(MAX_BLOCK)));
        let fits = Client::new(true).block(&plain(&[("name", &"0".repeat(MAX_BLOCK - 16))]));
        Decoder::new().decode(&fits).unwrap();
    }

    #[test]
    fn counts_and_lengths_are_checked() {
        for block in [&[0, 0, 0][..], &[0, 0, 0, 1], &[0xff; 12], &[0, 0, 0, 0, 0]] {
            assert_eq!(Headers::parse(block), None);
        }
        assert_eq!(Decoder::new().decode(&[]), Err(FrameError::HeaderBlock));
        assert_eq!(Decoder::new().decode(b"plain text"), Err(FrameError::Compression));
    }

    #[test]
    fn any_header_block_parses_or_fails() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = Headers::parse(bytes);
            let block = Client::new(true).block(bytes);
            let _ = Decoder::new().decode(&block);
        });
    }
}
