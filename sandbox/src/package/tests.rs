//! What is installed is what the author signed, whole; everything else is refused.

use super::imports::tests::importing;
use super::*;
use crate::limits::SOCKETS_MAX;

fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        name: "thumbnails".to_owned(),
        version: Version([1, 2, 3]),
        summary: "Small pictures.".to_owned(),
        author: String::new(),
        component: "app.wasm".to_owned(),
        grants: vec![Wanted {
            name: "photos".to_owned(),
            reason: "to read pictures and to write small ones".to_owned(),
            rights: Rights::ReadWrite,
        }],
        triggers: vec![Trigger::Files {
            grant: "photos".to_owned(),
            glob: "**/*.jpg".to_owned(),
            events: vec![FileEvent::Written],
        }],
        limits: Limits::default(),
        serve: None,
        policy: None,
        receive: None,
        send: Vec::new(),
        connect: Vec::new(),
        sockets: Vec::new(),
        files: Vec::new(),
    }
}

fn files() -> Vec<(String, Vec<u8>)> {
    vec![("app.wasm".to_owned(), b"code".to_vec()), ("files/a/b".to_owned(), b"".to_vec())]
}

fn signed() -> (Vec<u8>, Principal) {
    let author = Principal::generate();
    let bytes = sign(&pack(manifest(), &files()).expect("packed"), &author).expect("signed");
    (bytes, author)
}

#[test]
fn a_signed_package_says_who_signed_it() {
    let (bytes, author) = signed();
    let verified = Package::verify(&bytes).expect("verified");
    assert_eq!(verified.manifest.author, hexadecimal(&author.public().id()));
    assert_eq!(verified.component(), b"code");
    assert_eq!(verified.package.file(&verified.manifest, "files/a/b"), Some(&[][..]));
    assert_eq!(verified.package.file(&verified.manifest, "files/a"), None);
    // Signed again by somebody else, it is theirs.
    let other = Principal::generate();
    let theirs = sign(&bytes, &other).expect("signed");
    assert_eq!(
        Package::verify(&theirs).expect("verified").manifest.author,
        hexadecimal(&other.public().id())
    );
}

#[test]
fn an_unsigned_package_is_not_verified() {
    let bytes = pack(manifest(), &files()).expect("packed");
    assert!(matches!(Package::verify(&bytes), Err(PackageError::Unsigned)));
}

#[test]
fn every_changed_bit_and_every_cut_is_noticed() {
    let (bytes, _) = signed();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(Package::verify(&changed).is_err(), "byte {at}");
        assert!(Package::verify(&bytes[..at]).is_err(), "cut at {at}");
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    assert!(matches!(Package::verify(&longer), Err(PackageError::Trailing)));
}

#[test]
fn a_manifest_has_one_text() {
    let bytes = manifest_with_files().to_canonical().expect("text");
    assert!(Manifest::from_canonical(&bytes).is_ok());
    let text = String::from_utf8(bytes).expect("text");
    let spaced = text.replacen(',', ", ", 1);
    assert!(matches!(Manifest::from_canonical(spaced.as_bytes()), Err(ManifestError::NotCanonical)));
    let more = text.replacen('{', "{\"surprise\":1,", 1);
    assert!(matches!(Manifest::from_canonical(more.as_bytes()), Err(ManifestError::Json(_))));
    let version = text.replace("1.2.3", "1.2.03");
    assert!(matches!(Manifest::from_canonical(version.as_bytes()), Err(ManifestError::Json(_))));
}

fn manifest_with_files() -> Manifest {
    let bytes = pack(manifest(), &files()).expect("packed");
    Package::parse(&bytes).expect("whole").1
}

#[test]
fn manifests_that_say_nonsense_are_refused() {
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = manifest_with_files();
        change(&mut manifest);
        manifest.check().expect_err("refused").to_string()
    };
    let says = |change: &dyn Fn(&mut Manifest), what: &str| {
        let error = refused(change);
        assert!(error.contains(what), "{error:?} does not say {what:?}");
    };
    says(&|it| it.format = 2, "format 2");
    says(&|it| it.name = "Thumb".to_owned(), "no name");
    says(&|it| it.name = "../a".to_owned(), "no name");
    says(&|it| it.summary = "a\nb".to_owned(), "summary");
    says(&|it| it.component = "else".to_owned(), "not among the files");
    says(&|it| it.grants.push(it.grants[0].clone()), "twice");
    says(&|it| it.grants.clear(), "not asked for");
    says(&|it| it.limits.memory_mib = 1 << 20, "limit");
    says(&|it| it.limits.seconds = 0, "limit");
    says(&|it| it.files[1].path = "a/../b".to_owned(), "no path");
    says(&|it| it.files[1].path = "/a".to_owned(), "no path");
    says(&|it| it.files[1].path = it.files[0].path.clone(), "twice");
    says(&|it| it.triggers.push(Trigger::Timer { name: "t".to_owned(), seconds: 0 }), "0 seconds");
    let glob = |it: &mut Manifest| {
        it.triggers = vec![Trigger::Files {
            grant: "photos".to_owned(),
            glob: "{".to_owned(),
            events: vec![FileEvent::Written],
        }];
    };
    says(&glob, "brace");
}

#[test]
fn a_wider_permission_is_noticed() {
    let before = manifest_with_files();
    let mut after = before.clone();
    assert!(after.widened_since(&before).is_empty());
    after.grants[0].rights = Rights::Read;
    assert!(after.widened_since(&before).is_empty(), "less is not more");
    assert_eq!(before.widened_since(&after).len(), 1);
    after.grants.push(Wanted {
        name: "notes".to_owned(),
        reason: "to read".to_owned(),
        rights: Rights::Read,
    });
    assert_eq!(after.widened_since(&before).len(), 1);
}

#[test]
fn addresses_are_asked_for_once_each_and_with_a_reason() {
    let asks = |address: &str, reason: &str| Socket {
        address: Endpoint::try_from(address.to_owned()).expect("an address"),
        reason: reason.to_owned(),
    };
    let before = manifest_with_files();
    let mut after = before.clone();
    after.sockets = vec![asks("nas:22", "to copy"), asks("nas:23", "to look")];
    assert!(after.check().is_ok());
    let bytes = after.to_canonical().expect("text");
    assert_eq!(Manifest::from_canonical(&bytes).expect("read"), after);
    let text = String::from_utf8(bytes).expect("text");
    for wrong in ["nas", "nas:0", "NAS:22"] {
        let wrong = text.replace("nas:22", wrong);
        assert!(matches!(Manifest::from_canonical(wrong.as_bytes()), Err(ManifestError::Json(_))), "{wrong}");
    }
    assert_eq!(after.widened_since(&before).len(), 2);
    assert!(before.widened_since(&after).is_empty());
    after.sockets[1] = asks("nas:22", "to look");
    assert!(matches!(after.check(), Err(ManifestError::Twice(_))));
    after.sockets[1] = asks("nas:23", "");
    assert!(matches!(after.check(), Err(ManifestError::Text(_))));
    after.sockets = (1..).take(SOCKETS_MAX + 1).map(|port| asks(&format!("nas:{port}"), "to look")).collect();
    assert!(matches!(after.check(), Err(ManifestError::TooMany(_))));
}

#[test]
fn only_what_a_component_can_be_made_of_is_packed() {
    assert!(componentize(b"#!/bin/sh").is_err());
    // (module (import "env" "f" (func)))
    let module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x09\x01\x03env\x01f\0\0";
    assert!(componentize(module).is_err(), "nothing says what it imports");
    let component = b"\0asm\x0d\0\x01\0";
    assert_eq!(componentize(component).expect("as it is"), component);
}

#[test]
fn a_component_that_imports_sockets_of_wasi_asks_for_addresses() {
    let code = importing("wasi:sockets/tcp@0.2.12");
    let files = [("app.wasm".to_owned(), code.clone())];
    let is_refused = |outcome: Option<PackageError>| match outcome {
        Some(PackageError::Sockets(import)) => import == "wasi:sockets/tcp@0.2.12",
        _ => false,
    };
    assert!(is_refused(pack(manifest(), &files).err()));
    let mut asks = manifest();
    let address = Endpoint::new("nas", 22).expect("an endpoint");
    asks.sockets = vec![Socket { address, reason: "to copy".to_owned() }];
    let packed = pack(asks, &files).expect("packed");
    // By somebody who packs in another way.
    let author = Principal::generate();
    let (_, mut told) = Package::parse(&packed).expect("whole");
    told.sockets.clear();
    told.author = hexadecimal(&author.public().id());
    let sign = |manifest: &[u8]| author.sign(&signed_hash(manifest));
    let package = assemble(&told, author.public().to_bytes(), sign, &[&code]).expect("assembled");
    assert!(is_refused(Package::parse(&package).err()));
    assert!(is_refused(Package::verify(&package).err()));
}
