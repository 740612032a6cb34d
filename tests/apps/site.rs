//! The example app `site`.

use std::fs;

use crate::http::ask;
use crate::stage::{SITE, Stage};
use crate::support::can_mount;

/// The value of a header in a head in lower case.
fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in {head}"))
}

#[test]
fn a_folder_is_a_website() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::with(&["-o", "http=127.0.0.1:0"]);
    let folder = stage.path("www");
    fs::create_dir_all(folder.join("a folder/sub")).expect("made");
    fs::write(folder.join("index.html"), "<h1>home</h1>").expect("written");
    fs::write(folder.join("a folder/index.html"), "inside").expect("written");
    fs::write(folder.join("a folder/ünï.css"), "body{}").expect("written");
    fs::write(folder.join(".secret"), "secret").expect("written");
    fs::write(stage.path("outside"), "secret").expect("written");
    let large: Vec<u8> = (0..3_000_000).map(|at| b'a' + (at % 23) as u8).collect();
    fs::write(folder.join("large.txt"), &large).expect("written");
    let package = stage.package("site", SITE, "author");
    stage.install(&package, &["--grant", "folder=/www", "--grant", "http"]).ok();
    let address = stage.address("site");
    let get = |path: &str, headers: &str| ask(address, &format!("GET /site{path}"), headers);

    let (status, head, body) = get("/", "");
    assert_eq!((status, body.as_str()), (200, "<h1>home</h1>"));
    assert_eq!(header(&head, "content-type"), "text/html; charset=utf-8");
    assert_eq!(get("/a%20folder/", "").2, "inside");
    let (status, head, _) = get("/a%20folder", "");
    assert_eq!((status, header(&head, "location")), (308, "./a%20folder/"));
    let (status, head, body) = get("/a%20folder/%C3%BCn%c3%af.css", "");
    assert_eq!(
        (status, header(&head, "content-type"), body.as_str()),
        (200, "text/css; charset=utf-8", "body{}")
    );
    assert_eq!(get("/a%20folder/sub/", "").0, 404, "it has no index");
    let outside =
        ["/nothing", "/.secret", "/../outside", "/%2e%2e/outside", "/a/..%2f../outside", "//etc/passwd"];
    for path in outside {
        let (status, _, body) = get(path, "");
        assert!(matches!(status, 400 | 404) && !body.contains("secret"), "{path}: {status}");
    }
    assert_eq!(get("/%ff", "").0, 400);
    assert_eq!(ask(address, "POST /site/", "content-length: 0\r\n").0, 405);

    // Who has it is told so, until it changes.
    let (_, head, body) = get("/large.txt", "");
    assert!(body.as_bytes() == large);
    let tag = header(&head, "etag").to_owned();
    let has = format!("if-none-match: \"other\", {tag}\r\n");
    assert_eq!((get("/large.txt", &has).0, get("/large.txt", &has).2.as_str()), (304, ""));
    let part = |range: &str| get("/large.txt", &format!("range: bytes={range}\r\n"));
    let (status, head, body) = part("1000000-2099999");
    assert_eq!((status, header(&head, "content-range")), (206, "bytes 1000000-2099999/3000000"));
    assert!(body.as_bytes() == &large[1_000_000..2_100_000]);
    assert!(
        part("-5").2.as_bytes() == &large[2_999_995..]
            && part("2999999-").2.as_bytes() == &large[2_999_999..]
    );
    assert_eq!((part("0-9999999").0, part("0-9999999").2.len()), (206, 3_000_000));
    assert_eq!(header(&part("3000000-").1, "content-range"), "bytes */3000000");
    assert_eq!(
        (part("5-1").0, part("x").0, part("0-1,3-4").0),
        (200, 200, 200),
        "that is no range, or several"
    );
    let stale = "range: bytes=0-1\r\nif-range: \"other\"\r\n";
    assert_eq!(get("/large.txt", stale).0, 200);
    assert_eq!(get("/large.txt", &format!("range: bytes=0-1\r\nif-range: {tag}\r\n")).0, 206);
    let (status, head, body) = ask(address, "HEAD /site/large.txt", "");
    assert_eq!((status, header(&head, "content-length"), body.as_str()), (200, "3000000", ""));
    fs::write(folder.join("large.txt"), "short").expect("written");
    assert_eq!((get("/large.txt", &has).0, get("/large.txt", &has).2.as_str()), (200, "short"));

    fs::write(folder.join("404.html"), "<h1>lost</h1>").expect("written");
    assert_eq!((get("/nothing", "").0, get("/nothing", "").2.as_str()), (404, "<h1>lost</h1>"));
    stage.app("revoke", &["site", "folder"]).ok();
    assert_eq!(get("/", "").0, 403);
    stage.umount();
}
