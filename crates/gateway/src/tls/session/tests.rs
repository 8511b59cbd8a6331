//! The server's side against a client of rustls, over a pipe that gives and takes as it is told.

use std::collections::VecDeque;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio_rustls::TlsConnector;

use super::*;
use crate::socket::Socket;

/// The stream between them.
struct Pipe {
    /// From the client, and whether it has ended behind that.
    inward: VecDeque<u8>,
    has_ended: bool,
    /// To the client, and how much more it takes.
    outward: Vec<u8>,
    room: usize,
    /// How much a call moves at most.
    step: usize,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.inward.is_empty() && !self.has_ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = buffer.len().min(self.step);
        Read::read(&mut self.inward, &mut buffer[..bytes])
    }
}

impl Write for Pipe {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let bytes = data.len().min(self.step).min(self.room);
        if bytes == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room -= bytes;
        self.outward.extend_from_slice(&data[..bytes]);
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Both {
    client: ClientConnection,
    session: Session,
    pipe: Pipe,
    /// What the client has read.
    heard: Vec<u8>,
}

fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(client), Arc::new(server))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

impl Both {
    /// Before the handshake, over a pipe that moves `step` bytes in a call.
    fn new(version: &'static SupportedProtocolVersion, step: usize) -> Self {
        let (client, server) = configs(version);
        let (inward, outward) = (VecDeque::new(), Vec::new());
        Self {
            client: ClientConnection::new(client, name()).unwrap(),
            session: Session::new(server).unwrap(),
            pipe: Pipe { inward, has_ended: false, outward, room: usize::MAX, step },
            heard: Vec::new(),
        }
    }

    fn agreed(version: &'static SupportedProtocolVersion, step: usize) -> Self {
        let mut both = Self::new(version, step);
        while both.session.connection.is_handshaking() || both.client.is_handshaking() {
            both.client_speaks();
            let shaken = both.session.handshake(&mut both.pipe);
            assert!(shaken.is_ok() || is_blocked(&shaken), "{shaken:?}");
            both.client_hears().unwrap();
        }
        both
    }

    fn client_speaks(&mut self) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.pipe.inward).unwrap();
        }
    }

    fn client_hears(&mut self) -> Result<(), Error> {
        let outward = std::mem::take(&mut self.pipe.outward);
        let mut rest = &*outward;
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            self.client.process_new_packets()?;
            let mut plain = vec![0; 20_000];
            while let Ok(bytes @ 1..) = Read::read(&mut self.client.reader(), &mut plain) {
                self.heard.extend_from_slice(&plain[..bytes]);
            }
        }
        Ok(())
    }

    fn client_says(&mut self, data: &[u8]) {
        Write::write_all(&mut self.client.writer(), data).unwrap();
        self.client_speaks();
    }

    /// What the session reads until it blocks.
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let mut buffer = [0; 100];
            let mut out = ReadBuf::new(&mut buffer);
            match self.session.read(&mut self.pipe, &mut out) {
                Ok(()) if out.filled().is_empty() => return Ok(all),
                Ok(()) => all.extend_from_slice(out.filled()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(all),
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let written = self.session.write(&mut self.pipe, data).unwrap();
            data = &data[written..];
        }
    }

    /// What the session holds beside its keys.
    fn held(&self) -> usize {
        let Session { partial, plain, unsent, .. } = &self.session;
        partial.capacity() + plain.bytes.capacity() + unsent.bytes.capacity()
    }
}

fn is_blocked<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn data(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn records_may_be_split_anywhere_and_nothing_is_held_behind_them() {
    for version in [&TLS12, &TLS13] {
        for step in [1, 2, 3, 5, 7, 64, 1000, usize::MAX] {
            let mut both = Both::agreed(version, step);
            for bytes in [1, 100, 5000, 40_000] {
                let data = data(bytes);
                both.client_says(&data);
                assert!(both.read().unwrap() == data, "{version:?} {step} {bytes}");
                both.write(&data);
                both.client_hears().unwrap();
                assert!(std::mem::take(&mut both.heard) == data, "{version:?} {step} {bytes}");
            }
            assert_eq!(both.held(), 0, "{version:?} {step}");
        }
    }
}

#[test]
fn keys_are_updated_as_often_as_the_client_wants() {
    let mut both = Both::agreed(&TLS13, usize::MAX);
    for n in 0..20_u8 {
        both.client.refresh_traffic_keys().unwrap();
        both.client_says(&[n; 10]);
        assert_eq!(both.read().unwrap(), [n; 10]);
        both.write(&[n; 20]);
        both.client_hears().unwrap();
        assert_eq!(std::mem::take(&mut both.heard), [n; 20]);
    }
}

#[test]
fn a_key_update_may_be_split_between_two_writes() {
    let mut both = Both::agreed(&TLS13, usize::MAX);
    both.client.refresh_traffic_keys().unwrap();
    both.client_says(b"behind it");
    let rest = both.pipe.inward.split_off(4);
    assert_eq!(both.read().unwrap(), b"");
    both.write(b"before");
    both.pipe.inward = rest;
    assert_eq!(both.read().unwrap(), b"behind it");
    both.write(b" and after");
    both.client_hears().unwrap();
    assert_eq!(both.heard, b"before and after");
}

#[test]
fn both_sides_tell_their_end_and_who_is_told_may_still_speak() {
    for version in [&TLS12, &TLS13] {
        let mut both = Both::agreed(version, usize::MAX);
        Write::write_all(&mut both.client.writer(), b"last words").unwrap();
        both.client.send_close_notify();
        both.client_speaks();
        both.pipe.inward.extend(b"nobody hears this");
        assert_eq!(both.read().unwrap(), b"last words");
        assert!(both.session.has_heard_all() && !both.session.peek(&mut both.pipe).unwrap());
        both.write(b"goodbye");
        both.session.close(&mut both.pipe).unwrap();
        both.session.close(&mut both.pipe).unwrap();
        let late = both.session.write(&mut both.pipe, b"late").unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
        both.client_hears().unwrap();
        assert_eq!(both.heard, b"goodbye");
        assert!(both.client.process_new_packets().unwrap().peer_has_closed());
        assert_eq!(both.held(), 0);
    }
}

#[test]
fn who_has_told_its_end_may_still_read() {
    let mut both = Both::agreed(&TLS13, usize::MAX);
    both.session.close(&mut both.pipe).unwrap();
    both.client_hears().unwrap();
    assert!(both.client.process_new_packets().unwrap().peer_has_closed());
    both.client_says(b"still here");
    assert_eq!(both.read().unwrap(), b"still here");
}

#[test]
fn a_stream_that_ends_without_a_word_is_an_unexpected_end() {
    for said in [0, 10] {
        let mut both = Both::agreed(&TLS13, usize::MAX);
        both.client_says(b"hello");
        both.pipe.inward.truncate(said);
        both.pipe.has_ended = true;
        assert_eq!(both.read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(both.session.has_heard_all());
    }
}

#[test]
fn what_is_not_tls_gets_an_alert() {
    let mut both = Both::new(&TLS13, usize::MAX);
    both.pipe.inward.extend(b"GET / HTTP/1.1\r\n\r\n");
    let shaken = both.session.handshake(&mut both.pipe);
    assert_eq!(shaken.unwrap_err().kind(), io::ErrorKind::InvalidData);
    // A fatal alert in a record of its own (RFC 8446 §6).
    assert_eq!((both.pipe.outward[0], both.pipe.outward[5]), (21, 2));
}

#[test]
fn a_forged_record_gets_an_alert_and_is_the_end() {
    for version in [&TLS12, &TLS13] {
        let mut both = Both::agreed(version, usize::MAX);
        both.client_says(b"genuine");
        *both.pipe.inward.back_mut().unwrap() ^= 1;
        assert_eq!(both.read().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let told = both.client_hears().unwrap_err();
        assert_eq!(told, Error::AlertReceived(AlertDescription::BadRecordMac));
        assert!(both.read().is_err());
        assert!(both.session.write(&mut both.pipe, b"more").is_err());
        assert!(both.session.close(&mut both.pipe).is_ok());
        assert!(both.pipe.outward.is_empty());
    }
}

#[test]
fn a_peer_that_does_not_read_has_one_record_waiting() {
    let mut both = Both::agreed(&TLS13, usize::MAX);
    both.pipe.room = 1000;
    let data = data(100_000);
    assert_eq!(both.session.write(&mut both.pipe, &data).unwrap(), MAX_PLAIN_BYTES);
    assert!(both.session.has_unsent());
    for _ in 0..10 {
        assert!(is_blocked(&both.session.write(&mut both.pipe, &data[MAX_PLAIN_BYTES..])));
        assert!(is_blocked(&both.session.flush(&mut both.pipe)));
    }
    assert!(both.held() <= MAX_RECORD_BYTES, "{}", both.held());
    // It may still be heard meanwhile, and its end told behind what waits.
    both.client_says(b"hello");
    assert_eq!(both.read().unwrap(), b"hello");
    both.pipe.room = usize::MAX;
    both.write(&data[MAX_PLAIN_BYTES..]);
    both.pipe.room = 0;
    assert!(is_blocked(&both.session.close(&mut both.pipe)));
    both.pipe.room = usize::MAX;
    both.session.close(&mut both.pipe).unwrap();
    both.client_hears().unwrap();
    assert!(both.heard == data);
    assert!(both.client.process_new_packets().unwrap().peer_has_closed());
    assert_eq!(both.held(), 0);
}

#[test]
fn a_record_that_does_not_come_whole_is_all_that_is_held() {
    let mut both = Both::agreed(&TLS13, 100);
    both.client_says(&data(MAX_PLAIN_BYTES));
    both.pipe.inward.pop_back().unwrap();
    assert_eq!(both.read().unwrap(), b"");
    let partial = &both.session.partial;
    assert!(partial.len() > MAX_PLAIN_BYTES && partial.capacity() <= 2 * MAX_RECORD_BYTES);
    assert_eq!(both.held(), partial.capacity());
}

#[test]
fn small_pieces_are_one_record() {
    let mut both = Both::agreed(&TLS13, usize::MAX);
    both.client_hears().unwrap();
    let large = data(MAX_PLAIN_BYTES);
    let pieces = [&b"a"[..], b"", b"bc", &large].map(IoSlice::new);
    let written = both.session.write_vectored(&mut both.pipe, &pieces).unwrap();
    assert_eq!(written, MAX_PLAIN_BYTES);
    let record = usize::from(u16::from_be_bytes([both.pipe.outward[3], both.pipe.outward[4]]));
    assert_eq!(both.pipe.outward.len(), 5 + record);
    both.client_hears().unwrap();
    assert!(both.heard[..3] == *b"abc" && both.heard[3..] == large[..MAX_PLAIN_BYTES - 3]);
}

#[test]
fn what_is_read_ahead_is_not_lost() {
    let mut both = Both::agreed(&TLS13, usize::MAX);
    assert!(is_blocked(&both.session.peek(&mut both.pipe)));
    both.client_says(b"hello");
    assert!(both.session.peek(&mut both.pipe).unwrap());
    assert!(both.session.has_unread() && !both.session.is_dry());
    assert_eq!(both.read().unwrap(), b"hello");
    assert!(both.session.is_dry());
}

/// Over streams of tokio, which wake whoever waits, and which are far smaller than what is sent
/// both ways at once.
#[tokio::test]
async fn much_goes_both_ways_through_a_narrow_stream() {
    let (client, server) = configs(&TLS13);
    let (outer, inner) = duplex(500);
    let all = data(1_000_000);
    let answers = async {
        let socket = Socket::accept(inner, server).await.unwrap();
        let (mut from, mut to) = split(socket);
        let mut heard = Vec::new();
        let speak = async {
            to.write_all(&all).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let ((), read) = tokio::join!(speak, from.read_to_end(&mut heard));
        read.unwrap();
        heard
    };
    let asks = async {
        let stream = TlsConnector::from(client).connect(name(), outer).await.unwrap();
        let (mut from, mut to) = split(stream);
        let mut heard = Vec::new();
        let speak = async {
            to.write_all(&all).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let ((), read) = tokio::join!(speak, from.read_to_end(&mut heard));
        read.unwrap();
        heard
    };
    let both = async { tokio::join!(answers, asks) };
    let (by_server, by_client) =
        tokio::time::timeout(std::time::Duration::from_secs(60), both).await.unwrap();
    assert!(by_server == all && by_client == all);
}
