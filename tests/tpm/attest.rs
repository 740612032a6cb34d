//! What a TPM proves to somebody who has none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use blocktree_engine::attestation::{Answer, Request};
use blocktree_engine::crypto::hexadecimal;
use blocktree_engine::identity::TpmFile;

use crate::support::{Place, Ran, finish, program};
use crate::swtpm::Tpm;

/// A machine with a TPM and a store that was enrolled, and somebody elsewhere.
struct Setting {
    place: Place,
    tpm: Tpm,
}

impl Setting {
    fn new() -> Self {
        let setting = Self { place: Place::with_store(), tpm: Tpm::new() };
        let mut enroll = setting.tpm.command(&["tpm", "enroll"]);
        enroll.arg(setting.place.store()).arg(setting.at("tree.tpm"));
        finish(enroll.args(setting.place.passphrase_arguments())).ok();
        setting
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// On the machine.
    fn here(&self, command: &str, files: &[&str]) -> Ran {
        self.run(self.tpm.command(&["tpm", "attest", command]), files)
    }

    /// Where there is no TPM.
    fn elsewhere(&self, command: &str, arguments: &[&str], files: &[&str]) -> Ran {
        let mut line = program();
        line.env("BLOCKTREE_TPM", "device:/no/such/tpm").args(["tpm", "attest", command]).args(arguments);
        self.run(line, files)
    }

    fn run(&self, mut line: Command, files: &[&str]) -> Ran {
        finish(line.args(files.iter().map(|name| self.at(name))))
    }

    /// A request, a challenge and an answer.
    fn attest(&self, pcrs: &str) {
        self.here("request", &["request"]).ok();
        self.elsewhere("challenge", &["--pcrs", pcrs], &["request", "challenge", "kept"]).ok();
        self.here("answer", &["tree.tpm", "challenge", "answer"]).ok();
    }

    fn verify(&self, arguments: &[&str]) -> Ran {
        self.elsewhere("verify", arguments, &["kept", "answer"])
    }

    fn again(&self, names: &[&str]) {
        names.iter().for_each(|name| fs::remove_file(self.at(name)).unwrap());
    }

    fn endorsement(&self) -> String {
        hexadecimal(&request(self).endorsement_name())
    }
}

fn request(setting: &Setting) -> Request {
    Request::parse(&fs::read(setting.at("request")).unwrap()).unwrap()
}

/// The public area of an endorsement key as tpm2-tools have the TPM make it.
fn created_by_tools(setting: &Setting, algorithm: &str) -> Vec<u8> {
    let (context, public) = (setting.at("ek.ctx"), setting.at("ek.pub"));
    let [context, path] = [&context, &public].map(|path| path.to_str().unwrap());
    setting.tpm.tool("tpm2_createek", &["-c", context, "-G", algorithm, "-u", path]);
    setting.tpm.tool("tpm2_flushcontext", &["-t"]);
    fs::read(public).unwrap()[2..].to_vec()
}

fn pcr(tpm: &Tpm, pcr: u32) -> String {
    let text = tpm.tool("tpm2_pcrread", &[&format!("sha256:{pcr}")]);
    text.rsplit("0x").next().unwrap().trim().to_lowercase()
}

#[test]
fn a_tpm_shows_its_node_and_how_the_machine_started() {
    let mut setting = Setting::new();
    setting.tpm.extend_pcr(7);
    setting.attest("0,7,23");
    let value = pcr(&setting.tpm, 7);
    let (name, expected) = (setting.endorsement(), format!("7={value}"));
    let shown = setting.verify(&["--endorsement", &name, "--pcr", &expected]).ok().stdout;
    let file = TpmFile::parse(&fs::read(setting.at("tree.tpm")).unwrap()).unwrap();
    let node = file.node.node.to_string();
    let lines =
        [&*node, &name, "none in the TPM", &format!("{value}, as expected"), "PCR 23", "not compared"];
    for text in lines {
        assert!(shown.contains(text), "{text:?} is not in {shown}");
    }
    // tpm2-tools know the endorsement key by the same name.
    assert_eq!(created_by_tools(&setting, "rsa"), request(&setting).endorsement);

    // The keys are the same after a restart: an older request is still good.
    setting.tpm.restart();
    setting.again(&["challenge", "kept", "answer"]);
    setting.elsewhere("challenge", &["--pcrs", "none"], &["request", "challenge", "kept"]).ok();
    setting.here("answer", &["tree.tpm", "challenge", "answer"]).ok();
    setting.verify(&[]).ok();
    // Many times: nothing is left loaded.
    for _ in 0..4 {
        setting.again(&["answer"]);
        setting.here("answer", &["tree.tpm", "challenge", "answer"]).ok();
    }
}

#[test]
fn another_tpm_or_another_time_is_refused() {
    let setting = Setting::new();
    setting.attest("7");
    let first = fs::read(setting.at("answer")).unwrap();

    // The answer to an older challenge.
    setting.again(&["challenge", "kept", "answer"]);
    setting.elsewhere("challenge", &[], &["request", "challenge", "kept"]).ok();
    fs::write(setting.at("answer"), &first).unwrap();
    setting.verify(&[]).failed(1, &["proves nothing", "challenge's secret"]);
    // What the verifier knows is otherwise.
    setting.again(&["answer"]);
    setting.here("answer", &["tree.tpm", "challenge", "answer"]).ok();
    setting.verify(&[]).ok();
    setting.verify(&["--endorsement", &"0".repeat(64)]).failed(1, &["endorsement key is", "not the one"]);
    setting.verify(&["--pcr", &format!("7={}", "1".repeat(64))]).failed(1, &["PCR 7 has another value"]);
    setting.verify(&["--pcr", &format!("4={}", "1".repeat(64))]).failed(1, &["PCR 4 was not asked for"]);
    setting.verify(&["--endorsement", "1"]).failed(2, &["64 hexadecimal digits"]);
    // The old quote and the new secret.
    let newest = Answer::parse(&fs::read(setting.at("answer")).unwrap()).unwrap();
    let first = Answer::parse(&first).unwrap();
    fs::write(setting.at("answer"), Answer { secret: newest.secret, ..first }.to_bytes()).unwrap();
    setting.verify(&[]).failed(1, &["quote is for another challenge"]);

    // Another TPM cannot answer, neither with its own file nor with this one's.
    let other = Setting::new();
    for name in ["challenge", "kept", "request"] {
        fs::copy(setting.at(name), other.at(name)).unwrap();
    }
    other.here("answer", &["tree.tpm", "challenge", "answer"]).failed(1, &["does not open the challenge"]);
    assert!(!other.at("answer").exists());
    fs::copy(other.at("tree.tpm"), setting.at("foreign.tpm")).unwrap();
    setting.again(&["answer"]);
    setting.here("answer", &["foreign.tpm", "challenge", "answer"]).failed(1, &["node's key"]);
    // Nor one that was cleared.
    setting.tpm.clear();
    setting.tpm.tool("tpm2_changeeps", &[]);
    setting.here("answer", &["tree.tpm", "challenge", "answer"]).failed(1, &["does not open the challenge"]);
    assert!(!setting.at("answer").exists());
}

#[test]
fn files_that_are_none_make_nothing() {
    let setting = Setting::new();
    setting.attest("7");
    let damage = |name: &str, kept_open: &dyn Fn() -> Ran| {
        let whole = fs::read(setting.at(name)).unwrap();
        let mut flipped = whole.clone();
        flipped[40] ^= 1;
        for bytes in [&whole[..50], &flipped, &[&whole[..], b"x"].concat(), b""] {
            fs::write(setting.at(name), bytes).unwrap();
            kept_open().failed(1, &[name, "of no use"]);
        }
        fs::write(setting.at(name), whole).unwrap();
    };
    damage("answer", &|| setting.verify(&[]));
    damage("kept", &|| setting.verify(&[]));
    damage("request", &|| setting.elsewhere("challenge", &[], &["request", "new", "new-kept"]));
    damage("challenge", &|| setting.here("answer", &["tree.tpm", "challenge", "new"]));
    damage("tree.tpm", &|| setting.here("answer", &["tree.tpm", "challenge", "new"]));
    // One kind in the place of another.
    let wrong = setting.elsewhere("verify", &[], &["kept", "request"]);
    wrong.failed(1, &["another kind of file"]);
    let stated = TpmFile::parse(&fs::read(setting.at("tree.tpm")).unwrap()).unwrap();
    fs::write(setting.at("taken.tpm"), stated.sealed.to_bytes()).unwrap();
    let refused = setting.here("answer", &["taken.tpm", "challenge", "new"]);
    refused.failed(1, &["a statement was taken out of it", "tpm enroll"]);
    let mut nowhere = program();
    nowhere.env("BLOCKTREE_TPM", "device:/no/such/tpm").args(["tpm", "attest", "request"]);
    finish(nowhere.arg(setting.at("new"))).failed(1, &["there is no TPM"]);
    for name in ["new", "new-kept"] {
        assert!(!setting.at(name).exists(), "{name}");
    }
    // What is there is not overwritten, and what was kept is for its owner alone.
    setting.elsewhere("challenge", &[], &["request", "new", "kept"]).failed(1, &["kept exists already"]);
    setting.here("request", &["request"]).failed(1, &["exists already"]);
    setting.verify(&[]).ok();
    open_to_others(&setting.at("kept"));
    setting.verify(&[]).failed(1, &["open to others"]);
}

fn open_to_others(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

/// Certificates of a maker, in DER: `ek.der` for the TPM's endorsement key, `foreign.der` for another key.
fn certify(setting: &Setting, algorithm: &str) {
    let path = |name: &str| setting.at(name).to_str().unwrap().to_owned();
    let openssl = |arguments: &[&str]| drop(finish(Command::new("openssl").args(arguments)).ok());
    let pem = path("ek.pem");
    setting.tpm.tool("tpm2_createek", &["-c", &path("ctx"), "-G", algorithm, "-u", &pem, "-f", "pem"]);
    setting.tpm.tool("tpm2_flushcontext", &["-t"]);
    let key = path("maker.key");
    openssl(&["genpkey", "-algorithm", "ED25519", "-out", &key]);
    let request = ["req", "-x509", "-new", "-key", &key, "-subj", "/CN=maker", "-days", "1"];
    openssl(&[&request[..], &["-outform", "DER", "-out", &path("foreign.der")]].concat());
    openssl(&[&request[..], &["-out", &path("maker.pem")]].concat());
    openssl(&["req", "-new", "-key", &key, "-subj", "/CN=a TPM", "-out", &path("csr")]);
    let (csr, maker, der) = (path("csr"), path("maker.pem"), path("ek.der"));
    let sign = ["x509", "-req", "-in", &csr, "-CA", &maker, "-CAkey", &key, "-force_pubkey", &pem];
    openssl(&[&sign[..], &["-days", "1", "-outform", "DER", "-out", &der]].concat());
}

/// As a maker does it: the certificate is in the TPM, at this place.
fn keep(setting: &Setting, index: &str, certificate: &str) {
    let path = setting.at(certificate);
    let length = fs::metadata(&path).unwrap().len().to_string();
    let place = [index, "-C", "o", "-s", &length, "-a", "ownerread|authread|ownerwrite|authwrite"];
    setting.tpm.tool("tpm2_nvdefine", &place);
    setting.tpm.tool("tpm2_nvwrite", &[index, "-C", "o", "-i", path.to_str().unwrap()]);
}

#[test]
fn a_certificate_is_shown_if_it_is_for_the_endorsement_key() {
    let setting = Setting::new();
    for (algorithm, index) in [("rsa", "0x01c00002"), ("ecc", "0x01c0000a")] {
        certify(&setting, algorithm);
        for (name, is_right) in [("ek.der", true), ("foreign.der", false)] {
            keep(&setting, index, name);
            setting.here("request", &["request"]).ok();
            let made = setting.elsewhere("challenge", &[], &["request", "challenge", "kept"]);
            if is_right {
                let shown = made.ok().stdout;
                assert!(shown.contains("for this key") && shown.contains("BEGIN CERTIFICATE"), "{shown}");
                setting.again(&["challenge", "kept"]);
            } else {
                made.failed(1, &["certificate is not for its endorsement key"]);
                assert!(!setting.at("challenge").exists() && !setting.at("kept").exists());
            }
            setting.again(&["request"]);
            setting.tpm.tool("tpm2_nvundefine", &[index, "-C", "o"]);
        }
    }
}

#[test]
fn a_tpm_whose_ecc_key_is_certified_is_known_by_that() {
    let mut setting = Setting::new();
    setting.attest("7");
    let of_rsa = setting.endorsement();
    certify(&setting, "ecc");
    keep(&setting, "0x01c0000a", "ek.der");
    // What was asked for with the other key goes on.
    setting.again(&["answer"]);
    setting.here("answer", &["tree.tpm", "challenge", "answer"]).ok();
    setting.verify(&["--endorsement", &of_rsa]).ok();

    setting.again(&["request", "challenge", "kept", "answer"]);
    setting.attest("7");
    let (name, value) = (setting.endorsement(), format!("7={}", pcr(&setting.tpm, 7)));
    assert_ne!(name, of_rsa);
    let shown = setting.verify(&["--endorsement", &name, "--pcr", &value]).ok().stdout;
    assert!(shown.contains(&name) && shown.contains("BEGIN CERTIFICATE"), "{shown}");
    setting.verify(&["--endorsement", &of_rsa]).failed(1, &["endorsement key is", "not the one"]);
    assert_eq!(created_by_tools(&setting, "ecc"), request(&setting).endorsement);
    setting.tpm.restart();
    setting.again(&["answer"]);
    setting.here("answer", &["tree.tpm", "challenge", "answer"]).ok();
    setting.verify(&["--endorsement", &name]).ok();
    // Many times: nothing is left loaded.
    for _ in 0..4 {
        setting.again(&["answer"]);
        setting.here("answer", &["tree.tpm", "challenge", "answer"]).ok();
    }

    // Another TPM, which has a key of that kind as well.
    let other = Setting::new();
    fs::copy(setting.at("challenge"), other.at("challenge")).unwrap();
    other.here("answer", &["tree.tpm", "challenge", "answer"]).failed(1, &["does not open the challenge"]);
    setting.tpm.clear();
    setting.tpm.tool("tpm2_changeeps", &[]);
    setting.again(&["answer"]);
    setting.here("answer", &["tree.tpm", "challenge", "answer"]).failed(1, &["does not open the challenge"]);
    assert!(!setting.at("answer").exists());
}
