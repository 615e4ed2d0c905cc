//! The HTTP upgrade: which of the protocols that a client offers is spoken, and what to answer.

use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What SPDY clients offer, and the server chooses.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What the server would have taken, when it can choose none.
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

/// Protocol names and what each stands for. With WebSocket the empty name is for clients that
/// offer none.
pub(crate) type Table<T> = [(&'static str, T)];

/// The answer to a client whose offer is not taken.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), message: message.into() }
    }
}

/// Chooses the first protocol in the client's order of preference that a table knows. Gives what
/// it stands for, and the headers of the `101 Switching Protocols` answer.
pub(crate) fn negotiate<T: Copy>(
    request: &HeaderMap,
    spdy: &Table<T>,
    websocket: &Table<T>,
) -> Result<(T, HeaderMap), Refusal> {
    let upgrades = tokens(request, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let to =
        |name| upgrades && tokens(request, &UPGRADE).any(|token| token.eq_ignore_ascii_case(name));
    if to("websocket") {
        negotiate_websocket(request, websocket)
    } else if to(SPDY) {
        negotiate_spdy(request, spdy)
    } else {
        let message = "this address serves sessions: upgrade to SPDY/3.1 or WebSocket";
        Err(Refusal::new(StatusCode::BAD_REQUEST, message))
    }
}

fn negotiate_spdy<T: Copy>(
    request: &HeaderMap,
    table: &Table<T>,
) -> Result<(T, HeaderMap), Refusal> {
    if tokens(request, &STREAM_PROTOCOL).next().is_none() {
        let message = format!("header {STREAM_PROTOCOL} names no protocol");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    }
    let Some((name, protocol)) = choose(request, &STREAM_PROTOCOL, table) else {
        let mut refusal = no_common(request, &STREAM_PROTOCOL, table);
        for (name, _) in table {
            refusal.headers.push((ACCEPTED_PROTOCOLS, HeaderValue::from_static(name)));
        }
        return Err(refusal);
    };
    let mut answer = HeaderMap::new();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static(SPDY));
    answer.insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
    Ok((protocol, answer))
}

/// RFC 6455, section 4.2.
fn negotiate_websocket<T: Copy>(
    request: &HeaderMap,
    table: &Table<T>,
) -> Result<(T, HeaderMap), Refusal> {
    if request.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut refusal =
            Refusal::new(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is spoken");
        refusal.headers.push((SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
        return Err(refusal);
    }
    let Some(key) = request.get(SEC_WEBSOCKET_KEY) else {
        let message = format!("header {SEC_WEBSOCKET_KEY} is missing");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    };
    let chosen = if tokens(request, &SEC_WEBSOCKET_PROTOCOL).next().is_none() {
        table.iter().find(|(name, _)| name.is_empty()).copied()
    } else {
        choose(request, &SEC_WEBSOCKET_PROTOCOL, table)
    };
    let Some((name, protocol)) = chosen else {
        return Err(no_common(request, &SEC_WEBSOCKET_PROTOCOL, table));
    };
    let mut answer = HeaderMap::new();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = derive_accept_key(key.as_bytes());
    let accept = HeaderValue::try_from(accept)
        .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "unusable WebSocket key"))?;
    answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if !name.is_empty() {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((protocol, answer))
}

fn choose<T: Copy>(
    request: &HeaderMap,
    header: &HeaderName,
    table: &Table<T>,
) -> Option<(&'static str, T)> {
    tokens(request, header).find_map(|offer| {
        table.iter().find(|(name, _)| !name.is_empty() && *name == offer).copied()
    })
}

fn no_common<T>(request: &HeaderMap, header: &HeaderName, table: &Table<T>) -> Refusal {
    let offered = tokens(request, header).collect::<Vec<_>>().join(", ");
    let spoken = table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let message = format!("no common protocol: offered {offered}; spoken {spoken}");
    Refusal::new(StatusCode::FORBIDDEN, message)
}

/// The elements of a header that is a list, over all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPDY_TABLE: &Table<u8> = &[("v4.channel.k8s.io", 4), ("channel.k8s.io", 1)];
    const WEBSOCKET_TABLE: &Table<u8> = &[("v5.channel.k8s.io", 5), ("", 0)];

    fn request(lines: &[(&'static str, &'static str)]) -> Result<(u8, HeaderMap), Refusal> {
        let headers = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            });
        negotiate(&headers, SPDY_TABLE, WEBSOCKET_TABLE)
    }

    #[test]
    fn the_clients_first_known_protocol_is_spoken() {
        let (chosen, answer) = request(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "spdy/3.1"),
            ("x-stream-protocol-version", "v9.channel.k8s.io, channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ])
        .unwrap();
        assert_eq!(chosen, 1);
        assert_eq!(answer["upgrade"], "SPDY/3.1");
        assert_eq!(answer["x-stream-protocol-version"], "channel.k8s.io");
    }

    #[test]
    fn a_spdy_client_learns_what_it_could_offer() {
        let upgrade = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        let none = request(&upgrade).unwrap_err();
        assert_eq!(none.status, StatusCode::BAD_REQUEST);
        let [a, b] = upgrade;
        let wrong = request(&[a, b, ("x-stream-protocol-version", "v9")]).unwrap_err();
        assert_eq!(wrong.status, StatusCode::FORBIDDEN);
        let spoken: Vec<_> = wrong.headers.iter().map(|(_, name)| name).collect();
        assert_eq!(spoken, ["v4.channel.k8s.io", "channel.k8s.io"]);
    }

    const WEBSOCKET: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn websocket_protocols_may_be_left_out_but_not_unknown() {
        let (chosen, answer) = request(&WEBSOCKET).unwrap();
        assert_eq!(chosen, 0);
        // The example of RFC 6455, section 1.3.
        assert_eq!(answer["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!answer.contains_key("sec-websocket-protocol"));

        let [a, b, c, d] = WEBSOCKET;
        let offer = |protocols| request(&[a, b, c, d, ("sec-websocket-protocol", protocols)]);
        let (chosen, answer) = offer("x, v5.channel.k8s.io").unwrap();
        assert_eq!(chosen, 5);
        assert_eq!(answer["sec-websocket-protocol"], "v5.channel.k8s.io");
        assert_eq!(offer("x").unwrap_err().status, StatusCode::FORBIDDEN);
        assert_eq!(request(&WEBSOCKET[..2]).unwrap_err().status, StatusCode::UPGRADE_REQUIRED);
        assert_eq!(request(&WEBSOCKET[..3]).unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn plain_requests_are_refused() {
        assert_eq!(request(&[]).unwrap_err().status, StatusCode::BAD_REQUEST);
        let half = request(&[("upgrade", "websocket")]).unwrap_err();
        assert_eq!(half.status, StatusCode::BAD_REQUEST);
    }
}
