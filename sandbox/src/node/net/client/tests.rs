//! Against servers in this process. The certificates beside this file are a test authority's, which nobody trusts, and one
//! of it for `localhost`; both are good until 2120.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use super::super::dial::tests::Deaf;
use super::*;
use crate::limits::HTTP_HEAD_BYTES_MAX;
use crate::node::grants::Host;

const AUTHORITY: &[u8] = include_bytes!("certificates/authority.der");
const CERTIFICATE: &[u8] = include_bytes!("certificates/localhost.der");
const KEY: &[u8] = include_bytes!("certificates/localhost.key.der");

fn allowed(host: String, is_private: bool) -> Powers {
    Powers { hosts: vec![Host { host, is_private }], ..Powers::default() }
}

fn get(url: String) -> Asked {
    Asked { method: "GET".into(), url, headers: Vec::new(), body: Vec::new() }
}

/// Serves one connection.
fn server(serve: impl FnOnce(std::net::TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || serve(listener.accept().expect("a connection").0));
    port
}

fn head(stream: &mut impl std::io::Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

#[test]
fn an_owners_word_means_one_host_and_port() {
    let is = |url: &str, allowed: &str| Target::of(url).expect("a URL").is(allowed);
    assert!(is("https://example.org/a", "example.org") && is("http://EXAMPLE.org", "example.org"));
    assert!(is("https://example.org:8443", "example.org:8443") && is("http://[::1]:8080/", "[::1]:8080"));
    assert!(!is("https://example.org:8443", "example.org") && !is("https://example.org", "example.org:80"));
    assert!(!is("https://a.example.org", "example.org") && !is("https://example.org.evil", "example.org"));
    for wrong in [
        "",
        "/",
        "example.org",
        "ftp://a",
        "https://user:word@a",
        "http://a:99999",
        "http://127.1/",
        "http:// a",
    ] {
        assert!(Target::of(wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(Target::of(&format!("http://a/{}", "x".repeat(URL_BYTES_MAX))).unwrap_err(), Error::TooLarge);
}

#[test]
fn a_certificate_counts_if_it_is_of_an_authority_that_is_trusted() {
    let serve = |tcp: std::net::TcpStream| {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(KEY));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(CERTIFICATE)], key)
            .expect("a certificate");
        let (mut tcp, mut tls) = (tcp, ServerConnection::new(Arc::new(config)).expect("a connection"));
        let mut stream = Stream::new(&mut tls, &mut tcp);
        if head(&mut stream).starts_with("GET /a HTTP/1.1\r\n") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-one: 1\r\ncontent-length: 5\r\n\r\nhello");
        }
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(AUTHORITY)).expect("an authority");
    let asked = |roots: RootCertStore, host: &str| {
        let net = Net::default();
        let _ = net.trusted.set(Ok(with_roots(roots).expect("a configuration")));
        let port = server(serve);
        let mut fetches = Fetches::default();
        let powers = allowed(format!("{host}:{port}"), true);
        let sent = fetches.send(&net, &powers, &get(format!("https://{host}:{port}/a")), &Stop::default());
        let answer = sent.map(|reply| match reply {
            Reply::Fetched { handle, status, headers } => {
                assert_eq!((status, headers[0].clone()), (200, ("x-one".to_owned(), "1".to_owned())));
                fetches.read(handle)
            }
            other => panic!("{other:?}"),
        });
        fetches.close_all();
        answer
    };
    assert_eq!(asked(roots.clone(), "localhost"), Ok(Ok(b"hello".to_vec())));
    assert_eq!(asked(roots, "127.0.0.1"), Err(Error::Unreachable), "it is for another name");
    assert_eq!(asked(RootCertStore::empty(), "localhost"), Err(Error::Unreachable), "nobody vouches for it");
}

#[test]
fn answers_that_are_wrong_or_too_long_are_errors() {
    let net = Net::default();
    let asked = |answer: Vec<u8>| {
        let port = server(move |mut stream| {
            head(&mut stream);
            let _ = stream.write_all(&answer);
            let _ = stream.flush();
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read(&mut [0]);
        });
        let mut fetches = Fetches::default();
        let powers = allowed(format!("127.0.0.1:{port}"), true);
        let reply =
            fetches.send(&net, &powers, &get(format!("http://127.0.0.1:{port}/")), &Stop::default())?;
        let Reply::Fetched { handle, .. } = reply else { panic!("{reply:?}") };
        let mut all = Vec::new();
        loop {
            let part = fetches.read(handle)?;
            if part.is_empty() {
                return Ok(all);
            }
            all.extend(part);
        }
    };
    assert_eq!(asked(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_vec()), Ok(b"hi".to_vec()));
    // It is not unpacked, so nothing can unfold here.
    let packed =
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x08".to_vec();
    assert_eq!(asked(packed), Ok(vec![0x1f, 0x8b, 8]));
    assert_eq!(asked(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi".to_vec()), Err(Error::Unreachable));
    assert_eq!(asked(b"nonsense\r\n\r\n".to_vec()), Err(Error::Unreachable));
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(3 * HTTP_HEAD_BYTES_MAX));
    assert_eq!(asked(long.into_bytes()), Err(Error::TooLarge));
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n".to_vec();
    assert_eq!(asked(chunked), Ok(b"hi".to_vec()));
}

#[test]
fn whoever_is_stopped_waits_no_more() {
    let net = Net::default();
    let asked = |port: u16, stop: &Stop| {
        let powers = allowed(format!("127.0.0.1:{port}"), true);
        Fetches::default().send(&net, &powers, &get(format!("http://127.0.0.1:{port}/")), stop)
    };
    // For an answer.
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let silent = server(move |_stream| {
        let _ = ended.recv();
    });
    assert_eq!(asked(silent, &Stop::new(true.into())), Err(Error::TimedOut));
    drop(end);
    // For a connection.
    let (deaf, stop, begun) = (Deaf::new(), Stop::default(), Instant::now());
    let outcome = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| asked(deaf.port, &stop));
        std::thread::sleep(std::time::Duration::from_millis(50));
        stop.store(true, Ordering::Release);
        waiting.join().expect("no panic")
    });
    assert_eq!(outcome, Err(Error::TimedOut));
    assert!(begun.elapsed() < CONNECT_TIME / 2);
}
